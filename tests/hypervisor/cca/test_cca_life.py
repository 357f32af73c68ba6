"""A Realm's life over the real RMM: built, torn down, and interrupted at every RMI call of either."""

from __future__ import annotations

import errno
import itertools

import pytest
from cca_host import BASE_GFN, RAM_BASE, Host

from hypervisor.arm.cca import layout
from hypervisor.arm.cca.build import FinalizeError, finalize
from hypervisor.arm.cca.ports import Extent
from hypervisor.arm.cca.record_entries import RecordsError
from hypervisor.arm.cca.records import Records, handle_in_use, realm_state
from hypervisor.arm.cca.relinquish import RelinquishError, relinquish
from hypervisor.arm.cca.state import RealmState, StateError
from machine.memory import GranuleProtectionFault
from rmm.abi import rmi
from rmm.abi.rmi import Status
from rmm.realm import Realm

PAGES = 8


class Killed(BaseException):
    """The process died: nothing of it runs any more."""


class Interposer:
    """Between host and RMM: dies at call ``at`` (before or after it was carried out), or answers in the RMM's place."""

    def __init__(self, smc, *, die_at: int = -1, after: bool = False) -> None:
        self._smc = smc
        self._die_at = die_at
        self._after = after
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.replies: dict[int, list] = {}
        self.refuse = None

    def __call__(self, fid: int, *args: int):
        number = len(self.calls)
        self.calls.append((rmi.COMMANDS[fid].name.removeprefix("RMI_"), args))
        if number == self._die_at and not self._after:
            raise Killed
        queue = self.replies.get(fid)
        answer = queue.pop(0) if queue else None
        if answer is None and self.refuse is not None and self.refuse(fid, args):
            answer = (Status.ERROR_INPUT, args[0], 0, 0, 0)
        if answer is None:
            answer = self._smc(fid, *args)
        if number == self._die_at:
            raise Killed
        return answer

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def run_relinquish(host: Host, guest, smc=None, **options) -> list:
    return list(relinquish(guest.root_pa, smc or host.smc, host.ns, host.pages, host.log, **options))


def built(host: Host, **options):
    guest = host.guest(**options)
    host.finalize(guest)
    return guest


def test_a_realm_is_built_in_the_series_order(host):
    guest = host.guest()
    watch = Interposer(host.smc)
    host.finalize(guest, watch)
    commands = [call for call in watch.calls if not call[0].startswith(("GRANULE", "OP_"))]
    assert [name for name, _ in commands] == (
        ["REALM_CREATE"] + ["RTT_CREATE"] * 3 + ["RTT_DATA_MAP_INIT"] * PAGES + ["REC_CREATE"] * 2 + ["REALM_ACTIVATE"]
    )
    tables = [args[2:4] for name, args in commands if name == "RTT_CREATE"]
    assert tables == [(0, 1), (RAM_BASE, 2), (RAM_BASE, 3)]
    mapped = [(args[2], args[4]) for name, args in commands if name == "RTT_DATA_MAP_INIT"]
    assert mapped == [(RAM_BASE + 4096 * page, 1) for page in range(PAGES)]
    assert guest.removed == [(extent.gpa, extent.size) for extent in guest.ram]


def test_zero_pages_share_one_source_that_reads_as_known_zero(host):
    guest = host.guest()
    watch = Interposer(host.smc)
    sources = []

    def smc(fid, *args):
        if fid == rmi.RTT_DATA_MAP_INIT:
            sources.append((args[3], host.ns.known_zero(args[3]), host.ns.read(args[3], 7)))
        return watch(fid, *args)

    host.finalize(guest, smc)
    assert [content for _, _, content in sources] == [b"kernel\0"] + [bytes(7)] * 6 + [b"ramdisk"]
    zeros = {pa for pa, known, _ in sources if known}
    assert len(zeros) == 1
    assert sum(1 for _, known, _ in sources if known) == PAGES - 2


def test_the_measurement_does_not_depend_on_where_pages_are(host):
    """Two guests of the same content in different physical places have the same RIM, another content another."""

    def rim(content: bytes) -> bytes:
        guest = host.guest()
        host.ns.write(guest.ram[1].pa, content)
        host.finalize(guest)
        rd = Records(host.ns, guest.root_pa).rd
        return bytes(Realm(host.memory, rd).measurement(0))

    first, again, other = rim(b"a"), rim(b"a"), rim(b"b")
    assert first == again != other


