"""The engine for operations that take and return memory."""

from __future__ import annotations

import errno
import struct

import pytest
from rmm_double import CONTINUE, DONATE, DONATE_CANCELLABLE, RECLAIM

from hypervisor.arm.cca.ledger import Entry, Ledger
from hypervisor.arm.cca.rmi import Rmi, RmiFailure
from hypervisor.arm.cca.sro import SroEngine
from rmm.abi import rmi
from rmm.abi.registers import AddrRangeDesc, DonateReq
from rmm.abi.rmi import Status

HANDLE = 6
FID = rmi.REC_CREATE
ARGS = (0x8000_0000, 0x8000_1000, 0x8000_2000)


class Bench:
    """An engine over the double, a ledger, and how many pages were free before."""

    def __init__(self, host) -> None:
        self.host, self.rmm = host, host.smc
        self.list_page = host.pages.alloc(1)[0]
        self.ledger = Ledger([0] * 16)
        self.engine = SroEngine(Rmi(host.smc), host.ns, host.pages, self.list_page)
        self.free = host.pages.free_pages

    def run(self, capacity: int = 16):
        return self.engine.run(FID, ARGS, self.ledger, capacity)

    def fails(self, capacity: int = 16) -> RmiFailure:
        with pytest.raises(RmiFailure) as failure:
            self.run(capacity)
        return failure.value

    def ask(self, count: int, x0: int = DONATE, **fields: int) -> None:
        self.rmm.will(FID, (x0, HANDLE, DonateReq.make(COUNT=count, **fields)))

    def offered(self) -> list[int]:
        """Descriptors in the list page."""
        return [word for word in struct.unpack("<512Q", self.host.ns.read(self.list_page, 4096)) if word]

    def gives_back(self, *descriptors: int, x0: int = CONTINUE):
        def reply(handle: int, page: int, capacity: int):
            self.host.ns.write(page, struct.pack(f"<{len(descriptors)}Q", *descriptors))
            return (x0, len(descriptors))

        return reply

    def all_returned(self) -> bool:
        return self.host.delegated() == 0 and self.host.pages.free_pages == self.free and not self.ledger.pages()


@pytest.fixture
def bench(bare) -> Bench:
    return Bench(bare)


def test_an_operation_that_needs_nothing_is_one_call(bench):
    assert bench.run()[0] == 0
    assert bench.rmm.names() == ["REC_CREATE"]


def test_a_donation_is_one_delegated_page_a_descriptor_and_ends_in_the_ledger(bench):
    bench.ask(4)
    bench.rmm.will(rmi.OP_MEM_DONATE, (CONTINUE, 4))
    bench.run()
    held = bench.ledger.pages(Entry.HELD)
    assert len(held) == bench.host.delegated() == 4
    assert bench.offered() == [pa | 4 for pa in sorted(held)]
    assert [args for name, args in bench.rmm.calls if name.startswith("RMI_OP")] == [
        (HANDLE, bench.list_page, 4), (HANDLE, 0),
    ]


def test_a_partial_donation_is_offered_again_for_the_rest(bench):
    bench.ask(5)
    bench.rmm.will(rmi.OP_MEM_DONATE, (DONATE, 3, DonateReq.make(COUNT=2)), (CONTINUE, 2))
    bench.run()
    assert len(bench.ledger.pages(Entry.HELD)) == bench.host.delegated() == 5
    assert bench.host.pages.free_pages == bench.free - 5


@pytest.mark.parametrize(("count", "fields", "code"), [
    (1, {"BLOCK_SIZE": 1}, errno.EOPNOTSUPP),
    (1, {"CONTIGUOUS": 1}, errno.EOPNOTSUPP),
    (1, {"STATE": 1}, errno.EOPNOTSUPP),
    (0, {}, errno.EINVAL),
    (17, {}, errno.E2BIG),
])
def test_a_request_that_is_not_served_cancels_the_operation(bench, count, fields, code):
    bench.ask(count, DONATE_CANCELLABLE, **fields)
    assert bench.fails().errno == code
    assert bench.rmm.names() == ["REC_CREATE", "OP_CANCEL"]
    assert bench.all_returned()


