"""A small machine, a guest of eight pages, and a log that can be read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypervisor.arm.cca.bringup import CcaHost, bring_up
from hypervisor.arm.cca.build import HostAccess, finalize
from hypervisor.arm.cca.ports import Extent, Level, VcpuContext
from hypervisor.arm.mmio import MmioMap
from hypervisor.arm.vgic_v3 import VgicV3
from hypervisor.arm.vtimer import VcpuTimers
from hypervisor.pages import PageAllocator
from machine.board import Board
from machine.cpu.scripted import ScriptedCpu
from machine.memory import GRANULE_SIZE, PhysicalMemory

RAM_BASE = 0x4000_0000
BASE_GFN = RAM_BASE // GRANULE_SIZE


class LogLines(list):
    """``log(level, text)`` that remembers."""

    def __call__(self, level: Level, text: str) -> None:
        self.append((level, text))

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self]


class Host:
    """A machine with its page allocator, log, and the guests made on it."""

    def __init__(self, *, firmware: str | None = None, dram: int = 16 << 20, **options: Any) -> None:
        self.memory = PhysicalMemory.create(dram)
        self.board = Board(self.memory, ScriptedCpu())
        if firmware:
            self.board.load_firmware(firmware, **options)
        self.ns = self.board.ns
        self.pages = PageAllocator(self.ns)
        self.log = LogLines()
        self.cca = CcaHost()

    @property
    def smc(self):
        return self.board.smc

    @smc.setter
    def smc(self, handler) -> None:
        self.board.smc = handler

    def bring_up(self) -> CcaHost:
        self.cca = bring_up(self.board.smc, self.ns, self.pages, self.log)
        return self.cca

    def delegated(self) -> int:
        """Granules of DRAM that are in the Realm PAS."""
        return bytes(self.memory.gpt[: self.memory.dram_size >> 12]).count(1)

    def access(self, smc=None) -> HostAccess:
        return HostAccess(smc or self.board.smc, self.ns, self.pages, self.log)

    def guest(self, pages: int = 8, vcpus: int = 2) -> SimpleNamespace:
        """An ordinary domain, its RAM in two extents with something in the first and the last page."""
        taken = sorted(self.pages.alloc(pages + 1))
        half = pages // 2
        first, second = taken[:half], taken[half + 1 :]
        self.pages.free([taken[half]])
        ram = [
            Extent(RAM_BASE, first[0], half * GRANULE_SIZE),
            Extent(RAM_BASE + half * GRANULE_SIZE, second[0], (pages - half) * GRANULE_SIZE),
        ]
        self.ns.write(first[0], b"kernel")
        self.ns.write(second[-1], b"ramdisk")
        vgic = VgicV3(1, vcpus, 32)
        vgic.set_forwarding(True)
        guest = SimpleNamespace(
            domid=1, max_vcpus=vcpus, ram=ram, has_vuart=False, mmio=MmioMap(), vgic=vgic,
            vcpu_context=[VcpuContext(RAM_BASE, (0x4800_0000, 0, 0, 0))] + [VcpuContext()] * (vcpus - 1),
            vtimers=[VcpuTimers(vgic, number) for number in range(vcpus)],
            is_shutting_down=False, is_hardware_domain=False, is_hvm=True, is_32bit=False, gic_version=3,
            was_unpaused=False, sve=False, vpmu=False, total_pages=pages + 4, removed=[], reasons=[],
        )
        guest.remove_from_p2m = lambda gpa, size: guest.removed.append((gpa, size))

        def shutdown(reason) -> None:
            guest.reasons.append(reason)
            guest.is_shutting_down = True

        guest.shutdown = shutdown
        guest.root_pa = self.pages.alloc(1)[0]
        return guest

    def finalize(self, guest: SimpleNamespace, smc=None, pages: int = 8, **options: Any) -> list:
        """Build the guest's Realm to its end; the progress it made."""
        return list(finalize(guest, self.access(smc), self.cca, guest.root_pa, BASE_GFN, pages, **options))
