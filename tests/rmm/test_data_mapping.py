"""Memory enters and leaves the protected half of a realm."""

from __future__ import annotations

import os

import pytest
from rmi_host import LIST, PAGE, SINGLE, Host

from rmm import rtt
from rmm.abi.registers import AddrRangeDesc, BlockSize, Hipas, Ripas

MIB2 = 1 << 21
GIB = 1 << 30
SHARED = 1 << 39
TOP = 1 << 40


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def rd(host: Host) -> int:
    rd = host.realm()
    host.tables(rd)
    return rd


def desc(pa: int, count: int = 1, block: int = BlockSize.L3, state: int = 0) -> int:
    return int(AddrRangeDesc.of(pa, count, block, state))


def test_a_measured_page_is_a_copy_mapped_as_ram(host: Host, rd: int) -> None:
    content = os.urandom(PAGE)
    data = host.map_init(rd, PAGE, content)
    realm = host.rmm.realm(rd)
    assert realm is not None
    assert host.memory.read(data, PAGE) == content
    assert host.state(data) == "DATA"
    assert rtt.walk(host.rmm, realm, PAGE).descriptor == data | 0x7FF
    assert host.entry(rd, PAGE) == (3, Hipas.ASSIGNED, data, Ripas.RAM)


def test_a_page_known_to_be_zero_clears_what_the_granule_held(host: Host, rd: int) -> None:
    data = host.source(b"old")
    host.delegate(data)
    host.ok("RTT_DATA_MAP_INIT", rd, data, 0, host.ns(), 1)
    assert host.memory.read(data, PAGE) == bytes(PAGE)
    assert not host.memory.known_zero(data), "the guest may write to it from now on"


def test_map_init_refuses_in_the_specified_order(host: Host, rd: int) -> None:
    """Each call is wrong in one respect and in all that come later; the code is the first one's."""
    src, data, busy = host.ns(), host.delegated(), host.map(rd, 4 * PAGE)
    other = host.realm()
    host.ok("REALM_ACTIVATE", other)
    assert host.status("RTT_DATA_MAP_INIT", other, 0x1000, TOP, src + 8, 1) == "ERROR_INPUT"
    assert host.status("RTT_DATA_MAP_INIT", other, 0x1000, TOP, data, 1) == "ERROR_INPUT"
    assert host.status("RTT_DATA_MAP_INIT", other, data + 8, TOP, src, 1) == "ERROR_INPUT"
    assert host.status("RTT_DATA_MAP_INIT", other, 0x1000, TOP, src, 1).startswith("ERROR_TRACKING")
    assert host.status("RTT_DATA_MAP_INIT", other, busy, TOP, src, 1) == "ERROR_INPUT"
    assert host.status("RTT_DATA_MAP_INIT", data, data, TOP, src, 1) == "ERROR_INPUT"
    assert host.status("RTT_DATA_MAP_INIT", other, data, PAGE + 8, src, 1) == "ERROR_INPUT"
    assert host.status("RTT_DATA_MAP_INIT", other, data, SHARED, src, 1) == "ERROR_INPUT"
    assert host.status("RTT_DATA_MAP_INIT", other, data, 0, src, 1) == "ERROR_REALM"
    assert host.status("RTT_DATA_MAP_INIT", rd, data, GIB, src, 1) == "ERROR_RTT(1)"
    assert host.status("RTT_DATA_MAP_INIT", rd, data, 4 * PAGE, src, 1) == "ERROR_RTT(3)"
    assert host.status("RTT_DATA_MAP_INIT", rd, data, 0, src, 2) == "ERROR_INPUT"
    host.ok("RTT_DATA_MAP_INIT", rd, data, 0, src, 0)


def test_map_gives_zeroed_memory_and_keeps_the_ripas(host: Host, rd: int) -> None:
    data = host.source(b"old")
    host.delegate(data)
    host.ok("RTT_INIT_RIPAS", rd, PAGE, 2 * PAGE)
    host.ok("RTT_DATA_MAP", rd, PAGE, 2 * PAGE, SINGLE, desc(data))
    assert host.memory.read(data, PAGE) == bytes(PAGE)
    assert host.entry(rd, PAGE)[3] == Ripas.RAM
    host.map(rd, 0)
    assert host.entry(rd, 0)[3] == Ripas.EMPTY


