"""Exceptions from a Realm: which ones the RMM deals with itself, and what the host is told of the others.

Enter at :func:`classify`, which takes one exception from the processing element and answers None (the Realm runs on)
or a :class:`RecExit` (DEN0137 2.0-bet1, RmiRecExit; the host's view of each exit is section A4.3). SMCs, the Realm's
calls, are not here: see :mod:`rmm.rsi` and :mod:`rmm.psci`.

What the host may see of a syndrome is a mask per kind of exit: never the register number, the sign extension or the
access's width in the register of an emulatable access, nothing but the fault's status otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from machine.cpu import CpuExit, ExitKind
from machine.ich import ICC_REGISTERS
from machine.memory import DRAM_BASE, GRANULE_SHIFT
from rmm import rtt
from rmm.abi.registers import ExitReason, RecEnterFlags, Ripas
from rmm.abi.structures import REC_EXIT_OFFSET, RecRun
from rmm.rec import Pending

if TYPE_CHECKING:
    from machine.memory import PhysicalMemory
    from rmm.session import Session


class EC:
    """Exception classes, ESR_ELx[31:26]."""

    UNKNOWN: Final = 0x00
    WFX: Final = 0x01
    HVC: Final = 0x16
    SMC: Final = 0x17
    SYSREG: Final = 0x18
    INSTRUCTION_ABORT: Final = 0x20
    INSTRUCTION_ABORT_SAME: Final = 0x21
    DATA_ABORT: Final = 0x24
    DATA_ABORT_SAME: Final = 0x25


class ESR:
    """Fields of an ESR_ELx value (Arm ARM D19.2.37)."""

    EC_SHIFT: Final = 26
    EC_MASK: Final = 0x3F << 26
    IL: Final = 1 << 25
    ISV: Final = 1 << 24
    SAS_SHIFT: Final = 22
    SSE: Final = 1 << 21
    SRT_SHIFT: Final = 16
    SF: Final = 1 << 15
    S1PTW: Final = 1 << 7
    WNR: Final = 1 << 6
    FSC_MASK: Final = 0x3F
    SYSREG_RT: Final = 0x1F << 5
    SYSREG_READ: Final = 1 << 0
    WFX_TI: Final = 3
    WFX_TIMED: Final = 1 << 1
    WFX_REGISTER_VALID: Final = 1 << 2


FSC_TRANSLATION: Final = 0x04
FSC_EXTERNAL: Final = 0x10
#: Of an abort that the host cannot emulate: EC, SET, FnV, EA and the fault status.
ABORT_MASK: Final = 0xFC00_1E3F
#: Of an abort that it can: also ISV, SAS, SF and WnR.
EMULATABLE_MASK: Final = 0xFDC0_9E7F
#: Of an SError: EC, IDS, AET, EA and the fault status.
SERROR_MASK: Final = 0xFD00_1E3F
#: HPFAR_EL2.FIPA: bits [47:12] of the faulting IPA.
HPFAR_FIPA: Final = 0x0000_0FFF_FFFF_FFF0
SAS_MASKS: Final = (0xFF, 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)

_ICC_ISS: Final = frozenset(row.iss for row in ICC_REGISTERS)
_SYSREG_NAME: Final = 0x3F_FC1E
#: op0 3, op1 0, CRn 0: the identification registers.
_ID_SPACE_MASK: Final = 0x3 << 20 | 0x7 << 14 | 0xF << 10
_ID_SPACE: Final = 3 << 20

_ESR: Final = RecRun.esr.offset >> 3
_FAR: Final = RecRun.far.offset >> 3
_HPFAR: Final = RecRun.hpfar.offset >> 3
_GPRS: Final = RecRun.exit_gprs.offset >> 3
_REASON: Final = RecRun.exit_reason.offset >> 3
_TIMERS: Final = RecRun.cntp_ctl.offset >> 3
_RIPAS_BASE: Final = RecRun.ripas_base.offset >> 3
_RIPAS_TOP: Final = RecRun.ripas_top.offset >> 3
_RIPAS_VALUE: Final = RecRun.ripas_value.offset >> 3
_IMM: Final = RecRun.imm.offset >> 3
#: How the next entry may complete an access in the unprotected half.
EMUL_MMIO: Final = int(RecEnterFlags.make(EMUL_MMIO=1))
INJECT_SEA: Final = int(RecEnterFlags.make(INJECT_SEA=1))
_EMULATE_OR_REFUSE: Final = EMUL_MMIO | INJECT_SEA
_SYNC: Final = int(ExitReason.SYNC)
_ISV: Final = ESR.ISV
_WNR: Final = ESR.WNR
_NO_EXIT: Final = bytes(RecRun.SIZE - REC_EXIT_OFFSET)


class RecExit(NamedTuple):
    """One REC exit: its reason, and the words of RmiRecRun (index, value) that it fills besides the timers'.

    ``latch`` is (ESR, FAR, allowed RmiRecEnterFlags) of an exit that the next entry may complete, zero for the others.
    """

    reason: int
    words: tuple[tuple[int, int], ...] = ()
    latch: tuple[int, int, int] = (0, 0, 0)

    def write(self, memory: PhysicalMemory, run: int, timers: tuple[int, int, int, int]) -> None:
        """Fill the exit half of the RmiRecRun granule at ``run``; what the exit does not define is zero."""
        offset = run - DRAM_BASE
        memory.touched[offset >> GRANULE_SHIFT] = 1
        memory.buf[offset + REC_EXIT_OFFSET : offset + RecRun.SIZE] = _NO_EXIT
        words = memory.words
        at = offset >> 3
        words[at + _REASON] = self.reason
        for index, value in self.words:
            words[at + index] = value
        at += _TIMERS
        words[at], words[at + 1], words[at + 2], words[at + 3] = timers


IRQ: Final = RecExit(ExitReason.IRQ)
FIQ: Final = RecExit(ExitReason.FIQ)
#: An exception that the RMM has no name for: the host learns that there was one.
_UNEXPECTED: Final = RecExit(ExitReason.SYNC)


def psci(function: int, *arguments: int) -> RecExit:
    """The exit of a PSCI call that needs the host: the function id and what the host may know of its arguments."""
    return RecExit(ExitReason.PSCI, tuple((_GPRS + n, value) for n, value in enumerate((function, *arguments))))


def ripas_change(base: int, top: int, value: int) -> RecExit:
    """The exit of RSI_IPA_STATE_SET."""
    return RecExit(ExitReason.RIPAS_CHANGE, ((_RIPAS_BASE, base), (_RIPAS_TOP, top), (_RIPAS_VALUE, value)))


def host_call(imm: int, gprs: tuple[int, ...]) -> RecExit:
    """The exit of RSI_HOST_CALL: the immediate and the 31 values of the Realm's structure."""
    return RecExit(ExitReason.HOST_CALL, ((_IMM, imm), *((_GPRS + n, value) for n, value in enumerate(gprs))))


