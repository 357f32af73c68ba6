"""RTT_SET_RIPAS carries out what a REC asked for, as far as the host's tables allow."""

from __future__ import annotations

import pytest
from rmi_host import PAGE, SINGLE, Host

from rmm import rtt
from rmm.abi.registers import Hipas, Ripas
from rmm.rec import Pending, Rec

MIB2 = 1 << 21
GIB = 1 << 30


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def rd(host: Host) -> int:
    rd = host.realm()
    host.tables(rd)
    return rd


@pytest.fixture
def rec(host: Host, rd: int) -> Rec:
    return Rec(host.memory, host.rec(rd))


def ask(rec: Rec, base: int, top: int, value: Ripas, change_destroyed: bool = False) -> None:
    """What RSI_IPA_STATE_SET leaves in the REC."""
    rec.ripas_base = rec.ripas_next = base
    rec.ripas_top = top
    rec.ripas_value = value
    rec.ripas_change_destroyed = int(change_destroyed)
    rec.pending = Pending.RIPAS


def descriptor(host: Host, rd: int, ipa: int) -> int:
    realm = host.rmm.realm(rd)
    assert realm is not None
    return rtt.walk(host.rmm, realm, ipa).descriptor


def test_empty_becomes_ram_and_mapped_memory_reachable(host: Host, rd: int, rec: Rec) -> None:
    data = host.map(rd, PAGE)
    ask(rec, 0, 3 * PAGE, Ripas.RAM)
    assert host.ok("RTT_SET_RIPAS", rd, rec.pa, 0, 3 * PAGE) == (0, 3 * PAGE, 0, 0, 0)
    assert [host.entry(rd, n * PAGE)[3] for n in range(4)] == [Ripas.RAM] * 3 + [Ripas.EMPTY]
    assert descriptor(host, rd, PAGE) == data | 0x7FF
    assert rec.ripas_next == 3 * PAGE


def test_ram_becomes_empty_and_keeps_its_page(host: Host, rd: int, rec: Rec) -> None:
    data = host.map_init(rd, 0, b"kept")
    realm = host.rmm.realm(rd)
    assert realm is not None
    before = realm.generation
    ask(rec, 0, PAGE, Ripas.EMPTY)
    host.ok("RTT_SET_RIPAS", rd, rec.pa, 0, PAGE)
    assert host.entry(rd, 0) == (3, Hipas.ASSIGNED, data, Ripas.EMPTY)
    assert not descriptor(host, rd, 0) & 1
    assert realm.generation == before + 1
    assert host.memory.read(data, 4) == b"kept"


def test_entries_that_are_ram_already_are_progress(host: Host, rd: int, rec: Rec) -> None:
    host.map_init(rd, 0)
    ask(rec, 0, 2 * PAGE, Ripas.RAM)
    assert host.ok("RTT_SET_RIPAS", rd, rec.pa, 0, 2 * PAGE)[1] == 2 * PAGE


def test_destroyed_becomes_ram_only_if_the_realm_agreed(host: Host, rd: int, rec: Rec) -> None:
    host.map_init(rd, PAGE)
    host.ok("RTT_DATA_UNMAP", rd, PAGE, 2 * PAGE, SINGLE, 0)
    ask(rec, 0, 3 * PAGE, Ripas.RAM)
    assert host.ok("RTT_SET_RIPAS", rd, rec.pa, 0, 3 * PAGE)[1] == PAGE
    assert host.status("RTT_SET_RIPAS", rd, rec.pa, PAGE, 3 * PAGE) == "ERROR_RTT(3)"
    ask(rec, PAGE, 3 * PAGE, Ripas.RAM, change_destroyed=True)
    assert host.ok("RTT_SET_RIPAS", rd, rec.pa, PAGE, 3 * PAGE)[1] == 3 * PAGE


def test_destroyed_becomes_empty_without_asking(host: Host, rd: int, rec: Rec) -> None:
    host.map_init(rd, 0)
    host.ok("RTT_DATA_UNMAP", rd, 0, PAGE, SINGLE, 0)
    ask(rec, 0, PAGE, Ripas.EMPTY)
    host.ok("RTT_SET_RIPAS", rd, rec.pa, 0, PAGE)
    assert host.entry(rd, 0)[3] == Ripas.EMPTY


def test_a_sweep_ends_with_its_table_and_goes_on_from_there(host: Host, rd: int, rec: Rec) -> None:
    ask(rec, MIB2 - PAGE, 2 * MIB2 + PAGE, Ripas.RAM)
    assert host.ok("RTT_SET_RIPAS", rd, rec.pa, MIB2 - PAGE, 2 * MIB2 + PAGE)[1] == MIB2
    assert host.ok("RTT_SET_RIPAS", rd, rec.pa, MIB2, 2 * MIB2 + PAGE)[1] == 2 * MIB2
    assert host.status("RTT_SET_RIPAS", rd, rec.pa, 2 * MIB2, 2 * MIB2 + PAGE) == "ERROR_RTT(2)"


def test_a_base_inside_an_entry_tells_the_level(host: Host, rd: int, rec: Rec) -> None:
    ask(rec, MIB2 + PAGE, 2 * MIB2, Ripas.RAM)
    assert host.status("RTT_SET_RIPAS", rd, rec.pa, MIB2 + PAGE, 2 * MIB2) == "ERROR_RTT(2)"


def test_only_the_pending_range_is_changed(host: Host, rd: int, rec: Rec) -> None:
    assert host.status("RTT_SET_RIPAS", rd, rec.pa, 0, PAGE) == "ERROR_INPUT"
    ask(rec, PAGE, 4 * PAGE, Ripas.RAM)
    for base, top in ((0, 4 * PAGE), (2 * PAGE, 4 * PAGE), (PAGE, 5 * PAGE), (PAGE, PAGE), (PAGE, 0), (PAGE, 0x1800)):
        assert host.call("RTT_SET_RIPAS", rd, rec.pa, base, top) == (1, 0, 0, 0, 0)
    host.ok("RTT_SET_RIPAS", rd, rec.pa, PAGE, 2 * PAGE)
    assert host.status("RTT_SET_RIPAS", rd, rec.pa, PAGE, 2 * PAGE) == "ERROR_INPUT"


def test_the_rec_must_be_a_stopped_one_of_the_realm(host: Host, rd: int, rec: Rec) -> None:
    ask(rec, 0, PAGE, Ripas.RAM)
    assert host.status("RTT_SET_RIPAS", host.realm(), rec.pa, 0, PAGE) == "ERROR_REC"
    for wrong in (rec.pa + 8, rd, host.delegated()):
        assert host.status("RTT_SET_RIPAS", rd, wrong, 0, PAGE) == "ERROR_INPUT"
        assert host.status("RTT_SET_RIPAS", wrong + 16, rec.pa, 0, PAGE) == "ERROR_INPUT"
    assert host.rmm.running.claim(rd, 0).start()
    assert host.status("RTT_SET_RIPAS", rd, rec.pa, 0, PAGE) == "ERROR_REC"
    host.rmm.running.claim(rd, 0).stop()
    host.ok("RTT_SET_RIPAS", rd, rec.pa, 0, PAGE)
