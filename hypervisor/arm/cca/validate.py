"""Whether a domain can become a Realm: Xen's checks in Xen's order, the first failing one wins.

:func:`check_domain` is asked first, and its refusal changes nothing; :func:`check_features` when the realm is about to
be created.
"""

from __future__ import annotations

import errno
from typing import Final

from hypervisor.arm.cca.bringup import CcaHost
from hypervisor.arm.cca.ports import Level, Log, RealmGuest
from machine.memory import GRANULE_SIZE
from rmm.abi.registers import FeatureRegister0, FeatureRegister1

GUEST_RAM_BASE: Final = 0x4000_0000
#: The first RAM bank's size: all that a Realm may have.
GUEST_RAM_MAX: Final = 3 << 30
#: The host's stage-2 width: 48, as Xen's on a platform with 48-bit physical addresses.
HOST_IPA_BITS: Final = 48


class ValidationError(Exception):
    """Raised when a domain cannot become a Realm; ``errno`` (positive) is what the toolstack gets."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.errno = code


def check_domain(
    guest: RealmGuest, base_gfn: int, nr_pages: int, cca: CcaHost, is_realm: bool, debug_vuart: bool, log: Log
) -> None:
    """The domain checks of finalisation.

    ``is_realm``: it has been converted already. ``debug_vuart``: the host allows a clear-text console
    (ARM_CCA_REALM_DEBUG_VUART).
    """
    name = f"d{guest.domid}"
    if guest.is_hardware_domain:
        raise ValidationError(errno.EOPNOTSUPP, f"{name} is the hardware domain")
    if not guest.is_hvm:
        raise ValidationError(errno.EOPNOTSUPP, f"{name} is not a PVH guest")
    if guest.is_32bit:
        raise ValidationError(errno.EOPNOTSUPP, f"{name} is a 32-bit domain")
    if guest.max_vcpus < 1 or len(guest.vcpu_context) < guest.max_vcpus:
        raise ValidationError(errno.EOPNOTSUPP,
                              f"{name} has {len(guest.vcpu_context)} of {guest.max_vcpus} vCPUs")
    if guest.gic_version != 3:
        raise ValidationError(errno.EOPNOTSUPP, f"{name} has a GICv{guest.gic_version}, Realms need a GICv3")
    if guest.was_unpaused:
        raise ValidationError(errno.EPERM, f"{name} has been unpaused already")
    if is_realm:
        raise ValidationError(errno.EEXIST, f"{name} is a Realm already")
    if guest.has_vuart and not debug_vuart:
        text = f"ARM CCA: Realm VUART debug console is disabled for {name}"
        log(Level.GUEST_ERR, text)
        raise ValidationError(errno.EOPNOTSUPP, text)
    _check_ram(guest, base_gfn, nr_pages)
    if not cca.available:
        raise ValidationError(errno.EOPNOTSUPP, "ARM CCA is not available on this host")


def _check_ram(guest: RealmGuest, base_gfn: int, nr_pages: int) -> None:
    name = f"d{guest.domid}"
    if base_gfn != GUEST_RAM_BASE // GRANULE_SIZE:
        raise ValidationError(errno.EOPNOTSUPP,
                              f"{name}: RAM starts at gfn {base_gfn:#x}, not {GUEST_RAM_BASE // GRANULE_SIZE:#x}")
    if not 0 < nr_pages <= GUEST_RAM_MAX // GRANULE_SIZE:
        raise ValidationError(errno.EINVAL, f"{name}: {nr_pages} pages of RAM do not fit the first RAM bank")
    if nr_pages > guest.total_pages:
        raise ValidationError(errno.EINVAL, f"{name}: {nr_pages} pages of RAM, but only {guest.total_pages} in all")
    cur = GUEST_RAM_BASE
    for extent in guest.ram:
        if extent.gpa != cur or extent.size <= 0 or (extent.pa | extent.size) & (GRANULE_SIZE - 1):
            raise ValidationError(errno.EINVAL, f"{name}: RAM is not contiguous at {cur:#x} (got {extent.gpa:#x})")
        cur += extent.size
    # The series does not see a hole at the end here, and fails with ENOENT after the build has begun.
    if cur != GUEST_RAM_BASE + nr_pages * GRANULE_SIZE:
        raise ValidationError(errno.EINVAL, f"{name}: RAM ends at {cur:#x}, not after {nr_pages} pages")


def check_features(guest: RealmGuest, cca: CcaHost, log: Log, ipa_bits: int = HOST_IPA_BITS) -> None:
    """The RMM offers what a Realm of this domain needs; every refusal is EOPNOTSUPP and is logged."""
    fr0, fr1 = FeatureRegister0(cca.features0), FeatureRegister1(cca.features1)
    text = _missing_feature(guest, fr0, fr1, ipa_bits)
    if text:
        log(Level.GUEST_ERR, f"ARM CCA: d{guest.domid} {text}")
        raise ValidationError(errno.EOPNOTSUPP, f"ARM CCA: d{guest.domid} {text}")


def _missing_feature(guest: RealmGuest, fr0: FeatureRegister0, fr1: FeatureRegister1, ipa_bits: int) -> str:
    recs = (1 << fr1.MAX_RECS_ORDER) - 1
    lpa2 = f"requires LPA2 for {ipa_bits}-bit IPA, but "
    checks = (
        (ipa_bits > fr0.S2SZ, f"requires {ipa_bits}-bit IPA, RMM supports {fr0.S2SZ}-bit IPA"),
        (ipa_bits > 48 and not fr0.LPA2, lpa2 + "RMM does not report LPA2 support"),
        (ipa_bits > 48, lpa2 + "Xen CCA does not enable Realm LPA2 yet"),
        (guest.sve and not fr0.SVE, "requests SVE, but RMM does not report SVE support"),
        (guest.sve, f"requests SVE; RMM supports {(fr0.SVE_VL + 1) * 128}-bit VL, but Xen CCA does not enable Realm "
                    "SVE yet"),
        (fr0.NUM_BPS == 0, "RMM reports reserved NUM_BPS value 0"),
        (fr0.NUM_WPS == 0, "RMM reports reserved NUM_WPS value 0"),
        (guest.vpmu and not fr0.PMU, "requests PMU, but RMM does not report PMU support"),
        (guest.vpmu, f"requests PMU; RMM supports {fr0.PMU_NUM_CTRS} counters, but Xen CCA does not enable Realm PMU "
                     "yet"),
        (not fr1.RMI_GRAN_SZ_4KB, "requires 4KB RMI granules, but RMM does not report 4KB RMI granule support"),
        (not fr1.HASH_SHA_256, "requires SHA-256 Realm measurements, but RMM does not report SHA-256 support"),
        (guest.max_vcpus > recs, f"requires {guest.max_vcpus} RECs, RMM supports {recs} RECs"),
    )
    return next((text for failed, text in checks if failed), "")
