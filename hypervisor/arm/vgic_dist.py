"""The distributor frame (GICD) of a domain."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from hypervisor.arm.affinity import affinity_of, vcpu_at
from hypervisor.arm.vgic_frame import (
    IIDR,
    PIDR2,
    WORD,
    WORD_OR_DOUBLE,
    RegisterFrame,
    Row,
    constant,
    interrupt_rows,
    reserved,
)
from hypervisor.arm.vgic_irq import NR_PRIVATE_IRQS

if TYPE_CHECKING:
    from hypervisor.arm.vgic_v3 import VgicV3

log = logging.getLogger(__name__)

#: Guest physical address and size of the frame.
GICD_BASE: Final = 0x0300_1000
GICD_SIZE: Final = 0x1_0000

CTLR_ENABLE_GRP1A: Final = 1 << 1
CTLR_ARE_NS: Final = 1 << 4
#: GICD_TYPER.IDbits: INTIDs have ten bits.
INTID_BITS: Final = 10
IROUTER_ANY: Final = 1 << 31


def _read_ctlr(vgic: VgicV3, vcpu: int, offset: int, size: int) -> int:
    return CTLR_ARE_NS | (CTLR_ENABLE_GRP1A if vgic.forwarding else 0)


def _write_ctlr(vgic: VgicV3, vcpu: int, offset: int, size: int, value: int) -> bool:
    vgic.set_forwarding(value & CTLR_ENABLE_GRP1A != 0)
    return True


def _read_typer(vgic: VgicV3, vcpu: int, offset: int, size: int) -> int:
    return (INTID_BITS - 1) << 19 | (min(len(vgic.vcpus), 8) - 1) << 5 | (vgic.nr_spis + 31) // 32


def _read_router(vgic: VgicV3, vcpu: int, offset: int, size: int) -> int:
    spi = offset // 8
    if spi >= vgic.nr_spis:
        return 0
    return affinity_of(vgic.spis[spi].target.vcpu) >> 8 * (offset % 8) & (1 << 8 * size) - 1


def _write_router(vgic: VgicV3, vcpu: int, offset: int, size: int, value: int) -> bool:
    spi = offset // 8
    if spi >= vgic.nr_spis:
        return True
    irq = vgic.spis[spi]
    if size == 4:
        shift = 8 * (offset % 8)
        value = affinity_of(irq.target.vcpu) & ~(0xFFFF_FFFF << shift) | value << shift
    target = 0 if value & IROUTER_ANY else vcpu_at(value, len(vgic.vcpus))
    if target is None:
        log.debug("d%dv%d: vGICD: IROUTER%d: no vCPU has affinity %#x", vgic.domid, vcpu, irq.intid, value)
        return True
    irq.target = vgic.vcpus[target]
    irq.settle()
    return True


def _refuse_pending_sgi(vgic: VgicV3, vcpu: int, offset: int, size: int, value: int) -> bool:
    log.error("d%dv%d: vGICD: write of %#x to the pending SGI registers, which affinity routing replaces", vgic.domid,
              vcpu, value)
    return False


_ROWS: Final = (
    Row("CTLR", 0x000, 0x004, WORD, _read_ctlr, _write_ctlr),
    Row("TYPER", 0x004, 0x008, WORD, _read_typer),
    Row("IIDR", 0x008, 0x00C, WORD, constant(IIDR)),
    reserved(0x00C, 0x010),
    Row("STATUSR", 0x010, 0x014, WORD),
    reserved(0x014, 0x020),
    reserved(0x020, 0x040, "implementation defined"),
    Row("SETSPI_NSR..CLRSPI_SR", 0x040, 0x05C, WORD),
    reserved(0x05C, 0x080),
    *interrupt_rows(32),
    Row("SGIR", 0xF00, 0xF04, WORD),
    reserved(0xF04, 0xF10),
    Row("CPENDSGIR, SPENDSGIR", 0xF10, 0xF30, WORD, None, _refuse_pending_sgi),
    reserved(0xF30, 0x1000),
    # 0x1000..0x5fff belongs to extended SPIs, 0x6000..0x60ff to interrupts without a router.
    reserved(0x1000, 0x6000 + 8 * NR_PRIVATE_IRQS),
    Row("IROUTER", 0x6000 + 8 * NR_PRIVATE_IRQS, 0x6000 + 8 * 1020, WORD_OR_DOUBLE, _read_router, _write_router),
    reserved(0x7FE0, 0xC000),
    reserved(0xC000, 0xFFD0, "implementation defined"),
    reserved(0xFFD0, 0xFFE8, "identification"),
    Row("PIDR2", 0xFFE8, 0xFFEC, WORD, constant(PIDR2)),
    reserved(0xFFEC, 0x1_0000, "identification"),
)
FRAME: Final = RegisterFrame("vGICD", _ROWS)


class Distributor:
    """The GICD frame as an MMIO handler; interrupts 0 to 31 are those of the vCPU that accesses."""

    def __init__(self, vgic: VgicV3) -> None:
        self._vgic = vgic

    def read(self, offset: int, size: int, vcpu: int) -> int | None:
        """The value, or None for a data abort."""
        return FRAME.read(self._vgic, vcpu, offset, size)

    def write(self, offset: int, size: int, value: int, vcpu: int) -> bool:
        """False for a data abort."""
        return FRAME.write(self._vgic, vcpu, offset, size, value)
