"""PSCI for plain guests: the hypervisor itself keeps which vCPUs are on (Arm DEN0022, version 1.1).

Enter at :func:`call` (and :func:`call_0_1` for the numbers of PSCI 0.1). A vCPU is on unless its state is DOWN. CPU_ON
and AFFINITY_INFO take effect at once, so ON_PENDING is never seen. SYSTEM_SUSPEND is not offered: nothing here could
resume the domain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from hypervisor.arm.affinity import AFFINITY_MASK, affinity_of, vcpu_at
from hypervisor.arm.cca.ports import ShutdownReason, VcpuState
from hypervisor.arm.vpsci import (
    BY_ID,
    MAX_AFFINITY_LEVEL,
    PSCI_0_1_CPU_OFF,
    SMC64,
    TOS_MIGRATION_NOT_REQUIRED,
    VERSION,
    AffinityState,
    PsciError,
    as_register,
    features,
    psci_0_1_error,
)


class PsciVcpu(Protocol):
    """What a call needs of the vCPU that makes it, and of the others."""

    vcpu_id: int
    state: VcpuState

    @property
    def domid(self) -> int:
        """The domain's number."""

    @property
    def siblings(self) -> Sequence[PsciVcpu]:
        """Every vCPU of the domain, this one too, by number."""

    def gpr(self, number: int) -> int:
        """X<number>."""

    def set_gpr(self, number: int, value: int) -> None:
        """Write X<number>."""

    def block(self) -> VcpuState:
        """Wait for an interrupt, unless one is pending."""

    def turn_on(self, entry: int, context: int) -> None:
        """A vCPU that is down starts at ``entry`` with ``context`` in X0."""

    def turn_off(self) -> VcpuState:
        """Stop until a CPU_ON."""

    def shut_down(self, reason: ShutdownReason) -> VcpuState:
        """Shut the domain down."""


def call(vcpu: PsciVcpu, fid: int) -> VcpuState:
    """Carry out the PSCI function ``fid``; how the calling vCPU goes on."""
    row = BY_ID.get(fid)
    handler = None if row is None else _HANDLERS.get(row.name)
    if handler is None:
        return _answer(vcpu, PsciError.NOT_SUPPORTED)
    mask = (1 << 64) - 1 if fid & SMC64 else 0xFFFF_FFFF
    return handler(vcpu, vcpu.gpr(1) & mask, vcpu.gpr(2) & mask, vcpu.gpr(3) & mask)


def call_0_1(vcpu: PsciVcpu, fid: int) -> VcpuState:
    """CPU_OFF and CPU_ON by the numbers of Xen's device trees, with the errors that PSCI 0.1 has."""
    if fid == PSCI_0_1_CPU_OFF:
        return vcpu.turn_off()
    return _answer(vcpu, psci_0_1_error(_turn_on(vcpu, vcpu.gpr(1), vcpu.gpr(2), 0)))


def _answer(vcpu: PsciVcpu, value: int) -> VcpuState:
    vcpu.set_gpr(0, as_register(value))
    return VcpuState.RUNNABLE


def _version(vcpu: PsciVcpu, *_: int) -> VcpuState:
    return _answer(vcpu, VERSION)


def _cpu_suspend(vcpu: PsciVcpu, *_: int) -> VcpuState:
    """Always standby: the power state asked for does not matter."""
    _answer(vcpu, PsciError.SUCCESS)
    return vcpu.block()


def _cpu_off(vcpu: PsciVcpu, *_: int) -> VcpuState:
    return vcpu.turn_off()


def _cpu_on(vcpu: PsciVcpu, target: int, entry: int, context: int) -> VcpuState:
    return _answer(vcpu, _turn_on(vcpu, target, entry, context))


def _turn_on(vcpu: PsciVcpu, affinity: int, entry: int, context: int) -> PsciError:
    number = vcpu_at(affinity, len(vcpu.siblings))
    if number is None:
        return PsciError.INVALID_PARAMETERS
    if entry & 1:
        return PsciError.INVALID_ADDRESS
    target = vcpu.siblings[number]
    if target is vcpu or target.state is not VcpuState.DOWN:
        return PsciError.ALREADY_ON
    target.turn_on(entry, context)
    return PsciError.SUCCESS


def _affinity_info(vcpu: PsciVcpu, affinity: int, level: int, _: int) -> VcpuState:
    """ON if any vCPU below the affinity is; an affinity that does not exist is OFF, as in Xen."""
    if level > MAX_AFFINITY_LEVEL:
        return _answer(vcpu, PsciError.INVALID_PARAMETERS)
    mask = AFFINITY_MASK & -(1 << (0, 8, 16, 32)[level])
    for other in vcpu.siblings:
        on = other is vcpu or other.state is not VcpuState.DOWN
        if on and affinity_of(other.vcpu_id) & mask == affinity & mask:
            return _answer(vcpu, AffinityState.ON)
    return _answer(vcpu, AffinityState.OFF)


def _migrate_info_type(vcpu: PsciVcpu, *_: int) -> VcpuState:
    return _answer(vcpu, TOS_MIGRATION_NOT_REQUIRED)


def _system_off(vcpu: PsciVcpu, *_: int) -> VcpuState:
    _answer(vcpu, PsciError.INTERNAL_FAILURE)
    return vcpu.shut_down(ShutdownReason.POWEROFF)


def _system_reset(vcpu: PsciVcpu, *_: int) -> VcpuState:
    _answer(vcpu, PsciError.INTERNAL_FAILURE)
    return vcpu.shut_down(ShutdownReason.REBOOT)


def _psci_features(vcpu: PsciVcpu, fid: int, *_: int) -> VcpuState:
    fid &= 0xFFFF_FFFF
    row = BY_ID.get(fid)
    if row is not None and row.name not in _HANDLERS:
        return _answer(vcpu, PsciError.NOT_SUPPORTED)
    return _answer(vcpu, features(fid))


_HANDLERS: Final[dict[str, Callable[[PsciVcpu, int, int, int], VcpuState]]] = {
    "PSCI_VERSION": _version,
    "CPU_SUSPEND": _cpu_suspend,
    "CPU_OFF": _cpu_off,
    "CPU_ON": _cpu_on,
    "AFFINITY_INFO": _affinity_info,
    "MIGRATE_INFO_TYPE": _migrate_info_type,
    "SYSTEM_OFF": _system_off,
    "SYSTEM_RESET": _system_reset,
    "PSCI_FEATURES": _psci_features,
}