def test_map_does_not_touch_the_rim_and_works_in_an_active_realm(host: Host, rd: int) -> None:
    before = host.rim(rd)
    host.map(rd, 0)
    host.ok("REALM_ACTIVATE", rd)
    host.map(rd, PAGE)
    assert host.rim(rd) == before
    host.ok("REALM_TERMINATE", rd)
    assert host.status("RTT_DATA_MAP", rd, 2 * PAGE, 3 * PAGE, SINGLE, desc(host.delegated())) == "ERROR_REALM"


def test_map_again_with_the_same_address_is_idempotent(host: Host, rd: int) -> None:
    data = host.map(rd, 0)
    assert host.ok("RTT_DATA_MAP", rd, 0, PAGE, SINGLE, desc(data))[1] == PAGE
    assert host.status("RTT_DATA_MAP", rd, 0, PAGE, SINGLE, desc(host.delegated())) == "ERROR_RTT(3)"


def test_map_refuses_bad_arguments(host: Host, rd: int) -> None:
    data = host.delegated(512, align=512)
    for base, top in ((0, 0), (PAGE, 0), (8, PAGE), (0, 8), (SHARED, SHARED + PAGE), (TOP, TOP + PAGE)):
        assert host.status("RTT_DATA_MAP", rd, base, top, SINGLE, desc(data)) == "ERROR_INPUT"
    for flags in (0, 3, SINGLE | 1 << 16, SINGLE | 1 << 2):
        assert host.status("RTT_DATA_MAP", rd, 0, PAGE, flags, desc(data)) == "ERROR_INPUT"
    for oaddr in (0, desc(data, state=1), desc(host.ns()), desc(data + PAGE, block=BlockSize.L2), desc(0, block=3)):
        assert host.status("RTT_DATA_MAP", rd, 0, MIB2, SINGLE, oaddr) == "ERROR_INPUT"
    assert host.status("RTT_DATA_MAP", rd, PAGE, MIB2 + PAGE, SINGLE, desc(data, block=BlockSize.L2)) == "ERROR_INPUT"
    assert host.status("RTT_DATA_MAP", rd, 0, PAGE, SINGLE, desc(data, block=BlockSize.L2)) == "ERROR_RTT(2)"
    assert host.status("RTT_DATA_MAP", rd, 0, MIB2, SINGLE, desc(data, block=BlockSize.L2)) == "ERROR_RTT(2)"
    assert host.status("RTT_DATA_MAP", rd, GIB, GIB + PAGE, SINGLE, desc(data)) == "ERROR_RTT(1)"
    assert host.status("RTT_DATA_MAP", rd, 0, PAGE, SINGLE, desc(0x1000)).startswith("ERROR_TRACKING")
    assert host.entry(rd, 0)[1] == Hipas.UNASSIGNED


def test_an_error_after_progress_is_progress(host: Host, rd: int) -> None:
    data = host.delegated(2)
    host.undelegate(data + PAGE)
    assert host.ok("RTT_DATA_MAP", rd, 0, 4 * PAGE, SINGLE, desc(data, 4))[1] == PAGE
    assert host.entry(rd, PAGE)[1] == Hipas.UNASSIGNED


def test_a_granule_named_twice_is_mapped_once(host: Host, rd: int) -> None:
    data = host.delegated()
    page = host.write_list(desc(data), desc(data))
    assert host.ok("RTT_DATA_MAP", rd, 0, 2 * PAGE, LIST | 2 << 2, page)[1] == PAGE
    assert host.entry(rd, PAGE)[1] == Hipas.UNASSIGNED


def test_a_list_may_have_holes_and_ends_the_mapping_where_it_ends(host: Host, rd: int) -> None:
    data = host.delegated(4)
    page = host.write_list(desc(data), 0, desc(data + 2 * PAGE, 2))
    assert host.ok("RTT_DATA_MAP", rd, 0, 8 * PAGE, LIST | 3 << 2, page)[1] == 3 * PAGE
    assert [host.entry(rd, n * PAGE)[2] for n in range(4)] == [data, data + 2 * PAGE, data + 3 * PAGE, 0]


