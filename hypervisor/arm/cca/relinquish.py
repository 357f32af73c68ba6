"""Tearing a Realm down from the host's records alone.

:func:`relinquish` is one path for every end: an ordinary destroy, an aborted build, a domain whose process was killed
at any point. It can be stopped between any two RMI calls and started again, by anyone with the records. What each stage
returns, and what is kept when the RMM does not let go, is in :data:`hypervisor.arm.cca.state.STAGES`.

Where the series gets stuck for ever, and what is done here instead:

* an RD whose page could not be undelegated after a failed REALM_CREATE was taken for a live realm: whether the realm
  exists is recorded apart from its page, and an ERROR_INPUT to a destroy says that there is no such object;
* auxiliary pages left after a failed REC_CREATE, and pages that a destroy did not give back, blocked the realm's own
  destruction: they are undelegated one by one, whatever refuses is kept and retried, the rest goes on;
* an operation left open by a dead process is cancelled or driven to its end first.

Guest RAM is not freed here: it is the domain's. The domain may free it once :func:`relinquish` has come to its end.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterator

from hypervisor.arm.cca.granules import reclaim, reclaim_range
from hypervisor.arm.cca.layout import LIST_PAGE
from hypervisor.arm.cca.ledger import Ledger
from hypervisor.arm.cca.ports import HostPages, Level, Log, Progress
from hypervisor.arm.cca.record_entries import ExtentRecord, RecordsError, RecRecord
from hypervisor.arm.cca.records import Records
from hypervisor.arm.cca.rmi import Rmi, RmiFailure, command_name, errno_of, is_incomplete
from hypervisor.arm.cca.sro import SroEngine
from hypervisor.arm.cca.state import STAGES, ObjectState, RealmState
from machine.board import SmcResult
from machine.memory import GRANULE_SIZE, NonSecureView
from rmm.abi import rmi as abi
from rmm.abi.rmi import Status

TABLE_SPAN = 1 << 21
#: Seconds of work between two yields.
STEP_TIME = 0.004


class RelinquishError(Exception):
    """Raised when teardown could not be finished; the records are kept and :func:`relinquish` may be run again.

    ``errno`` is positive; ``stuck`` lists granules that the RMM did not let go of.
    """

    def __init__(self, code: int, text: str, stuck: tuple[int, ...] = ()) -> None:
        super().__init__(text)
        self.errno = code
        self.stuck = stuck


def relinquish(
    root_pa: int,
    smc: Callable[..., SmcResult],
    ns: NonSecureView,
    pages: HostPages,
    log: Log,
    handles_in_use: Callable[[], Collection[int]] = tuple,
) -> Iterator[Progress]:
    """Give back everything that the records at ``root_pa`` name; nothing to do when there are none.

    ``handles_in_use`` answers the operation handles in the records of all other domains
    (:func:`hypervisor.arm.cca.records.handle_in_use`). The vCPUs must not run any more. RelinquishError when something
    is left; every granule that is, is logged.
    """
    records = Records.open(ns, root_pa)
    if records is None:
        return
    if records.state != RealmState.DEAD:
        yield from _Teardown(records, smc, ns, pages, log, handles_in_use).run()
    records.erase(pages)


class _Teardown:
    def __init__(
        self,
        records: Records,
        smc: Callable[..., SmcResult],
        ns: NonSecureView,
        pages: HostPages,
        log: Log,
        handles_in_use: Callable[[], Collection[int]],
    ) -> None:
        self._records = records
        self._handles_in_use = handles_in_use
        self._rmi = Rmi(smc, records.operation)
        self._ns = ns
        self._pages = pages
        self._log = log
        self._engine = SroEngine(self._rmi, ns, pages, records.work_page(LIST_PAGE))
        self._yielded = time.perf_counter()

    def run(self) -> Iterator[Progress]:
        records = self._records
        records.set_state(RealmState.DYING)
        stages = (self._operation, self._terminate, self._data, self._tables, self._recs, self._realm, self._retry)
        for stage, work in zip(STAGES, stages, strict=False):
            try:
                yield from work(stage.name)
            except (RmiFailure, RecordsError) as failure:
                code = failure.errno if isinstance(failure, RmiFailure) else errno.ENOSPC
                text = f"d{records.domid}: ARM CCA: relinquish stopped at {stage.name}: {failure}"
                self._log(Level.ERR, text)
                raise RelinquishError(code, text) from failure
        stuck = tuple(records.unreturned())
        if stuck:
            for pa in stuck:
                self._log(Level.ERR, f"d{records.domid}: ARM CCA: failed to undelegate abandoned granule {pa:#016x}")
            raise RelinquishError(
                errno.EIO, f"d{records.domid}: {len(stuck)} granules cannot be undelegated", stuck
            )
        records.set_state(RealmState.DEAD)

    def _step(self, phase: str, done: int, total: int) -> Iterator[Progress]:
        """Yield when enough work was done since the last time."""
        now = time.perf_counter()
        if now - self._yielded >= STEP_TIME or done == total:
            yield Progress(phase, done, total)
            self._yielded = time.perf_counter()

    # Stages.

    def _operation(self, phase: str) -> Iterator[Progress]:
        operation = self._records.operation
        fid, handle, rec = operation.fid, operation.handle, operation.rec
        if fid in (abi.REC_CREATE, abi.REC_DESTROY) and rec is not None:
            self._settle_rec(self._records.recs[rec], fid, handle)
        elif fid and handle is not None:
            self._resume(fid, handle, self._records.ledger)
        operation.ended()
        yield from self._step(phase, 1, 1)

    def _settle_rec(self, rec: RecRecord, fid: int, handle: int | None) -> None:
        """End a REC's operation. Whether it is still open is asked of the REC's granule, never of the handle alone:

        a handle that is over may be someone else's by now.
        """
        reply = self._rmi.start(abi.REC_DESTROY, rec.page)
        if is_incomplete(reply[0]):
            # It is a REC: whatever was in flight is over.
            self._engine.adopt(abi.REC_DESTROY, reply, rec.aux)
            rec.object = ObjectState.ABSENT
            return
        if reply[0] & 0xFF not in (Status.SUCCESS, Status.ERROR_INPUT):
            raise RmiFailure(errno_of(reply[0]), reply[0], "RMI_REC_DESTROY")
        if reclaim(self._rmi, self._ns, rec.page):
            return
        if handle is None:
            handle = self._engine.find(fid, self._handles_in_use())
            if handle is None:
                raise RmiFailure(errno.EIO, 0, command_name(fid), "the unfinished operation cannot be found")
        self._resume(fid, handle, rec.aux)

    def _resume(self, fid: int, handle: int, ledger: Ledger) -> None:
        if not self._engine.resume(fid, handle, self._records.operation.cancellable, ledger):
            raise RmiFailure(errno.EIO, 0, command_name(fid), f"operation {handle:#x} cannot be ended")

    def _terminate(self, phase: str) -> Iterator[Progress]:
        records = self._records
        if records.realm in (ObjectState.MAYBE, ObjectState.EXISTS):
            try:
                self._rmi.realm_terminate(records.rd)
                records.realm = ObjectState.TERMINATED
            except RmiFailure as failure:
                if failure.status != Status.ERROR_INPUT:
                    raise
                records.realm = ObjectState.ABSENT
        yield from self._step(phase, 1, 1)

    def _data(self, phase: str) -> Iterator[Progress]:
        total = sum(extent.delegated for extent in self._records.extents) // GRANULE_SIZE
        done = 0
        for extent in self._records.extents:
            done += extent.returned // GRANULE_SIZE
            while extent.returned < extent.delegated:
                top = min(extent.delegated, ((extent.gpa + extent.returned) & -TABLE_SPAN) + TABLE_SPAN - extent.gpa)
                self._unmap(extent, min(top, extent.mapped))
                for pa in reclaim_range(self._rmi, self._ns, extent.pa + extent.returned, extent.pa + top):
                    self._records.abandoned.add(pa)
                done += (top - extent.returned) // GRANULE_SIZE
                extent.returned = top
                yield from self._step(phase, done, total)

    def _unmap(self, extent: ExtentRecord, top: int) -> None:
        """Unmap the extent up to offset ``top``, within one level-3 table."""
        if self._records.realm != ObjectState.TERMINATED:
            return
        while extent.unmapped < top:
            base, end = extent.gpa + extent.unmapped, extent.gpa + top
            try:
                reached = self._rmi.data_unmap(self._records.rd, base, end)
            except RmiFailure as failure:
                if failure.status != Status.ERROR_RTT or failure.data & 0xFF == 3:
                    raise
                # The walk ended above level 3: no table, so nothing is mapped.
                reached = end
            if not base < reached <= end:
                raise RmiFailure(errno.EIO, 0, "RMI_RTT_DATA_UNMAP", f"no progress: {base:#x} -> {reached:#x}")
            extent.unmapped = reached - extent.gpa

    def _tables(self, phase: str) -> Iterator[Progress]:
        records = self._records
        total = len(records.tables)
        for done, table in enumerate(reversed(records.tables), 1):
            if table.exists:
                if records.realm == ObjectState.TERMINATED:
                    self._destroy_table(table.ipa, table.level)
                table.gone()
            if table.pa and reclaim(self._rmi, self._ns, table.pa):
                pa = table.pa
                table.returned()
                self._pages.free([pa])
            yield from self._step(phase, done, total)

    def _destroy_table(self, ipa: int, level: int) -> None:
        try:
            self._rmi.rtt_destroy(self._records.rd, ipa, level)
        except RmiFailure as failure:
            # The walk stopped above the table: it was never created, or is destroyed already.
            above = failure.status == Status.ERROR_RTT and failure.data & 0xFF != level
            if not above:
                raise

    def _recs(self, phase: str) -> Iterator[Progress]:
        records = self._records
        for rec in records.recs:
            if rec.object in (ObjectState.MAYBE, ObjectState.EXISTS):
                records.operation.owner = rec.vcpu_id
                self._destroy(abi.REC_DESTROY, rec.page, rec.aux)
                rec.object = ObjectState.ABSENT
            self._return_rec(rec)
            yield from self._step(phase, rec.vcpu_id + 1, len(records.recs))

    def _realm(self, phase: str) -> Iterator[Progress]:
        records = self._records
        if records.realm == ObjectState.TERMINATED:
            records.operation.owner = None
            self._destroy(abi.REALM_DESTROY, records.rd, records.ledger)
            records.realm = ObjectState.ABSENT
        self._return_realm()
        yield from self._step(phase, 1, 1)

    def _destroy(self, fid: int, pa: int, ledger: Ledger) -> None:
        try:
            self._engine.run(fid, (pa,), ledger, 0)
        except RmiFailure as failure:
            if failure.status != Status.ERROR_INPUT:
                raise

    def _retry(self, phase: str) -> Iterator[Progress]:
        records = self._records
        for table in records.tables:
            if table.pa and reclaim(self._rmi, self._ns, table.pa):
                pa = table.pa
                table.returned()
                self._pages.free([pa])
        for rec in records.recs:
            self._return_rec(rec)
        self._return_realm()
        for pa in list(records.abandoned):
            if reclaim(self._rmi, self._ns, pa):
                records.abandoned.discard(pa)
        yield from self._step(phase, 1, 1)

    # Pages that no object needs any more. A record is cleared before its page is freed: never freed twice.

    def _return_ledger(self, ledger: Ledger) -> None:
        for pa in ledger.pages():
            if reclaim(self._rmi, self._ns, pa):
                ledger.drop(pa)
                self._pages.free([pa])

    def _return_rec(self, rec: RecRecord) -> None:
        self._return_ledger(rec.aux)
        page = rec.page
        if page and reclaim(self._rmi, self._ns, page):
            rec.page = 0
            self._pages.free([page])
        run = rec.run
        if run:
            rec.run = 0
            self._pages.free([run])

    def _return_realm(self) -> None:
        records = self._records
        self._return_ledger(records.ledger)
        root = records.root_table
        if root and reclaim(self._rmi, self._ns, root):
            records.root_table = 0
            self._pages.free([root])
        rd = records.rd
        if rd and reclaim(self._rmi, self._ns, rd):
            records.rd = 0
            self._pages.free([rd])
