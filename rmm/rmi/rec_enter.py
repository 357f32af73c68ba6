"""REC_ENTER: run a REC until something needs the host (DEN0137 2.0-bet1, A4.2 and A4.3, B3 REC_ENTER).

The RMM lock is held for the checks and for what the Realm asks of the RMM, not while the Realm runs; "this REC is
running" is noted on its own (:class:`rmm.lock.RunningRecs`). The order of checks is the specification's, that of the
completions TF-RMM's.

This is the path of every emulated device access, 25,000 a second (``python -m benchmarks rec-exit``): words at fixed
offsets, constants in module globals, the lock and the common case of each step in line.
"""

from __future__ import annotations

from collections.abc import Sequence
from fcntl import LOCK_EX, LOCK_UN, flock
from typing import TYPE_CHECKING, Final

from machine.cpu import Cpu, CpuError, ExitKind
from machine.ich import LR
from machine.memory import DRAM_BASE, GRANULE_SHIFT
from rmm import rsi
from rmm.abi.registers import RecEnterFlags
from rmm.abi.rmi import Status
from rmm.abi.structures import RecRun
from rmm.exits import EC, EMUL_MMIO, ESR, INJECT_SEA, SAS_MASKS, RecExit, classify, data_abort, inject_external_abort
from rmm.granules import GranuleState
from rmm.realm import RealmState
from rmm.rec import Pending, RecGranule
from rmm.rmi import command
from rmm.rsi import host_call, ipa_state
from rmm.session import INCARNATION, Residents, Session, residents

if TYPE_CHECKING:
    from rmm.monitor import Monitor

_RIPAS_REJECT: Final = int(RecEnterFlags.make(RIPAS_RESPONSE=1))
_COMPLETES: Final = EMUL_MMIO | INJECT_SEA
_ENTER_GPRS: Final = RecRun.enter_gprs.offset >> 3
_ICH_EN: Final = 1
_SUCCESS: Final = int(Status.SUCCESS)
_REC: Final = int(GranuleState.REC)
_UNDELEGATED: Final = int(GranuleState.UNDELEGATED)
_ACTIVE: Final = int(RealmState.ACTIVE)
_SYNC: Final = ExitKind.SYNC
_DATA_ABORT: Final = EC.DATA_ABORT
_SMC: Final = EC.SMC
_PSCI: Final = Pending.PSCI
_WNR: Final = ESR.WNR
_SSE: Final = ESR.SSE
_SF: Final = ESR.SF

_RUNNABLE: Final = RecGranule.runnable.offset >> 3
_PENDING: Final = RecGranule.pending.offset >> 3
_LAST_ESR: Final = RecGranule.last_esr.offset >> 3
_LAST_FAR: Final = RecGranule.last_far.offset >> 3
_LAST_ALLOWS: Final = RecGranule.last_allows.offset >> 3


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
    granules = rmm.granules
    lock = rmm.lock
    mutex = lock.mutex
    mutex.acquire()
    try:
        flock(lock.fd, LOCK_EX)
        try:
            if lock.valid[0]:
                lock.journal.recover()
            if not granules.is_ns(run):
                return Status.ERROR_INPUT
            session = here.sessions.get(rec)
            if (
                session is None
                or granules.states[session.granule] != _REC
                or words[session.at + INCARNATION] != session.incarnation
                or session.cpu is not cpu
            ):
                refused = granules.refusal(rec, _REC)
                if refused:
                    return refused
                session = here.session(rmm, cpu, rec)
            at = session.at
            flags = words[(run - DRAM_BASE) >> 3]
            refused = _refusal(rmm, session, flags, cpu)
            if refused:
                return refused
        finally:
            flock(lock.fd, LOCK_UN)
    finally:
        mutex.release()
    try:
        left = _enter(here, session, flags, run)
        ich = cpu.ich
        ich.hcr &= ~_ICH_EN
        timers = cpu.timers()
        session.save()
        words[at + _LAST_ESR], words[at + _LAST_FAR], words[at + _LAST_ALLOWS] = left.latch
    except BaseException:
        here.forget()
        raise
    finally:
        session.claim.stop()
    if granules.states[(run - DRAM_BASE) >> GRANULE_SHIFT] != _UNDELEGATED:
        # The host gave the granule away while its vCPU ran.
        return Status.ERROR_INPUT
    left.write(rmm.memory, run, (timers.cntp_ctl, timers.cntp_cval, timers.cntv_ctl, timers.cntv_cval))
    return _SUCCESS


