"""What the host side of CCA needs of the rest of the hypervisor, as protocols, and the few types that cross.

The daemon and the domain's process implement these; nothing here knows how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from hypervisor.arm.mmio import MmioMap
from hypervisor.arm.vgic_v3 import VgicV3
from hypervisor.arm.vtimer import VcpuTimers


class Level(IntEnum):
    """Severity of a line in the hypervisor log; the GUEST ones are of Xen's rate-limited guest class."""

    ERR = 0
    INFO = 1
    GUEST_ERR = 2
    GUEST_INFO = 3


#: ``log(level, text)``: one line of the hypervisor log, without the "(XEN) " prefix and without a final newline.
Log = Callable[[Level, str], None]


class Extent(NamedTuple):
    """A run of guest RAM that is contiguous in both spaces: guest address, physical address, size in bytes."""

    gpa: int
    pa: int
    size: int


class Progress(NamedTuple):
    """How far a restartable operation is: its phase, and units done of the phase's total."""

    phase: str
    done: int
    total: int


class VcpuState(IntEnum):
    """What a vCPU does after an iteration of its loop."""

    #: Wants the CPU again at once.
    RUNNABLE = 0
    #: Gave the rest of its turn away (WFE).
    YIELDED = 1
    #: Waits for an interrupt or for its ``deadline``.
    BLOCKED = 2
    #: Off (never turned on, or CPU_OFF); a CPU_ON of another vCPU changes that.
    DOWN = 3
    #: Stopped for good: the domain is shutting down.
    PARKED = 4


class ShutdownReason(IntEnum):
    """Xen's SHUTDOWN_* codes that a Realm can end with."""

    POWEROFF = 0
    REBOOT = 1
    CRASH = 3


class VcpuContext(NamedTuple):
    """The registers that the toolstack prepared for a vCPU; all zero for a secondary one."""

    pc: int = 0
    x: Sequence[int] = (0, 0, 0, 0)


class HostPages(Protocol):
    """The host's page allocator as a domain (or the daemon) sees it.

    A page that was handed out and is in no record of the domain was never delegated: the allocator may take it back
    when the domain is gone.
    """

    def alloc(self, count: int = 1) -> list[int]:
        """``count`` zeroed Non-secure pages, in no order; MemoryError (and nothing taken) when there are fewer."""

    def free(self, pages: Iterable[int], /) -> None:
        """Give pages back; none of them is delegated."""


class RealmGuest(Protocol):
    """A domain that is a Realm, or is to become one."""

    domid: int
    max_vcpus: int
    #: RAM in ascending guest address order.
    ram: Sequence[Extent]
    has_vuart: bool
    vcpu_context: Sequence[VcpuContext]
    mmio: MmioMap
    vgic: VgicV3
    #: The timers of each vCPU; the REC loop feeds them from every exit.
    vtimers: Sequence[VcpuTimers]
    #: Set once the domain shuts down, whoever started it.
    is_shutting_down: bool
    # What validation looks at.
    is_hardware_domain: bool
    is_hvm: bool
    is_32bit: bool
    gic_version: int
    was_unpaused: bool
    sve: bool
    vpmu: bool
    #: Pages that the domain owns, magic pages included.
    total_pages: int

    def remove_from_p2m(self, gpa: int, size: int) -> None:
        """Drop every mapping the host keeps of this part of guest RAM: it is about to leave the Non-secure world."""

    def shutdown(self, reason: ShutdownReason, /) -> None:
        """The domain shuts down with ``reason``."""
