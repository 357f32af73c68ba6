"""Tables are created, read, folded and destroyed; the walker of the processing element sees the same entries."""

from __future__ import annotations

import pytest
from rmi_host import PAGE, SINGLE, Host

from rmm import rtt
from rmm.abi.registers import Hipas, Ripas

MIB2 = 1 << 21
GIB = 1 << 30
SHARED = 1 << 39
TOP = 1 << 40
EMPTY = (int(Hipas.UNASSIGNED), 0, int(Ripas.EMPTY))


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def rd(host: Host) -> int:
    return host.realm()


def test_tables_appear_top_down(host: Host, rd: int) -> None:
    tables = host.tables(rd)
    assert [host.entry(rd, 0, level) for level in (0, 1, 2)] == [
        (level, Hipas.TABLE, table, 0) for level, table in enumerate(tables)
    ]
    assert host.entry(rd, 0, 3) == (3, *EMPTY)
    assert [host.state(table) for table in tables] == ["RTT"] * 3


def test_a_table_needs_its_parent(host: Host, rd: int) -> None:
    table = host.delegated()
    assert host.status("RTT_CREATE", rd, table, 0, 2) == "ERROR_RTT(0)"
    host.tables(rd, to=1)
    assert host.status("RTT_CREATE", rd, table, 0, 3) == "ERROR_RTT(1)"
    assert host.state(table) == "DELEGATED"


def test_a_table_is_not_created_twice(host: Host, rd: int) -> None:
    host.tables(rd)
    for level in (1, 2, 3):
        assert host.status("RTT_CREATE", rd, host.delegated(), 0, level) == f"ERROR_RTT({level - 1})"


def test_create_refuses_bad_arguments(host: Host, rd: int) -> None:
    host.tables(rd)
    table = host.delegated()
    for ipa, level in ((MIB2, 0), (MIB2, 4), (MIB2, 2**64 - 1), (PAGE, 3), (MIB2, 2), (GIB, 1), (TOP, 3), (1 << 60, 3)):
        assert host.status("RTT_CREATE", rd, table, ipa, level) == "ERROR_INPUT", (ipa, level)
    for wrong in (table + 8, host.ns(), rd, host.memory.firmware_base, 1 << 48):
        assert host.status("RTT_CREATE", rd, wrong, MIB2, 3) == "ERROR_INPUT"
    assert host.status("RTT_CREATE", rd, 0x1000, MIB2, 3).startswith("ERROR_TRACKING")
    for wrong in (rd + 8, table, host.ns()):
        assert host.status("RTT_CREATE", wrong, table, MIB2, 3) == "ERROR_INPUT"
    host.ok("RTT_CREATE", rd, table, MIB2, 3)


def test_the_start_level_bounds_the_levels_of_a_realm(host: Host) -> None:
    rd = host.realm(roots=4, s2sz=32, rtt_level_start=2)
    assert host.status("RTT_CREATE", rd, host.delegated(), 0, 2) == "ERROR_INPUT"
    assert host.status("RTT_READ_ENTRY", rd, 0, 1) == "ERROR_INPUT"
    last = (1 << 32) - MIB2
    host.ok("RTT_CREATE", rd, host.delegated(), last, 3)
    assert host.entry(rd, last, 2)[1] == Hipas.TABLE


def test_a_new_table_inherits_the_ripas_of_what_it_replaces(host: Host, rd: int) -> None:
    host.tables(rd, to=2)
    host.ok("RTT_INIT_RIPAS", rd, 0, MIB2)
    host.ok("RTT_CREATE", rd, host.delegated(), 0, 3)
    assert {host.entry(rd, ipa)[3] for ipa in (0, PAGE, MIB2 - PAGE)} == {Ripas.RAM}
    host.ok("RTT_DESTROY", rd, 0, 3)
    host.ok("RTT_CREATE", rd, host.delegated(), 0, 3)
    assert host.entry(rd, PAGE) == (3, Hipas.UNASSIGNED, 0, Ripas.DESTROYED)


def test_a_recycled_granule_makes_an_empty_table(host: Host, rd: int) -> None:
    host.tables(rd, to=2)
    table = host.source(b"\xff" * PAGE)
    host.delegate(table)
    host.ok("RTT_CREATE", rd, table, 0, 3)
    assert host.entry(rd, 0) == (3, *EMPTY)


def test_read_stops_where_the_walk_stops(host: Host, rd: int) -> None:
    host.tables(rd, to=2)
    assert host.entry(rd, PAGE, 3) == (2, *EMPTY)
    assert host.entry(rd, GIB, 3) == (1, *EMPTY)
    assert host.entry(rd, SHARED, 3) == (0, *EMPTY)
    for ipa, level in ((PAGE, 2), (0, 4), (TOP, 0), (1, 3)):
        assert host.status("RTT_READ_ENTRY", rd, ipa, level) == "ERROR_INPUT"
    assert host.status("RTT_READ_ENTRY", rd + 8, 0, 3) == "ERROR_INPUT"


