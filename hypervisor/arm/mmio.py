"""Which device emulates an address: the MMIO map of a domain.

Enter at :class:`MmioMap`. A device is anything with the two methods of :class:`MmioHandler`; it refuses an access by
answering None (read) or False (write). The map answers with Xen's I/O states, whose numbers appear in messages.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class IoState(IntEnum):
    """What became of an access. ABORT and UNHANDLED end in a data abort for the guest."""

    #: A device refused the access.
    ABORT = 0
    HANDLED = 1
    #: No device has the address, and the domain traps unmapped accesses.
    UNHANDLED = 2
    #: Do it again (forwarded requests in Xen; not used here).
    RETRY = 3


class MmioHandler(Protocol):
    """An emulated device. ``offset`` is relative to its region, ``size`` 1, 2, 4 or 8 bytes, ``vcpu`` who accesses."""

    def read(self, offset: int, size: int, vcpu: int) -> int | None:
        """The value read, or None to refuse."""

    def write(self, offset: int, size: int, value: int, vcpu: int) -> bool:
        """False to refuse."""


@dataclass(frozen=True, slots=True)
class MmioRegion:
    """Addresses ``base`` up to, not including, ``base + size`` of the guest, emulated by ``handler``."""

    base: int
    size: int
    name: str
    handler: MmioHandler

    @property
    def end(self) -> int:
        """The first address behind the region."""
        return self.base + self.size


class MmioMap:
    """The emulated devices of a domain, by guest physical address.

    ``trap_unmapped_accesses`` is the domain option of that name: when off, reads of addresses without a device give all
    ones and writes are ignored.
    """

    def __init__(self, *, trap_unmapped_accesses: bool = True) -> None:
        self.trap_unmapped_accesses = trap_unmapped_accesses
        self._regions: list[MmioRegion] = []
        self._bases: list[int] = []
        self._last: MmioRegion | None = None

    def add(self, base: int, size: int, name: str, handler: MmioHandler) -> MmioRegion:
        """Put a device at an address.

        :raises ValueError: if the region is empty or overlaps another one.
        """
        if size <= 0:
            raise ValueError(f"MMIO region {name} at {base:#x}: size {size} is not positive")
        region = MmioRegion(base, size, name, handler)
        n = bisect_right(self._bases, base)
        for other in self._regions[max(n - 1, 0) : n + 1]:
            if other.base < region.end and base < other.end:
                raise ValueError(f"MMIO region {name} [{base:#x}, {region.end:#x}) overlaps {other.name} "
                                 f"[{other.base:#x}, {other.end:#x})")
        self._regions.insert(n, region)
        self._bases.insert(n, base)
        return region

    @property
    def regions(self) -> tuple[MmioRegion, ...]:
        """All regions, by address."""
        return tuple(self._regions)

    def find(self, address: int) -> MmioRegion | None:
        """The region that has the address."""
        region = self._last
        if region is not None and region.base <= address < region.base + region.size:
            return region
        n = bisect_right(self._bases, address) - 1
        if n < 0:
            return None
        region = self._regions[n]
        if address >= region.base + region.size:
            return None
        self._last = region
        return region

    def read(self, address: int, size: int, vcpu: int) -> tuple[IoState, int]:
        """Emulate a load of ``size`` bytes: its state, and the value cut to the size (0 unless HANDLED)."""
        region = self.find(address)
        if region is None:
            if self.trap_unmapped_accesses:
                return IoState.UNHANDLED, 0
            return IoState.HANDLED, (1 << 8 * size) - 1
        value = region.handler.read(address - region.base, size, vcpu)
        if value is None:
            return IoState.ABORT, 0
        return IoState.HANDLED, value & (1 << 8 * size) - 1

    def write(self, address: int, size: int, value: int, vcpu: int) -> IoState:
        """Emulate a store of ``size`` bytes; the value is cut to the size."""
        region = self.find(address)
        if region is None:
            return IoState.UNHANDLED if self.trap_unmapped_accesses else IoState.HANDLED
        if region.handler.write(address - region.base, size, value & (1 << 8 * size) - 1, vcpu):
            return IoState.HANDLED
        return IoState.ABORT
