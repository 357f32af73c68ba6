"""Host memory in the unprotected half, and what becomes of it when the host delegates it."""

from __future__ import annotations

import pytest
from rmi_host import LIST, PAGE, SINGLE, Host

from rmm import rtt
from rmm.abi.registers import AddrRangeDesc, BlockSize, Hipas, UnprotMapFlags

SHARED = 1 << 39
MIB2 = 1 << 21
RW_WB = int(UnprotMapFlags.make(OADDR_TYPE=SINGLE, MEMATTR=6, S2AP=3))
RO_WB = int(UnprotMapFlags.make(OADDR_TYPE=SINGLE, MEMATTR=6, S2AP=2))


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def rd(host: Host) -> int:
    rd = host.realm()
    host.tables(rd, SHARED)
    return rd


def leaf(host: Host, rd: int, ipa: int) -> int:
    realm = host.rmm.realm(rd)
    assert realm is not None
    return rtt.walk(host.rmm, realm, ipa).descriptor


def ns(pa: int, count: int = 1, block: int = BlockSize.L3) -> int:
    return int(AddrRangeDesc.of(pa, count, block, state=1))


def test_the_hosts_attributes_are_in_the_leaf_and_read_back(host: Host, rd: int) -> None:
    page = host.ns()
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB, ns(page))
    assert host.entry(rd, SHARED) == (3, Hipas.ASSIGNED, page | 6 << 2 | 3 << 6, 0)
    assert leaf(host, rd, SHARED) & 0xFFF == 6 << 2 | 3 << 6 | 3 << 8 | 1 << 10 | 3
    assert host.state(page) == "UNDELEGATED"


def test_mapping_the_same_again_is_idempotent_but_other_attributes_are_an_error(host: Host, rd: int) -> None:
    page = host.ns()
    for _ in range(2):
        assert host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB, ns(page))[1] == SHARED + PAGE
    assert host.status("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RO_WB, ns(page)) == "ERROR_RTT(3)"
    assert host.status("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB, ns(host.ns())) == "ERROR_RTT(3)"


def test_map_refuses_bad_arguments(host: Host, rd: int) -> None:
    page = host.ns()
    for base, top in ((0, PAGE), (SHARED, SHARED), (SHARED + 8, SHARED + PAGE), (SHARED, 1 << 41), (1 << 40, 1 << 41)):
        assert host.status("RTT_UNPROT_MAP", rd, base, top, RW_WB, ns(page)) == "ERROR_INPUT"
    for memattr, s2ap in ((4, 3), (6, 4)):
        flags = int(UnprotMapFlags.make(OADDR_TYPE=SINGLE, MEMATTR=memattr, S2AP=s2ap))
        assert host.status("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, flags, ns(page)) == "ERROR_INPUT"
    assert host.status("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB - SINGLE, ns(page)) == "ERROR_INPUT"
    assert host.status("RTT_UNPROT_MAP", rd, SHARED + MIB2, SHARED + MIB2 + PAGE, RW_WB, ns(page)) == "ERROR_RTT(2)"


def test_unmap_reports_and_counts_like_data_unmap(host: Host, rd: int) -> None:
    page = host.ns(4)
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + 4 * PAGE, RW_WB, ns(page, 4))
    assert host.ok("RTT_UNPROT_UNMAP", rd, SHARED, SHARED + PAGE, 0, 0) == (0, SHARED + PAGE, 0, 0, 0)
    top = SHARED + 2 * PAGE
    assert host.ok("RTT_UNPROT_UNMAP", rd, SHARED + PAGE, top, SINGLE, 0)[2] == page + PAGE | 4
    assert host.ok("RTT_UNPROT_UNMAP", rd, SHARED, SHARED + MIB2, LIST | 4 << 2, host.list)[3] == 1
    assert host.read_list(1) == [page + 2 * PAGE | 2 << 2]
    assert host.entry(rd, SHARED + 2 * PAGE) == (3, Hipas.UNASSIGNED, 0, 0)


def test_an_unprotected_mapping_does_not_keep_its_table_alive(host: Host, rd: int) -> None:
    realm = host.rmm.realm(rd)
    assert realm is not None
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB, ns(host.ns()))
    before = realm.generation
    host.ok("RTT_DESTROY", rd, SHARED, 3)
    assert realm.generation == before + 1


def test_a_delegated_granule_is_no_longer_reachable_until_it_comes_back(host: Host, rd: int) -> None:
    realm = host.rmm.realm(rd)
    assert realm is not None
    page = host.ns()
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB, ns(page))
    valid, before = leaf(host, rd, SHARED), realm.generation
    host.delegate(page)
    assert leaf(host, rd, SHARED) == valid & ~1
    assert realm.generation == before + 1
    assert host.entry(rd, SHARED) == (3, Hipas.ASSIGNED, page | 6 << 2 | 3 << 6, 0)
    host.undelegate(page)
    assert leaf(host, rd, SHARED) == valid


def test_a_block_is_reachable_only_while_all_of_it_is_the_hosts(host: Host) -> None:
    rd = host.realm()
    host.tables(rd, SHARED, to=2)
    block = host.ns(512, align=512)
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + MIB2, RW_WB, ns(block, block=BlockSize.L2))
    host.delegate(block + 3 * PAGE)
    host.delegate(block + 511 * PAGE)
    host.undelegate(block + 3 * PAGE)
    assert not leaf(host, rd, SHARED) & 1
    host.undelegate(block + 511 * PAGE)
    assert leaf(host, rd, SHARED) & 1


