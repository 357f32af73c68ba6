"""The host page allocator: the DRAM of the machine in 2 MiB superpages and 4 KiB pages.

Pages are zero when handed out: host memory is reserved on allocation (a shortage is :class:`OutOfPages`) and punched
out when freed. Freeing a granule that is not in the Non-secure PAS is refused by the non-secure view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from machine.memory import GRANULE_SIZE, NonSecureView, OutOfMemory

SUPERPAGE = 1 << 21
_PAGES = SUPERPAGE // GRANULE_SIZE
#: Memory that one step of populating or releasing is about: some 2 ms of the host kernel's time.
STEP_SIZE = 4 * SUPERPAGE


class OutOfPages(MemoryError):
    """Raised when the machine's DRAM, or the memory of the host behind it, cannot satisfy an allocation."""


class Extent(NamedTuple):
    """A physically contiguous run: address and size in bytes."""

    pa: int
    size: int


class PageAllocator:
    """Owns every DRAM page that no domain and no host structure uses."""

    def __init__(self, ns: NonSecureView) -> None:
        self._ns = ns
        top = ns.dram_base + ns.dram_size
        # Popped from the end: low addresses first.
        self._superpages = list(range(top - SUPERPAGE, ns.dram_base - 1, -SUPERPAGE))
        self._pages: list[int] = []
        #: For each split superpage, how many of its pages are free.
        self._split: dict[int, int] = {}
        self.total_pages = ns.dram_size // GRANULE_SIZE
        self.free_pages = len(self._superpages) * _PAGES

    def _populate(self, pa: int, size: int) -> None:
        try:
            self._ns.populate(pa, size)
        except OutOfMemory as error:
            raise OutOfPages(str(error)) from None

    def alloc(self, count: int = 1) -> list[int]:
        """``count`` zeroed 4 KiB pages, in no order. OutOfPages, and nothing taken, when there are fewer."""
        if count > self.free_pages:
            raise OutOfPages(f"{count} pages wanted, {self.free_pages} free")
        taken = self._take(count)
        try:
            for pa in taken:
                self._populate(pa, GRANULE_SIZE)
        except BaseException:
            self.free(taken)
            raise
        return taken

    def _take(self, count: int) -> list[int]:
        """``count`` single pages of those that are free; there are enough."""
        while len(self._pages) < count:
            base = self._superpages.pop()
            self._split[base] = _PAGES
            self._pages.extend(range(base + SUPERPAGE - GRANULE_SIZE, base - 1, -GRANULE_SIZE))
        taken = self._pages[len(self._pages) - count :][::-1]
        del self._pages[len(self._pages) - count :]
        for pa in taken:
            self._split[pa & -SUPERPAGE] -= 1
        self.free_pages -= count
        return taken

    def alloc_extents(self, size: int) -> list[Extent]:
        """Zeroed memory of ``size`` bytes (rounded up to pages) as few 2 MiB-aligned extents and a rest of pages."""
        extents = self.reserve_extents(size)
        try:
            for _ in self.populate(extents):
                pass
        except BaseException:
            self.free_extents(extents)
            raise
        return extents

    def reserve_extents(self, size: int) -> list[Extent]:
        """What :meth:`alloc_extents` answers, before it is backed by host memory: :meth:`populate` does that."""
        pages = -(-size // GRANULE_SIZE)
        if pages > self.free_pages:
            raise OutOfPages(f"{pages} pages wanted, {self.free_pages} free")
        whole = min(pages // _PAGES, len(self._superpages))
        extents: list[Extent] = []
        for _ in range(whole):
            _append(extents, self._superpages.pop(), SUPERPAGE)
        self.free_pages -= whole * _PAGES
        for pa in self._take(pages - whole * _PAGES):
            _append(extents, pa, GRANULE_SIZE)
        return extents

    def populate(self, extents: Iterable[Extent]) -> Iterator[None]:
        """Back reserved extents with host memory, in steps of a few ms. OutOfPages; the extents stay the caller's."""
        for pa, size in extents:
            for base in range(pa, pa + size, STEP_SIZE):
                self._populate(base, min(STEP_SIZE, pa + size - base))
                yield

    def free(self, pages: Iterable[int]) -> None:
        """Give pages back; a run of them is punched out at once. GranuleProtectionFault for a delegated one."""
        run: list[int] = []
        for pa in sorted(pages):
            if run and pa != run[-1] + GRANULE_SIZE:
                self._release(run)
                run = []
            run.append(pa)
        if run:
            self._release(run)

    def free_extents(self, extents: Iterable[Extent]) -> None:
        """Give extents back."""
        for _ in self.release(list(extents)):
            pass

    def release(self, extents: list[Extent]) -> Iterator[None]:
        """Give extents back from the last one on, in steps of a few ms; ``extents`` holds what is left to give back."""
        while extents:
            pa, size = extents[-1]
            base = pa + max(0, -(-size // STEP_SIZE) - 1) * STEP_SIZE
            self._ns.punch(base, pa + size - base)
            extents[-1] = Extent(pa, base - pa)
            if base == pa:
                del extents[-1]
            self._return_range(base, pa + size)
            yield

    def _return_range(self, pa: int, top: int) -> None:
        while pa < top:
            if pa % SUPERPAGE == 0 and top - pa >= SUPERPAGE and pa not in self._split:
                self._superpages.append(pa)
                self.free_pages += _PAGES
                pa += SUPERPAGE
            else:
                self._return_page(pa)
                pa += GRANULE_SIZE
        self._superpages.sort(reverse=True)

    def _release(self, run: list[int]) -> None:
        self._ns.punch(run[0], len(run) * GRANULE_SIZE)
        for pa in run:
            self._return_page(pa)

    def _return_page(self, pa: int) -> None:
        base = pa & -SUPERPAGE
        self._split[base] += 1
        self.free_pages += 1
        self._pages.append(pa)
        if self._split[base] == _PAGES:
            del self._split[base]
            self._pages = [page for page in self._pages if page & -SUPERPAGE != base]
            self._superpages.append(base)
            self._superpages.sort(reverse=True)


def _append(extents: list[Extent], pa: int, size: int) -> None:
    """Add a piece of memory, to the last extent when it follows it."""
    if extents and extents[-1].pa + extents[-1].size == pa:
        extents[-1] = Extent(extents[-1].pa, extents[-1].size + size)
    else:
        extents.append(Extent(pa, size))
