"""RECs are made and destroyed as stateful operations: memory is donated, and comes back."""

from __future__ import annotations

import pytest
from rmi_host import PAGE, Host

from rmm.abi import rmi
from rmm.abi.registers import AddrRangeDesc, BlockSize
from rmm.options import TF_RMM
from rmm.rec import Rec


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def rd(host: Host) -> int:
    return host.realm()


def desc(pa: int, count: int = 1, block: int = BlockSize.L3, state: int = 0) -> int:
    return int(AddrRangeDesc.of(pa, count, block, state))


def rec_count(host: Host, rd: int) -> int:
    realm = host.rmm.realm(rd)
    assert realm is not None
    return realm.rec_count


def test_a_rec_takes_its_granule_and_sixteen_more(host: Host, rd: int) -> None:
    rec = host.delegated()
    handle = host.start_rec(rd, rec, pc=0x4000_0000, gprs=(1, 2, 3, 4, 5, 6, 7, 8))
    assert host.state(rec) == "PARTIAL"
    aux = host.delegated(16)
    page = host.write_list(*(desc(aux + n * PAGE) for n in range(16)))
    assert host.call("OP_MEM_DONATE", handle, page, 16) == (0xD, 16, 0, 0, 0)
    assert host.state(aux) == "REC_AUX"
    assert host.call("OP_CONTINUE", handle, 0) == (0, 0, 0, 0, 0)
    assert host.state(rec) == "REC"
    view = Rec(host.memory, rec)
    assert (view.rd, view.index, view.mpidr, view.pc, view.runnable) == (rd, 0, 0, 0x4000_0000, 1)
    assert view.gprs[:9] == [1, 2, 3, 4, 5, 6, 7, 8, 0]
    assert view.aux == tuple(aux + n * PAGE for n in range(16))
    assert rec_count(host, rd) == 1


def test_the_number_of_granules_is_a_boot_option() -> None:
    host = Host(rec_aux_granules=4)
    answer = host.call("REC_CREATE", host.realm(), host.delegated(), host.rec_params())
    assert answer == (0x10D, 0, 4 << 2, 0, 0)


def test_memory_can_be_donated_in_parts(host: Host, rd: int) -> None:
    rec = host.delegated()
    handle = host.start_rec(rd, rec)
    aux = host.delegated(16)
    assert host.call("OP_MEM_DONATE", handle, host.write_list(desc(aux, 5), 0), 2) == (0x10D, 5, 11 << 2, 0, 0)
    assert host.call("OP_MEM_DONATE", handle, host.write_list(), 0) == (0x10D, 0, 11 << 2, 0, 0)
    assert host.call("OP_MEM_DONATE", handle, host.write_list(desc(aux + 5 * PAGE, 11)), 1) == (0xD, 11, 0, 0, 0)
    host.ok("OP_CONTINUE", handle, 0)
    assert Rec(host.memory, rec).aux == tuple(aux + n * PAGE for n in range(16))


def test_recs_are_numbered_in_order_and_numbers_are_not_reused(host: Host, rd: int) -> None:
    first = host.rec(rd)
    for index in range(1, 18):
        last = host.rec(rd, index=index, flags=0)
    assert (Rec(host.memory, last).index, Rec(host.memory, last).mpidr) == (17, 0x101)
    host.destroy_rec(first)
    host.destroy_rec(last)
    assert rec_count(host, rd) == 16
    assert host.status("REC_CREATE", rd, host.delegated(), host.rec_params(17)) == "ERROR_INPUT"
    host.rec(rd, index=18, flags=0)