def test_an_operation_that_may_not_take_memory_is_cancelled_when_it_asks(bench):
    bench.ask(1, DONATE_CANCELLABLE)
    assert bench.fails(capacity=0).errno == errno.EOPNOTSUPP
    assert bench.rmm.names()[-1] == "OP_CANCEL"


def test_an_operation_that_may_not_be_cancelled_is_ended_by_a_donation_it_refuses(bench):
    bench.ask(17)
    bench.rmm.will(rmi.OP_MEM_DONATE, (Status.ERROR_INPUT, 0))
    bench.rmm.will(rmi.OP_CONTINUE, (Status.ERROR_INPUT,))
    assert bench.fails().errno == errno.E2BIG
    assert bench.rmm.names() == ["REC_CREATE", "OP_MEM_DONATE", "OP_CONTINUE"]
    assert AddrRangeDesc(bench.offered()[0]).address == bench.list_page


def test_out_of_pages_cancels_and_is_enomem(bench, monkeypatch):
    def none(count: int = 1):
        raise MemoryError("none left")

    monkeypatch.setattr(bench.host.pages, "alloc", none)
    bench.ask(2, DONATE_CANCELLABLE)
    assert bench.fails().errno == errno.ENOMEM
    assert bench.rmm.names()[-1] == "OP_CANCEL"


def test_a_cancelled_operation_gives_back_what_it_took(bench):
    bench.ask(2, DONATE_CANCELLABLE)
    bench.rmm.will(rmi.OP_MEM_DONATE, (DONATE_CANCELLABLE, 2, DonateReq.make(COUNT=15)))
    bench.rmm.will(rmi.OP_CANCEL, (RECLAIM, 0))

    def reclaim(handle: int, page: int, capacity: int):
        return bench.gives_back(*(pa | 4 for pa in bench.ledger.pages()))(handle, page, capacity)

    bench.rmm.will(rmi.OP_MEM_RECLAIM, reclaim)
    assert bench.fails().errno == errno.E2BIG
    assert bench.rmm.names()[-1] == "OP_CONTINUE"
    assert bench.all_returned()


def test_a_donation_whose_delegation_fails_is_taken_back_and_cancelled(bench):
    bench.ask(4, DONATE_CANCELLABLE)
    bench.rmm.will(rmi.GRANULE_RANGE_DELEGATE, lambda base, top: bench.rmm._move(base, base + 8192, 1))
    bench.rmm.will(rmi.GRANULE_RANGE_DELEGATE, (Status.ERROR_TRACKING,))
    assert bench.fails().errno == errno.EIO
    assert bench.rmm.names()[-1] == "OP_CANCEL"
    assert bench.all_returned()


def test_a_failed_donation_is_continued_and_the_final_error_reported(bench):
    bench.ask(2)
    bench.rmm.will(rmi.OP_MEM_DONATE, (Status.ERROR_INPUT, 1))

    def reclaim(handle: int, page: int, capacity: int):
        assert capacity == 1
        return bench.gives_back(bench.ledger.pages()[0] | 4)(handle, page, capacity)

    bench.rmm.will(rmi.OP_CONTINUE, (RECLAIM, 0), (Status.ERROR_REALM,))
    bench.rmm.will(rmi.OP_MEM_RECLAIM, reclaim)
    failure = bench.fails()
    assert (failure.x0, failure.errno) == (Status.ERROR_REALM, errno.EIO)
    assert bench.all_returned()


def test_more_consumed_than_offered_is_an_io_error(bench):
    bench.ask(2, DONATE_CANCELLABLE)
    bench.rmm.will(rmi.OP_MEM_DONATE, (DONATE_CANCELLABLE, 3, DonateReq.make(COUNT=1)))
    assert bench.fails().errno == errno.EIO
    assert len(bench.ledger.pages(Entry.HELD)) == 2


