"""Event channels of a plain guest, and the page it shares with the hypervisor: Xen's two-level interface for Arm.

Enter at :class:`EventChannels`. A port that becomes pending sets its bit in the shared page and, when it is not masked,
the selector and the upcall flag in the ``vcpu_info`` of the vCPU it notifies. The flag holds that vCPU's event PPI up
until the guest clears it. There is no other domain to talk to: ports are for virtual interrupts, for IPIs, and unbound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from machine.memory import NonSecureView

EVENT_PPI: Final = 31
#: Ports of the two-level interface with 64-bit words.
NR_PORTS: Final = 64 * 64

# struct shared_info of a 64-bit Arm guest: vcpu_info of vCPU 0, pending and mask words, wall clock.
VCPU_INFO_SIZE: Final = 48
_PENDING: Final = 48
_MASK: Final = 560
_WALL_CLOCK: Final = 1072
#: An odd version would mean that it is being changed.
_WALL_CLOCK_VERSION: Final = 2
# struct vcpu_info.
_UPCALL_PENDING: Final = 0
_PENDING_SEL: Final = 8

STATUS_CLOSED, STATUS_UNBOUND, STATUS_VIRQ, STATUS_IPI = 0, 1, 4, 5


@dataclass(slots=True)
class Port:
    """An open port: one of the STATUS kinds, the vCPU it notifies, and the VIRQ number or the remote domain."""

    status: int
    vcpu: int = 0
    detail: int = 0


class EventChannels:
    """The ports of one domain. ``shared_info`` is the physical address of the shared page.

    ``set_line(vcpu, level)`` drives the event PPI of a vCPU; ``wake(vcpu)`` tells of every vCPU's port that becomes
    pending, masked or not (for SCHEDOP_poll).
    """

    def __init__(
        self,
        ns: NonSecureView,
        shared_info: int,
        max_vcpus: int,
        set_line: Callable[[int, bool], None],
        wake: Callable[[int], None],
    ) -> None:
        self._ns = ns
        self.shared_info = shared_info
        self._set_line = set_line
        self._wake = wake
        #: Physical address of each vCPU's vcpu_info; vCPU 0's is in the shared page until it registers one.
        self._info: list[int | None] = [shared_info] + [None] * (max_vcpus - 1)
        self._registered = [False] * max_vcpus
        self._raised = [False] * max_vcpus
        self.ports: dict[int, Port] = {}

    def set_wall_clock(self, ns_since_1970: int) -> None:
        """The time at which the guest starts. To be called before it runs: a guest that reads would see it halfway."""
        seconds, nanoseconds = divmod(ns_since_1970, 1_000_000_000)
        base = self.shared_info + _WALL_CLOCK
        self._ns.write_u64(base + 8, nanoseconds | seconds >> 32 << 32)
        self._ns.write_u64(base, _WALL_CLOCK_VERSION | (seconds & 0xFFFF_FFFF) << 32)

    # Ports.

    def open(self, port: Port) -> int | None:
        """The number of a new port; None when all are taken."""
        number = next((number for number in range(1, NR_PORTS) if number not in self.ports), None)
        if number is not None:
            self.ports[number] = port
        return number

    def close(self, number: int) -> bool:
        """False for a port that is not open."""
        if self.ports.pop(number, None) is None:
            return False
        self._clear(_PENDING, number)
        return True

    def is_pending(self, number: int) -> bool:
        """Whether the port's bit is set."""
        return bool(self._ns.read_u64(self._word(_PENDING, number)) >> number % 64 & 1)

    def any_pending(self, numbers: Iterable[int]) -> bool:
        """Whether one of the ports is pending."""
        return any(self.is_pending(number) for number in numbers)

    def raise_port(self, number: int) -> None:
        """The port becomes pending; its vCPU is notified unless the guest masked it."""
        port = self.ports[number]
        at = self._word(_PENDING, number)
        bits = self._ns.read_u64(at)
        if bits >> number % 64 & 1:
            return
        self._ns.write_u64(at, bits | 1 << number % 64)
        self._wake(number)
        if not self._ns.read_u64(self._word(_MASK, number)) >> number % 64 & 1:
            self._notify(port.vcpu, number)

    def unmask(self, number: int) -> None:
        """Clear the port's mask bit, and notify its vCPU of what came meanwhile."""
        self._clear(_MASK, number)
        if self.is_pending(number):
            self._notify(self.ports[number].vcpu, number)

    def _notify(self, vcpu: int, number: int) -> None:
        info = self._info[vcpu]
        if info is not None:
            at = info + _PENDING_SEL
            self._ns.write_u64(at, self._ns.read_u64(at) | 1 << number // 64)
            self._upcall(vcpu, info)

    def _upcall(self, vcpu: int, info: int) -> None:
        self._ns.write(info + _UPCALL_PENDING, b"\1")
        self._raised[vcpu] = True
        self._set_line(vcpu, True)

    def sample(self, vcpu: int) -> None:
        """After the vCPU ran: its event PPI goes down once the guest has cleared the upcall flag."""
        if self._raised[vcpu]:
            info = self._info[vcpu]
            if info is None or not self._ns.read(info + _UPCALL_PENDING, 1)[0]:
                self._raised[vcpu] = False
                self._set_line(vcpu, False)

    # vCPUs.

    def register_vcpu_info(self, vcpu: int, pa: int) -> bool:
        """Move the vCPU's vcpu_info to ``pa``, for good; False when it has been moved before.

        As in Xen everything is marked pending then, so that no event is lost on the way.
        """
        if self._registered[vcpu]:
            return False
        before = self._info[vcpu]
        if before is not None:
            self._ns.write(pa, self._ns.read(before, VCPU_INFO_SIZE))
        self._registered[vcpu] = True
        self._info[vcpu] = pa
        self._ns.write_u64(pa + _PENDING_SEL, (1 << 64) - 1)
        self._upcall(vcpu, pa)
        return True

    def _word(self, table: int, number: int) -> int:
        return self.shared_info + table + 8 * (number // 64)

    def _clear(self, table: int, number: int) -> None:
        at = self._word(table, number)
        self._ns.write_u64(at, self._ns.read_u64(at) & ~(1 << number % 64))