def test_create_refuses_before_it_asks_for_memory(host: Host, rd: int) -> None:
    rec, params = host.delegated(), host.rec_params()
    other = host.realm()
    host.ok("REALM_ACTIVATE", other)
    before = host.census()
    for bad in (params + 8, rec, host.memory.firmware_base, 0):
        assert host.call("REC_CREATE", rd, rec, bad) == (1, 0, 0, 0, 0)
    for bad in (rec + 8, params, rd):
        assert host.call("REC_CREATE", rd, bad, params) == (1, 0, 0, 0, 0)
    assert host.status("REC_CREATE", rd, 0x1000, params).startswith("ERROR_TRACKING")
    for bad in (rec, rd + 8, params):
        assert host.call("REC_CREATE", bad, rec, params) == (1, 0, 0, 0, 0)
    assert host.status("REC_CREATE", other, rec, params) == "ERROR_REALM"
    for wrong in ({"mpidr": 1}, {"mpidr": 0x10}, {"mpidr": 1 << 32}, {"flags": 2}):
        assert host.status("REC_CREATE", rd, rec, host.rec_params(**wrong)) == "ERROR_INPUT"
    assert host.census() == before


def test_the_parameters_are_read_once(host: Host, rd: int) -> None:
    rec, page = host.delegated(), host.rec_params(pc=0x1234_5000)
    handle = host.call("REC_CREATE", rd, rec, page)[1]
    host.board.ns.write(page, b"\xff" * PAGE)
    host.delegate(page)
    host.call("OP_MEM_DONATE", handle, host.write_list(desc(host.delegated(16), 16)), 1)
    host.ok("OP_CONTINUE", handle, 0)
    assert Rec(host.memory, rec).pc == 0x1234_5000


def test_a_list_that_is_wrong_as_a_whole_takes_nothing(host: Host, rd: int) -> None:
    handle = host.start_rec(rd, host.delegated())
    aux = host.delegated(17)
    for wrong in (desc(aux, 17), desc(aux, 16, state=1), desc(aux, 1, BlockSize.L2), desc(aux, 1, BlockSize.L0)):
        assert host.call("OP_MEM_DONATE", handle, host.write_list(wrong), 1) == (1, 0, 0, 0, 0)
    page = host.write_list(desc(aux, 16))
    for where, count in ((page + 4, 1), (page, 513), (page + 4088, 2), (aux, 1), (host.memory.firmware_base, 1)):
        assert host.call("OP_MEM_DONATE", handle, where, count) == (1, 0, 0, 0, 0)
    assert host.state(aux) == "DELEGATED"


def test_a_corrected_list_is_accepted_after_a_wrong_one(host: Host, rd: int) -> None:
    handle = host.start_rec(rd, host.delegated())
    aux = host.delegated(16)
    assert host.call("OP_MEM_DONATE", handle, host.write_list(desc(aux, 17)), 1)[0] == 1
    assert host.call("OP_MEM_DONATE", handle, host.write_list(desc(aux, 16)), 1) == (0xD, 16, 0, 0, 0)
    host.ok("OP_CONTINUE", handle, 0)


def test_after_a_failed_donation_continuing_gives_the_memory_back_and_then_the_error(host: Host, rd: int) -> None:
    rec, aux = host.delegated(), host.delegated(2)
    handle = host.start_rec(rd, rec)
    page = host.write_list(desc(aux, 2), desc(host.ns()))
    assert host.call("OP_MEM_DONATE", handle, page, 2) == (1, 2, 0, 0, 0)
    assert host.call("OP_CONTINUE", handle, 0) == (0x20D, 0, 0, 0, 0)
    assert host.drain(handle) == [aux, aux + PAGE]
    assert host.call("OP_CONTINUE", handle, 0) == (1, 0, 0, 0, 0)
    assert [host.state(pa) for pa in (rec, aux, aux + PAGE)] == ["DELEGATED"] * 3
    assert host.status("OP_CONTINUE", handle, 0) == "ERROR_INPUT"
    host.ok("REALM_ACTIVATE", rd)


def test_a_failed_donation_that_took_nothing_ends_at_once(host: Host, rd: int) -> None:
    rec = host.delegated()
    handle = host.start_rec(rd, rec)
    assert host.call("OP_MEM_DONATE", handle, host.write_list(desc(rec)), 1) == (1, 0, 0, 0, 0)
    assert host.call("OP_CONTINUE", handle, 0) == (1, 0, 0, 0, 0)
    assert host.state(rec) == "DELEGATED"


def test_the_same_granule_is_not_taken_twice(host: Host, rd: int) -> None:
    handle = host.start_rec(rd, host.delegated())
    aux = host.delegated()
    assert host.call("OP_MEM_DONATE", handle, host.write_list(desc(aux), desc(aux)), 2) == (1, 1, 0, 0, 0)


