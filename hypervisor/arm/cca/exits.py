"""What the host does for each REC exit.

:func:`dispatch` decides by the exit record in the vCPU's RecRun page and answers how the vCPU goes on; what the next
entry must carry (a load's value, an abort to inject) it leaves in the vCPU. An exit that is not served crashes the
domain, with the series' message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hypervisor.arm.affinity import vcpu_number
from hypervisor.arm.cca.ports import Level, ShutdownReason, VcpuState
from hypervisor.arm.cca.rmi import RmiFailure
from hypervisor.arm.cca.validate import HOST_IPA_BITS
from hypervisor.arm.mmio import IoState
from hypervisor.arm.vpsci import BY_ID, RecAction
from machine.ich import ICC_REGISTERS, LR
from rmm.abi.registers import ExitReason, RecEnterFlags, Ripas
from rmm.abi.rmi import Status
from rmm.abi.structures import RecRun

if TYPE_CHECKING:
    from hypervisor.arm.cca.rec_loop import RealmVcpu

# Word indices in a RecRun page.
_ESR: Final = RecRun.esr.offset >> 3
_FAR: Final = RecRun.far.offset >> 3
_HPFAR: Final = RecRun.hpfar.offset >> 3
_GPRS: Final = RecRun.exit_gprs.offset >> 3
_RIPAS_BASE: Final = RecRun.ripas_base.offset >> 3
_RIPAS_TOP: Final = RecRun.ripas_top.offset >> 3
_RIPAS_VALUE: Final = RecRun.ripas_value.offset >> 3
_S2AP_BASE: Final = RecRun.s2ap_base.offset >> 3
_S2AP_TOP: Final = RecRun.s2ap_top.offset >> 3
_VDEV_ID_1: Final = RecRun.vdev_id_1.offset >> 3
_VDEV_ID_2: Final = RecRun.vdev_id_2.offset >> 3
_DEV_MEM_BASE: Final = RecRun.dev_mem_base.offset >> 3
_DEV_MEM_TOP: Final = RecRun.dev_mem_top.offset >> 3
_DEV_MEM_PA: Final = RecRun.dev_mem_pa.offset >> 3
_IMM: Final = RecRun.imm.offset >> 3
_VSMMU: Final = RecRun.vsmmu.offset >> 3

EC_WFX: Final = 0x01
EC_SYSREG: Final = 0x18
EC_DATA_ABORT: Final = 0x24

_ISV: Final = 1 << 24
_WNR: Final = 1 << 6
_HPFAR_MASK: Final = 0xFF_FFFF_FFF0
_EMUL_MMIO: Final = int(RecEnterFlags.make(EMUL_MMIO=1))
_INJECT_SEA: Final = int(RecEnterFlags.make(INJECT_SEA=1))
_REJECT_RIPAS: Final = int(RecEnterFlags.make(RIPAS_RESPONSE=1))
_UNPROTECTED: Final = 1 << (HOST_IPA_BITS - 1)
#: Strips the unprotected alias, and what lies beyond the IPA space.
_ADDRESS_MASK: Final = _UNPROTECTED - 1

#: The register part of an EC 0x18 syndrome.
SYSREG_MASK: Final = 0x3F_FC1E
_BY_NAME: Final = {row.name: row.iss for row in ICC_REGISTERS}
ICC_SRE_EL1: Final = _BY_NAME["ICC_SRE_EL1"]
ICC_DIR_EL1: Final = _BY_NAME["ICC_DIR_EL1"]
ICC_SGI1R_EL1: Final = _BY_NAME["ICC_SGI1R_EL1"]
#: ICC_SRE_EL1 as a Realm reads it: SRE, DFB, DIB.
SRE_VALUE: Final = 7

_HANDLED: Final = IoState.HANDLED
_RUNNABLE: Final = VcpuState.RUNNABLE


def dispatch(vcpu: RealmVcpu) -> VcpuState:
    """Act on the exit record of an entry that succeeded."""
    reason = vcpu.run[_REASON] & 0xFF
    if reason == 0:
        esr = vcpu.run[_ESR]
        if esr >> 26 & 0x3F == EC_DATA_ABORT:
            return data_abort(vcpu, esr)
        handler = _SYNC.get(esr >> 26 & 0x3F)
        if handler is None:
            return vcpu.crash(f"unsupported REC sync exit ec={esr >> 26 & 0x3F:#x} esr={esr:#x}")
        return handler(vcpu, esr)
    action = _REASONS.get(reason)
    if action is None:
        return vcpu.crash(f"unknown REC exit reason {reason:#x}")
    return action(vcpu)


_REASON: Final = RecRun.exit_reason.offset >> 3


# Synchronous exceptions.


def data_abort(vcpu: RealmVcpu, esr: int) -> VcpuState:
    """Every data abort is taken for device access (benchmarks/bench_rec_loop.py).

    Without a valid syndrome an abort is injected. For an address in protected space the RMM refuses that at the next
    entry, which crashes the domain: the host never maps memory on demand.
    """
    run = vcpu.run
    hpfar = run[_HPFAR]
    far = run[_FAR]
    if not esr & _ISV:
        vcpu.log(Level.GUEST_INFO, f"{vcpu.name} ARM CCA: MMIO abort without valid syndrome "
                                   f"esr={esr:#x} far={far:#x} hpfar={hpfar:#x}")
        vcpu.flags |= _INJECT_SEA
        return _RUNNABLE
    raw = (hpfar & _HPFAR_MASK) << 8 | far & 0xFFF
    gpa = raw & _ADDRESS_MASK
    if esr & _WNR:
        state = vcpu.mmio.write(gpa, 1 << (esr >> 22 & 3), run[_GPRS], vcpu.vcpu_id)
        if state is _HANDLED:
            vcpu.flags |= _EMUL_MMIO
            return _RUNNABLE
    else:
        state, value = vcpu.mmio.read(gpa, 1 << (esr >> 22 & 3), vcpu.vcpu_id)
        if state is _HANDLED:
            vcpu.flags |= _EMUL_MMIO
            vcpu.give_gpr(0, value)
            return _RUNNABLE
    vcpu.log(Level.GUEST_INFO, f"{vcpu.name} ARM CCA: MMIO emulation failed state={int(state)} raw_gpa={raw:#x} "
                               f"gpa={gpa:#x} esr={esr:#x}")
    vcpu.flags |= _INJECT_SEA
    return _RUNNABLE


def wfx(vcpu: RealmVcpu, esr: int) -> VcpuState:
    """WFI blocks, WFE yields; a timeout (bit 1 of the ESR, or a value in X0) makes either a timed wait."""
    timeout = vcpu.run[_GPRS]
    if esr & 2 or timeout:
        if not vcpu.timers.start_wait(timeout, vcpu.clock()):
            return _RUNNABLE
        if vcpu.vgic.has_pending(vcpu.vcpu_id):
            vcpu.timers.stop_wait()
            return _RUNNABLE
        return VcpuState.BLOCKED
    if esr & 1:
        return VcpuState.YIELDED
    return vcpu.block()


def sysreg(vcpu: RealmVcpu, esr: int) -> VcpuState:
    """The GICv3 registers that a Realm's accesses bring to the host."""
    register = esr & SYSREG_MASK
    rt = esr >> 5 & 0x1F
    read = esr & 1
    value = 0 if rt == 31 else vcpu.run[_GPRS + rt]
    if register == ICC_SGI1R_EL1:
        if read:
            return vcpu.crash(f"unsupported ICC_SGI1R_EL1 access read={read} val={value:#x}")
        vcpu.vgic.send_sgi(vcpu.vcpu_id, value)
        # The sender mostly spins until its targets have answered.
        return VcpuState.YIELDED
    elif register == ICC_SRE_EL1:
        vcpu.give_gpr(rt, SRE_VALUE)
    elif register == ICC_DIR_EL1:
        if read or not _deactivate(vcpu, value):
            return vcpu.crash(f"unsupported ICC_DIR_EL1 access read={read} val={value:#x}")
    else:
        return vcpu.crash(f"unsupported SYSREG ec={EC_SYSREG:#x} sysreg={register:#x}")
    return _RUNNABLE


