"""Granules go to the Realm world and come back scrubbed."""

from __future__ import annotations

import pytest
from rmi_host import PAGE, SINGLE, Host

from machine.memory import DRAM_BASE, GranuleProtectionFault


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_delegated_granule_is_out_of_the_hosts_reach(host: Host) -> None:
    page = host.source(b"mine")
    assert host.call("GRANULE_RANGE_DELEGATE", page, page + PAGE) == (0, page + PAGE, 0, 0, 0)
    for touch in (lambda: host.board.ns.read(page, 1), lambda: host.board.ns.write(page + 4095, b"x")):
        with pytest.raises(GranuleProtectionFault):
            touch()


def test_a_granule_comes_back_zeroed(host: Host) -> None:
    page = host.source(b"secret")
    host.delegate(page)
    host.undelegate(page)
    assert host.board.ns.read(page, PAGE) == bytes(PAGE)
    assert host.board.ns.known_zero(page)


def test_data_of_a_realm_comes_back_zeroed(host: Host) -> None:
    rd = host.realm()
    host.tables(rd)
    data = host.map_init(rd, 0, b"secret")
    assert host.memory.read(data, 6) == b"secret"
    host.ok("RTT_DATA_UNMAP", rd, 0, PAGE, SINGLE, 0)
    host.undelegate(data)
    assert host.board.ns.read(data, PAGE) == bytes(PAGE)


@pytest.mark.parametrize("name", ["GRANULE_RANGE_DELEGATE", "GRANULE_RANGE_UNDELEGATE"])
def test_a_malformed_range_is_refused_at_its_base(host: Host, name: str) -> None:
    base = host.ns(4)
    for start, top in ((base + 8, base + PAGE), (base, base + 0x800), (base, base), (base + PAGE, base)):
        assert host.call(name, start, top) == (1, start, 0, 0, 0)


def test_memory_outside_a_tracked_region_is_a_tracking_error(host: Host) -> None:
    for base in (0, 0x4000_0000, 0x7FFF_F000):
        x0, out, *_ = host.call("GRANULE_RANGE_DELEGATE", base, base + PAGE)
        assert (x0 & 0xFF, x0 >> 16, out) == (12, base >> 12, base)


def test_the_carve_out_and_the_gap_above_it_cannot_be_delegated(host: Host) -> None:
    for base in (host.memory.firmware_base, host.memory.top, (2 << 30) + (1 << 30) - PAGE, 1 << 48):
        assert host.call("GRANULE_RANGE_DELEGATE", base, base + PAGE) == (1, base, 0, 0, 0)


def test_a_range_ends_at_the_first_granule_in_another_state(host: Host) -> None:
    base = host.ns(8)
    host.delegate(base + 3 * PAGE)
    assert host.call("GRANULE_RANGE_DELEGATE", base, base + 8 * PAGE) == (0, base + 3 * PAGE, 0, 0, 0)
    assert host.call("GRANULE_RANGE_DELEGATE", base + 3 * PAGE, base + 8 * PAGE) == (1, base + 3 * PAGE, 0, 0, 0)
    assert host.call("GRANULE_RANGE_UNDELEGATE", base, base + 8 * PAGE) == (0, base + 4 * PAGE, 0, 0, 0)
    assert host.status("GRANULE_RANGE_UNDELEGATE", base, base + PAGE) == "ERROR_INPUT"


def test_a_range_may_reach_beyond_memory_and_ends_there(host: Host) -> None:
    base = host.memory.dram_top - 2 * PAGE
    assert host.call("GRANULE_RANGE_DELEGATE", base, 2**64 - PAGE)[:2] == (0, host.memory.dram_top)


def test_the_pace_of_range_commands_is_a_boot_option() -> None:
    host = Host(range_granules=1)
    base = host.ns(4)
    assert host.ok("GRANULE_RANGE_DELEGATE", base, base + 4 * PAGE)[1] == base + PAGE


def test_granules_in_use_cannot_be_undelegated(host: Host) -> None:
    rd = host.realm()
    (table, *_) = host.tables(rd)
    data = host.map_init(rd, 0)
    rec = host.rec(rd)
    aux = host.rmm.base
    for granule in (rd, table, data, rec):
        assert host.call("GRANULE_RANGE_UNDELEGATE", granule, granule + PAGE) == (1, granule, 0, 0, 0)
    assert host.state(aux) == "UNDELEGATED"


def test_tracking_covers_whole_regions(host: Host) -> None:
    region = 1 << 30
    assert host.call("GRANULE_TRACKING_GET", DRAM_BASE, DRAM_BASE + 4 * region) == (0, 0, 2, DRAM_BASE + region, 0)
    assert host.call("GRANULE_TRACKING_GET", DRAM_BASE + PAGE, DRAM_BASE + 2 * PAGE) == (
        0,
        0,
        2,
        DRAM_BASE + 2 * PAGE,
        0,
    )
    assert host.call("GRANULE_TRACKING_GET", 0, 4 * region) == (0, 0, 1, DRAM_BASE, 0)
    end = (1 << 48) - PAGE
    assert host.call("GRANULE_TRACKING_GET", DRAM_BASE + region, end) == (0, 0, 1, end, 0)
    assert host.call("GRANULE_TRACKING_GET", 1 << 47, (1 << 47) + PAGE) == (0, 0, 1, (1 << 47) + PAGE, 0)


@pytest.mark.parametrize(
    ("start", "end"), [(1, PAGE), (0, PAGE + 1), (0, 0), (PAGE, 0), (0, 1 << 48), (1 << 48, (1 << 48) + PAGE)]
)
def test_a_malformed_tracking_question_is_refused(host: Host, start: int, end: int) -> None:
    assert host.call("GRANULE_TRACKING_GET", start, end) == (1, 0, 0, 0, 0)


def test_the_level_1_tables_of_the_gpt_are_there_already(host: Host) -> None:
    assert host.status("GPT_L1_CREATE", DRAM_BASE) == "ERROR_GPT"
    assert host.status("GPT_L1_CREATE", DRAM_BASE + PAGE) == "ERROR_INPUT"
    assert host.status("GPT_L1_CREATE", 1 << 48) == "ERROR_INPUT"
