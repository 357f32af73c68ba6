"""The EL1 physical and virtual timers, as pure functions of their registers and a counter value.

Enter at :func:`istatus` and :func:`level`. Counter and compare values are ticks modulo 2**64. The virtual timer
compares against the virtual count, the physical count minus CNTVOFF_EL2 (Arm ARM D11.2.4), which is 0 here.
"""

from __future__ import annotations

from typing import Final

ENABLE: Final = 1 << 0
IMASK: Final = 1 << 1
ISTATUS: Final = 1 << 2
#: CTL value of a timer that asserts its interrupt: ENABLE and ISTATUS, not IMASK.
ASSERTED: Final = ENABLE | ISTATUS


def istatus(ctl: int, cval: int, count: int) -> int:
    """CTL as read at ``count`` (the timer's own view of the counter): ISTATUS evaluated, 0 when disabled.

    ISTATUS of a disabled timer is UNKNOWN; it reads as 0 here. The comparison is unsigned (Arm ARM D11.2.4).
    """
    if ctl & ENABLE and count >= cval:
        return ctl & 3 | ISTATUS
    return ctl & 3


def level(ctl: int, cval: int, count: int) -> bool:
    """The timer's interrupt line at ``count``."""
    return ctl & 3 == ENABLE and count >= cval