def test_a_realm_that_changed_meanwhile_ends_the_operation(host: Host, rd: int) -> None:
    rec = host.delegated()
    handle = host.start_rec(rd, rec)
    host.call("OP_MEM_DONATE", handle, host.write_list(desc(host.delegated(16), 16)), 1)
    host.ok("REALM_TERMINATE", rd)
    assert host.call("OP_CONTINUE", handle, 0)[0] == 0x20D
    assert len(host.drain(handle)) == 16
    assert host.status("OP_CONTINUE", handle, 0) == "ERROR_REALM"
    assert host.state(rec) == "DELEGATED"
    host.ok("REALM_DESTROY", rd)


def test_of_two_operations_for_the_same_index_one_fails(host: Host, rd: int) -> None:
    handles = [host.start_rec(rd, host.delegated()) for _ in range(2)]
    assert handles == [0, 1]
    for handle in handles:
        host.call("OP_MEM_DONATE", handle, host.write_list(desc(host.delegated(16), 16)), 1)
    host.ok("OP_CONTINUE", handles[1], 0)
    assert host.call("OP_CONTINUE", handles[0], 0)[0] == 0x20D
    host.drain(handles[0])
    assert host.status("OP_CONTINUE", handles[0], 0) == "ERROR_INPUT"
    assert rec_count(host, rd) == 1


def test_an_operation_takes_its_steps_in_order(host: Host, rd: int) -> None:
    handle = host.start_rec(rd, host.delegated())
    assert host.status("OP_CONTINUE", handle, 0) == "ERROR_INPUT"
    assert host.status("OP_MEM_RECLAIM", handle, host.list, 512) == "ERROR_INPUT"
    host.call("OP_MEM_DONATE", handle, host.write_list(desc(host.delegated(16), 16)), 1)
    assert host.status("OP_MEM_DONATE", handle, host.list, 1) == "ERROR_INPUT"
    assert host.status("OP_CONTINUE", handle, 2) == "ERROR_INPUT"
    host.ok("OP_CONTINUE", handle, 1)


@pytest.mark.parametrize("handle", [0, 159, 160, 2**64 - 1])
def test_a_handle_without_an_operation_is_refused(host: Host, handle: int) -> None:
    assert host.status("OP_CONTINUE", handle, 0) == "ERROR_INPUT"
    assert host.status("OP_MEM_DONATE", handle, host.list, 1) == "ERROR_INPUT"
    assert host.status("OP_MEM_RECLAIM", handle, host.list, 1) == "ERROR_INPUT"
    assert host.status("OP_CANCEL", handle) == "ERROR_INPUT"


def test_contexts_run_out_and_come_back() -> None:
    host = Host(sro_contexts=2)
    rd = host.realm()
    rec = host.rec(rd)
    waiting = [host.delegated(), host.delegated()]
    for granule in waiting:
        host.start_rec(rd, granule, index=1)
    assert host.call("REC_CREATE", rd, host.delegated(), host.rec_params(1)) == (14, 0, 0, 0, 0)
    assert host.status("REC_DESTROY", rec) == "BLOCKED"
    host.call("OP_MEM_DONATE", 0, host.write_list(desc(waiting[0])), 1)
    assert host.status("OP_CONTINUE", 0, 0) == "ERROR_INPUT"
    assert len(host.destroy_rec(rec)) == 16


def test_cancel_is_for_operations_that_allow_it(rd: int, host: Host) -> None:
    handle = host.start_rec(rd, host.delegated())
    assert host.status("OP_CANCEL", handle) == "ERROR_INPUT"


def test_a_cancelled_operation_leaves_nothing_behind() -> None:
    host = Host(cancellable=True)
    rd, rec, aux = host.realm(), host.delegated(), host.delegated(3)
    before = host.census()
    x0, handle, *_ = host.call("REC_CREATE", rd, rec, host.rec_params())
    assert x0 == 0x50D
    assert host.call("OP_MEM_DONATE", handle, host.write_list(desc(aux, 3)), 1) == (0x50D, 3, 13 << 2, 0, 0)
    assert host.call("OP_CANCEL", handle) == (0x20D, 0, 0, 0, 0)
    assert host.drain(handle) == [aux + n * PAGE for n in range(3)]
    host.ok("OP_CONTINUE", handle, 0)
    assert host.census() == before
    handle = host.call("REC_CREATE", rd, rec, host.rec_params())[1]
    host.ok("OP_CANCEL", handle)
    assert host.census() == before