def unmapped_buffer(ipa: int, level: int) -> RecExit:
    """The exit when the RMM itself finds nothing mapped at ``ipa``: as if the Realm had touched it (level: walk's)."""
    esr = EC.DATA_ABORT << ESR.EC_SHIFT | FSC_TRANSLATION | level & 3
    hpfar = ipa >> 8 & HPFAR_FIPA
    return RecExit(ExitReason.SYNC, ((_ESR, esr), (_HPFAR, hpfar)))


def classify(session: Session, taken: CpuExit) -> RecExit | None:
    """What follows from an exception other than an SMC: a REC exit, or None when the Realm runs on."""
    if taken.kind == ExitKind.SYNC:
        esr = taken.esr
        ec = esr >> 26 & 0x3F
        if ec == EC.DATA_ABORT:
            return data_abort(session, taken)
        if ec == EC.WFX:
            return _wfx(session, esr)
        if ec == EC.SYSREG:
            return _sysreg(session, esr)
        if ec == EC.INSTRUCTION_ABORT:
            return _instruction_abort(session, taken)
        if ec == EC.HVC:
            # HVC is undefined for a Realm; its preferred return address is the next instruction, UNDEF's is its own.
            session.cpu.pc -= 4
            session.cpu.take_exception_el1(ESR.IL)
            return None
        return _UNEXPECTED
    if taken.kind == ExitKind.IRQ:
        return IRQ
    if taken.kind == ExitKind.FIQ:
        return FIQ
    return RecExit(ExitReason.SERROR, ((_ESR, taken.esr & SERROR_MASK),))


def inject_external_abort(session: Session, esr: int, far: int) -> None:
    """Let the Realm take a synchronous external abort for the stage 2 abort with this syndrome."""
    ec = EC.DATA_ABORT_SAME if esr >> 26 & 0x3F == EC.DATA_ABORT else EC.INSTRUCTION_ABORT_SAME
    written = esr & ESR.WNR if ec == EC.DATA_ABORT_SAME else 0
    session.cpu.take_exception_el1(ec << ESR.EC_SHIFT | ESR.IL | written | FSC_EXTERNAL, far)


