"""The stage-2 tables of plain guests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hypervisor.arm.p2m import BLOCK_SIZE, VTCR, P2m
from hypervisor.pages import PageAllocator
from machine.cpu.stage2 import FSC_TRANSLATION, fault_status
from machine.memory import DRAM_BASE, GRANULE_SIZE, NonSecureView, PhysicalMemory

RAM = 0x4000_0000
#: A physical address on a 2 MiB boundary that the allocator does not hand out first.
PA = DRAM_BASE + 4 * BLOCK_SIZE


class Tables:
    """A P2m in 16 MiB of memory, and how often it asked for the TLB to be flushed."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory.create(16 << 20)
        view = NonSecureView(self.memory)
        self.pages = PageAllocator(view)
        self.flushes = 0
        self.free_at_first = self.pages.free_pages
        self.p2m = P2m(view, self.pages, self.flush, max_tables=8)

    def flush(self) -> None:
        self.flushes += 1

    def faults(self, gpa: int, *, write: bool = True) -> int | None:
        """What the processing element's own walk finds."""
        return fault_status(self.memory, self.p2m.vttbr, self.p2m.vtcr, gpa, write)

    def leaf_level(self, gpa: int) -> int:
        """The level at which the walk ends."""
        table = self.p2m.vttbr
        for level in range(4):
            entry = self.memory.read_u64(table + 8 * (gpa >> 39 - 9 * level & 511))
            if level == 3 or entry & 3 != 3:
                return level
            table = entry & 0xFFFF_FFFF_F000
        raise AssertionError


@pytest.fixture
def tables() -> Iterator[Tables]:
    yield Tables()


def test_the_regime_is_48_bits_from_level_0() -> None:
    assert VTCR & 0x3F == 64 - 48
    assert VTCR >> 6 & 3 == 2
    assert VTCR >> 14 & 3 == 0
    assert VTCR >> 16 & 7 == 5


def test_an_empty_table_maps_nothing(tables: Tables) -> None:
    assert tables.p2m.translate(RAM) is None
    assert tables.faults(RAM) == FSC_TRANSLATION


def test_aligned_ram_is_mapped_with_blocks_and_the_rest_with_pages(tables: Tables) -> None:
    tables.p2m.map(RAM, PA, BLOCK_SIZE + 2 * GRANULE_SIZE)
    assert tables.leaf_level(RAM) == 2
    assert tables.leaf_level(RAM + BLOCK_SIZE) == 3
    for offset in (0, 0x1234, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 2 * GRANULE_SIZE - 1):
        found = tables.p2m.translate(RAM + offset)
        assert found is not None and found.pa == PA + offset
        assert tables.faults(RAM + offset) is None
    assert tables.faults(RAM + BLOCK_SIZE + 2 * GRANULE_SIZE) == FSC_TRANSLATION | 3
    assert tables.flushes == 0


def test_ram_at_an_unaligned_physical_address_is_mapped_with_pages(tables: Tables) -> None:
    tables.p2m.map(RAM, PA + GRANULE_SIZE, BLOCK_SIZE)
    assert tables.leaf_level(RAM) == 3
    found = tables.p2m.translate(RAM + BLOCK_SIZE - 1)
    assert found is not None and found.pa == PA + GRANULE_SIZE + BLOCK_SIZE - 1


def test_a_translation_says_how_far_it_reaches(tables: Tables) -> None:
    tables.p2m.map(RAM, PA, BLOCK_SIZE)
    tables.p2m.map(RAM + BLOCK_SIZE, PA, GRANULE_SIZE)
    assert tables.p2m.translate(RAM + 0x1010) == (PA + 0x1010, BLOCK_SIZE - 0x1010)
    assert tables.p2m.translate(RAM + BLOCK_SIZE + 8) == (PA + 8, GRANULE_SIZE - 8)


def test_unmapping_a_page_of_a_block_splits_it_and_flushes(tables: Tables) -> None:
    tables.p2m.map(RAM, PA, BLOCK_SIZE)
    tables.p2m.unmap(RAM + 0x5000, GRANULE_SIZE)
    assert tables.faults(RAM + 0x5000) == FSC_TRANSLATION | 3
    for offset in (0x4000, 0x6000, BLOCK_SIZE - GRANULE_SIZE):
        found = tables.p2m.translate(RAM + offset)
        assert found is not None and found.pa == PA + offset
        assert tables.faults(RAM + offset) is None
    assert tables.flushes >= 2


def test_unmapping_what_is_not_mapped_changes_nothing(tables: Tables) -> None:
    tables.p2m.unmap(RAM, 3 * BLOCK_SIZE + GRANULE_SIZE)
    assert tables.flushes == 0


def test_unmapping_more_than_is_mapped_takes_blocks_and_pages(tables: Tables) -> None:
    tables.p2m.map(RAM + BLOCK_SIZE, PA, BLOCK_SIZE + GRANULE_SIZE)
    tables.p2m.unmap(RAM, 4 * BLOCK_SIZE)
    assert tables.p2m.translate(RAM + BLOCK_SIZE) is None
    assert tables.p2m.translate(RAM + 2 * BLOCK_SIZE) is None


def test_a_page_mapped_over_a_block_replaces_only_that_page_and_flushes(tables: Tables) -> None:
    tables.p2m.map(RAM, PA, BLOCK_SIZE)
    other = PA + BLOCK_SIZE
    tables.p2m.map(RAM + 0x3000, other, GRANULE_SIZE)
    assert tables.p2m.translate(RAM + 0x3000) == (other, GRANULE_SIZE)
    assert tables.p2m.translate(RAM + 0x2000) == (PA + 0x2000, GRANULE_SIZE)
    assert tables.flushes >= 2


def test_an_entry_is_invalid_while_the_tlb_is_flushed(tables: Tables) -> None:
    tables.p2m.map(RAM, PA, GRANULE_SIZE)
    seen = []
    tables.p2m._flush = lambda: seen.append(tables.p2m.translate(RAM))
    tables.p2m.map(RAM, PA + GRANULE_SIZE, GRANULE_SIZE)
    assert seen == [None]


@pytest.mark.parametrize(
    ("gpa", "pa", "size"),
    [(RAM + 1, PA, 0x1000), (RAM, PA + 1, 0x1000), (RAM, PA, 0x800), (RAM, PA, 0), (1 << 48, PA, 0x1000)],
)
def test_only_whole_pages_below_48_bits_are_mapped(tables: Tables, gpa: int, pa: int, size: int) -> None:
    with pytest.raises(ValueError, match="p2m: "):
        tables.p2m.map(gpa, pa, size)


def test_without_pages_for_a_table_the_host_is_out_of_memory(tables: Tables) -> None:
    tables.pages.alloc(tables.pages.free_pages)
    with pytest.raises(MemoryError):
        tables.p2m.map(RAM, PA, GRANULE_SIZE)


def test_a_guest_has_a_limited_number_of_tables(tables: Tables) -> None:
    with pytest.raises(MemoryError, match="8 tables are all"):
        for number in range(8):
            tables.p2m.map(RAM + number * BLOCK_SIZE, PA, GRANULE_SIZE)
    assert len(tables.p2m.tables) == 8
    assert tables.p2m.translate(RAM + 4 * BLOCK_SIZE) is not None


def test_freed_tables_are_all_given_back(tables: Tables) -> None:
    tables.p2m.map(RAM, PA, BLOCK_SIZE)
    tables.p2m.unmap(RAM, GRANULE_SIZE)
    assert tables.pages.free_pages < tables.free_at_first
    tables.p2m.free()
    assert tables.pages.free_pages == tables.free_at_first
