"""The EL1 physical and virtual timers, as pure functions of their registers and a counter value.

Enter at :func:`istatus`, :func:`level` and :func:`deadline`; :class:`GenericTimer` keeps one timer's registers. Counter
values, compare values and offsets are ticks modulo 2**64. The virtual timer compares against the virtual count, which
is the physical count minus CNTVOFF_EL2 (Arm ARM D11.2.4); the physical timer has offset 0.
"""

from __future__ import annotations

from typing import Final

ENABLE: Final = 1 << 0
IMASK: Final = 1 << 1
ISTATUS: Final = 1 << 2
#: CTL value of a timer that asserts its interrupt: ENABLE and ISTATUS, not IMASK.
ASSERTED: Final = ENABLE | ISTATUS
_MASK64: Final = (1 << 64) - 1


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


def asserted(ctl: int) -> bool:
    """The interrupt line that a CTL value with ISTATUS already evaluated describes."""
    return ctl & 7 == ASSERTED


def deadline(ctl: int, cval: int, count: int) -> int | None:
    """The count at which the line rises next; None when the timer is off, masked, or its line is up already."""
    if ctl & 3 != ENABLE or count >= cval:
        return None
    return cval


class GenericTimer:
    """The registers of one EL1 timer.

    ``ctl`` holds ENABLE and IMASK, ``cval`` the compare value, ``offset`` the ticks that the timer's counter lies
    behind the physical one. Methods take the *physical* count.
    """

    __slots__ = ("ctl", "cval", "offset")

    def __init__(self, offset: int = 0) -> None:
        self.ctl = 0
        self.cval = 0
        self.offset = offset & _MASK64

    def count(self, physical: int) -> int:
        """The counter as this timer sees it."""
        return physical - self.offset & _MASK64

    def read_ctl(self, physical: int) -> int:
        """CNTx_CTL_EL0, with ISTATUS."""
        return istatus(self.ctl, self.cval, self.count(physical))

    def write_ctl(self, value: int) -> None:
        """CNTx_CTL_EL0; ISTATUS is read-only."""
        self.ctl = value & (ENABLE | IMASK)

    def write_cval(self, value: int) -> None:
        """CNTx_CVAL_EL0."""
        self.cval = value & _MASK64

    def read_tval(self, physical: int) -> int:
        """CNTx_TVAL_EL0: the low 32 bits of what is left until the compare value (negative once it has passed)."""
        return self.cval - self.count(physical) & 0xFFFF_FFFF

    def write_tval(self, value: int, physical: int) -> None:
        """CNTx_TVAL_EL0: the compare value becomes the count plus the signed 32-bit value."""
        value &= 0xFFFF_FFFF
        if value & 0x8000_0000:
            value -= 1 << 32
        self.cval = self.count(physical) + value & _MASK64

    def level(self, physical: int) -> bool:
        """The interrupt line."""
        return level(self.ctl, self.cval, self.count(physical))

    def deadline(self, physical: int) -> int | None:
        """The *physical* count at which the line rises next; None when it will not by itself or is up.

        A compare value that the offset puts beyond the end of the physical counter is never reached: None.
        """
        remaining = deadline(self.ctl, self.cval, self.count(physical))
        if remaining is None:
            return None
        at = physical + (remaining - self.count(physical))
        return at if at <= _MASK64 else None