def test_destroy_frees_the_table_and_leaves_destroyed_behind(host: Host, rd: int) -> None:
    table = host.tables(rd)[2]
    assert host.ok("RTT_DESTROY", rd, 0, 3) == (0, table, GIB, 0, 0)
    assert host.state(table) == "DELEGATED"
    assert host.entry(rd, 0) == (2, Hipas.UNASSIGNED, 0, Ripas.DESTROYED)


def test_destroy_in_the_unprotected_half_leaves_nothing_behind(host: Host, rd: int) -> None:
    table = host.tables(rd, SHARED)[2]
    assert host.ok("RTT_DESTROY", rd, SHARED, 3)[1:3] == (table, SHARED + GIB)
    assert host.entry(rd, SHARED) == (2, *EMPTY)


def test_destroy_points_to_the_next_live_entry(host: Host, rd: int) -> None:
    host.tables(rd)
    host.ok("RTT_CREATE", rd, host.delegated(), 5 * MIB2, 3)
    assert host.ok("RTT_DESTROY", rd, 0, 3)[2] == 5 * MIB2
    assert host.call("RTT_DESTROY", rd, 0, 3) == (0x204, 0, 5 * MIB2, 0, 0)
    assert host.call("RTT_DESTROY", rd, 6 * MIB2, 3) == (0x204, 0, GIB, 0, 0)
    assert host.call("RTT_DESTROY", rd, 3 * GIB, 2) == (0x104, 0, 1 << 39, 0, 0)
    assert host.call("RTT_DESTROY", rd, SHARED, 3) == (0x004, 0, 1 << 48, 0, 0)


def test_a_live_table_is_not_destroyed(host: Host, rd: int) -> None:
    host.tables(rd)
    host.map_init(rd, PAGE)
    assert host.call("RTT_DESTROY", rd, 0, 3) == (0x304, 0, 0, 0, 0)
    assert host.call("RTT_DESTROY", rd, 0, 1) == (0x104, 0, 0, 0, 0)
    host.ok("RTT_DATA_UNMAP", rd, PAGE, 2 * PAGE, SINGLE, 0)
    host.ok("RTT_DESTROY", rd, 0, 3)


def test_a_mapping_that_is_not_ram_keeps_its_table_alive(host: Host, rd: int) -> None:
    host.tables(rd)
    host.map(rd, 0)
    assert host.entry(rd, 0)[3] == Ripas.EMPTY
    assert host.status("RTT_DESTROY", rd, 0, 3) == "ERROR_RTT(3)"


def test_destroy_refuses_bad_arguments(host: Host, rd: int) -> None:
    host.tables(rd)
    for ipa, level in ((0, 0), (0, 4), (PAGE, 3), (MIB2, 2), (TOP, 1)):
        assert host.call("RTT_DESTROY", rd, ipa, level) == (1, 0, 0, 0, 0)
    assert host.call("RTT_DESTROY", rd + 1, 0, 3) == (1, 0, 0, 0, 0)


def test_a_homogeneous_table_folds_into_its_parent(host: Host, rd: int) -> None:
    table = host.tables(rd)[2]
    host.ok("RTT_INIT_RIPAS", rd, 0, MIB2)
    assert host.ok("RTT_FOLD", rd, 0, 3)[1] == table
    assert host.entry(rd, 0) == (2, Hipas.UNASSIGNED, 0, Ripas.RAM)
    assert host.state(table) == "DELEGATED"


def test_a_mixed_table_does_not_fold(host: Host, rd: int) -> None:
    host.tables(rd)
    host.ok("RTT_INIT_RIPAS", rd, 0, PAGE)
    assert host.status("RTT_FOLD", rd, 0, 3) == "ERROR_RTT(3)"
    assert host.status("RTT_FOLD", rd, 0, 2) == "ERROR_RTT(2)"
    assert host.status("RTT_FOLD", rd, MIB2, 3) == "ERROR_RTT(2)"
    assert host.status("RTT_FOLD", rd, GIB, 3) == "ERROR_RTT(1)"
    assert host.status("RTT_FOLD", rd, 0, 0) == "ERROR_INPUT"


