"""The redistributor frames (GICR) of a domain: one region, for each vCPU an RD frame and an SGI frame of 64 KiB."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from hypervisor.arm.affinity import affinity_of
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

if TYPE_CHECKING:
    from hypervisor.arm.vgic_v3 import VgicV3

log = logging.getLogger(__name__)

#: Guest physical address and size of the region: room for 128 vCPUs.
GICR_BASE: Final = 0x0302_0000
GICR_SIZE: Final = 0x0100_0000

FRAME_SIZE: Final = 0x1_0000
#: Bytes from one vCPU's redistributor to the next.
STRIDE: Final = 2 * FRAME_SIZE
TYPER_LAST: Final = 1 << 4


def _read_typer(vgic: VgicV3, vcpu: int, offset: int, size: int) -> int:
    value = affinity_of(vcpu) << 32 | vcpu << 8
    if vcpu == len(vgic.vcpus) - 1:
        value |= TYPER_LAST
    return value >> 8 * offset & (1 << 8 * size) - 1


RD_FRAME: Final = RegisterFrame(
    "vGICR",
    (
        Row("CTLR", 0x00, 0x04, WORD),
        Row("IIDR", 0x04, 0x08, WORD, constant(IIDR)),
        Row("TYPER", 0x08, 0x10, WORD_OR_DOUBLE, _read_typer),
        Row("STATUSR", 0x10, 0x14, WORD),
        Row("WAKER", 0x14, 0x18, WORD),
        reserved(0x18, 0x20),
        reserved(0x20, 0x40, "implementation defined"),
        Row("SETLPIR, CLRLPIR", 0x40, 0x50, WORD_OR_DOUBLE),
        reserved(0x50, 0x70),
        Row("PROPBASER, PENDBASER", 0x70, 0x80, WORD_OR_DOUBLE),
        reserved(0x80, 0xA0),
        Row("INVLPIR", 0xA0, 0xA8, WORD_OR_DOUBLE),
        reserved(0xA8, 0xB0),
        Row("INVALLR", 0xB0, 0xB8, WORD_OR_DOUBLE),
        reserved(0xB8, 0xC0),
        Row("SYNCR", 0xC0, 0xC4, WORD, constant(1)),
        reserved(0xC4, 0x100),
        reserved(0x100, 0xFFD0),
        reserved(0xFFD0, 0xFFE8, "identification"),
        Row("PIDR2", 0xFFE8, 0xFFEC, WORD, constant(PIDR2)),
        reserved(0xFFEC, FRAME_SIZE, "identification"),
    ),
)
SGI_FRAME: Final = RegisterFrame("vGICR SGI", interrupt_rows(1))


class Redistributors:
    """The GICR region as an MMIO handler. The frame's vCPU counts, not the one that accesses."""

    def __init__(self, vgic: VgicV3) -> None:
        self._vgic = vgic

    def read(self, offset: int, size: int, vcpu: int) -> int | None:
        """The value, or None for a data abort (a bad width, or no vCPU has this frame)."""
        owner, inside = divmod(offset, STRIDE)
        if not self._has_frame(owner, offset, vcpu):
            return None
        if inside < FRAME_SIZE:
            return RD_FRAME.read(self._vgic, owner, inside, size)
        return SGI_FRAME.read(self._vgic, owner, inside - FRAME_SIZE, size)

    def write(self, offset: int, size: int, value: int, vcpu: int) -> bool:
        """False for a data abort (a bad width, or no vCPU has this frame)."""
        owner, inside = divmod(offset, STRIDE)
        if not self._has_frame(owner, offset, vcpu):
            return False
        if inside < FRAME_SIZE:
            return RD_FRAME.write(self._vgic, owner, inside, size, value)
        return SGI_FRAME.write(self._vgic, owner, inside - FRAME_SIZE, size, value)

    def _has_frame(self, owner: int, offset: int, vcpu: int) -> bool:
        if owner < len(self._vgic.vcpus):
            return True
        log.error("d%dv%d: vGICR: no vCPU has a redistributor at %#x", self._vgic.domid, vcpu, offset)
        return False