def test_destroy_gives_the_memory_back_merged(host: Host, rd: int) -> None:
    rec = host.rec(rd)
    aux = Rec(host.memory, rec).aux
    assert host.call("REC_DESTROY", rec) == (0x20D, 0, 0, 0, 0)
    assert host.call("OP_MEM_RECLAIM", 0, host.list, 512) == (0xD, 1, 0, 0, 0)
    assert host.read_list(1) == [desc(aux[0], 16)]
    assert host.state(rec) == "PARTIAL"
    host.ok("OP_CONTINUE", 0, 0)
    assert {host.state(pa) for pa in (rec, *aux)} == {"DELEGATED"}


def test_reclaim_honours_the_capacity_of_the_list(host: Host, rd: int) -> None:
    rec = host.rec(rd)
    aux = Rec(host.memory, rec).aux
    host.call("REC_DESTROY", rec)
    assert host.call("OP_MEM_RECLAIM", 0, host.list, 0) == (0x20D, 0, 0, 0, 0)
    assert host.call("OP_MEM_RECLAIM", 0, host.list + 4, 8) == (1, 0, 0, 0, 0)
    assert host.call("OP_MEM_RECLAIM", 0, rd, 8) == (1, 0, 0, 0, 0)
    back = []
    while True:
        x0, count, *_ = host.call("OP_MEM_RECLAIM", 0, host.list, 5)
        back += [host.read_list(count)[0] >> 12 << 12]
        if x0 == 0xD:
            break
    assert back == [aux[0], aux[5], aux[10], aux[15]]


def test_reclaim_writes_no_further_than_the_granule_of_its_list(host: Host, rd: int) -> None:
    rec = host.delegated()
    handle = host.start_rec(rd, rec)
    scattered = []
    for _ in range(16):
        scattered.append(host.delegated())
        host.ns()
    host.call("OP_MEM_DONATE", handle, host.write_list(*map(desc, scattered)), 16)
    host.ok("OP_CONTINUE", handle, 0)
    host.call("REC_DESTROY", rec)
    assert host.call("OP_MEM_RECLAIM", 0, host.list + PAGE - 8, 512) == (0x20D, 1, 0, 0, 0)
    assert host.call("OP_MEM_RECLAIM", 0, host.list, 512) == (0xD, 15, 0, 0, 0)


def test_destroy_refuses_what_is_not_a_stopped_rec(host: Host, rd: int) -> None:
    rec = host.rec(rd)
    for wrong in (rec + 8, rd, host.delegated(), host.ns(), Rec(host.memory, rec).aux[0]):
        assert host.call("REC_DESTROY", wrong) == (1, 0, 0, 0, 0)
    assert host.rmm.running.claim(rd, 0).start()
    assert host.status("REC_DESTROY", rec) == "ERROR_REC"
    host.rmm.running.claim(rd, 0).stop()
    host.destroy_rec(rec)
    assert host.status("REC_DESTROY", rec) == "ERROR_INPUT"


def test_the_pace_of_tf_rmm_checks_the_parameters_late() -> None:
    host = Host(**TF_RMM)
    rd, rec = host.realm(), host.delegated()
    x0, handle, *_ = host.call("REC_CREATE", rd, rec, host.rec_params(mpidr=5))
    assert rmi.describe(x0) == "INCOMPLETE(mem=DONATE,cancel=0)"
    host.call("OP_MEM_DONATE", handle, host.write_list(desc(host.delegated(16), 16)), 1)
    assert host.call("OP_CONTINUE", handle, 0)[0] == 0x20D
    host.drain(handle)
    assert host.status("OP_CONTINUE", handle, 0) == "ERROR_INPUT"
    assert host.state(rec) == "DELEGATED"
