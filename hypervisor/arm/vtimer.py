"""The EL1 timers of a vCPU as the host follows them: their lines into the vGIC, and when a waiting vCPU must wake.

Enter at :class:`VcpuTimers`. The timers themselves run inside the processing element (for a Realm the RMM owns them);
after every exit the host is told their registers with :meth:`VcpuTimers.update`. While the vCPU waits nobody evaluates
them, so the host arms its own timer at :meth:`VcpuTimers.deadline` and calls :meth:`VcpuTimers.expire` then.

Counter values are ticks of the physical counter. A Realm's compare values are taken as such, as the Xen series does; a
plain guest's virtual timer lies ``virtual_offset`` behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from machine.generic_timer import ASSERTED, ENABLE, IMASK, ISTATUS

VIRTUAL_TIMER_PPI: Final = 27
PHYSICAL_TIMER_PPI: Final = 30

_MASK64: Final = (1 << 64) - 1
_SIGN64: Final = 1 << 63


class InterruptLines(Protocol):
    """What the timers need of the interrupt controller (:class:`hypervisor.arm.vgic_v3.VgicV3`)."""

    def set_irq_line(self, intid: int, level: bool, vcpu: int = 0) -> None:
        """Drive the input of a PPI of ``vcpu``."""


class VcpuTimers:
    """The physical timer (PPI 30), the virtual timer (PPI 27) and the WFxT timeout of one vCPU."""

    __slots__ = ("_lines", "_vcpu", "_virtual_offset", "cntp_ctl", "cntp_cval", "cntp_level", "cntv_ctl", "cntv_cval",
                 "cntv_level", "wfxt")

    def __init__(self, lines: InterruptLines, vcpu: int, virtual_offset: int = 0) -> None:
        self._lines = lines
        self._vcpu = vcpu
        self._virtual_offset = virtual_offset
        self.cntp_ctl = self.cntp_cval = 0
        self.cntv_ctl = self.cntv_cval = 0
        self.cntp_level = self.cntv_level = False
        #: The counter value that a timed WFE or WFI waits for; None outside one.
        self.wfxt: int | None = None

    def update(self, cntp_ctl: int, cntp_cval: int, cntv_ctl: int, cntv_cval: int) -> None:
        """After an exit: store the registers and drive both lines (physical first).

        A line is up when ENABLE and ISTATUS are set and IMASK is clear.
        """
        self.cntp_ctl = cntp_ctl
        self.cntp_cval = cntp_cval
        self.cntv_ctl = cntv_ctl
        self.cntv_cval = cntv_cval
        if (cntp_ctl & 7 == ASSERTED) != self.cntp_level:
            self._drive_physical()
        if (cntv_ctl & 7 == ASSERTED) != self.cntv_level:
            self._drive_virtual()

    def deadline(self) -> int | None:
        """The nearest counter value at which something wakes the waiting vCPU; None if only an event can.

        Counts are a timed wait, and the timers that are enabled, not masked and not expired. It may lie in the past:
        then :meth:`expire` is due at once.
        """
        nearest = self.wfxt
        if self.cntp_ctl & 7 == ENABLE and (nearest is None or self.cntp_cval < nearest):
            nearest = self.cntp_cval
        if self.cntv_ctl & 7 == ENABLE:
            at = self.cntv_cval + self._virtual_offset
            if nearest is None or at < nearest:
                nearest = at
        return nearest

    def expire(self, count: int) -> bool:
        """The counter reached ``count``: set ISTATUS where the condition is met and drive the lines anew.

        True if a timed wait is over (it is then forgotten). A masked timer gets its ISTATUS too; its line stays down.
        """
        if self.cntp_ctl & ENABLE and not self.cntp_ctl & ISTATUS and count >= self.cntp_cval:
            self.cntp_ctl |= ISTATUS
            if not self.cntp_ctl & IMASK:
                self._drive_physical()
        if self.cntv_ctl & ENABLE and not self.cntv_ctl & ISTATUS and count >= self.cntv_cval + self._virtual_offset:
            self.cntv_ctl |= ISTATUS
            if not self.cntv_ctl & IMASK:
                self._drive_virtual()
        if self.wfxt is not None and reached(count, self.wfxt):
            self.wfxt = None
            return True
        return False

    def start_wait(self, timeout: int, count: int) -> bool:
        """WFxT until the counter reaches ``timeout``; False if that has passed already (nothing is armed then)."""
        if reached(count, timeout):
            return False
        self.wfxt = timeout
        return True

    def stop_wait(self) -> None:
        """The vCPU goes on: a timed wait, if any, is over."""
        self.wfxt = None

    def _drive_physical(self) -> None:
        self.cntp_level = self.cntp_ctl & 7 == ASSERTED
        self._lines.set_irq_line(PHYSICAL_TIMER_PPI, self.cntp_level, self._vcpu)

    def _drive_virtual(self) -> None:
        self.cntv_level = self.cntv_ctl & 7 == ASSERTED
        self._lines.set_irq_line(VIRTUAL_TIMER_PPI, self.cntv_level, self._vcpu)


def reached(count: int, timeout: int) -> bool:
    """True if the counter is at or past ``timeout``, as a signed 64-bit difference (WFxT)."""
    return not (count - timeout & _MASK64) & _SIGN64


def nearest_deadline(timers: Iterable[VcpuTimers]) -> int | None:
    """The nearest :meth:`VcpuTimers.deadline` of several waiting vCPUs."""
    return min((at for at in (timer.deadline() for timer in timers) if at is not None), default=None)
