"""Converting a paused domain to a Realm: descriptor, tables, measured RAM, RECs, activation.

Enter at :func:`finalize`, a generator: its caller drives it and may stop it between two steps for good, since whatever
it has begun is in the records. A failure tears everything down again before it is reported.

The order of RMI calls is the series', because the measurement depends on it. Different from it: tables and RAM are
delegated in physical runs, and pages that are known to be zero share one source page.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hypervisor.arm.cca import layout
from hypervisor.arm.cca.bringup import CcaHost
from hypervisor.arm.cca.granules import PartialRange, delegate, runs
from hypervisor.arm.cca.ports import HostPages, Log, Progress, RealmGuest
from hypervisor.arm.cca.record_entries import REC_LEDGER, ExtentRecord, RecordsError, RecRecord
from hypervisor.arm.cca.records import REALM_LEDGER, Records
from hypervisor.arm.cca.relinquish import STEP_TIME, RelinquishError, relinquish
from hypervisor.arm.cca.rmi import MEASURE, Rmi, RmiFailure
from hypervisor.arm.cca.sro import SroEngine
from hypervisor.arm.cca.state import ObjectState, RealmState
from hypervisor.arm.cca.validate import HOST_IPA_BITS, ValidationError, check_domain, check_features
from machine.board import SmcResult
from machine.memory import GRANULE_SIZE, MemoryFault, NonSecureView
from rmm.abi import rmi as abi
from rmm.abi.registers import FeatureRegister0, HashAlgorithm, RecCreateFlags
from rmm.abi.structures import RealmParams, RecParams

#: Tables allocated and delegated at a time.
TABLE_BATCH = 64
#: DATA pages between two looks at the clock.
CLOCK_INTERVAL = 16

_REPORTED = frozenset({
    "RMI_REALM_CREATE", "RMI_RTT_CREATE", "RMI_RTT_DATA_MAP_INIT", "RMI_REC_CREATE", "RMI_REALM_ACTIVATE",
})


class FinalizeError(Exception):
    """Raised when the domain did not become a Realm.

    ``errno`` is positive. ``rmi_result`` is the raw X0 that the toolstack gets with EIO (0: none). ``crash``: the
    guest's image is lost, the domain must be shut down as crashed; otherwise it is an ordinary guest again.
    """

    def __init__(self, code: int, text: str, rmi_result: int = 0, crash: bool = False) -> None:
        super().__init__(text)
        self.errno = code
        self.rmi_result = rmi_result
        self.crash = crash


@dataclass(frozen=True)
class HostAccess:
    """What the host side works with: SMC conduit, Non-secure memory, pages, log."""

    smc: Callable[..., SmcResult]
    ns: NonSecureView
    pages: HostPages
    log: Log


def finalize(
    guest: RealmGuest,
    host: HostAccess,
    cca: CcaHost,
    root_pa: int,
    base_gfn: int,
    nr_pages: int,
    *,
    debug_vuart: bool = False,
) -> Iterator[Progress]:
    """Make the guest a Realm; its records start at ``root_pa`` (a zero Non-secure page of the domain).

    FinalizeError when it did not become one. An aborted build that cannot be torn down completely leaves its records,
    for :func:`hypervisor.arm.cca.relinquish.relinquish` to try again when the domain is destroyed.
    """
    is_realm = host.ns.read_u64(root_pa) != 0
    try:
        check_domain(guest, base_gfn, nr_pages, cca, is_realm, debug_vuart, host.log)
    except ValidationError as refusal:
        raise FinalizeError(refusal.errno, str(refusal)) from None
    try:
        check_features(guest, cca, host.log)
        records = Records.create(
            host.ns, root_pa, host.pages, domid=guest.domid, ram=guest.ram,
            tables=sum(1 for _ in layout.tables(base_gfn * GRANULE_SIZE, nr_pages * GRANULE_SIZE)),
            recs=guest.max_vcpus, work=layout.WORK_PAGES,
        )
    except ValidationError as refusal:
        raise FinalizeError(refusal.errno, str(refusal)) from None
    except MemoryError as shortage:
        raise FinalizeError(errno.ENOMEM, f"d{guest.domid}: {shortage}") from None
    except RecordsError as refusal:
        raise FinalizeError(errno.E2BIG, str(refusal)) from None
    try:
        yield from RealmBuild(guest, host, cca, records).run()
    except (RmiFailure, MemoryError, MemoryFault) as failure:
        error = _outcome(guest, records, failure)
        try:
            yield from relinquish(root_pa, host.smc, host.ns, host.pages, host.log)
        except RelinquishError as left:
            raise FinalizeError(errno.EIO, f"{error}; {left}", error.rmi_result, crash=True) from failure
        raise error from failure


def _outcome(guest: RealmGuest, records: Records, failure: RmiFailure | MemoryError | MemoryFault) -> FinalizeError:
    """What the toolstack is told of a failed step."""
    text = f"d{guest.domid}: ARM CCA: building the Realm failed: {failure}"
    if isinstance(failure, MemoryError):
        code, raw = errno.ENOMEM, 0
    elif isinstance(failure, MemoryFault):
        # RAM that is not the domain's to give: another world has it, or there is none.
        code, raw = errno.EFAULT, 0
    else:
        code = failure.errno
        raw = failure.reportable if failure.command in _REPORTED else 0
    lost = records.image_lost
    if lost:
        code = errno.EIO
    return FinalizeError(code, text, raw if code == errno.EIO else 0, crash=lost)


class RealmBuild:
    """The phases of a build, over records in state NEW."""

    def __init__(self, guest: RealmGuest, host: HostAccess, cca: CcaHost, records: Records) -> None:
        self._guest = guest
        self._host = host
        self._features0 = FeatureRegister0(cca.features0)
        self._records = records
        self._rmi = Rmi(host.smc, records.operation)
        self._engine = SroEngine(self._rmi, host.ns, host.pages, records.work_page(layout.LIST_PAGE))
        self._yielded = time.perf_counter()

    def run(self) -> Iterator[Progress]:
        """All phases. RmiFailure, MemoryError or MemoryFault when one fails: the records say what to tear down."""
        yield from self.create_realm()
        yield from self.build_tables()
        yield from self.populate()
        yield from self.create_recs()
        self._rmi.realm_activate(self._records.rd)
        self._records.set_state(RealmState.ACTIVE)
        self._free_work_pages()
        yield Progress("activate", 1, 1)

    def _step(self, phase: str, done: int, total: int) -> Iterator[Progress]:
        if time.perf_counter() - self._yielded >= STEP_TIME or done == total:
            yield Progress(phase, done, total)
            self._yielded = time.perf_counter()

    def create_realm(self) -> Iterator[Progress]:
        """RD and root table delegated, REALM_CREATE."""
        records, host = self._records, self._host
        rd, root = host.pages.alloc(2)
        records.rd = rd
        records.root_table = root
        for pa in (rd, root):
            delegate(self._rmi, pa, pa + GRANULE_SIZE)
        params = records.work_page(layout.PARAMS_PAGE)
        host.ns.write(params, RealmParams.encode(
            s2sz=HOST_IPA_BITS,
            num_bps=self._features0.NUM_BPS,
            num_wps=self._features0.NUM_WPS,
            hash_algo=HashAlgorithm.SHA_256,
            rtt_base=root,
            rtt_level_start=layout.START_LEVEL,
            rtt_num_start=layout.ROOT_TABLES,
        ))
        records.realm = ObjectState.MAYBE
        records.operation.owner = None
        self._engine.run(abi.REALM_CREATE, (rd, params), records.ledger, REALM_LEDGER)
        records.realm = ObjectState.EXISTS
        yield from self._step("create", 1, 1)

    def build_tables(self) -> Iterator[Progress]:
        """Every table of level 1, 2 and 3 over RAM, level by level."""
        first, last = self._guest.ram[0], self._guest.ram[-1]
        plan = list(layout.tables(first.gpa, last.gpa + last.size - first.gpa))
        records = self._records
        for start in range(0, len(plan), TABLE_BATCH):
            batch = plan[start : start + TABLE_BATCH]
            pages = sorted(self._host.pages.alloc(len(batch)))
            for index, (table, pa) in enumerate(zip(batch, pages, strict=True)):
                records.tables[start + index].set(table.ipa, table.level, pa)
            for base, top in runs(pages):
                delegate(self._rmi, base, top)
            for index, (table, pa) in enumerate(zip(batch, pages, strict=True)):
                records.tables[start + index].creating()
                self._rmi.rtt_create(records.rd, pa, table.ipa, table.level)
            yield from self._step("rtt", start + len(batch), len(plan))

    def populate(self) -> Iterator[Progress]:
        """All RAM, page by page in ascending address order, its content measured."""
        total = sum(extent.size for extent in self._guest.ram) // GRANULE_SIZE
        done = 0
        for extent in self._records.extents:
            for start in range(0, extent.size, layout.CHUNK_PAGES * GRANULE_SIZE):
                size = min(extent.size - start, layout.CHUNK_PAGES * GRANULE_SIZE)
                sources = self._take_image(extent, start, size)
                yield from self._step("data", done, total)
                for mapped in self._map_chunk(extent, start, size, sources):
                    yield from self._step("data", done + mapped, total)
                done += size // GRANULE_SIZE

    def _take_image(self, extent: ExtentRecord, start: int, size: int) -> list[int]:
        """Copy a chunk of the image to the scratch pages; the source page for each of its pages."""
        ns, records = self._host.ns, self._records
        zero = records.work_page(layout.ZERO_PAGE)
        scratch = records.work_pages()[layout.SCRATCH_PAGES :]
        pa = extent.pa + start
        count = size // GRANULE_SIZE
        known_zero = ns.known_zero
        sources = [
            zero if known_zero(page) else target
            for page, target in zip(range(pa, pa + size, GRANULE_SIZE), scratch[:count], strict=True)
        ]
        index = 0
        while index < count:
            first = index
            # A run to copy ends where the scratch pages stop being contiguous, or at a zero page.
            while index < count and sources[index] == sources[first] + (index - first) * GRANULE_SIZE != zero:
                index += 1
            if index > first:
                ns.copy(sources[first], pa + first * GRANULE_SIZE, (index - first) * GRANULE_SIZE)
            else:
                index += 1
        return sources

    def _map_chunk(self, extent: ExtentRecord, start: int, size: int, sources: list[int]) -> Iterator[int]:
        """Delegate a chunk and map it; yields now and then how many of its pages are mapped."""
        records, smc = self._records, self._rmi.smc
        rd, fid = records.rd, abi.RTT_DATA_MAP_INIT
        base = extent.pa + start
        # From here on this part of the image exists only in the scratch pages.
        records.image_lost = True
        self._guest.remove_from_p2m(extent.gpa + start, size)
        extent.delegated = start + size
        try:
            delegate(self._rmi, base, base + size)
        except PartialRange as partial:
            extent.delegated = partial.reached - extent.pa
            raise
        extent.mapped = start + size
        pa, ipa = base, extent.gpa + start
        last = len(sources) - 1
        for index, source in enumerate(sources):
            reply = smc(fid, rd, pa, ipa, source, MEASURE)
            if reply[0]:
                self._rmi.finish(reply, fid, rd, pa, ipa, source, MEASURE)
            pa += GRANULE_SIZE
            ipa += GRANULE_SIZE
            if not index % CLOCK_INTERVAL or index == last:
                yield index + 1

    def create_recs(self) -> Iterator[Progress]:
        """A REC for each vCPU, ascending; only vCPU 0 is runnable."""
        for rec in self._records.recs:
            self._create_rec(rec)
            yield from self._step("rec", rec.vcpu_id + 1, len(self._records.recs))

    def _create_rec(self, rec: RecRecord) -> None:
        records, host = self._records, self._host
        run, page = host.pages.alloc(2)
        rec.run = run
        rec.page = page
        delegate(self._rmi, page, page + GRANULE_SIZE)
        context = self._guest.vcpu_context[rec.vcpu_id]
        params = records.work_page(layout.PARAMS_PAGE)
        host.ns.write(params, RecParams.encode(
            flags=RecCreateFlags.make(RUNNABLE=rec.vcpu_id == 0),
            mpidr=layout.rec_mpidr(rec.vcpu_id),
            pc=context.pc,
            gprs=(*context.x[:4], 0, 0, 0, 0),
        ))
        rec.object = ObjectState.MAYBE
        records.operation.owner = rec.vcpu_id
        self._engine.run(abi.REC_CREATE, (records.rd, page, params), rec.aux, REC_LEDGER - len(rec.aux))
        rec.object = ObjectState.EXISTS

    def _free_work_pages(self) -> None:
        """Only teardown's list page is kept."""
        records = self._records
        free = []
        for index, pa in enumerate(records.work_pages()):
            if index != layout.LIST_PAGE and pa:
                records.set_work_page(index, 0)
                free.append(pa)
        self._host.pages.free(free)