def test_a_page_left_over_that_cannot_be_undelegated_is_abandoned(bench):
    bench.ask(2, DONATE_CANCELLABLE)

    def donate(handle: int, page: int, count: int):
        bench.rmm.stuck.update(word & ~0xFFF for word in bench.offered())
        return (DONATE_CANCELLABLE, 0, DonateReq.make(COUNT=2))

    bench.rmm.will(rmi.OP_MEM_DONATE, donate)
    assert bench.fails().errno == errno.EIO
    assert len(bench.ledger.pages(Entry.ABANDONED)) == bench.host.delegated() == 2
    assert bench.host.pages.free_pages == bench.free - 2


def _hold(bench: Bench, count: int) -> list[int]:
    bench.ask(count)
    bench.rmm.will(rmi.OP_MEM_DONATE, (CONTINUE, count))
    bench.run()
    bench.rmm.calls.clear()
    return sorted(bench.ledger.pages())


def test_reclaim_takes_runs_and_frees_every_page(bench):
    pages = _hold(bench, 4)
    assert pages[3] == pages[0] + 3 * 4096
    bench.rmm.will(rmi.REC_DESTROY, (RECLAIM, HANDLE))
    bench.rmm.will(rmi.OP_MEM_RECLAIM, bench.gives_back(AddrRangeDesc.of(pages[0], 3), x0=RECLAIM),
                   bench.gives_back(AddrRangeDesc.of(pages[3])))
    bench.engine.run(rmi.REC_DESTROY, (0x8000_1000,), bench.ledger, 0)
    assert bench.all_returned()


@pytest.mark.parametrize(("descriptor", "code"), [
    (AddrRangeDesc.of(0x8050_0000), errno.ENOENT),
    (AddrRangeDesc.of(0x8020_0000, block=1), errno.EIO),
    (AddrRangeDesc.of(0x8020_0000, state=1), errno.EIO),
    (AddrRangeDesc.of(0x8020_0000, count=0), errno.EIO),
])
def test_reclaiming_what_was_never_donated_is_refused(bench, descriptor, code):
    held = _hold(bench, 1)
    bench.rmm.will(rmi.REC_DESTROY, (RECLAIM, HANDLE))
    bench.rmm.will(rmi.OP_MEM_RECLAIM, bench.gives_back(descriptor))
    with pytest.raises(RmiFailure) as failure:
        bench.engine.run(rmi.REC_DESTROY, (0x8000_1000,), bench.ledger, 0)
    assert failure.value.errno == code
    assert bench.ledger.pages(Entry.HELD) == held


def test_an_operation_that_holds_nothing_may_not_ask_to_reclaim(bench):
    bench.rmm.will(rmi.REC_DESTROY, (RECLAIM, HANDLE))
    with pytest.raises(RmiFailure) as failure:
        bench.engine.run(rmi.REC_DESTROY, (0x8000_1000,), bench.ledger, 0)
    assert failure.value.errno == errno.EIO
    assert bench.rmm.names() == ["REC_DESTROY"]


def test_a_reclaimed_page_that_stays_delegated_is_no_failure_of_the_operation(bench):
    pages = _hold(bench, 2)
    bench.rmm.stuck.add(pages[1])
    bench.rmm.will(rmi.REC_DESTROY, (RECLAIM, HANDLE))
    bench.rmm.will(rmi.OP_MEM_RECLAIM, bench.gives_back(AddrRangeDesc.of(pages[0], 2)))
    bench.engine.run(rmi.REC_DESTROY, (0x8000_1000,), bench.ledger, 0)
    assert bench.ledger.pages(Entry.ABANDONED) == [pages[1]]


def test_busy_in_the_middle_is_tried_again(bench):
    bench.ask(1)
    bench.rmm.will(rmi.OP_MEM_DONATE, (Status.BUSY,), (CONTINUE, 1))
    bench.rmm.will(rmi.OP_CONTINUE, (Status.BUSY,), (0,))
    bench.run()
    assert len(bench.ledger.pages(Entry.HELD)) == 1


def test_an_unknown_memory_request_is_not_supported(bench):
    bench.rmm.will(FID, (rmi.incomplete(3, can_cancel=True), HANDLE))
    assert bench.fails().errno == errno.EOPNOTSUPP
    assert bench.rmm.names()[-1] == "OP_CANCEL"
