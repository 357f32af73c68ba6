"""A domain inside its own process: its RAM, its vCPUs' registers at start, and the devices that a vCPU meets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hypervisor.arm.cca.ports import Extent, ShutdownReason, VcpuContext
from hypervisor.arm.mmio import MmioMap
from hypervisor.arm.vgic_dist import GICD_BASE, GICD_SIZE
from hypervisor.arm.vgic_redist import GICR_BASE, GICR_SIZE
from hypervisor.arm.vgic_v3 import VUART_SPI, VgicV3
from hypervisor.arm.vtimer import VcpuTimers
from vuart.history import ConsoleLog
from vuart.sbsa_uart import SbsaUart

VUART_BASE = 0x2200_0000
VUART_SIZE = 0x1000


class _UartRegion:
    """The UART as an MMIO region."""

    def __init__(self, uart: SbsaUart) -> None:
        self._uart = uart

    def read(self, offset: int, size: int, vcpu: int) -> int | None:
        return self._uart.read(offset, size)

    def write(self, offset: int, size: int, value: int, vcpu: int) -> bool:
        return self._uart.write(offset, size, value)


class Guest:
    """The domain, with GIC and (when it has one) VUART at Xen's guest addresses."""

    is_hardware_domain = False
    is_hvm = True
    is_32bit = False
    gic_version = 3
    sve = False
    vpmu = False

    def __init__(
        self,
        domid: int,
        max_vcpus: int,
        ram: Sequence[Extent],
        has_vuart: bool,
        trap_unmapped_accesses: bool,
        console_log: Path,
        on_output: Callable[[], None],
        on_shutdown: Callable[[ShutdownReason], None],
        log: Callable[[str], None],
    ) -> None:
        self.domid = domid
        self.max_vcpus = max_vcpus
        self.ram = ram
        self.has_vuart = has_vuart
        self.total_pages = sum(extent.size for extent in ram) >> 12
        self.was_unpaused = False
        self.is_shutting_down = False
        self.vcpu_context: Sequence[VcpuContext] = [VcpuContext() for _ in range(max_vcpus)]
        self.vgic = VgicV3(domid, max_vcpus, 1 if has_vuart else 0)
        self.vtimers: Sequence[VcpuTimers] = [VcpuTimers(self.vgic, number) for number in range(max_vcpus)]
        self.mmio = MmioMap(trap_unmapped_accesses=trap_unmapped_accesses)
        self.mmio.add(GICD_BASE, GICD_SIZE, "vGICD", self.vgic.distributor)
        self.mmio.add(GICR_BASE, GICR_SIZE, "vGICR", self.vgic.redistributors)
        self._on_output = on_output
        self._on_shutdown = on_shutdown
        self.uart: SbsaUart | None = None
        self.console = ConsoleLog(console_log, log)
        if has_vuart:
            self.uart = SbsaUart(self._print, self._uart_line, log)
            self.mmio.add(VUART_BASE, VUART_SIZE, "vpl011", _UartRegion(self.uart))

    def _print(self, data: bytes) -> int:
        taken = self.console.append(data)
        self._on_output()
        return taken

    def _uart_line(self, level: bool) -> None:
        self.vgic.set_irq_line(VUART_SPI, level)

    def set_context(self, vcpu: int, context: VcpuContext) -> None:
        """Registers of a vCPU before it first runs."""
        contexts = list(self.vcpu_context)
        contexts[vcpu] = context
        self.vcpu_context = contexts

    def remove_from_p2m(self, gpa: int, size: int) -> None:
        """There is nothing to drop: a domain becomes a Realm before it first runs, and only then has a plain guest
        stage-2 tables. The non-secure view checks every access itself."""

    def shutdown(self, reason: ShutdownReason, /) -> None:
        """The first reason wins."""
        if not self.is_shutting_down:
            self.is_shutting_down = True
            self._on_shutdown(reason)