@pytest.mark.parametrize("ram", [True, False])
def test_a_mapped_table_folds_to_a_block_and_unfolds_to_the_same_pages(host: Host, rd: int, ram: bool) -> None:
    host.tables(rd)
    if ram:
        host.ok("RTT_INIT_RIPAS", rd, 0, MIB2)
    data = host.delegated(512, align=512)
    host.ok("RTT_DATA_MAP", rd, 0, MIB2, SINGLE, data | 512 << 2)
    pages = [host.entry(rd, n * PAGE) for n in range(512)]
    realm = host.rmm.realm(rd)
    assert realm is not None
    before = [rtt.walk(host.rmm, realm, n * PAGE).descriptor for n in range(512)]
    table = host.ok("RTT_FOLD", rd, 0, 3)[1]
    assert host.entry(rd, 0) == (2, Hipas.ASSIGNED, data, Ripas.RAM if ram else Ripas.EMPTY)
    assert rtt.walk(host.rmm, realm, 0).descriptor & 3 == (1 if ram else 0)
    host.ok("RTT_CREATE", rd, table, 0, 3)
    assert [host.entry(rd, n * PAGE) for n in range(512)] == pages
    assert [rtt.walk(host.rmm, realm, n * PAGE).descriptor for n in range(512)] == before


def test_pages_that_are_not_contiguous_do_not_fold(host: Host, rd: int) -> None:
    host.tables(rd)
    data = host.delegated(513, align=512)
    host.ok("RTT_DATA_MAP", rd, 0, MIB2 - PAGE, SINGLE, data | 511 << 2)
    host.ok("RTT_DATA_MAP", rd, MIB2 - PAGE, MIB2, SINGLE, data + 512 * PAGE | 4)
    assert host.status("RTT_FOLD", rd, 0, 3) == "ERROR_RTT(3)"


def test_init_ripas_sweeps_to_the_end_of_a_leaf_table(host: Host, rd: int) -> None:
    host.tables(rd)
    assert host.ok("RTT_INIT_RIPAS", rd, PAGE, GIB)[1] == MIB2
    assert host.ok("RTT_INIT_RIPAS", rd, MIB2, GIB)[1] == GIB
    assert host.entry(rd, 0)[3] == Ripas.EMPTY
    assert host.entry(rd, GIB - MIB2) == (2, Hipas.UNASSIGNED, 0, Ripas.RAM)


def test_init_ripas_makes_what_is_mapped_reachable(host: Host, rd: int) -> None:
    host.tables(rd)
    data = host.map(rd, 0)
    realm = host.rmm.realm(rd)
    assert realm is not None
    assert not rtt.walk(host.rmm, realm, 0).descriptor & 1
    host.ok("RTT_INIT_RIPAS", rd, 0, PAGE)
    assert rtt.walk(host.rmm, realm, 0).descriptor == data | 0x7FF


def test_init_ripas_stops_at_what_was_destroyed(host: Host, rd: int) -> None:
    host.tables(rd)
    host.map_init(rd, PAGE)
    host.ok("RTT_DATA_UNMAP", rd, PAGE, 2 * PAGE, SINGLE, 0)
    assert host.ok("RTT_INIT_RIPAS", rd, 0, 4 * PAGE)[1] == PAGE
    assert host.status("RTT_INIT_RIPAS", rd, PAGE, 4 * PAGE) == "ERROR_RTT(3)"


def test_init_ripas_refuses_bad_arguments(host: Host, rd: int) -> None:
    host.tables(rd)
    for base, top in (
        (PAGE, PAGE),
        (PAGE, 0),
        (0, 0x800),
        (8, PAGE),
        (SHARED - PAGE, SHARED + PAGE),
        (TOP, TOP + PAGE),
    ):
        assert host.status("RTT_INIT_RIPAS", rd, base, top) == "ERROR_INPUT"
    assert host.status("RTT_INIT_RIPAS", rd + 8, 0, PAGE) == "ERROR_INPUT"
    assert host.status("RTT_INIT_RIPAS", rd, GIB, GIB + PAGE) == "ERROR_RTT(1)"
    assert host.status("RTT_INIT_RIPAS", rd, MIB2 + PAGE, 2 * MIB2) == "ERROR_RTT(2)"
    host.ok("REALM_ACTIVATE", rd)
    assert host.status("RTT_INIT_RIPAS", rd, 0, PAGE) == "ERROR_REALM"


@pytest.mark.parametrize("name", ["RTT_DESTROY", "RTT_FOLD"])
@pytest.mark.parametrize("half", [0, SHARED])
def test_an_engine_that_may_be_walking_a_table_is_stopped_before_the_table_is_free(
    host: Host, rd: int, name: str, half: int
) -> None:
    host.tables(rd, half)
    realm = host.rmm.realm(rd)
    assert realm is not None
    before = realm.generation
    host.ok(name, rd, half, 3)
    assert realm.generation == before + 1