def test_a_list_must_be_aligned_host_memory_in_one_granule(host: Host, rd: int) -> None:
    data = host.delegated()
    page = host.write_list(desc(data))
    for flags, where in (
        (LIST, page),
        (LIST | 1 << 2, page + 4),
        (LIST | 1 << 2, data),
        (LIST | 2 << 2, page + 4088),
        (LIST | 513 << 2, page),
    ):
        assert host.status("RTT_DATA_MAP", rd, 0, PAGE, flags, where) == "ERROR_INPUT"
    host.ok("RTT_DATA_MAP", rd, 0, PAGE, LIST | 1 << 2, page)


def test_a_mapping_ends_with_its_table(host: Host, rd: int) -> None:
    data = host.delegated(8)
    assert host.ok("RTT_DATA_MAP", rd, MIB2 - 2 * PAGE, 2 * MIB2, SINGLE, desc(data, 8))[1] == MIB2


def test_a_block_is_mapped_whole_or_not_at_all(host: Host, rd: int) -> None:
    data = host.delegated(511, align=512)
    block = desc(data, block=BlockSize.L2)
    assert host.status("RTT_DATA_MAP", rd, MIB2, 2 * MIB2, SINGLE, block) == "ERROR_INPUT"
    host.delegate(data + 511 * PAGE)
    host.ok("RTT_DATA_MAP", rd, MIB2, 2 * MIB2, SINGLE, block)
    assert host.entry(rd, MIB2) == (2, Hipas.ASSIGNED, data, Ripas.EMPTY)
    assert {host.state(data + n * PAGE) for n in range(512)} == {"DATA"}
    assert host.ok("RTT_DATA_UNMAP", rd, MIB2, 2 * MIB2, SINGLE, 0)[1:3] == (2 * MIB2, block)
    assert {host.state(data + n * PAGE) for n in range(512)} == {"DELEGATED"}


def test_unmap_reports_what_it_freed_the_way_it_was_asked(host: Host, rd: int) -> None:
    data = [host.map(rd, 0, 2), host.map(rd, 2 * PAGE)]
    assert host.ok("RTT_DATA_UNMAP", rd, 0, PAGE, 0, 0) == (0, PAGE, 0, 0, 0)
    assert host.ok("RTT_DATA_UNMAP", rd, PAGE, 2 * PAGE, SINGLE, 0) == (0, 2 * PAGE, data[0] + PAGE | 4, 0, 0)
    assert host.ok("RTT_DATA_UNMAP", rd, 0, MIB2, LIST | 4 << 2, host.list) == (0, MIB2, 0, 1, 0)
    assert host.read_list(1) == [data[1] | 4]
    assert {host.state(pa) for pa in data} == {"DELEGATED"}


def test_unmap_stops_at_the_first_discontinuity(host: Host, rd: int) -> None:
    first, _, second = host.map(rd, 0, 2), host.ns(), host.map(rd, 3 * PAGE)
    assert host.ok("RTT_DATA_UNMAP", rd, 0, MIB2, SINGLE, 0)[1:3] == (3 * PAGE, desc(first, 2))
    assert host.ok("RTT_DATA_UNMAP", rd, 3 * PAGE, MIB2, SINGLE, 0)[1:3] == (MIB2, desc(second))


def test_unmap_fills_the_list_and_stops(host: Host, rd: int) -> None:
    pages = []
    for n in range(3):
        pages.append(host.map(rd, n * PAGE))
        host.ns()
    assert host.ok("RTT_DATA_UNMAP", rd, 0, MIB2, LIST | 2 << 2, host.list)[1:4] == (2 * PAGE, 0, 2)
    assert host.read_list(2) == [desc(pages[0]), desc(pages[1])]
    assert host.entry(rd, 2 * PAGE)[1] == Hipas.ASSIGNED


@pytest.mark.parametrize(("ripas", "after"), [(Ripas.RAM, Ripas.DESTROYED), (Ripas.EMPTY, Ripas.EMPTY)])
def test_unmap_destroys_ram_but_not_empty(host: Host, rd: int, ripas: Ripas, after: Ripas) -> None:
    if ripas == Ripas.RAM:
        host.ok("RTT_INIT_RIPAS", rd, 0, PAGE)
    host.map(rd, 0)
    host.ok("RTT_DATA_UNMAP", rd, 0, PAGE, SINGLE, 0)
    assert host.entry(rd, 0) == (3, Hipas.UNASSIGNED, 0, after)


