"""Which domains can become Realms, and what is said of those that cannot."""

from __future__ import annotations

import errno

import pytest

from hypervisor.arm.cca.bringup import CcaHost
from hypervisor.arm.cca.ports import Extent, Level, VcpuContext
from hypervisor.arm.cca.validate import ValidationError, check_domain, check_features
from rmm.abi.registers import FeatureRegister0, FeatureRegister1

FR0 = {"S2SZ": 48, "NUM_BPS": 5, "NUM_WPS": 3}
FR1 = {"RMI_GRAN_SZ_4KB": 1, "HASH_SHA_256": 1, "MAX_RECS_ORDER": 4, "PPS": 5}
CCA = CcaHost(True, FeatureRegister0.make(**FR0), FeatureRegister1.make(**FR1))


def refusal(bare, guest, *, base_gfn=0x40000, pages=8, cca=CCA, is_realm=False, debug_vuart=False) -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        check_domain(guest, base_gfn, pages, cca, is_realm, debug_vuart, bare.log)
    return refused.value


def test_an_ordinary_pvh_guest_is_accepted(bare):
    check_domain(bare.guest(), 0x40000, 8, CCA, False, False, bare.log)
    check_features(bare.guest(), CCA, bare.log)
    assert bare.log == []


@pytest.mark.parametrize(("attribute", "value", "code"), [
    ("is_hardware_domain", True, errno.EOPNOTSUPP),
    ("is_hvm", False, errno.EOPNOTSUPP),
    ("is_32bit", True, errno.EOPNOTSUPP),
    ("max_vcpus", 0, errno.EOPNOTSUPP),
    ("vcpu_context", [VcpuContext()], errno.EOPNOTSUPP),
    ("gic_version", 2, errno.EOPNOTSUPP),
    ("was_unpaused", True, errno.EPERM),
    ("total_pages", 7, errno.EINVAL),
])
def test_a_domain_that_cannot_be_a_realm_is_refused(bare, attribute, value, code):
    guest = bare.guest()
    setattr(guest, attribute, value)
    assert refusal(bare, guest).errno == code


def test_a_realm_is_not_converted_again(bare):
    assert refusal(bare, bare.guest(), is_realm=True).errno == errno.EEXIST


def test_a_console_in_clear_text_must_be_allowed(bare):
    guest = bare.guest()
    guest.has_vuart = True
    assert refusal(bare, guest).errno == errno.EOPNOTSUPP
    assert bare.log == [(Level.GUEST_ERR, "ARM CCA: Realm VUART debug console is disabled for d1")]
    check_domain(guest, 0x40000, 8, CCA, False, True, bare.log)


@pytest.mark.parametrize(("base_gfn", "pages", "code"), [
    (0x40001, 8, errno.EOPNOTSUPP),
    (0x40000, 0, errno.EINVAL),
    (0x40000, 0xC0001, errno.EINVAL),
    (0x40000, 9, errno.EINVAL),
    (0x40000, 7, errno.EINVAL),
])
def test_ram_must_be_the_first_bank_from_its_start(bare, base_gfn, pages, code):
    assert refusal(bare, bare.guest(), base_gfn=base_gfn, pages=pages).errno == code


def test_a_hole_in_ram_is_refused(bare):
    guest = bare.guest()
    first, second = guest.ram
    guest.ram = [first, Extent(second.gpa + 4096, second.pa, second.size)]
    assert refusal(bare, guest).errno == errno.EINVAL


def test_the_rmm_is_asked_about_last(bare):
    guest = bare.guest()
    assert refusal(bare, guest, cca=CcaHost()).errno == errno.EOPNOTSUPP
    guest.was_unpaused = True
    assert refusal(bare, guest, cca=CcaHost()).errno == errno.EPERM


FEATURE_MESSAGES = [
    ({"S2SZ": 40}, {}, {}, 48, "requires 48-bit IPA, RMM supports 40-bit IPA"),
    ({"S2SZ": 52}, {}, {}, 52, "requires LPA2 for 52-bit IPA, but RMM does not report LPA2 support"),
    ({"S2SZ": 52, "LPA2": 1}, {}, {}, 52,
     "requires LPA2 for 52-bit IPA, but Xen CCA does not enable Realm LPA2 yet"),
    ({}, {}, {"sve": True}, 48, "requests SVE, but RMM does not report SVE support"),
    ({"SVE": 1, "SVE_VL": 3}, {}, {"sve": True}, 48,
     "requests SVE; RMM supports 512-bit VL, but Xen CCA does not enable Realm SVE yet"),
    ({"NUM_BPS": 0}, {}, {}, 48, "RMM reports reserved NUM_BPS value 0"),
    ({"NUM_WPS": 0}, {}, {}, 48, "RMM reports reserved NUM_WPS value 0"),
    ({}, {}, {"vpmu": True}, 48, "requests PMU, but RMM does not report PMU support"),
    ({"PMU": 1, "PMU_NUM_CTRS": 6}, {}, {"vpmu": True}, 48,
     "requests PMU; RMM supports 6 counters, but Xen CCA does not enable Realm PMU yet"),
    ({}, {"RMI_GRAN_SZ_4KB": 0}, {}, 48,
     "requires 4KB RMI granules, but RMM does not report 4KB RMI granule support"),
    ({}, {"HASH_SHA_256": 0}, {}, 48,
     "requires SHA-256 Realm measurements, but RMM does not report SHA-256 support"),
    ({}, {"MAX_RECS_ORDER": 0}, {}, 48, "requires 2 RECs, RMM supports 0 RECs"),
]


@pytest.mark.parametrize(("fr0", "fr1", "wishes", "bits", "message"), FEATURE_MESSAGES)
def test_a_missing_feature_is_named(bare, fr0, fr1, wishes, bits, message):
    guest = bare.guest()
    for name, value in wishes.items():
        setattr(guest, name, value)
    cca = CcaHost(True, FeatureRegister0.make(**FR0 | fr0), FeatureRegister1.make(**FR1 | fr1))
    with pytest.raises(ValidationError) as refused:
        check_features(guest, cca, bare.log, bits)
    assert refused.value.errno == errno.EOPNOTSUPP
    assert bare.log == [(Level.GUEST_ERR, f"ARM CCA: d1 {message}")]
