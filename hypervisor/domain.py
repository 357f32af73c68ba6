"""A domain, as the daemon knows it.

Its memory, its process and its place in the life cycle. The daemon's view is deliberately small: what the vCPUs do is
in the run state page, what the Realm owns is in the records in memory, and both outlive the domain's process.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from hypervisor.arm.cca.records import realm_state
from hypervisor.arm.cca.state import RealmState
from hypervisor.domain_process_handle import DomainProcessHandle
from hypervisor.pages import Extent
from hypervisor.refusal import Refusal
from hypervisor.rpc.messages import DomainInfo, ShutdownReason, VcpuInfo
from hypervisor.runstate import Runstate, VcpuRun
from machine.memory import NonSecureView

#: Guest physical address of RAM bank 0 and its size.
GUEST_RAM_BASE = 0x4000_0000
GUEST_RAM_BANK0 = 0xC000_0000


class GuestMemoryError(Exception):
    """Raised when an address range is not RAM of the domain, or no longer the host's to write."""


@dataclass
class Domain:
    """One row of the domain table.

    ``guest_pages`` holds the guest's RAM (base of bank 0 upwards), ``host_pages`` every other page given to the domain
    or its process. ``pause_count`` starts at 1: a domain is created paused. ``changed`` wakes whoever waits for it.
    """

    ns: NonSecureView
    domid: int
    uuid: str
    name: str
    max_vcpus: int
    max_memkb: int
    config: str
    vuart: bool
    wants_realm: bool
    trap_unmapped_accesses: bool
    guest_pages: list[Extent]
    host_pages: set[int]
    records_pa: int
    runstate_pa: int
    runstate: Runstate
    console_log: Path
    process: DomainProcessHandle | None = None
    created_ns: int = field(default_factory=time.time_ns)
    pause_count: int = 1
    was_unpaused: bool = False
    building: bool = False
    realm: bool = False
    dying: bool = False
    gone: bool = False
    console_seen: int = 0
    #: A look at the console is due within :data:`hypervisor.consoles.CONSOLE_INTERVAL`.
    console_look_due: bool = False
    shutdown_reason: ShutdownReason | None = None
    crash_reason: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    destroy_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def ram_size(self) -> int:
        """Bytes of guest RAM."""
        return sum(extent.size for extent in self.guest_pages)

    def notify(self) -> None:
        """Something about the domain changed: wake all waiters."""
        self.changed.set()
        self.changed = asyncio.Event()

    def guest_extents(self) -> list[tuple[int, int, int]]:
        """RAM as (gpa, pa, size), ascending and without holes."""
        gpa, rows = GUEST_RAM_BASE, []
        for extent in self.guest_pages:
            rows.append((gpa, extent.pa, extent.size))
            gpa += extent.size
        return rows

    def write(self, gpa: int, data: bytes) -> None:
        """Copy into guest RAM through the non-secure view; GuestMemoryError outside RAM, nothing written."""
        end = GUEST_RAM_BASE + self.ram_size
        if gpa < GUEST_RAM_BASE or gpa + len(data) > end:
            raise GuestMemoryError(
                f"[{gpa:#x}, {gpa + len(data):#x}) is not inside guest RAM [{GUEST_RAM_BASE:#x}, {end:#x})"
            )
        view = memoryview(data)
        for base, pa, size in self.guest_extents():
            low, high = max(gpa, base), min(gpa + len(data), base + size)
            if low < high:
                self.ns.write(pa + low - base, view[low - gpa : high - gpa])

    def live_process(self) -> DomainProcessHandle:
        """The domain's process, or the refusal ``crashed``."""
        if self.process is None or not self.process.alive:
            why = self.crash_reason or "its process is gone"
            raise Refusal("crashed", f"domain {self.domid}: {why}", "EIO")
        return self.process

    @property
    def realm_state(self) -> RealmState:
        """The host's view of the domain's Realm, from the records in memory."""
        return realm_state(self.ns, self.records_pa)

    @property
    def pid(self) -> int:
        """Process id of the domain's process, 0 when it has none."""
        return self.process.pid if self.process is not None and self.process.alive else 0

    def vcpus(self) -> list[VcpuInfo]:
        """Every vCPU's state and time, now."""
        alive = self.pid != 0 and self.shutdown_reason is None
        rows = []
        for number in range(self.max_vcpus):
            state, spent = self.runstate.read(number, alive)
            rows.append(
                VcpuInfo(
                    vcpu=number,
                    online=state is not VcpuRun.DOWN or (number == 0 and not self.was_unpaused),
                    blocked=state is VcpuRun.BLOCKED,
                    running=state is VcpuRun.RUNNING and self.pause_count == 0,
                    cpu=0,
                    cpu_time_ns=spent,
                )
            )
        return rows

    def info(self) -> DomainInfo:
        """The domain's row of ``xl list``."""
        vcpus = self.vcpus()
        online = [vcpu for vcpu in vcpus if vcpu.online]
        return DomainInfo(
            domid=self.domid,
            uuid=self.uuid,
            name=self.name,
            running=self.shutdown_reason is None and any(vcpu.running for vcpu in online),
            blocked=self.shutdown_reason is None and bool(online) and all(vcpu.blocked for vcpu in online),
            paused=self.pause_count > 0,
            shutdown=self.shutdown_reason is not None,
            dying=self.dying,
            shutdown_reason=None if self.shutdown_reason is None else int(self.shutdown_reason),
            outstanding_memkb=0,
            current_memkb=self.ram_size // 1024,
            max_memkb=self.max_memkb,
            cpu_time_ns=sum(vcpu.cpu_time_ns for vcpu in vcpus),
            vcpu_max_id=self.max_vcpus - 1,
            vcpu_online=len(online),
            created_ns=self.created_ns,
            realm=self.realm,
            realm_state=self.realm_state.name,
            vuart=self.vuart,
            pid=self.pid,
            crash_reason=self.crash_reason,
            config=self.config,
        )
