"""What the hypervisor does for each exception that a plain guest takes to EL2.

:func:`dispatch` carries out the exit and answers how the vCPU goes on. Unlike a Realm's host, it sees and changes the
guest's registers itself: the address of the next instruction, the register of an emulated load, an exception for EL1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hypervisor.arm import smccc
from hypervisor.arm.cca.ports import Level, VcpuState
from hypervisor.arm.mmio import IoState
from machine.cpu import CpuExit, ExitKind
from machine.ich import ICC_REGISTERS

if TYPE_CHECKING:
    from hypervisor.arm.guest_vcpu import GuestVcpu

EC_WFX: Final = 0x01
EC_HVC: Final = 0x16
EC_SMC: Final = 0x17
EC_SYSREG: Final = 0x18
EC_INSTRUCTION_ABORT: Final = 0x20
EC_DATA_ABORT: Final = 0x24

#: HVC immediate of Xen's hypercalls.
HYPERCALL: Final = 0xEA1

_IL: Final = 1 << 25
_ISV: Final = 1 << 24
_SSE: Final = 1 << 21
_SF: Final = 1 << 15
_EA: Final = 1 << 9
_CM: Final = 1 << 8
_S1PTW: Final = 1 << 7
_WNR: Final = 1 << 6
_HPFAR_MASK: Final = 0xFFF_FFFF_FFF0
#: ESR of an undefined instruction (EC 0).
UNDEFINED: Final = _IL
#: Fault status: synchronous external abort.
_EXTERNAL: Final = 0x10
_FSC_TYPE: Final = 0x3C
_TRANSLATION: Final = 0x04
_MASKS: Final = (0xFF, 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)

#: The register part of an EC 0x18 syndrome.
_SYSREG_MASK: Final = 0x3F_FC1E
_BY_NAME: Final = {row.name: row.iss for row in ICC_REGISTERS}
_ICC_SRE_EL1: Final = _BY_NAME["ICC_SRE_EL1"]
_ICC_DIR_EL1: Final = _BY_NAME["ICC_DIR_EL1"]
_ICC_SGI1R_EL1: Final = _BY_NAME["ICC_SGI1R_EL1"]
#: ICC_SRE_EL1 as a guest reads it: SRE, DFB, DIB.
_SRE_VALUE: Final = 7

_HANDLED: Final = IoState.HANDLED
_RUNNABLE: Final = VcpuState.RUNNABLE
_SYNC: Final = ExitKind.SYNC


def dispatch(vcpu: GuestVcpu, taken: CpuExit) -> VcpuState:
    """Act on an exception taken to EL2."""
    if taken.kind is _SYNC:
        ec = taken.esr >> 26 & 0x3F
        if ec == EC_DATA_ABORT:
            return data_abort(vcpu, taken)
        if ec == EC_INSTRUCTION_ABORT:
            return instruction_abort(vcpu, taken)
        handler = _HANDLERS.get(ec)
        if handler is not None:
            return handler(vcpu, taken.esr)
        vcpu.log(Level.GUEST_INFO, f"{vcpu.name}: Unknown Guest Trap. ESR={taken.esr:#x}")
        return undefined(vcpu)
    if taken.kind is ExitKind.SERROR:
        return vcpu.crash(f"SError while the guest ran, ESR={taken.esr:#x}")
    # The host services its events between two entries anyway.
    return _RUNNABLE


def undefined(vcpu: GuestVcpu) -> VcpuState:
    """The guest takes an undefined instruction exception for the instruction at its PC."""
    vcpu.cpu.take_exception_el1(UNDEFINED)
    return _RUNNABLE


def _abort(vcpu: GuestVcpu, taken: CpuExit) -> VcpuState:
    """The guest takes a synchronous external abort for the access that left it."""
    esr = (taken.esr >> 26 & 0x3F | 1) << 26 | _IL | _EXTERNAL
    if taken.esr >> 26 & 0x3F == EC_DATA_ABORT:
        esr |= taken.esr & _WNR
    vcpu.cpu.take_exception_el1(esr, taken.far)
    return _RUNNABLE


# Aborts.


def data_abort(vcpu: GuestVcpu, taken: CpuExit) -> VcpuState:
    """An access to an emulated device is carried out; cache maintenance on one is passed over; else an abort.

    An address that has memory by now (another vCPU had it mapped) is simply accessed again.
    """
    esr = taken.esr
    gpa = (taken.hpfar & _HPFAR_MASK) << 8 | taken.far & 0xFFF
    if esr & _EA or esr & _S1PTW:
        return _refuse(vcpu, taken, gpa)
    cpu = vcpu.cpu
    if not esr & _ISV:
        if _mapped_by_now(vcpu, esr, gpa):
            return _RUNNABLE
        if esr & _CM and vcpu.mmio.find(gpa) is not None:
            cpu.pc += 4
            return _RUNNABLE
        return _refuse(vcpu, taken, gpa)
    size = esr >> 22 & 3
    register = esr >> 16 & 0x1F
    if esr & _WNR:
        value = cpu.gpr(register) & _MASKS[size]
        if vcpu.mmio.write(gpa, 1 << size, value, vcpu.vcpu_id) is _HANDLED:
            cpu.pc += 4
            return _RUNNABLE
    else:
        state, value = vcpu.mmio.read(gpa, 1 << size, vcpu.vcpu_id)
        if state is _HANDLED:
            if esr & _SSE and value >> (8 << size) - 1:
                value |= ~_MASKS[size]
            cpu.set_gpr(register, value & _MASKS[3 if esr & _SF else 2])
            cpu.pc += 4
            return _RUNNABLE
    if _mapped_by_now(vcpu, esr, gpa):
        return _RUNNABLE
    return _refuse(vcpu, taken, gpa)


def _mapped_by_now(vcpu: GuestVcpu, esr: int, gpa: int) -> bool:
    return esr & _FSC_TYPE == _TRANSLATION and vcpu.plain.p2m.translate(gpa) is not None


def instruction_abort(vcpu: GuestVcpu, taken: CpuExit) -> VcpuState:
    """Nothing to execute there."""
    gpa = (taken.hpfar & _HPFAR_MASK) << 8 | taken.far & 0xFFF
    if not taken.esr & _S1PTW and _mapped_by_now(vcpu, taken.esr, gpa):
        return _RUNNABLE
    return _refuse(vcpu, taken, gpa)


def _refuse(vcpu: GuestVcpu, taken: CpuExit, gpa: int) -> VcpuState:
    vcpu.log(Level.GUEST_INFO, f"{vcpu.name}: abort for the guest: ESR={taken.esr:#x} pc={vcpu.cpu.pc:#x} "
                               f"gva={taken.far:#x} gpa={gpa:#x}")
    return _abort(vcpu, taken)


# Other synchronous exceptions.


def wfx(vcpu: GuestVcpu, esr: int) -> VcpuState:
    """WFI blocks unless an interrupt is pending, WFE yields."""
    vcpu.cpu.pc += 4
    return VcpuState.YIELDED if esr & 1 else vcpu.block()


def hvc(vcpu: GuestVcpu, esr: int) -> VcpuState:
    """HVC #0: SMCCC. HVC #0xEA1: a hypercall. PC is at the next instruction already."""
    immediate = esr & 0xFFFF
    if immediate == 0:
        return smccc.call(vcpu)
    if immediate == HYPERCALL:
        return vcpu.plain.hypercalls.call(vcpu)
    vcpu.cpu.pc -= 4
    return undefined(vcpu)


