"""GRANULE_TRACKING_GET, GPT_L1_CREATE, GRANULE_RANGE_DELEGATE and GRANULE_RANGE_UNDELEGATE (B3.1)."""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING

from machine.memory import GRANULE_SHIFT, Pas
from rmm import ns_mappings
from rmm.abi.registers import MemCategory, TrackingState
from rmm.abi.rmi import Status
from rmm.granules import PA_WIDTH, TRACKING_SHIFT, GranuleState
from rmm.rmi import ANY_STATE, command

if TYPE_CHECKING:
    from rmm.monitor import Monitor

_MASK = 0xFFF
_REGION_MASK = (1 << TRACKING_SHIFT) - 1
_TOUCHED_RUN = re.compile(rb"\x01+")


@command("RMI_GRANULE_TRACKING_GET", states=ANY_STATE)
def granule_tracking_get(rmm: Monitor, start: int, end: int) -> int | tuple[int, int, int, int]:
    """Memory category and tracking state at ``start``, and how far they reach.

    Regions that hold DRAM are conventional memory and tracked FINE, all others conventional and NONE.
    """
    if (start | end) & _MASK or start >> PA_WIDTH or end >> PA_WIDTH or start >= end:
        return Status.ERROR_INPUT
    granules = rmm.granules
    if granules.is_tracked(start):
        return Status.SUCCESS, MemCategory.CONVENTIONAL, TrackingState.FINE, min(granules.tracked_top, end)
    top = granules.tracked_base if start < granules.tracked_base < end else end
    return Status.SUCCESS, MemCategory.CONVENTIONAL, TrackingState.NONE, top


@command("RMI_GPT_L1_CREATE")
def gpt_l1_create(rmm: Monitor, base: int) -> int:
    """ERROR_GPT: the platform built the level-1 tables of all regions at power-on, as TF-RMM finds them."""
    if base >> PA_WIDTH or base & _REGION_MASK:
        return Status.ERROR_INPUT
    return Status.ERROR_GPT


def _leading_run(rmm: Monitor, base: int, top: int, state: int) -> tuple[int, int]:
    """(x0, count): how many granules of [base, top) are in ``state`` before the first that is not; x0 when none is."""
    if (base | top) & _MASK or base >= top:
        return Status.ERROR_INPUT, 0
    refused = rmm.granules.refusal(base, state)
    if refused:
        return refused, 0
    end = min(top, rmm.memory.dram_top)
    count = min((end - base) >> GRANULE_SHIFT, rmm.options.range_granules)
    return Status.SUCCESS, rmm.granules.run_length(base, count, state)


@command("RMI_GRANULE_RANGE_DELEGATE")
def granule_range_delegate(rmm: Monitor, base: int, top: int) -> tuple[int, int]:
    """Move the leading host granules of [base, top) to the Realm PAS; out: the first address not moved."""
    refused, count = _leading_run(rmm, base, top, GranuleState.UNDELEGATED)
    if refused:
        return refused, base
    with rmm.commit() as txn:
        ns_mappings.withdraw(rmm, txn, base, count)
        txn.set_states(base, count, GranuleState.DELEGATED)
        txn.set_pas(base, count, Pas.REALM)
    rmm.invalidate_code(base, count << GRANULE_SHIFT)
    return Status.SUCCESS, base + (count << GRANULE_SHIFT)


@command("RMI_GRANULE_RANGE_UNDELEGATE")
def granule_range_undelegate(rmm: Monitor, base: int, top: int) -> tuple[int, int]:
    """Scrub the leading unused granules of [base, top) and give them back to the host."""
    refused, count = _leading_run(rmm, base, top, GranuleState.DELEGATED)
    if refused:
        return refused, base
    _scrub(rmm, base, count)
    with rmm.commit() as txn:
        txn.set_states(base, count, GranuleState.UNDELEGATED)
        txn.set_pas(base, count, Pas.NON_SECURE)
        ns_mappings.restore(rmm, txn, base, count)
    rmm.invalidate_code(base, count << GRANULE_SHIFT)
    return Status.SUCCESS, base + (count << GRANULE_SHIFT)


def _scrub(rmm: Monitor, base: int, count: int) -> None:
    """Zero what is not known to be zero, run by run."""
    memory = rmm.memory
    first = (base - memory.dram_base) >> GRANULE_SHIFT
    touched = memory.touched[first : first + count]
    for run in _TOUCHED_RUN.finditer(bytes(touched)):
        start, end = run.span()
        ctypes.memset(memory.address + ((first + start) << GRANULE_SHIFT), 0, (end - start) << GRANULE_SHIFT)
        touched[start:end] = bytes(end - start)
