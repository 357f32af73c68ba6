"""A machine with a real engine and one plain guest on it, for tests: 4 MiB of RAM, its program at the start of it."""

from __future__ import annotations

from types import SimpleNamespace

import guest_asm as a

from hypervisor.arm.cca.ports import Extent, Level, ShutdownReason, VcpuContext, VcpuState
from hypervisor.arm.mmio import MmioMap
from hypervisor.arm.plain_guest import PlainGuest
from hypervisor.arm.vgic_v3 import VgicV3
from hypervisor.arm.vtimer import VcpuTimers
from hypervisor.pages import PageAllocator
from machine import clock
from machine.board import Board
from machine.cpu.engine import Engine
from machine.memory import PhysicalMemory

RAM = 0x4000_0000
SIZE = 4 << 20
VECTORS = RAM + 0x10_0000
EL1_SYNC = VECTORS + 0x200
#: A page for structures and results.
DATA = RAM + 0x20_0000
DEVICE = 0x2200_0000
SECOND_CPU = RAM + 0x8000

SYSTEM_OFF = 0x8400_0008
#: The end of a program: power off through HVC.
POWER_OFF = [*a.mov(0, SYSTEM_OFF), a.hvc()]


class Device:
    """An MMIO device of 4 KiB that remembers; register 0x100 refuses."""

    def __init__(self) -> None:
        self.value = 0
        self.accesses: list[tuple[str, int, int, int]] = []

    def read(self, offset: int, size: int, vcpu: int) -> int | None:
        self.accesses.append(("r", offset, size, vcpu))
        return None if offset == 0x100 else self.value

    def write(self, offset: int, size: int, value: int, vcpu: int) -> bool:
        self.accesses.append(("w", offset, size, value))
        return offset != 0x100


class PlainBoard:
    """The machine; :meth:`put` writes the guest's memory, :meth:`run` runs it until it has stopped."""

    def __init__(self, vcpus: int = 1) -> None:
        memory = PhysicalMemory.create(16 << 20)
        self.board = Board(memory)
        self.cpu = self.board.cpu = Engine(memory)
        self.pages = PageAllocator(self.board.ns)
        self.lines: list[tuple[Level, str]] = []
        self.reasons: list[ShutdownReason] = []
        extents, gpa = [], RAM
        for extent in self.pages.alloc_extents(SIZE):
            extents.append(Extent(gpa, extent.pa, extent.size))
            gpa += extent.size
        self.device = Device()
        mmio = MmioMap()
        mmio.add(DEVICE, 0x1000, "device", self.device)
        vgic = VgicV3(1, vcpus, 32)
        self.vgic = vgic
        self.guest = SimpleNamespace(
            domid=1, max_vcpus=vcpus, ram=extents, mmio=mmio, vgic=vgic, is_shutting_down=False,
            vtimers=[VcpuTimers(vgic, number) for number in range(vcpus)],
            vcpu_context=[VcpuContext(RAM, (DATA, 1, 2, 3))] + [VcpuContext()] * (vcpus - 1),
            shutdown=self._shutdown,
        )  # fmt: skip
        self.plain = PlainGuest(
            self.guest, "01234567-89ab-cdef-0123-456789abcdef", self.board, self.pages,
            lambda level, text: self.lines.append((level, text)), wall_clock=lambda: 1_700_000_000_500_000_000,
        )  # fmt: skip
        # Any exception at EL1 that a test does not handle: ESR, ELR and FAR to X20.., then the end.
        self.put(EL1_SYNC, a.mrs(20, "ESR_EL1"), a.mrs(21, "ELR_EL1"), a.mrs(22, "FAR_EL1"), POWER_OFF)

    def _shutdown(self, reason: ShutdownReason) -> None:
        if not self.guest.is_shutting_down:
            self.guest.is_shutting_down = True
            self.reasons.append(reason)

    def pa(self, gpa: int) -> int:
        found = self.plain.p2m.translate(gpa)
        assert found is not None
        return found.pa

    def put(self, gpa: int, *words: int | list[int]) -> None:
        """Instructions at ``gpa``."""
        self.board.ns.write(self.pa(gpa), a.code(*words))

    def program(self, *words: int | list[int]) -> None:
        """What vCPU 0 executes: vectors are set up first, and the machine is switched off at the end."""
        self.put(RAM, a.mov(9, VECTORS), a.msr("VBAR_EL1", 9), a.ISB, *words, POWER_OFF)

    def write(self, gpa: int, data: bytes) -> None:
        self.board.ns.write(self.pa(gpa), data)

    def read(self, gpa: int, size: int) -> bytes:
        return self.board.ns.read(self.pa(gpa), size)

    def word(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 8), "little")

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.lines]

    def run(self, turns: int = 2000) -> None:
        """Run the vCPUs in turn, each until its next exit, until the guest has shut down or all wait for ever."""
        vcpus = self.plain.vcpus
        for _ in range(turns):
            if self.guest.is_shutting_down:
                return
            ready = [vcpu for vcpu in vcpus if vcpu.state <= VcpuState.YIELDED or vcpu.poll()]
            for vcpu in ready:
                # A guest that never comes back fails the test instead of hanging it.
                self.cpu.set_deadline(clock.now() + clock.COUNTER_FREQUENCY // 20)
                vcpu.run_once()
            if not ready:
                deadlines = [at for at in (vcpu.deadline for vcpu in vcpus) if at is not None]
                if not deadlines:
                    return
                self.cpu.wait(min(deadlines))
        raise AssertionError(f"the guest has not stopped; log: {self.texts}")

    def close(self) -> None:
        self.cpu.close()
