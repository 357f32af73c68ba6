"""Xen's virtual GICv3 of a domain: distributor, redistributors, and the way of interrupts to the vCPUs.

Enter at :class:`VgicV3`. Devices and timers drive lines with :meth:`VgicV3.set_irq_line`; the vCPU loop calls
:meth:`VgicV3.flush_to_lrs` before and :meth:`VgicV3.sync_from_lrs` first thing after each run of a vCPU, and
:meth:`VgicV3.has_pending` to decide whether a vCPU that waits may go on. The MMIO frames (``distributor``,
``redistributors``) are registered in the domain's :class:`hypervisor.arm.mmio.MmioMap`.

All methods belong to the thread that runs the domain's vCPUs. No ITS, no LPIs, group 1 only, affinity routing always
on; INTIDs have 10 bits.
"""

from __future__ import annotations

import logging
from typing import Final

from hypervisor.arm.vgic_dist import Distributor
from hypervisor.arm.vgic_irq import NR_PRIVATE_IRQS, VcpuInterrupts, VirtualIrq
from hypervisor.arm.vgic_redist import Redistributors
from machine.ich import IchRegisters

log = logging.getLogger(__name__)

MAX_VCPUS: Final = 128
MAX_SPIS: Final = 1020 - NR_PRIVATE_IRQS

VUART_SPI: Final = 32

_SGI1R_IRM: Final = 1 << 40
_SGI1R_AFF3_AFF2_RS: Final = 0xFF << 48 | 0xF << 44 | 0xFF << 32


class VgicV3:
    """The interrupt controller of one domain.

    ``nr_spis`` is rounded up to a multiple of 32; ``nr_irqs`` counts every INTID of a vCPU. ``vcpus`` holds each
    vCPU's interrupts.

    :raises ValueError: for a number of vCPUs or SPIs that the memory map or the INTIDs have no room for.
    """

    def __init__(self, domid: int, max_vcpus: int, nr_spis: int) -> None:
        if not 1 <= max_vcpus <= MAX_VCPUS:
            raise ValueError(f"d{domid}: {max_vcpus} vCPUs: the redistributor region has room for 1 to {MAX_VCPUS}")
        if not 0 <= nr_spis <= MAX_SPIS:
            raise ValueError(f"d{domid}: {nr_spis} SPIs: a GICv3 has 0 to {MAX_SPIS}")
        self.domid = domid
        self.nr_spis = min((nr_spis + 31) // 32 * 32, MAX_SPIS)
        self.nr_irqs = NR_PRIVATE_IRQS + self.nr_spis
        self.vcpus = [VcpuInterrupts(vcpu) for vcpu in range(max_vcpus)]
        self.spis = [
            VirtualIrq(intid, self.vcpus[0], edge=False) for intid in range(NR_PRIVATE_IRQS, self.nr_irqs)
        ]
        for vcpu in self.vcpus:
            vcpu.irqs.extend(self.spis)
        self.forwarding = False
        self.distributor = Distributor(self)
        self.redistributors = Redistributors(self)

    def set_forwarding(self, enabled: bool) -> None:
        """GICD_CTLR.EnableGrp1A: off, no interrupt becomes pending at a CPU interface."""
        self.forwarding = enabled
        for vcpu in self.vcpus:
            vcpu.forwarding = enabled
            vcpu.dirty = True

    def set_irq_line(self, intid: int, level: bool, vcpu: int = 0) -> None:
        """Drive the input of a PPI of ``vcpu``, or of an SPI (``vcpu`` is ignored).

        A level-sensitive interrupt is pending while its line is up; one that the guest configured as edge-triggered
        becomes pending on the rising edge.

        :raises ValueError: for an SGI or an INTID that the domain does not have.
        """
        if not 16 <= intid < self.nr_irqs:
            raise ValueError(f"d{self.domid}v{vcpu}: interrupt {intid} has no line (PPIs and SPIs: 16 to "
                             f"{self.nr_irqs - 1})")
        irq = self.vcpus[vcpu].irqs[intid]
        if irq.line == level:
            return
        irq.line = level
        if irq.edge:
            if not level:
                return
            irq.latch = True
        irq.settle()

    def send_sgi(self, vcpu: int, icc_sgi1r: int) -> None:
        """A write of ``vcpu`` to ICC_SGI1R_EL1.

        IRM (bit 40) set: every other vCPU; else the target list [15:0] under Aff1 [23:16]. INTID [27:24]. Targets that
        do not exist or are offline are left out; Aff2, Aff3 and RS are 0 in every affinity of a domain.
        """
        intid = icc_sgi1r >> 24 & 0xF
        if icc_sgi1r & _SGI1R_IRM:
            for target in self.vcpus:
                if target.vcpu != vcpu and target.online:
                    self._latch(target.irqs[intid])
            return
        if icc_sgi1r & _SGI1R_AFF3_AFF2_RS:
            log.debug("d%dv%d: vGICv3: SGI%d: no vCPU has the affinity in %#x", self.domid, vcpu, intid, icc_sgi1r)
            return
        base = (icc_sgi1r >> 16 & 0xFF) << 4
        targets = icc_sgi1r & 0xFFFF
        while targets:
            number = base + (targets & -targets).bit_length() - 1
            targets &= targets - 1
            if number < len(self.vcpus) and self.vcpus[number].online:
                self._latch(self.vcpus[number].irqs[intid])
            else:
                log.debug("d%dv%d: vGICv3: SGI%d: vCPU %d is not there (%#x)", self.domid, vcpu, intid, number,
                          icc_sgi1r)

    def set_online(self, vcpu: int, online: bool) -> None:
        """PSCI turned a vCPU on or off: one that is off gets no SGIs. All start on."""
        self.vcpus[vcpu].online = online

    def deactivate(self, vcpu: int, value: int) -> None:
        """A trapped write of ``vcpu`` to ICC_DIR_EL1; an INTID that is not active, or not there, is ignored."""
        intid = value & 0xFF_FFFF
        if intid >= self.nr_irqs:
            return
        irq = self.vcpus[vcpu].irqs[intid]
        if irq.active:
            irq.active = False
            irq.settle()

    def flush_to_lrs(self, vcpu: int, ich: IchRegisters) -> None:
        """Before ``vcpu`` runs: list registers (HW = 0, each INTID once), ICH_HCR_EL2 with En, VMCR, APRs."""
        self.vcpus[vcpu].flush(ich)

    def sync_from_lrs(self, vcpu: int, ich: IchRegisters) -> None:
        """After ``vcpu`` ran, before anything else touches its interrupts."""
        self.vcpus[vcpu].sync(ich)

    def has_pending(self, vcpu: int) -> bool:
        """True if ``vcpu`` has an enabled interrupt pending: a waiting vCPU goes on."""
        return self.vcpus[vcpu].deliverable()

    @staticmethod
    def _latch(irq: VirtualIrq) -> None:
        irq.latch = True
        irq.settle()
