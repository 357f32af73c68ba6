"""Delegating and undelegating ranges of granules.

The range commands may convert any part of what they are asked for, so both directions loop over the address they
answer. Contrary to the series, which passes one granule a call, whole physical runs are passed.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator

from hypervisor.arm.cca.rmi import Rmi, RmiFailure, command_name
from machine.memory import GRANULE_SIZE, NonSecureView
from rmm.abi import rmi as abi


def runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The physically contiguous runs of ``pages`` as (base, top), in the order given."""
    base = top = -1
    for pa in pages:
        if pa == top:
            top += GRANULE_SIZE
            continue
        if base >= 0:
            yield base, top
        base, top = pa, pa + GRANULE_SIZE
    if base >= 0:
        yield base, top


class PartialRange(RmiFailure):
    """Raised when a range could not be converted to its end: [base, ``reached``) was."""

    def __init__(self, cause: RmiFailure, reached: int) -> None:
        super().__init__(cause.errno, cause.x0, cause.command, f"stopped at {reached:#x}")
        self.reached = reached


def _convert(rmi: Rmi, fid: int, base: int, top: int) -> None:
    if base >= top or (base | top) & (GRANULE_SIZE - 1):
        raise RmiFailure(errno.EINVAL, 0, command_name(fid), f"bad range [{base:#x}, {top:#x})")
    cur = base
    while cur < top:
        try:
            reached = rmi.steps(fid, cur, top)[1]
            if not cur < reached <= top:
                raise RmiFailure(errno.EIO, 0, command_name(fid), f"no progress: {cur:#x} -> {reached:#x}")
        except RmiFailure as failure:
            raise PartialRange(failure, cur) from None
        cur = reached


def delegate(rmi: Rmi, base: int, top: int) -> None:
    """[base, top) becomes Realm PAS. PartialRange: what was converted stays converted."""
    _convert(rmi, abi.GRANULE_RANGE_DELEGATE, base, top)


def undelegate(rmi: Rmi, base: int, top: int) -> None:
    """[base, top) becomes Non-secure, its content zero. PartialRange: what was converted stays converted."""
    _convert(rmi, abi.GRANULE_RANGE_UNDELEGATE, base, top)


def reclaim(rmi: Rmi, ns: NonSecureView, pa: int) -> bool:
    """Make sure that the granule is Non-secure; False when the RMM does not let go of it.

    It may be Non-secure already: a record is written before the granule is delegated, and the process may have died in
    between. No call asks for a granule's state, but a probing load does (it takes a granule protection fault or not).
    """
    if ns.accessible(pa, GRANULE_SIZE):
        return True
    try:
        undelegate(rmi, pa, pa + GRANULE_SIZE)
    except RmiFailure:
        return False
    return True


def reclaim_range(rmi: Rmi, ns: NonSecureView, base: int, top: int) -> Iterator[int]:
    """As :func:`reclaim` for a range; yields the granules that stay with the RMM."""
    cur = base
    while cur < top:
        try:
            undelegate(rmi, cur, top)
            return
        except PartialRange as partial:
            cur = partial.reached
        if not ns.accessible(cur, GRANULE_SIZE):
            yield cur
        cur += GRANULE_SIZE
        while cur < top and ns.accessible(cur, GRANULE_SIZE):
            cur += GRANULE_SIZE
