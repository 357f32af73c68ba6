"""The host page allocator."""

from __future__ import annotations

import itertools
import random

import pytest

from hypervisor.pages import SUPERPAGE, Extent, OutOfPages, PageAllocator
from machine.memory import (
    DRAM_BASE,
    GRANULE_SIZE,
    GranuleProtectionFault,
    NonSecureView,
    OutOfMemory,
    Pas,
    PhysicalMemory,
)


@pytest.fixture
def memory() -> PhysicalMemory:
    return PhysicalMemory.create(16 << 20)


@pytest.fixture
def pages(memory: PhysicalMemory) -> PageAllocator:
    return PageAllocator(NonSecureView(memory))


def test_all_of_dram_is_free_at_power_on(pages: PageAllocator) -> None:
    assert pages.free_pages == pages.total_pages == 4096


def test_an_allocation_takes_distinct_pages_inside_dram(pages: PageAllocator, memory: PhysicalMemory) -> None:
    taken = pages.alloc(700)
    assert len(set(taken)) == 700 and pages.free_pages == 4096 - 700
    assert all(DRAM_BASE <= pa < memory.dram_top and pa % GRANULE_SIZE == 0 for pa in taken)


def test_extents_are_superpage_aligned_as_far_as_possible(pages: PageAllocator) -> None:
    extents = pages.alloc_extents(5 << 20)
    assert sum(extent.size for extent in extents) == 5 << 20
    assert extents[0].pa % SUPERPAGE == 0 and extents[0].size >= 4 << 20


def test_too_much_is_refused_and_nothing_is_taken(pages: PageAllocator) -> None:
    with pytest.raises(OutOfPages, match="4097 pages wanted, 4096 free"):
        pages.alloc(4097)
    with pytest.raises(OutOfPages):
        pages.alloc_extents((16 << 20) + 1)
    assert pages.free_pages == 4096


def test_a_freed_page_reads_as_zero_when_it_is_handed_out_again(pages: PageAllocator, memory: PhysicalMemory) -> None:
    taken = pages.alloc(4096)
    for pa in taken[::7]:
        memory.write(pa, b"left over")
    pages.free(taken)
    assert all(memory.read(pa, GRANULE_SIZE) == bytes(GRANULE_SIZE) for pa in pages.alloc(4096))


def test_a_delegated_page_cannot_be_freed(pages: PageAllocator, memory: PhysicalMemory) -> None:
    (pa,) = pages.alloc(1)
    memory.gpt[(pa - DRAM_BASE) // GRANULE_SIZE] = Pas.REALM
    with pytest.raises(GranuleProtectionFault):
        pages.free([pa])
    with pytest.raises(GranuleProtectionFault):
        pages.free_extents([Extent(pa, GRANULE_SIZE)])


def test_any_order_of_allocating_and_freeing_ends_with_all_memory_whole_again(pages: PageAllocator) -> None:
    choose = random.Random(20)
    held: list[list[Extent]] = []
    for _ in range(300):
        if held and choose.random() < 0.5:
            pages.free_extents(held.pop(choose.randrange(len(held))))
        else:
            try:
                if choose.random() < 0.5:
                    held.append(pages.alloc_extents(choose.randrange(1, 3 << 20)))
                else:
                    held.append([Extent(pa, GRANULE_SIZE) for pa in pages.alloc(choose.randrange(1, 600))])
            except OutOfPages:
                continue
        spans = sorted(extent for extents in held for extent in extents)
        assert all(a.pa + a.size <= b.pa for a, b in itertools.pairwise(spans))
        assert pages.free_pages == 4096 - sum(extent.size for extent in spans) // GRANULE_SIZE
    for extents in held:
        pages.free_extents(extents)
    assert pages.free_pages == 4096
    assert pages.alloc_extents(16 << 20) == [Extent(DRAM_BASE, 16 << 20)]


def test_memory_that_the_host_does_not_have_is_refused_and_nothing_is_taken(
    pages: PageAllocator, memory: PhysicalMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed = memory.populate

    def scarce(pa: int, size: int) -> None:
        if pa + size > DRAM_BASE + (9 << 20):
            raise OutOfMemory("no memory")
        backed(pa, size)

    monkeypatch.setattr(memory, "populate", scarce)
    with pytest.raises(OutOfPages):
        pages.alloc_extents(12 << 20)
    with pytest.raises(OutOfPages):
        pages.alloc(2400)
    assert pages.free_pages == 4096
    assert pages.alloc_extents(8 << 20) == [Extent(DRAM_BASE, 8 << 20)]


def test_giving_back_can_stop_after_any_step_and_go_on_with_what_is_left(pages: PageAllocator) -> None:
    extents = pages.alloc_extents(13 << 20)
    left = list(extents)
    for _ in pages.release(left):
        assert pages.free_pages == 4096 - sum(extent.size for extent in left) // GRANULE_SIZE
        if pages.free_pages > 1000:
            break
    assert 0 < sum(extent.size for extent in left) < 13 << 20
    assert sum(1 for _ in pages.release(left)) > 0
    assert left == [] and pages.alloc_extents(16 << 20) == [Extent(DRAM_BASE, 16 << 20)]


def test_no_step_of_populating_or_giving_back_is_about_more_than_8_mib(
    pages: PageAllocator, memory: PhysicalMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setattr(memory, "populate", lambda pa, size: sizes.append(size))
    monkeypatch.setattr(memory, "punch", lambda pa, size: sizes.append(size))
    pages.free_extents(pages.alloc_extents(15 << 20))
    assert sum(sizes) == 2 * (15 << 20) and max(sizes) == 8 << 20
