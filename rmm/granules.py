"""The granule table: what each DRAM granule is used for (DEN0137 2.0-bet1, granule states).

:class:`GranuleTable` reads it; only a committed transaction (:mod:`rmm.commit`) writes it.
"""

from __future__ import annotations

from enum import IntEnum

from machine.memory import GRANULE_SHIFT, GRANULE_SIZE, PhysicalMemory
from rmm.abi.rmi import Status, result

_OFFSET_MASK = GRANULE_SIZE - 1
#: log2 of the size of a tracking region: 1 GiB, the only size of the 4 KiB configuration.
TRACKING_SHIFT = 30
#: Physical address width (feature register 1, PPS 48 bits).
PA_WIDTH = 48


class GranuleState(IntEnum):
    """State of a granule. INTERNAL is the RMM's own memory and everything that is not DRAM."""

    UNDELEGATED = 0
    DELEGATED = 1
    RD = 2
    REC = 3
    REC_AUX = 4
    DATA = 5
    RTT = 6
    PARTIAL = 7
    INTERNAL = 8


class GranuleTable:
    """Granule states by physical address. ``states`` is the raw table, indexed by DRAM granule number.

    The tracking regions in [``tracked_base``, ``tracked_top``) hold DRAM and are tracked FINE, all others are not.
    """

    def __init__(self, memory: PhysicalMemory, states: memoryview) -> None:
        self.states = states
        self.base = memory.dram_base
        self.size = memory.dram_size
        self.tracked_base = memory.dram_base >> TRACKING_SHIFT << TRACKING_SHIFT
        self.tracked_top = ((memory.dram_top - 1 >> TRACKING_SHIFT) + 1) << TRACKING_SHIFT

    def index(self, pa: int) -> int:
        """Number of the DRAM granule that holds ``pa``."""
        return (pa - self.base) >> GRANULE_SHIFT

    def state(self, pa: int) -> GranuleState:
        """State of the granule that holds ``pa``; INTERNAL outside DRAM."""
        offset = pa - self.base
        if 0 <= offset < self.size:
            return GranuleState(self.states[offset >> GRANULE_SHIFT])
        return GranuleState.INTERNAL

    def has_state(self, pa: int, state: int) -> bool:
        """Whether ``pa`` is the aligned address of a DRAM granule in that state."""
        offset = pa - self.base
        return 0 <= offset < self.size and not pa & _OFFSET_MASK and self.states[offset >> GRANULE_SHIFT] == state

    def is_ns(self, pa: int) -> bool:
        """Whether ``pa`` is the aligned address of a granule that belongs to the host."""
        offset = pa - self.base
        return 0 <= offset < self.size and not pa & _OFFSET_MASK and not self.states[offset >> GRANULE_SHIFT]

    def is_tracked(self, pa: int) -> bool:
        """Whether ``pa`` lies in a tracking region in state FINE."""
        return self.tracked_base <= pa < self.tracked_top

    def refusal(self, pa: int, state: int) -> int:
        """x0 of a command whose argument ``pa`` has to be a granule in that state; 0 (SUCCESS) when it is.

        Order: granule alignment and physical address width (ERROR_INPUT), tracking (ERROR_TRACKING), state
        (ERROR_INPUT).
        """
        offset = pa - self.base
        if 0 <= offset < self.size and not pa & _OFFSET_MASK:
            return 0 if self.states[offset >> GRANULE_SHIFT] == state else Status.ERROR_INPUT
        if pa & _OFFSET_MASK or pa >> PA_WIDTH or self.is_tracked(pa):
            return Status.ERROR_INPUT
        return self.tracking_error(pa)

    def tracking_error(self, pa: int) -> int:
        """x0 of ERROR_TRACKING: level 1 (the size of a tracking region) in bits [15:8], the granule above it."""
        return result(Status.ERROR_TRACKING, 1 | (pa >> GRANULE_SHIFT) << 8)

    def run_length(self, pa: int, count: int, state: int) -> int:
        """How many of the ``count`` DRAM granules from ``pa`` on are in ``state`` before the first that is not."""
        first = self.index(pa)
        chunk = bytes(self.states[first : first + count])
        return len(chunk) - len(chunk.lstrip(bytes([state])))