def test_after_build_and_teardown_no_granule_is_delegated_and_every_page_is_back(host):
    guest = host.guest()
    before, free = host.delegated(), host.pages.free_pages
    host.finalize(guest)
    # RAM, RD, root, 3 tables, 2 RECs with 16 auxiliary pages each.
    assert host.delegated() == before + PAGES + 5 + 2 * 17
    with pytest.raises(GranuleProtectionFault):
        host.ns.read(guest.ram[0].pa, 1)
    run_relinquish(host, guest)
    assert host.delegated() == before
    assert host.pages.free_pages == free
    assert host.ns.read(guest.ram[0].pa, 6) == bytes(6)
    assert host.ns.read(guest.root_pa, 4096) == bytes(4096)
    assert not [line for line in host.log.texts if "fail" in line]


def test_relinquish_of_an_ordinary_domain_does_nothing(host):
    guest = host.guest()
    watch = Interposer(host.smc)
    assert realm_state(host.ns, guest.root_pa) == RealmState.NONE
    assert run_relinquish(host, guest, watch) == []
    assert watch.calls == []


def test_a_range_unmap_takes_a_whole_table(host):
    guest = built(host)
    watch = Interposer(host.smc)
    run_relinquish(host, guest, watch)
    assert watch.names().count("RTT_DATA_UNMAP") == len(guest.ram)
    assert watch.names()[0] == "REALM_TERMINATE"


def test_progress_reaches_the_total_of_every_phase(host):
    guest = host.guest()
    progress = host.finalize(guest)
    last = {step.phase: step for step in progress}
    assert list(last) == ["create", "rtt", "data", "rec", "activate"]
    assert all(step.done == step.total for step in last.values())
    assert last["data"].total == PAGES


def _free_of_leaks(host: Host, guest) -> bool:
    """Everything delegated is back; pages that only the dead process knew are Non-secure and free to be swept."""
    return host.delegated() == 0 and Records.open(host.ns, guest.root_pa) is None


def _calls_of(action) -> int:
    host = Host(firmware="rmm.monitor")
    host.bring_up()
    guest = host.guest(vcpus=1)
    if action == "relinquish":
        host.finalize(guest)
    watch = Interposer(host.smc)
    if action == "build":
        host.finalize(guest, watch)
    else:
        run_relinquish(host, guest, watch)
    return len(watch.calls)


BUILD_CALLS = _calls_of("build")
RELINQUISH_CALLS = _calls_of("relinquish")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", range(BUILD_CALLS))
def test_a_build_killed_at_any_call_is_torn_down_completely(call, after):
    host = Host(firmware="rmm.monitor")
    host.bring_up()
    guest = host.guest(vcpus=1)
    with pytest.raises(Killed):
        host.finalize(guest, Interposer(host.smc, die_at=call, after=after))
    run_relinquish(host, guest)
    assert _free_of_leaks(host, guest)
    # The machine is as good as new: another realm can be built.
    host.finalize(host.guest(vcpus=1))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", range(RELINQUISH_CALLS))
def test_a_teardown_stopped_at_any_call_is_finished_by_the_next(call, after):
    host = Host(firmware="rmm.monitor")
    host.bring_up()
    guest = host.guest(vcpus=1)
    host.finalize(guest)
    with pytest.raises(Killed):
        run_relinquish(host, guest, Interposer(host.smc, die_at=call, after=after))
    run_relinquish(host, guest)
    assert _free_of_leaks(host, guest)


def test_a_teardown_dropped_after_any_step_is_finished_by_later_ones(host, monkeypatch):
    monkeypatch.setattr("hypervisor.arm.cca.relinquish.STEP_TIME", 0)
    guest = built(host)
    runs = 0
    for count in itertools.count(1):
        steps = relinquish(guest.root_pa, host.smc, host.ns, host.pages, host.log)
        taken = list(itertools.islice(steps, count))
        steps.close()
        if len(taken) < count:
            break
        runs += 1
    assert runs > 4
    assert _free_of_leaks(host, guest)


FAILURES = [
    (rmi.REALM_CREATE, Status.ERROR_INPUT, errno.EIO, Status.ERROR_INPUT, False),
    (rmi.REALM_CREATE, Status.ERROR_NOT_SUPPORTED, errno.EOPNOTSUPP, 0, False),
    (rmi.REALM_CREATE, Status.BLOCKED, errno.EIO, 0, False),
    (rmi.RTT_CREATE, rmi.error_rtt(2), errno.EIO, rmi.error_rtt(2), False),
    (rmi.GRANULE_RANGE_DELEGATE, Status.ERROR_INPUT, errno.EIO, 0, False),
    (rmi.RTT_DATA_MAP_INIT, Status.ERROR_INPUT, errno.EIO, Status.ERROR_INPUT, True),
    (rmi.REC_CREATE, Status.ERROR_REALM, errno.EIO, Status.ERROR_REALM, True),
    (rmi.REALM_ACTIVATE, Status.ERROR_REALM, errno.EIO, Status.ERROR_REALM, True),
]


