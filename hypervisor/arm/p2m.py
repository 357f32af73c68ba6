"""The stage-2 tables of a plain guest: from guest physical to physical addresses, walked by the processing element.

Enter at :class:`P2m`. The tables are VMSAv8-64 descriptors (4 KiB granule, 48-bit addresses, start level 0) in
Non-secure pages of the host. RAM is mapped with 2 MiB blocks where both addresses allow it, with pages elsewhere; a
block that a later change touches is split first. Entries that were valid are taken away before new ones are written,
and the caller's ``flush`` drops cached translations in between (Arm ARM D8.14, break-before-make).

A Realm has no such tables: its stage 2 is the RMM's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from hypervisor.arm.cca.ports import HostPages
from machine.memory import GRANULE_SIZE, NonSecureView

#: VTCR_EL2: T0SZ 16, SL0 2 (level 0), write-back inner and outer, inner shareable, 4 KiB, PS 48 bits, RES1.
VTCR: Final = 1 << 31 | 5 << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 2 << 6 | 16
IPA_BITS: Final = 48
BLOCK_SIZE: Final = 1 << 21

_ADDRESS: Final = 0x0000_FFFF_FFFF_F000
_VALID: Final = 1
_TABLE: Final = 3
#: AF, inner shareable, S2AP read and write, normal write-back memory.
_RAM: Final = 1 << 10 | 3 << 8 | 3 << 6 | 0xF << 2
_PAGE: Final = _RAM | 3
_BLOCK: Final = _RAM | 1


class Translation(NamedTuple):
    """What an address is mapped to: the physical address of the very byte, and the bytes mapped from there on."""

    pa: int
    remaining: int


class P2m:
    """The tables of one guest. ``vttbr`` is what VTTBR_EL2 must hold; VMID 0, for an element runs one domain only.

    ``max_tables`` bounds what the guest can make the host spend on tables, as the p2m pool does in Xen.

    :raises MemoryError: from the constructor, :meth:`map` and :meth:`unmap`, when there is no page for a table.
    """

    def __init__(self, ns: NonSecureView, pages: HostPages, flush: Callable[[], None], max_tables: int) -> None:
        self._ns = ns
        self._pages = pages
        self._flush = flush
        self._max_tables = max_tables
        #: Every table page, the root first.
        self.tables: list[int] = pages.alloc()
        self.vttbr = self.tables[0]
        self.vtcr = VTCR

    def map(self, gpa: int, pa: int, size: int) -> None:
        """Map ``size`` bytes of RAM, replacing what was there. Both addresses and the size are whole pages.

        :raises ValueError: for a range that is not whole pages, or beyond the address space.
        """
        self._check(gpa, size)
        if pa % GRANULE_SIZE:
            raise ValueError(f"p2m: {pa:#x} is not the address of a page")
        end = gpa + size
        while gpa < end:
            whole = gpa % BLOCK_SIZE == 0 and pa % BLOCK_SIZE == 0 and end - gpa >= BLOCK_SIZE
            if whole and not self._is_table(gpa):
                self._replace(self._entry(gpa, 2), pa | _BLOCK)
                step = BLOCK_SIZE
            else:
                self._replace(self._entry(gpa, 3), pa | _PAGE)
                step = GRANULE_SIZE
            gpa += step
            pa += step

    def unmap(self, gpa: int, size: int) -> None:
        """Take whole pages away; what is not mapped stays so. The pages behind them are the caller's."""
        self._check(gpa, size)
        end = gpa + size
        changed = False
        while gpa < end:
            step = BLOCK_SIZE - gpa % BLOCK_SIZE
            found = self._find(gpa)
            if found is not None:
                at, level = found
                if level == 2 and (gpa % BLOCK_SIZE or end - gpa < BLOCK_SIZE):
                    at, level = self._entry(gpa, 3), 3
                self._ns.write_u64(at, 0)
                changed = True
                step = BLOCK_SIZE if level == 2 else GRANULE_SIZE
            elif self._is_table(gpa):
                step = GRANULE_SIZE
            gpa += step
        if changed:
            self._flush()

    def translate(self, gpa: int) -> Translation | None:
        """Where the byte at ``gpa`` is; None when nothing is mapped there."""
        if gpa >> IPA_BITS:
            return None
        found = self._find(gpa)
        if found is None:
            return None
        at, level = found
        size = BLOCK_SIZE if level == 2 else GRANULE_SIZE
        offset = gpa & size - 1
        return Translation((self._ns.read_u64(at) & _ADDRESS) + offset, size - offset)

    def free(self) -> None:
        """Give the tables back; the guest must not run any more."""
        self._flush()
        tables, self.tables = self.tables, []
        self._pages.free(tables)

    # Tables.

    @staticmethod
    def _check(gpa: int, size: int) -> None:
        if gpa % GRANULE_SIZE or size % GRANULE_SIZE or size <= 0:
            raise ValueError(f"p2m: [{gpa:#x}, {gpa + size:#x}) is not a range of whole pages")
        if gpa < 0 or gpa + size > 1 << IPA_BITS:
            raise ValueError(f"p2m: [{gpa:#x}, {gpa + size:#x}) is beyond {IPA_BITS} bits")

    def _replace(self, at: int, entry: int) -> None:
        if self._ns.read_u64(at) & _VALID:
            self._ns.write_u64(at, 0)
            self._flush()
        self._ns.write_u64(at, entry)

    def _find(self, gpa: int) -> tuple[int, int] | None:
        """The address and level of the valid leaf that maps ``gpa``."""
        table = self.tables[0]
        for level in range(4):
            at = _slot(table, gpa, level)
            entry = self._ns.read_u64(at)
            if not entry & _VALID:
                return None
            if level == 3 or not entry & 2:
                return at, level
            table = entry & _ADDRESS
        raise AssertionError

    def _is_table(self, gpa: int) -> bool:
        """Whether the 2 MiB around ``gpa`` have a table of pages."""
        table = self.tables[0]
        for level in range(3):
            entry = self._ns.read_u64(_slot(table, gpa, level))
            if entry & _TABLE != _TABLE:
                return False
            table = entry & _ADDRESS
        return True

    def _entry(self, gpa: int, level: int) -> int:
        """The address of the entry for ``gpa`` at ``level``, with the tables on the way to it; a block is split."""
        table = self.tables[0]
        for above in range(level):
            at = _slot(table, gpa, above)
            entry = self._ns.read_u64(at)
            if entry & _TABLE != _TABLE:
                if len(self.tables) >= self._max_tables:
                    raise MemoryError(f"p2m: {self._max_tables} tables are all that the guest may have")
                (fresh,) = self._pages.alloc()
                self.tables.append(fresh)
                if entry & _VALID:
                    base = entry & _ADDRESS
                    for number in range(BLOCK_SIZE // GRANULE_SIZE):
                        self._ns.write_u64(fresh + 8 * number, base + number * GRANULE_SIZE | _PAGE)
                self._replace(at, fresh | _TABLE)
                table = fresh
            else:
                table = entry & _ADDRESS
        return _slot(table, gpa, level)


def _slot(table: int, gpa: int, level: int) -> int:
    return table + 8 * (gpa >> 39 - 9 * level & 0x1FF)