def _deactivate(vcpu: RealmVcpu, value: int) -> bool:
    """ICC_DIR_EL1; False for an interrupt that belongs to hardware."""
    intid = value & 0xFF_FFFF
    if intid >= vcpu.vgic.nr_irqs:
        return True
    for lr in vcpu.ich.lr:
        if lr & LR.HW and lr & LR.ACTIVE and lr & LR.VINTID_MASK == intid:
            vcpu.log(Level.GUEST_ERR,
                     f"{vcpu.name} ARM CCA: ICC_DIR_EL1 on hw-backed vIRQ {intid} is unsupported")
            return False
    vcpu.vgic.deactivate(vcpu.vcpu_id, value)
    return True


# Other reasons.


def interrupt(vcpu: RealmVcpu) -> VcpuState:
    """IRQ, FIQ: the host services its events between two entries anyway."""
    return _RUNNABLE


def psci(vcpu: RealmVcpu) -> VcpuState:
    """A PSCI call that the RMM cannot answer alone."""
    fid = vcpu.run[_GPRS]
    row = BY_ID.get(fid)
    action = RecAction.UNSUPPORTED if row is None else row.rec_action
    if row is None or action is RecAction.UNSUPPORTED:
        return vcpu.crash(f"unsupported PSCI exit fid={fid:#x}")
    if action is RecAction.STANDBY:
        return vcpu.block()
    if action is RecAction.OFFLINE:
        vcpu.vgic.set_online(vcpu.vcpu_id, False)
        return VcpuState.DOWN
    if action is RecAction.SHUTDOWN:
        assert row.reason is not None
        vcpu.guest.shutdown(ShutdownReason(row.reason))
        return VcpuState.PARKED
    number = vcpu_number(vcpu.run[_GPRS + 1])
    if number >= vcpu.guest.max_vcpus:
        return vcpu.crash(f"invalid PSCI target vCPU {number}")
    target = vcpu.sibling(number)
    if target is None or not target.rec:
        return vcpu.crash(f"missing target REC for PSCI target vCPU {number}")
    try:
        vcpu.rmi.psci_complete(vcpu.rec, target.rec, 0)
    except RmiFailure as failure:
        return vcpu.crash(f"RMI_PSCI_COMPLETE failed status={failure.status:#x} data={failure.data:#x}")
    if action is RecAction.COMPLETE_AND_WAKE:
        target.turn_on()
    return _RUNNABLE