def smc(vcpu: GuestVcpu, esr: int) -> VcpuState:
    """SMC #0: SMCCC."""
    if esr & 0xFFFF:
        return undefined(vcpu)
    vcpu.cpu.pc += 4
    return smccc.call(vcpu)


def sysreg(vcpu: GuestVcpu, esr: int) -> VcpuState:
    """The GIC's registers that the element cannot serve by itself; all others are undefined."""
    register = esr & _SYSREG_MASK
    rt = esr >> 5 & 0x1F
    read = esr & 1
    if register == _ICC_SGI1R_EL1 and not read:
        vcpu.vgic.send_sgi(vcpu.vcpu_id, vcpu.gpr(rt))
        vcpu.cpu.pc += 4
        # The sender mostly spins until its targets have answered.
        return VcpuState.YIELDED
    if register == _ICC_DIR_EL1 and not read:
        vcpu.vgic.deactivate(vcpu.vcpu_id, vcpu.gpr(rt))
    elif register == _ICC_SRE_EL1:
        if read:
            vcpu.set_gpr(rt, _SRE_VALUE)
    else:
        return undefined(vcpu)
    vcpu.cpu.pc += 4
    return _RUNNABLE


_HANDLERS: Final[dict[int, Callable[[GuestVcpu, int], VcpuState]]] = {
    EC_WFX: wfx,
    EC_HVC: hvc,
    EC_SMC: smc,
    EC_SYSREG: sysreg,
}