def test_memory_that_is_not_the_hosts_can_be_named_but_not_reached(host: Host, rd: int) -> None:
    for n, pa in enumerate((host.delegated(), host.memory.firmware_base, 0x1000, (1 << 48) - PAGE)):
        ipa = SHARED + n * PAGE
        host.ok("RTT_UNPROT_MAP", rd, ipa, ipa + PAGE, RW_WB, ns(pa))
        assert not leaf(host, rd, ipa) & 1
        assert host.entry(rd, ipa)[1:3] == (Hipas.ASSIGNED, pa | 6 << 2 | 3 << 6)


def test_a_withdrawn_leaf_survives_unfolding(host: Host) -> None:
    rd = host.realm()
    host.tables(rd, SHARED, to=2)
    block = host.ns(512, align=512)
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + MIB2, RW_WB, ns(block, block=BlockSize.L2))
    host.delegate(block)
    host.ok("RTT_CREATE", rd, host.delegated(), SHARED, 3)
    host.undelegate(block)
    assert leaf(host, rd, SHARED) == block | 6 << 2 | 3 << 6 | 3 << 8 | 1 << 10 | 1 << 54 | 1 << 55 | 3


def test_unfolding_a_withdrawn_leaf_gives_back_what_is_the_hosts(host: Host) -> None:
    rd = host.realm()
    host.tables(rd, SHARED, to=2)
    block = host.ns(512, align=512)
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + MIB2, RW_WB, ns(block, block=BlockSize.L2))
    host.delegate(block)
    host.ok("RTT_CREATE", rd, host.delegated(), SHARED, 3)
    assert [leaf(host, rd, SHARED + n * PAGE) & 1 for n in range(3)] == [0, 1, 1]


def test_memory_that_a_realm_could_write_is_not_taken_for_zero(host: Host, rd: int) -> None:
    """The processing element's stores leave no trace in the notes of what is known to be zero: the mapping does."""
    page = host.ns()
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB, ns(page))
    assert not host.board.ns.known_zero(page)
    host.board.ns.zero(page, PAGE)
    host.ok("RTT_UNPROT_UNMAP", rd, SHARED, SHARED + PAGE, 0, 0)
    assert not host.board.ns.known_zero(page)
    host.board.ns.zero(page, PAGE)
    assert host.board.ns.known_zero(page)


@pytest.mark.parametrize("end", ["unmapped", "delegated", "its table destroyed"])
def test_what_a_realm_wrote_to_host_memory_is_not_in_fresh_memory_of_another(host: Host, rd: int, end: str) -> None:
    page = host.ns()
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB, ns(page))
    host.board.ns.zero(page, PAGE)
    host.memory.buf[page - host.memory.dram_base] = 0x55  # the realm's store, through stage 2
    if end == "unmapped":
        host.ok("RTT_UNPROT_UNMAP", rd, SHARED, SHARED + PAGE, 0, 0)
    elif end == "its table destroyed":
        host.ok("RTT_DESTROY", rd, SHARED, 3)
    host.delegate(page)
    other = host.realm()
    host.tables(other)
    host.ok("RTT_DATA_MAP", other, 0, PAGE, SINGLE, page | 4)
    assert host.memory.read(page, PAGE) == bytes(PAGE)


def test_memory_that_comes_back_under_a_mapping_is_not_taken_for_zero(host: Host, rd: int) -> None:
    page = host.ns()
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB, ns(page))
    host.delegate(page)
    host.undelegate(page)
    assert host.board.ns.read(page, PAGE) == bytes(PAGE)
    assert not host.board.ns.known_zero(page)


def test_a_realm_cannot_execute_host_memory(host: Host, rd: int) -> None:
    """As on hardware with RME; it also means that the host's stores are never to code."""
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB, ns(host.ns()))
    assert leaf(host, rd, SHARED) >> 54 & 1


def test_a_granule_with_more_leaves_than_the_journal_holds_comes_and_goes(host: Host, rd: int) -> None:
    page, journal = host.ns(), host.rmm.journal
    for n in range(100):
        host.ok("RTT_UNPROT_MAP", rd, SHARED + n * PAGE, SHARED + (n + 1) * PAGE, RW_WB, ns(page))
    journal.room = 64
    valid = [leaf(host, rd, SHARED + n * PAGE) for n in range(100)]
    host.delegate(page)
    assert [leaf(host, rd, SHARED + n * PAGE) for n in range(100)] == [entry & ~1 for entry in valid]
    host.undelegate(page)
    assert [leaf(host, rd, SHARED + n * PAGE) for n in range(100)] == valid


def test_mapping_again_revives_a_leaf_that_an_interrupted_delegation_withdrew(host: Host, rd: int) -> None:
    """A process killed between the parts of a delegation leaves leaves withdrawn whose granule is still the host's."""
    page, rmm = host.ns(), host.rmm
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB, ns(page))
    realm = rmm.realm(rd)
    assert realm is not None
    valid = leaf(host, rd, SHARED)
    with rmm.lock, rmm.commit() as txn:
        txn.store_u64(rtt.walk(rmm, realm, SHARED).entry_pa, valid & ~1)
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB, ns(page))
    assert leaf(host, rd, SHARED) == valid


def test_a_source_that_a_realm_may_write_is_copied_even_if_the_host_zeroed_it(host: Host, rd: int) -> None:
    page, data = host.ns(), host.delegated()
    host.ok("RTT_UNPROT_MAP", rd, SHARED, SHARED + PAGE, RW_WB, ns(page))
    host.board.ns.zero(page, PAGE)
    host.memory.buf[page - host.memory.dram_base] = 0x55  # the realm's store, through stage 2
    host.tables(rd)
    host.ok("RTT_DATA_MAP_INIT", rd, data, 0, page, 1)
    assert host.memory.read(data, 1) == b"\x55"
