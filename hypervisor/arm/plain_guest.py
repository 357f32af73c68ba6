"""A domain that is no Realm, about to run: its stage-2 tables, its vCPUs, and what hypercalls act on.

Enter at :class:`PlainGuest`. Everything it allocates comes from the domain's pages, which the daemon takes back when
the domain ends: there is nothing to tear down in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

from hypervisor.arm.cca.ports import HostPages, Log, RealmGuest
from hypervisor.arm.event_channels import EVENT_PPI, EventChannels
from hypervisor.arm.guest_memory import GuestMemory
from hypervisor.arm.guest_vcpu import Element, GuestVcpu
from hypervisor.arm.hypercalls import Hypercalls
from hypervisor.arm.p2m import P2m
from hypervisor.arm.physmap import Physmap
from machine import clock as system_clock
from machine.board import Board
from machine.memory import GRANULE_SIZE

#: Pages besides RAM that libxl's domain builder populates: console, XenStore, monitor and vuart ring.
MAGIC_BASE: Final = 0x3900_0000
MAGIC_PAGES: Final = 4
#: Pages of the p2m pool that libxl gives a guest.
TABLES_PER_VCPU: Final = 256
TABLES_PER_MIB: Final = 2


class PlainGuest:
    """The hypervisor's side of a plain guest. ``vcpus`` are for the scheduler; vCPU 0 is runnable.

    ``clock`` is the physical counter, ``wall_clock`` the time in ns since 1970.

    :raises MemoryError: when the host has no pages for tables and special pages.
    """

    def __init__(
        self,
        guest: RealmGuest,
        uuid: str,
        board: Board,
        pages: HostPages,
        log: Log,
        clock: Callable[[], int] = system_clock.now,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        cpu = board.cpu
        assert cpu is not None
        self.guest = guest
        ram = sum(extent.size for extent in guest.ram)
        self.p2m = P2m(board.ns, pages, cpu.flush_tlb, guest.max_vcpus * TABLES_PER_VCPU + (ram >> 20) * TABLES_PER_MIB)
        for extent in guest.ram:
            self.p2m.map(extent.gpa, extent.pa, extent.size)
        for number, page in enumerate(pages.alloc(MAGIC_PAGES)):
            self.p2m.map(MAGIC_BASE + number * GRANULE_SIZE, page, GRANULE_SIZE)
        physmap = Physmap(pages, self.p2m)
        self.events = EventChannels(
            board.ns, physmap.shared_info, guest.max_vcpus, self._drive_event_line, self._wake_pollers
        )
        self.events.set_wall_clock(wall_clock())
        memory = GuestMemory(board.ns, cpu, self.p2m)
        self.hypercalls = Hypercalls(guest, UUID(uuid).bytes, memory, physmap, self.events, log)
        element = Element(cpu)
        self.vcpus: list[GuestVcpu] = []
        for number in range(guest.max_vcpus):
            self.vcpus.append(GuestVcpu(self, number, element, self.vcpus, log, clock))

    def _drive_event_line(self, vcpu: int, level: bool) -> None:
        self.guest.vgic.set_irq_line(EVENT_PPI, level, vcpu)

    def _wake_pollers(self, port: int) -> None:
        for vcpu in self.vcpus:
            if port in vcpu.polled:
                vcpu.wake()
