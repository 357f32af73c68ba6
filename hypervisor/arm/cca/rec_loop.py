"""Running the vCPUs of a Realm: the loop around REC_ENTER, one iteration a call.

Enter at :func:`bind_vcpus`; the scheduler calls :meth:`RealmVcpu.run_once` for one vCPU after the other. A vCPU that
waits answers BLOCKED until an interrupt is pending for it or its :attr:`RealmVcpu.deadline` has passed, at the cost of
a few comparisons a call; when all wait, the scheduler sleeps until the nearest deadline or until something kicks it.

All vCPUs share the processing element of the board. The vGIC's flush loads a vCPU's whole virtual interface before each
entry and its sync takes it back right after the exit, so nothing of one vCPU is left in the element for the next.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from hypervisor.arm.cca.exits import apply_ripas, dispatch
from hypervisor.arm.cca.ports import Level, Log, RealmGuest, ShutdownReason, VcpuState
from hypervisor.arm.cca.record_entries import RecRecord
from hypervisor.arm.cca.records import Records
from hypervisor.arm.cca.rmi import Rmi, is_busy
from hypervisor.arm.cca.state import RealmState
from machine import clock as system_clock
from machine.board import Board
from machine.ich import IchRegisters
from machine.memory import GRANULE_SIZE
from rmm.abi import rmi as abi
from rmm.abi.registers import RecEnterFlags
from rmm.abi.rmi import Status
from rmm.abi.structures import RecRun

#: Every entry traps WFI and WFE: a waiting vCPU gives the processing element to the next.
ENTRY_FLAGS: Final = int(RecEnterFlags.make(TRAP_WFI=1, TRAP_WFE=1))
_GPRS: Final = RecRun.enter_gprs.offset >> 3
_TIMERS: Final = RecRun.cntp_ctl.offset >> 3
_ENTER: Final = abi.REC_ENTER
_RUNNABLE: Final = VcpuState.RUNNABLE


def bind_vcpus(
    guest: RealmGuest,
    board: Board,
    records_pa: int,
    log: Log,
    clock: Callable[[], int] = system_clock.now,
) -> list[RealmVcpu]:
    """The vCPUs of a Realm: vCPU 0 runnable, the others down.

    ``clock`` is the physical counter. RecordsError when there are no records at ``records_pa``.
    """
    records = Records(board.ns, records_pa)
    vcpus: list[RealmVcpu] = []
    for rec in records.recs:
        vcpus.append(RealmVcpu(guest, board, records, rec, log, clock, vcpus))
        guest.vgic.set_online(rec.vcpu_id, rec.vcpu_id == 0)
    return vcpus


class RealmVcpu:
    """A vCPU of a Realm.

    ``state`` is what the last iteration left, ``flags`` what the next entry will carry; ``run`` is the RecRun page as
    64-bit words. Belongs to the thread that runs the domain's vCPUs.
    """

    def __init__(
        self,
        guest: RealmGuest,
        board: Board,
        records: Records,
        record: RecRecord,
        log: Log,
        clock: Callable[[], int],
        siblings: Sequence[RealmVcpu],
    ) -> None:
        assert board.cpu is not None
        self.guest = guest
        self.vcpu_id = record.vcpu_id
        self.name = f"d{guest.domid}v{record.vcpu_id}"
        self.log = log
        self.clock = clock
        self.rd = records.rd
        self.rec = record.rec
        self.rmi = Rmi(board.smc, records.operation)
        self.vgic = guest.vgic
        self.mmio = guest.mmio
        self.timers = guest.vtimers[record.vcpu_id]
        self.ich: IchRegisters = board.cpu.ich
        self.flags = ENTRY_FLAGS
        self.pending_ripas = False
        self.state = VcpuState.RUNNABLE if record.vcpu_id == 0 else VcpuState.DOWN
        self._records = records
        self._siblings = siblings
        self._smc = board.smc
        self._run_pa = record.run
        # A view of NS memory, typed loosely: indexing it is the hot path.
        self.run: Any = board.ns.window(self._run_pa, GRANULE_SIZE).cast("Q") if self._run_pa else None
        self._given = -1
        self._checked = False

    # What exit handling asks of a vCPU.

    def sibling(self, number: int) -> RealmVcpu | None:
        """Another vCPU of the domain (or this one)."""
        return self._siblings[number] if number < len(self._siblings) else None

    def give_gpr(self, number: int, value: int) -> None:
        """The next entry carries ``value`` in X<number>; 31 drops it."""
        if number != 31 and value:
            self.run[_GPRS + number] = value
            self._given = number

    def block(self) -> VcpuState:
        """Wait for an interrupt, unless one is pending."""
        return _RUNNABLE if self.vgic.has_pending(self.vcpu_id) else VcpuState.BLOCKED

    def turn_on(self) -> None:
        """CPU_ON: a vCPU that is down may run."""
        if self.state is VcpuState.DOWN:
            self.vgic.set_online(self.vcpu_id, True)
            self.state = VcpuState.RUNNABLE

    def crash(self, text: str) -> VcpuState:
        """Crash the domain: the message, where it was noticed, and the vCPU stops for good."""
        caller = sys._getframe(1)
        self.log(Level.GUEST_ERR, f"{self.name} ARM CCA: {text}")
        self.log(Level.ERR, f"domain_crash called from {caller.f_globals['__name__']}:{caller.f_lineno}")
        self.log(Level.ERR, f"Domain {self.guest.domid} (vcpu#{self.vcpu_id}) crashed on cpu#0:")
        self.guest.shutdown(ShutdownReason.CRASH)
        self.state = VcpuState.PARKED
        return VcpuState.PARKED

    # What the scheduler asks.

    @property
    def deadline(self) -> int | None:
        """The counter value at which a BLOCKED vCPU wakes by itself; None if only an event can wake it."""
        return self.timers.deadline() if self.state is VcpuState.BLOCKED else None

    def wake(self) -> None:
        """A BLOCKED vCPU goes on at once, whatever it waits for."""
        if self.state is VcpuState.BLOCKED:
            self.timers.stop_wait()
            self.state = VcpuState.RUNNABLE

    def run_once(self) -> VcpuState:
        """One iteration: pending RIPAS change, flush, REC_ENTER, sync, timers, the exit's action.

        Without an entry when the vCPU has nothing to run: BLOCKED, DOWN, PARKED (also once the domain shuts down).
        """
        if self.state > VcpuState.YIELDED and not self.poll():
            return self.state
        if not self._checked or self.guest.is_shutting_down:
            self._check()
            if self.state is VcpuState.PARKED:
                return self.state
        run = self.run
        if self.pending_ripas:
            self.pending_ripas = False
            if apply_ripas(self) is not _RUNNABLE:
                return self.state
        run[0] = self.flags
        self.flags = ENTRY_FLAGS
        vcpu_id, ich, vgic = self.vcpu_id, self.ich, self.vgic
        vgic.flush_to_lrs(vcpu_id, ich)
        x0 = self._smc(_ENTER, self.rec, self._run_pa)[0]
        if x0:
            x0 = self._refused(x0)
            if x0:
                return self.state
        vgic.sync_from_lrs(vcpu_id, ich)
        if self._given >= 0:
            # Only these words of the enter half are ever written; the rest stays zero.
            run[_GPRS + self._given] = 0
            self._given = -1
        self.timers.update(run[_TIMERS], run[_TIMERS + 1], run[_TIMERS + 2], run[_TIMERS + 3])
        self.state = state = dispatch(self)
        return state

    def poll(self) -> bool:
        """Whether a waiting vCPU has something to do now; drives the lines of timers that expired while it waited."""
        if self.state is not VcpuState.BLOCKED:
            return False
        if not self.timers.expire(self.clock()) and not self.vgic.has_pending(self.vcpu_id):
            if self.guest.is_shutting_down:
                self.state = VcpuState.PARKED
            return False
        self.timers.stop_wait()
        self.state = VcpuState.RUNNABLE
        return True

    def _check(self) -> None:
        """The series' checks at the loop's start; and a domain that shuts down runs no vCPU."""
        if self.guest.is_shutting_down:
            self.state = VcpuState.PARKED
        elif self._records.state != RealmState.ACTIVE:
            self.crash("entered Realm run loop for non-Realm vCPU")
        elif self.guest.gic_version != 3:
            self.crash("only GICv3 Realms are supported")
        elif self.run is None:
            self.crash("REC runtime state is not bound")
        elif not self.rec:
            self.crash("REC is not bound")
        self._checked = True

    def _refused(self, x0: int) -> int:
        """REC_ENTER did not succeed: 0 when it did after all (BUSY), else the vCPU has stopped."""
        if is_busy(x0):
            x0 = self.rmi.start(_ENTER, self.rec, self._run_pa)[0]
            if x0 == 0:
                return 0
        if self.guest.is_shutting_down and x0 & 0xFF == Status.ERROR_REALM:
            self.log(Level.GUEST_INFO, f"{self.name} ARM CCA: Realm domain is shutting down; stopping vCPU")
            self.state = VcpuState.PARKED
        else:
            self.crash(f"RMI_REC_ENTER failed status={x0 & 0xFF:#x} data={x0 >> 8:#x}")
        return x0
