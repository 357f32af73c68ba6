"""The host page allocator: the DRAM of the machine in 2 MiB superpages and 4 KiB pages.

Pages are zero when handed out: host memory is reserved on allocation (a shortage is :class:`OutOfPages`) and punched
out when freed. Freeing a granule that is not in the Non-secure PAS is refused by the non-secure view.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from machine.memory import GRANULE_SIZE, NonSecureView, OutOfMemory

SUPERPAGE = 1 << 21
_PAGES = SUPERPAGE // GRANULE_SIZE


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
        while len(self._pages) < count:
            base = self._superpages.pop()
            self._split[base] = _PAGES
            self._pages.extend(range(base + SUPERPAGE - GRANULE_SIZE, base - 1, -GRANULE_SIZE))
        taken = self._pages[len(self._pages) - count :][::-1]
        for number, pa in enumerate(taken):
            try:
                self._populate(pa, GRANULE_SIZE)
            except OutOfPages:
                for done in taken[:number]:
                    self._ns.punch(done, GRANULE_SIZE)
                raise
        del self._pages[len(self._pages) - count :]
        for pa in taken:
            self._split[pa & -SUPERPAGE] -= 1
        self.free_pages -= count
        return taken

    def alloc_extents(self, size: int) -> list[Extent]:
        """Zeroed memory of ``size`` bytes (rounded up to pages) as few 2 MiB-aligned extents and a rest of pages."""
        pages = -(-size // GRANULE_SIZE)
        if pages > self.free_pages:
            raise OutOfPages(f"{pages} pages wanted, {self.free_pages} free")
        whole = min(pages // _PAGES, len(self._superpages))
        extents: list[Extent] = []
        try:
            for _ in range(whole):
                base = self._superpages.pop()
                self.free_pages -= _PAGES
                if extents and extents[-1].pa + extents[-1].size == base:
                    extents[-1] = Extent(extents[-1].pa, extents[-1].size + SUPERPAGE)
                else:
                    extents.append(Extent(base, SUPERPAGE))
            for extent in extents:
                self._populate(extent.pa, extent.size)
            for pa in self.alloc(pages - whole * _PAGES):
                if extents and extents[-1].pa + extents[-1].size == pa:
                    extents[-1] = Extent(extents[-1].pa, extents[-1].size + GRANULE_SIZE)
                else:
                    extents.append(Extent(pa, GRANULE_SIZE))
        except OutOfPages:
            self.free_extents(extents)
            raise
        return extents

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
        for pa, size in extents:
            self._ns.punch(pa, size)
            top = pa + size
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