def ripas_change(vcpu: RealmVcpu) -> VcpuState:
    """Carried out right before the next entry (:func:`apply_ripas`); the exit record stays valid until then."""
    vcpu.pending_ripas = True
    return _RUNNABLE


def apply_ripas(vcpu: RealmVcpu) -> VcpuState:
    """Carry out the pending RIPAS change of the last exit.

    RAM that the tables do not cover is rejected (RIPAS_RESPONSE at the next entry); any other failure is a crash.
    """
    run = vcpu.run
    base, top, value = run[_RIPAS_BASE], run[_RIPAS_TOP], run[_RIPAS_VALUE] & 0xFF
    if not vcpu.rd:
        return vcpu.crash("missing RD for RIPAS completion")
    if value not in (Ripas.EMPTY, Ripas.RAM):
        return vcpu.crash(f"unsupported RIPAS change value={value} range={base:#x}-{top:#x}")
    while base < top:
        try:
            reached = vcpu.rmi.set_ripas(vcpu.rd, vcpu.rec, base, top)
        except RmiFailure as failure:
            if value == Ripas.RAM and failure.status == Status.ERROR_RTT:
                vcpu.flags |= _REJECT_RIPAS
                break
            return vcpu.crash(f"RMI_RTT_SET_RIPAS failed status={failure.status:#x} data={failure.data:#x}")
        if not base < reached <= top:
            return vcpu.crash(f"invalid RIPAS progress {base:#x} -> {reached:#x} (top {top:#x})")
        base = reached
    return _RUNNABLE


def host_call(vcpu: RealmVcpu) -> VcpuState:
    """RSI_HOST_CALL."""
    return vcpu.crash(f"Host call exits are unsupported (imm={vcpu.run[_IMM] & 0xFFFF:#x})")


def serror(vcpu: RealmVcpu) -> VcpuState:
    """A physical SError while the REC ran."""
    return vcpu.crash("SError exit from Realm REC")


def s2ap_change(vcpu: RealmVcpu) -> VcpuState:
    """A permission index change (planes)."""
    return vcpu.crash(
        f"S2AP change exits are unsupported range={vcpu.run[_S2AP_BASE]:#x}-{vcpu.run[_S2AP_TOP]:#x}"
    )


def vdev_request(vcpu: RealmVcpu) -> VcpuState:
    """A device request."""
    return vcpu.crash(f"VDEV request exits are unsupported id={vcpu.run[_VDEV_ID_1]:#x}:{vcpu.run[_VDEV_ID_2]:#x}")


def vdev_mapping(vcpu: RealmVcpu) -> VcpuState:
    """Validation of a device mapping."""
    run = vcpu.run
    return vcpu.crash(
        f"VDEV mapping validation exits are unsupported range={run[_DEV_MEM_BASE]:#x}-{run[_DEV_MEM_TOP]:#x} "
        f"pa={run[_DEV_MEM_PA]:#x}"
    )


def vsmmu_command(vcpu: RealmVcpu) -> VcpuState:
    """A virtual SMMU command."""
    return vcpu.crash(f"VSMMU command exits are unsupported vsmmu={vcpu.run[_VSMMU]:#x}")


_SYNC: Final[dict[int, Callable[[RealmVcpu, int], VcpuState]]] = {
    EC_WFX: wfx,
    EC_SYSREG: sysreg,
}

_REASONS: Final[dict[int, Callable[[RealmVcpu], VcpuState]]] = {
    ExitReason.IRQ: interrupt,
    ExitReason.FIQ: interrupt,
    ExitReason.PSCI: psci,
    ExitReason.RIPAS_CHANGE: ripas_change,
    ExitReason.HOST_CALL: host_call,
    ExitReason.SERROR: serror,
    ExitReason.S2AP_CHANGE: s2ap_change,
    ExitReason.VDEV_REQUEST: vdev_request,
    ExitReason.VDEV_VALIDATE_MAPPING: vdev_mapping,
    ExitReason.VSMMU_COMMAND: vsmmu_command,
}
