"""What a Realm guest cannot have: the twelve refusals of the Arm CCA series, in its order.

libxl makes these checks before it asks the hypervisor for anything. The first that applies is the one the user sees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from xlconfig.domain_config import ConfigError, DomainConfig
from xlconfig.enumerations import DomainType, GicVersion, Passthrough, TeeType

__all__ = ["REFUSALS", "RealmRefusal", "Refusal", "check_realm"]

FIRST_BANK_KIB = 3 * 1024 * 1024
ERROR_FAIL_STATUS = 3


class RealmRefusal(ConfigError):
    """Raised for a Realm guest that asks for `what`; `xl create` exits with 3."""

    def __init__(self, what: str) -> None:
        super().__init__(f"Realm guests do not support {what}", ERROR_FAIL_STATUS)
        self.what = what


class Refusal(NamedTuple):
    what: str
    applies: Callable[[DomainConfig], bool]


REFUSALS = (
    Refusal("non-PVH build types", lambda config: config.type is not DomainType.PVH),
    Refusal(
        "guest RAM beyond the first RAM bank",
        lambda config: max(config.target_memkb, config.max_memkb) > FIRST_BANK_KIB,
    ),
    Refusal("partial device trees", lambda config: config.b_info.device_tree is not None),
    Refusal("ACPI", lambda config: config.b_info.acpi is True),
    # Checked before the native GIC version is filled in: v3 has to be asked for by name.
    Refusal("non-GICv3 interrupt controllers", lambda config: config.gic_version is not GicVersion.V3),
    Refusal("TEE/FF-A plumbing", lambda config: config.b_info.tee is not TeeType.NONE),
    Refusal("IRQ/IOMEM passthrough", lambda config: bool(config.b_info.irqs or config.b_info.iomem)),
    Refusal("vNUMA", lambda config: bool(config.b_info.vnuma_nodes)),
    # Devices without a mode mean "enabled", so they are refused here already.
    Refusal("passthrough mode", lambda config: config.passthrough is not Passthrough.DISABLED),
    Refusal("passthrough devices", lambda config: bool(config.pcidevs or config.dtdevs)),
    Refusal(
        "frontend/backend devices",
        lambda config: bool(
            config.disks or config.nics or config.virtios or config.vkbs or config.p9s or config.pvcallsifs
        ),
    ),
    Refusal(
        "auxiliary frontend devices",
        lambda config: bool(
            config.vtpms
            or config.vfbs
            or config.vdispls
            or config.vsnds
            or config.channels
            or config.usbctrls
            or config.usbdevs
        ),
    ),
)


def check_realm(config: DomainConfig) -> None:
    """Raise RealmRefusal for the first thing that `config` asks for and a Realm guest cannot have.

    Does nothing for a guest that is not to be a Realm.
    """
    if not config.realm:
        return
    for refusal in REFUSALS:
        if refusal.applies(config):
            raise RealmRefusal(refusal.what)