def data_abort(session: Session, taken: CpuExit) -> RecExit | None:
    """What follows from a data abort, the exit of every emulated device access (benchmark: rec-exit)."""
    esr = taken.esr
    if esr & 0x3F == FSC_EXTERNAL:
        return RecExit(_SYNC, ((_ESR, esr & ABORT_MASK),))
    hpfar = taken.hpfar & HPFAR_FIPA
    ipa = hpfar << 8
    if ipa < session.par_size:
        return _protected_abort(session, taken, ipa)
    far = taken.far
    if ipa >= session.ipa_top:
        inject_external_abort(session, esr, far)
        return None
    if not esr & _ISV:
        words = ((_ESR, esr & (ABORT_MASK | ESR.IL)), (_HPFAR, hpfar))
        return RecExit(_SYNC, words, (esr, far, INJECT_SEA))
    if esr & _WNR:
        value = session.cpu.gpr(esr >> 16 & 0x1F) & SAS_MASKS[esr >> 22 & 3]
        return RecExit(
            _SYNC,
            ((_ESR, esr & EMULATABLE_MASK), (_FAR, far & 0xFFF), (_HPFAR, hpfar), (_GPRS, value)),
            (esr, far, _EMULATE_OR_REFUSE),
        )
    return RecExit(
        _SYNC,
        ((_ESR, esr & EMULATABLE_MASK), (_FAR, far & 0xFFF), (_HPFAR, hpfar)),
        (esr, far, _EMULATE_OR_REFUSE),
    )


def _instruction_abort(session: Session, taken: CpuExit) -> RecExit | None:
    ipa = (taken.hpfar & HPFAR_FIPA) << 8
    if ipa >= session.par_size:
        inject_external_abort(session, taken.esr, taken.far)
        return None
    return _protected_abort(session, taken, ipa)


def _protected_abort(session: Session, taken: CpuExit, ipa: int) -> RecExit | None:
    """An abort at a protected IPA: the entry found by walking decides, not the syndrome (S1PTW spoils its level)."""
    with session.rmm.lock:
        found = rtt.walk(session.rmm, session.realm, ipa, 3)
    if rtt.ripas(found.descriptor) == Ripas.EMPTY:
        inject_external_abort(session, taken.esr, taken.far)
        return None
    esr = taken.esr
    if esr & ESR.S1PTW:
        esr = esr & ~ESR.FSC_MASK | FSC_TRANSLATION | found.level & 3
    esr &= ABORT_MASK
    hpfar = taken.hpfar & HPFAR_FIPA
    return RecExit(ExitReason.SYNC, ((_ESR, esr), (_HPFAR, hpfar)))


def _wfx(session: Session, esr: int) -> RecExit:
    """WFI and WFE, and their timed forms, whose deadline goes to the host in gprs[0]."""
    cpu = session.cpu
    words: tuple[tuple[int, int], ...] = ((_ESR, esr & (ESR.EC_MASK | ESR.WFX_TI)),)
    if esr & ESR.WFX_TIMED and esr & ESR.WFX_REGISTER_VALID:
        words = (*words, (_GPRS, cpu.gpr(esr >> 5 & 0x1F)))
    cpu.pc += 4
    return RecExit(ExitReason.SYNC, words)


def _sysreg(session: Session, esr: int) -> RecExit | None:
    """A trapped system register: the GIC's are the host's, identification registers read as zero, others do not exist.

    The register number is cleared in what the host sees; the value travels in gprs[0] both ways.
    """
    cpu = session.cpu
    register = esr & _SYSREG_NAME
    rt = esr >> 5 & 0x1F
    if register not in _ICC_ISS:
        if register & _ID_SPACE_MASK == _ID_SPACE and esr & ESR.SYSREG_READ:
            cpu.set_gpr(rt, 0)
            cpu.pc += 4
        else:
            cpu.take_exception_el1(ESR.IL)
        return None
    shown = esr & ~ESR.SYSREG_RT
    cpu.pc += 4
    if esr & ESR.SYSREG_READ:
        session.rec.sysreg_rt = rt
        session.rec.pending |= Pending.SYSREG_READ
        return RecExit(ExitReason.SYNC, ((_ESR, shown),))
    return RecExit(ExitReason.SYNC, ((_ESR, shown), (_GPRS, cpu.gpr(rt))))