@pytest.mark.parametrize(("fid", "x0", "code", "told", "lost"), FAILURES)
def test_a_failed_build_is_undone_and_reported(host, fid, x0, code, told, lost):
    guest = host.guest()
    free = host.pages.free_pages
    smc = Interposer(host.smc)
    smc.replies[fid] = [None] * (2 if fid == rmi.RTT_DATA_MAP_INIT else 0) + [(x0, 0, 0, 0, 0)]
    with pytest.raises(FinalizeError) as failure:
        host.finalize(guest, smc)
    error = failure.value
    assert (error.errno, error.rmi_result, error.crash) == (code, told, lost)
    assert host.delegated() == 0
    assert host.pages.free_pages == free
    # Before the first page left the Non-secure world the domain is an ordinary guest again, its image intact.
    assert host.ns.read(guest.ram[0].pa, 6) == (bytes(6) if lost else b"kernel")
    if not lost:
        host.finalize(guest)


def test_a_build_without_memory_for_its_tables_is_enomem_and_undone(host, monkeypatch):
    guest = host.guest()
    free = host.pages.free_pages
    alloc = host.pages.alloc

    def scarce(count: int = 1):
        if count == 3:
            raise MemoryError("none left")
        return alloc(count)

    monkeypatch.setattr(host.pages, "alloc", scarce)
    with pytest.raises(FinalizeError) as failure:
        host.finalize(guest)
    assert (failure.value.errno, failure.value.crash) == (errno.ENOMEM, False)
    assert (host.delegated(), host.pages.free_pages) == (0, free)


@pytest.mark.parametrize("cancellable", [False, True])
def test_a_rec_without_memory_leaves_no_operation_open(cancellable, monkeypatch):
    host = Host(firmware="rmm.monitor", cancellable=cancellable)
    host.bring_up()
    guest = host.guest()
    alloc = host.pages.alloc

    def scarce(count: int = 1):
        if count == 16:
            raise MemoryError("none left")
        return alloc(count)

    monkeypatch.setattr(host.pages, "alloc", scarce)
    with pytest.raises(FinalizeError) as failure:
        host.finalize(guest)
    assert failure.value.crash
    assert _free_of_leaks(host, guest)
    # No context of the RMM is left in use.
    assert all(host.smc(rmi.OP_CONTINUE, handle, 0)[0] == Status.ERROR_INPUT for handle in range(4))


def test_ram_that_another_world_has_is_efault_and_undone(host):
    guest = host.guest()
    stolen = guest.ram[1].pa
    host.ns.write(stolen, b"x")
    assert host.smc(rmi.GRANULE_RANGE_DELEGATE, stolen, stolen + 4096)[0] == 0
    with pytest.raises(FinalizeError) as failure:
        host.finalize(guest)
    assert failure.value.errno in (errno.EFAULT, errno.EIO)
    assert host.delegated() == 1
    assert Records.open(host.ns, guest.root_pa) is None


def test_ram_in_too_many_pieces_is_refused_before_anything_happens(host):
    guest = host.guest()
    guest.ram = [Extent(RAM_BASE + 4096 * i, guest.ram[0].pa, 4096) for i in range(40000)]
    guest.total_pages = 40000
    with pytest.raises(FinalizeError) as failure:
        list(finalize(guest, host.access(), host.cca, guest.root_pa, BASE_GFN, 40000))
    assert failure.value.errno == errno.E2BIG
    assert host.delegated() == 0


def _kinds(records: Records) -> dict[str, int]:
    return {
        "data": records.extents[0].pa + 4096,
        "table": records.tables[1].pa,
        "rec": records.recs[0].page,
        "aux": records.recs[1].aux.pages()[3],
        "root": records.root_table,
        "rd": records.rd,
    }


@pytest.mark.parametrize("kind", ["data", "table", "rec", "aux", "root", "rd"])
def test_a_granule_that_stays_delegated_is_named_kept_and_retried(host, kind):
    guest = host.guest()
    free = host.pages.free_pages
    host.finalize(guest)
    pa = _kinds(Records(host.ns, guest.root_pa))[kind]
    smc = Interposer(host.smc)
    # Ranges are converted up to the stuck granule.
    smc.refuse = lambda fid, args: fid == rmi.GRANULE_RANGE_UNDELEGATE and args[0] == pa

    def stop_before(fid, *args):
        if fid == rmi.GRANULE_RANGE_UNDELEGATE and args[0] < pa < args[1]:
            return smc(fid, args[0], pa)
        return smc(fid, *args)

    for _ in range(2):
        host.log.clear()
        with pytest.raises(RelinquishError) as left:
            run_relinquish(host, guest, stop_before)
        assert (left.value.errno, left.value.stuck) == (errno.EIO, (pa,))
        assert host.log.texts == [f"d1: ARM CCA: failed to undelegate abandoned granule {pa:#016x}"]
        records = Records(host.ns, guest.root_pa)
        assert (records.state, records.unreturned()) == (RealmState.DYING, [pa])
        assert host.delegated() == 1
    run_relinquish(host, guest)
    assert (host.delegated(), host.pages.free_pages) == (0, free)