def _refusal(rmm: Monitor, session: Session, flags: int, cpu: Cpu) -> int:
    """x0 of an entry that the realm's or the REC's state does not allow; 0 when the REC now counts as running."""
    words, at = rmm.words, session.at
    if words[session.realm.state_word] != _ACTIVE:
        return Status.ERROR_REALM
    if not words[at + _RUNNABLE] or words[at + _PENDING] & _PSCI:
        return Status.ERROR_REC
    if flags & _COMPLETES & ~words[at + _LAST_ALLOWS]:
        return Status.ERROR_REC
    lrs = cpu.ich.lr
    if lrs != session.checked_lrs:
        if not list_registers_valid(lrs):
            return Status.ERROR_REC
        session.checked_lrs = lrs[:]
    return _SUCCESS if session.claim.start() else Status.ERROR_REC


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


def _enter(here: Residents, session: Session, flags: int, run: int) -> RecExit:
    """Load the context, finish what the last exit left open, and run until an exception is the host's business."""
    here.load(session)
    words, at = session.memory.words, session.at
    if flags & _COMPLETES:
        if flags & INJECT_SEA:
            inject_external_abort(session, words[at + _LAST_ESR], words[at + _LAST_FAR])
        else:
            _complete_mmio(session.cpu, words[at + _LAST_ESR], words[((run - DRAM_BASE) >> 3) + _ENTER_GPRS])
    if words[at + _PENDING]:
        unmapped = _complete_calls(session, flags, run)
        if unmapped is not None:
            return unmapped
    go, regime = session.cpu.run, session.regime(flags)
    while True:
        taken = go(regime)
        if taken.kind is _SYNC:
            ec = taken.esr >> 26
            if ec == _DATA_ABORT:
                left = data_abort(session, taken)
            elif ec == _SMC:
                left = rsi.handle(session)
            else:
                left = classify(session, taken)
        else:
            left = classify(session, taken)
        if left is not None:
            return left


def _complete_mmio(cpu: Cpu, esr: int, data: int) -> None:
    """The access at the latched syndrome has been emulated: a load gets its value, and the PC moves on."""
    if not esr & _WNR:
        size = esr >> 22 & 3
        mask = SAS_MASKS[size]
        data &= mask
        if esr & _SSE and data >> (8 << size) - 1:
            data |= ~mask
        cpu.set_gpr(esr >> 16 & 0x1F, data & SAS_MASKS[3 if esr & _SF else 2])
    cpu.pc += 4


def _complete_calls(session: Session, flags: int, run: int) -> RecExit | None:
    """Finish the call or the register access of the last exit; a REC exit when that cannot be done yet."""
    words = session.memory.words
    pending = session.rec.pending
    if pending & Pending.HOST_CALL:
        with session.rmm.lock:
            unmapped = host_call.complete(session, run)
        if unmapped is not None:
            return unmapped
    if pending & Pending.RIPAS:
        ipa_state.complete(session, bool(flags & _RIPAS_REJECT))
    if pending & Pending.SYSREG_READ:
        session.cpu.set_gpr(session.rec.sysreg_rt, words[((run - DRAM_BASE) >> 3) + _ENTER_GPRS])
    if pending & Pending.RESULT:
        session.cpu.set_gprs(session.rec.result)
    session.rec.pending = 0
    return None