def test_memory_mapped_where_ram_was_destroyed_stays_destroyed(host: Host, rd: int) -> None:
    host.map_init(rd, 0)
    host.ok("RTT_DATA_UNMAP", rd, 0, PAGE, SINGLE, 0)
    data = host.map(rd, 0)
    assert host.entry(rd, 0) == (3, Hipas.ASSIGNED, data, Ripas.DESTROYED)
    host.ok("RTT_DATA_UNMAP", rd, 0, PAGE, SINGLE, 0)
    assert host.entry(rd, 0)[3] == Ripas.DESTROYED


def test_unmap_works_in_every_state_of_the_realm(host: Host, rd: int) -> None:
    pages = [host.map_init(rd, n * PAGE) for n in range(3)]
    for n, step in enumerate((None, "REALM_ACTIVATE", "REALM_TERMINATE")):
        if step:
            host.ok(step, rd)
        assert host.ok("RTT_DATA_UNMAP", rd, n * PAGE, (n + 1) * PAGE, SINGLE, 0)[2] == desc(pages[n])


def test_unmap_refuses_bad_arguments(host: Host, rd: int) -> None:
    host.map(rd, 0)
    for base, top in ((0, 0), (PAGE, 0), (8, PAGE), (0, 8), (SHARED, SHARED + PAGE), (TOP, TOP + PAGE)):
        assert host.call("RTT_DATA_UNMAP", rd, base, top, SINGLE, 0) == (1, 0, 0, 0, 0)
    for flags, where in ((3, 0), (SINGLE, host.list), (0, host.list), (SINGLE | 4, 0), (LIST, host.list), (1 << 16, 0)):
        assert host.status("RTT_DATA_UNMAP", rd, 0, PAGE, flags, where) == "ERROR_INPUT"
    for where in (host.list + 4, rd, 0):
        assert host.status("RTT_DATA_UNMAP", rd, 0, PAGE, LIST | 4, where) == "ERROR_INPUT"
    assert host.status("RTT_DATA_UNMAP", rd + 8, 0, PAGE, SINGLE, 0) == "ERROR_INPUT"
    assert host.entry(rd, 0)[1] == Hipas.ASSIGNED


def test_unmap_where_there_is_no_table_tells_the_level(host: Host, rd: int) -> None:
    assert host.call("RTT_DATA_UNMAP", rd, MIB2, MIB2 + PAGE, SINGLE, 0) == (0x204, 0, 0, 0, 0)
    assert host.call("RTT_DATA_UNMAP", rd, GIB + PAGE, 2 * GIB, SINGLE, 0) == (0x104, 0, 0, 0, 0)
    assert host.ok("RTT_DATA_UNMAP", rd, MIB2, 2 * MIB2, SINGLE, 0)[1:3] == (2 * MIB2, 0)


def test_removing_a_translation_changes_the_generation_and_adding_one_does_not(host: Host, rd: int) -> None:
    realm = host.rmm.realm(rd)
    assert realm is not None
    before = realm.generation
    host.map_init(rd, 0)
    host.map(rd, PAGE)
    assert realm.generation == before
    host.ok("RTT_DATA_UNMAP", rd, PAGE, 2 * PAGE, SINGLE, 0)
    assert realm.generation == before, "an EMPTY page was never reachable"
    host.ok("RTT_DATA_UNMAP", rd, 0, PAGE, SINGLE, 0)
    assert realm.generation == before + 1


def test_a_call_maps_a_bounded_amount_of_memory_and_says_how_far_it_came() -> None:
    """Zeroing a table's worth of blocks would keep every other command out for long."""
    host = Host(dram=96 << 20)
    rd = host.realm()
    host.tables(rd, to=2)
    mib2, count = 1 << 21, 40
    block = host.delegated(count * 512, align=512)
    descriptor = int(AddrRangeDesc.of(block, count, BlockSize.L2))
    assert host.ok("RTT_DATA_MAP", rd, 0, count * mib2, SINGLE, descriptor)[1] == 64 << 20
    rest = int(AddrRangeDesc.of(block + (64 << 20), count - 32, BlockSize.L2))
    assert host.ok("RTT_DATA_MAP", rd, 64 << 20, count * mib2, SINGLE, rest)[1] == count * mib2
