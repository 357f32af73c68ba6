"""Address descriptors as arguments: SINGLE in a register, LIST in a host granule (RmiAddrRangeDesc)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from rmm.abi.registers import MAX_DESC_COUNT, AddrType

if TYPE_CHECKING:
    from rmm.monitor import Monitor

_ADDRESS = 0x000F_FFFF_FFFF_F000
_COUNT_MASK = 0x3FF
_STATE_SHIFT = 63
_TYPE = 3
_LIST_COUNT_SHIFT = 2
_LIST_COUNT_MASK = 0x3FFF


class Block(NamedTuple):
    """One block out of a descriptor: its address, its level (3 pages .. 0), the granule state it claims."""

    pa: int
    level: int
    state: int


def read_list(rmm: Monitor, list_pa: int, count: int) -> list[int] | None:
    """``count`` descriptors at ``list_pa``; None unless 8-byte aligned and inside one host granule."""
    if list_pa & 7 or (list_pa & 0xFFF) + count * 8 > 4096:
        return None
    data = rmm.read_ns(list_pa, count * 8) if count else b""
    return None if data is None else [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


def expand(descriptors: list[int]) -> Iterator[Block]:
    """The blocks that descriptors name, in order; a descriptor with count 0 names none."""
    for descriptor in descriptors:
        level = 3 - (descriptor & 3)
        pa = descriptor & _ADDRESS
        state = descriptor >> _STATE_SHIFT
        size = 1 << (39 - 9 * level)
        for n in range((descriptor >> 2) & _COUNT_MASK):
            yield Block(pa + n * size, level, state)


def blocks(rmm: Monitor, flags: int, oaddr: int, allowed_flags: int) -> Iterator[Block] | None:
    """The blocks that a map command's ``flags`` and ``oaddr`` name; None when they are malformed.

    ``allowed_flags`` are the flag bits that the command defines.
    """
    kind = flags & _TYPE
    count = (flags >> _LIST_COUNT_SHIFT) & _LIST_COUNT_MASK
    if flags & ~allowed_flags:
        return None
    if kind == AddrType.SINGLE:
        return None if count else expand([oaddr])
    if kind == AddrType.LIST:
        descriptors = read_list(rmm, oaddr, count)
        return expand(descriptors) if descriptors else None
    return None


class Outputs:
    """Where an unmap command reports the blocks it freed: adjacent ones share a descriptor.

    ``add`` says whether a block could be taken: SINGLE holds one run, LIST as many as the host made room for, NONE any.
    """

    __slots__ = ("_capacity", "_count", "_kind", "_level", "_list_pa", "_next", "_runs", "_start")

    def __init__(self, kind: int, capacity: int, list_pa: int) -> None:
        self._kind = kind
        self._capacity = capacity
        self._list_pa = list_pa
        self._runs: list[int] = []
        self._start = self._next = self._count = self._level = 0

    @classmethod
    def open(cls, rmm: Monitor, flags: int, list_pa: int) -> Outputs | None:
        """From the command's flags and list argument; None when they are malformed."""
        kind = flags & _TYPE
        count = flags >> _LIST_COUNT_SHIFT
        if kind == AddrType.LIST:
            if count > _LIST_COUNT_MASK or not count or read_list(rmm, list_pa, count) is None:
                return None
            return cls(kind, count, list_pa)
        if kind == _TYPE or count or list_pa:
            return None
        return cls(kind, 1, 0)

    def add(self, pa: int, level: int) -> bool:
        """Report the block at ``pa``; False when there is no room, and the block must stay mapped."""
        if not self._kind:
            return True
        if self._count and pa == self._next and self._count < MAX_DESC_COUNT:
            self._count += 1
        else:
            if self._count:
                if len(self._runs) + 1 == self._capacity:
                    return False
                self._runs.append(self._descriptor())
            self._start, self._count, self._level = pa, 1, level
        self._next = pa + (1 << (39 - 9 * level))
        return True

    def _descriptor(self) -> int:
        # AddrRangeDesc.of, in line (benchmarks/bench_rmm.py).
        return self._start | self._count << 2 | (3 - self._level)

    def finish(self, rmm: Monitor) -> tuple[int, int]:
        """(the SINGLE descriptor or 0, the number of list entries written or 0)."""
        if not self._count:
            return 0, 0
        if self._kind == 1:
            return self._descriptor(), 0
        self._runs.append(self._descriptor())
        data = b"".join(run.to_bytes(8, "little") for run in self._runs)
        rmm.write_ns(self._list_pa, data)
        return 0, len(self._runs)
