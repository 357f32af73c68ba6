"""The system counter: 62.5 MHz, the frequency that the CPU model reports in CNTFRQ_EL0.

Counter values are ticks since an arbitrary start, the same in every process of the machine (host monotonic time).
"""

from __future__ import annotations

import time

#: CNTFRQ_EL0, in Hz.
COUNTER_FREQUENCY = 62_500_000
#: Nanoseconds in a tick.
NS_PER_TICK = 1_000_000_000 // COUNTER_FREQUENCY


def now() -> int:
    """The physical counter, CNTPCT_EL0 (ticks)."""
    return time.monotonic_ns() // NS_PER_TICK


def ticks_to_ns(ticks: int) -> int:
    """A number of ticks as nanoseconds."""
    return ticks * NS_PER_TICK