def test_auxiliary_pages_that_a_destroy_does_not_return_do_not_block_the_realm(host):
    """The series would refuse to go on for ever; here each page is undelegated by itself."""
    guest = built(host)
    records = Records(host.ns, guest.root_pa)
    # The RMM gives everything back, but the host's list of the descriptors is lost with the reply.
    real = host.smc

    def smc(fid, *args):
        answer = real(fid, *args)
        if fid == rmi.OP_MEM_RECLAIM:
            return (answer[0], 0, 0, 0, 0)
        return answer

    assert records.recs[0].aux.pages()
    run_relinquish(host, guest, smc)
    assert _free_of_leaks(host, guest)


def test_an_object_that_cannot_be_destroyed_stops_teardown_with_a_line_in_the_log(host):
    guest = built(host)
    smc = Interposer(host.smc)
    smc.replies[rmi.REALM_TERMINATE] = [(Status.ERROR_REALM, 0, 0, 0, 0)]
    with pytest.raises(RelinquishError):
        run_relinquish(host, guest, smc)
    assert host.log.texts[-1].startswith("d1: ARM CCA: relinquish stopped at terminate: RMI_REALM_TERMINATE")
    assert smc.names() == ["REALM_TERMINATE"]
    run_relinquish(host, guest)
    assert _free_of_leaks(host, guest)


def test_an_unmap_that_makes_no_progress_is_an_error_not_a_loop(host):
    guest = built(host)
    smc = Interposer(host.smc)
    smc.replies[rmi.RTT_DATA_UNMAP] = [(0, RAM_BASE, 0, 0, 0)]
    with pytest.raises(RelinquishError, match="no progress"):
        run_relinquish(host, guest, smc)
    run_relinquish(host, guest)
    assert _free_of_leaks(host, guest)


def test_an_operation_whose_handle_was_never_recorded_is_found_among_others(host):
    """Two realms are being built; one process dies between REC_CREATE and the record of its handle."""
    other = host.guest()
    steps = finalize(other, host.access(), host.cca, other.root_pa, BASE_GFN, PAGES)

    class OpenRec(Interposer):
        def __call__(self, fid, *args):
            if fid == rmi.OP_MEM_DONATE:
                raise Killed
            return super().__call__(fid, *args)

    with pytest.raises(Killed):
        list(finalize(other, host.access(OpenRec(host.smc)), host.cca, other.root_pa, BASE_GFN, PAGES))
    steps.close()
    assert handle_in_use(host.ns, other.root_pa) == 0
    guest = host.guest()
    watch = Interposer(host.smc)
    with pytest.raises(Killed):
        host.finalize(guest, _dies_after(watch, rmi.REC_CREATE))
    assert handle_in_use(host.ns, guest.root_pa) is None
    with pytest.raises(RelinquishError):
        # Two candidates: without knowing the other's handle, nothing is touched.
        run_relinquish(host, guest)
    run_relinquish(host, guest, handles_in_use=lambda: [handle_in_use(host.ns, other.root_pa)])
    run_relinquish(host, other)
    assert _free_of_leaks(host, guest)


def _dies_after(watch: Interposer, fid: int):
    def smc(call, *args):
        answer = watch(call, *args)
        if call == fid:
            raise Killed
        return answer

    return smc


def test_records_of_something_else_are_refused(host):
    page = host.pages.alloc(1)[0]
    host.ns.write_u64(page, 1234)
    with pytest.raises(RecordsError):
        Records(host.ns, page)


def test_states_follow_each_other_only_as_declared(host):
    guest = built(host)
    records = Records(host.ns, guest.root_pa)
    assert records.state == realm_state(host.ns, guest.root_pa) == RealmState.ACTIVE
    with pytest.raises(StateError):
        records.set_state(RealmState.NEW)
    with pytest.raises(StateError):
        records.erase(host.pages)


@pytest.mark.parametrize(("size", "count"), [
    (64 << 20, 34), (128 << 20, 66), (256 << 20, 130), (512 << 20, 258), (1 << 30, 514), (2 << 30, 1027),
    (3 << 30, 1540),
])
def test_the_tables_of_a_realm_are_counted_as_in_the_series(size, count):
    assert len(list(layout.tables(RAM_BASE, size))) == count


@pytest.mark.parametrize(("vcpu", "mpidr"), [(0, 0), (15, 0xF), (16, 0x100), (17, 0x101), (127, 0x70F)])
def test_sixteen_recs_share_an_aff1(vcpu, mpidr):
    assert layout.rec_mpidr(vcpu) == mpidr
