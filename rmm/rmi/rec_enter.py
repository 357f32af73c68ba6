"""REC_ENTER: run a REC until something needs the host (DEN0137 2.0-bet1, A4.2 and A4.3, B3 REC_ENTER).

The RMM lock is held for the checks and for what the Realm asks of the RMM, not while the Realm runs; "this REC is
running" is a lock of its own (:class:`rmm.lock.RunningRecs`). The order of checks is the specification's, that of the
completions TF-RMM's. This is the hot path of device emulation: fixed word offsets, nothing parsed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from machine.cpu import CpuError, ExitKind
from machine.ich import LR
from machine.memory import DRAM_BASE
from rmm import rsi
from rmm.abi.registers import RecEnterFlags
from rmm.abi.rmi import Status
from rmm.abi.structures import RecRun
from rmm.exits import EC, ESR, HPFAR_FIPA, SAS_MASKS, RecExit, classify, inject_external_abort
from rmm.granules import GranuleState
from rmm.realm import RealmState
from rmm.rec import Pending, RecGranule
from rmm.rmi import command
from rmm.rsi import host_call, ipa_state
from rmm.session import Session, residents

if TYPE_CHECKING:
    from rmm.monitor import Monitor

EMUL_MMIO: Final = RecEnterFlags.make(EMUL_MMIO=1)
INJECT_SEA: Final = RecEnterFlags.make(INJECT_SEA=1)
RIPAS_REJECT: Final = RecEnterFlags.make(RIPAS_RESPONSE=1)
_COMPLETES: Final = int(EMUL_MMIO | INJECT_SEA)
_ENTER_GPRS: Final = RecRun.enter_gprs.offset >> 3
_ICH_EN: Final = 1

_RUNNABLE: Final = RecGranule.runnable.offset >> 3
_RUNNING: Final = RecGranule.running.offset >> 3
_PENDING: Final = RecGranule.pending.offset >> 3
_LAST_ESR: Final = RecGranule.last_esr.offset >> 3
_LAST_FAR: Final = RecGranule.last_far.offset >> 3
_LAST_HPFAR: Final = RecGranule.last_hpfar.offset >> 3


@command("RMI_REC_ENTER", locked=False)
def rec_enter(rmm: Monitor, rec: int, run: int) -> int:
    """Enter the REC with the RmiRecRun granule at ``run``; on an error that granule is not modified.

    CpuError when this process has no processing element, or when the element fails.
    """
    cpu = rmm.board.cpu
    if cpu is None:
        raise CpuError("RMI_REC_ENTER in a process without a processing element")
    here = residents(rmm)
    words = rmm.words
    lock = rmm.lock
    lock.acquire()
    try:
        if not rmm.granules.is_ns(run):
            return Status.ERROR_INPUT
        refused = rmm.granules.refusal(rec, GranuleState.REC)
        if refused:
            return refused
        session = here.session(rmm, cpu, rec)
        if words[session.realm.state_word] != RealmState.ACTIVE:
            return Status.ERROR_REALM
        at = session.at
        if words[at + _RUNNING] and rmm.running.is_running(session.rd, session.index):
            return Status.ERROR_REC
        flags = words[(run - DRAM_BASE) >> 3]
        if not words[at + _RUNNABLE] or words[at + _PENDING] & Pending.PSCI:
            return Status.ERROR_REC
        if flags & _COMPLETES and not _may_complete(session, flags):
            return Status.ERROR_REC
        lrs = cpu.ich.lr
        if lrs != session.checked_lrs:
            if not list_registers_valid(lrs):
                return Status.ERROR_REC
            session.checked_lrs = lrs[:]
        if not rmm.running.start(session.rd, session.index):
            return Status.ERROR_REC
        words[at + _RUNNING] = 1
    finally:
        lock.release()
    try:
        here.load(session)
        left = _complete(session, flags, run)
        if left is None:
            left = _run(session, flags)
        cpu.ich.hcr &= ~_ICH_EN
        timers = cpu.timers()
        session.save()
        words[at + _LAST_ESR], words[at + _LAST_FAR], words[at + _LAST_HPFAR] = left.latch
    except BaseException:
        here.forget()
        raise
    finally:
        words[at + _RUNNING] = 0
        rmm.running.stop(session.rd, session.index)
    if not rmm.granules.is_ns(run):
        # The host gave the granule away while its vCPU ran.
        return Status.ERROR_INPUT
    left.write(rmm.memory, run, (timers.cntp_ctl, timers.cntp_cval, timers.cntv_ctl, timers.cntv_cval))
    return Status.SUCCESS


def list_registers_valid(lrs: Sequence[int]) -> bool:
    """Whether a Realm may run with these list registers: software interrupts only, none of them twice."""
    seen: list[int] = []
    for value in lrs:
        if value >> LR.STATE_SHIFT:
            intid = value & LR.VINTID_MASK
            if value & LR.HW or intid in seen:
                return False
            seen.append(intid)
    return True


def _may_complete(session: Session, flags: int) -> bool:
    """Whether the last exit was one that the host may emulate, or answer with an external abort, as it asks to."""
    words, at = session.rec.words, session.at
    esr = words[at + _LAST_ESR]
    unprotected = (words[at + _LAST_HPFAR] & HPFAR_FIPA) << 8 >= session.par_size
    if esr >> ESR.EC_SHIFT != EC.DATA_ABORT or not unprotected:
        return False
    return not flags & EMUL_MMIO or bool(esr & ESR.ISV) or bool(flags & INJECT_SEA)


def _complete(session: Session, flags: int, run: int) -> RecExit | None:
    """Finish what the last exit left open; a REC exit when that cannot be done yet."""
    words, at = session.rec.words, session.at
    if flags & INJECT_SEA:
        inject_external_abort(session, words[at + _LAST_ESR], words[at + _LAST_FAR])
    elif flags & EMUL_MMIO:
        _complete_mmio(session, words[at + _LAST_ESR], words[((run - DRAM_BASE) >> 3) + _ENTER_GPRS])
    pending = words[at + _PENDING]
    if pending:
        if pending & Pending.HOST_CALL:
            with session.rmm.lock:
                unmapped = host_call.complete(session, run)
            if unmapped is not None:
                return unmapped
        if pending & Pending.RIPAS:
            ipa_state.complete(session, bool(flags & RIPAS_REJECT))
        if pending & Pending.SYSREG_READ:
            session.cpu.set_gpr(session.rec.sysreg_rt, words[((run - DRAM_BASE) >> 3) + _ENTER_GPRS])
        if pending & Pending.RESULT:
            session.cpu.set_gprs(session.rec.result)
        words[at + _PENDING] = 0
    return None


def _complete_mmio(session: Session, esr: int, data: int) -> None:
    """The access at the latched syndrome has been emulated: a load gets its value, and the PC moves on."""
    cpu = session.cpu
    if not esr & ESR.WNR:
        size = esr >> ESR.SAS_SHIFT & 3
        mask = SAS_MASKS[size]
        data &= mask
        if esr & ESR.SSE and data >> (8 << size) - 1:
            data |= ~mask
        cpu.set_gpr(esr >> ESR.SRT_SHIFT & 0x1F, data & SAS_MASKS[3 if esr & ESR.SF else 2])
    cpu.pc += 4


def _run(session: Session, flags: int) -> RecExit:
    """Run the Realm until an exception is the host's business."""
    run, regime = session.cpu.run, session.regime(flags)
    while True:
        taken = run(regime)
        if taken.kind == ExitKind.SYNC and taken.esr >> ESR.EC_SHIFT == EC.SMC:
            left = rsi.handle(session)
        else:
            left = classify(session, taken)
        if left is not None:
            return left


