"""GIC register frames as tables: a row for each range of registers, and the rows that GICD and GICR frames share.

A :class:`RegisterFrame` finds the row of an access, refuses widths the row does not have, and calls the row's functions
with the vCPU whose banked interrupts are meant. Values and names: GIC specification (Arm IHI 0069) chapter 12; which of
them do something is Xen's choice: groups and active state read zero, pending state can be set but neither read nor
cleared.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from hypervisor.arm.vgic_irq import NR_SGIS, VirtualIrq

if TYPE_CHECKING:
    from hypervisor.arm.vgic_v3 import VgicV3

log = logging.getLogger(__name__)

#: Access widths in bytes.
WORD: Final = (4,)
BYTE_OR_WORD: Final = (1, 4)
WORD_OR_DOUBLE: Final = (4, 8)
ANY_WIDTH: Final = (1, 2, 4, 8)

#: GICD_IIDR and GICR_IIDR: JEP106 code of Arm.
IIDR: Final = 0x34C
#: GICD_PIDR2 and GICR_PIDR2: architecture revision 3.
PIDR2: Final = 0x30

#: (vgic, vcpu, offset in the row, size) -> value
Reader = Callable[["VgicV3", int, int, int], int]
#: (vgic, vcpu, offset in the row, size, value) -> False to refuse the access
Writer = Callable[["VgicV3", int, int, int, int], bool]


class Row(NamedTuple):
    """Registers at offsets ``first`` up to, not including, ``end`` of a frame.

    Without ``read`` they read zero, without ``write`` writes are ignored. ``note`` logs such an access at that level.
    """

    name: str
    first: int
    end: int
    sizes: tuple[int, ...]
    read: Reader | None = None
    write: Writer | None = None
    note: int | None = None


def reserved(first: int, end: int, name: str = "reserved") -> Row:
    """Reserved or implementation defined registers: read zero, ignore writes, a debug message."""
    return Row(name, first, end, ANY_WIDTH, note=logging.DEBUG)


def constant(value: int) -> Reader:
    """A read-only register of up to 64 bits; word accesses see their half."""

    def read(vgic: VgicV3, vcpu: int, offset: int, size: int) -> int:
        return value >> 8 * offset & (1 << 8 * size) - 1

    return read


class RegisterFrame:
    """A frame of GIC registers.

    :raises ValueError: if rows overlap or are not in order.
    """

    def __init__(self, name: str, rows: Sequence[Row]) -> None:
        for before, after in pairwise(rows):
            if before.end > after.first:
                raise ValueError(f"{name}: {after.name} at {after.first:#x} begins inside {before.name}")
        self.name = name
        self.rows = tuple(rows)
        self._firsts = [row.first for row in rows]

    def find(self, offset: int) -> Row | None:
        """The row that an offset belongs to."""
        n = bisect_right(self._firsts, offset) - 1
        if n >= 0 and offset < self.rows[n].end:
            return self.rows[n]
        return None

    def read(self, vgic: VgicV3, vcpu: int, offset: int, size: int) -> int | None:
        """The value read, or None when the access is refused (a data abort for the guest)."""
        row = self.find(offset)
        if row is None:
            log.error("d%dv%d: %s: unhandled read of %d bytes at %#06x", vgic.domid, vcpu, self.name, size, offset)
            return 0
        if size not in row.sizes or offset % size:
            log.error("d%dv%d: %s: bad read width %d at %s %#06x", vgic.domid, vcpu, self.name, size, row.name, offset)
            return None
        if row.note is not None:
            log.log(row.note, "d%dv%d: %s: read of %s %#06x", vgic.domid, vcpu, self.name, row.name, offset)
        return 0 if row.read is None else row.read(vgic, vcpu, offset - row.first, size)

    def write(self, vgic: VgicV3, vcpu: int, offset: int, size: int, value: int) -> bool:
        """False when the access is refused (a data abort for the guest)."""
        row = self.find(offset)
        if row is None:
            log.error("d%dv%d: %s: unhandled write of %#x at %#06x", vgic.domid, vcpu, self.name, value, offset)
            return True
        if size not in row.sizes or offset % size:
            log.error("d%dv%d: %s: bad write width %d at %s %#06x", vgic.domid, vcpu, self.name, size, row.name,
                      offset)
            return False
        if row.note is not None:
            log.log(row.note, "d%dv%d: %s: write of %#x to %s %#06x", vgic.domid, vcpu, self.name, value, row.name,
                    offset)
        return True if row.write is None else row.write(vgic, vcpu, offset - row.first, size, value)


# Registers with a bit, a byte or two bits for each interrupt.


def _set_bits(irqs: Sequence[VirtualIrq], value: int) -> Iterator[VirtualIrq]:
    return (irq for n, irq in enumerate(irqs) if value >> n & 1)


def _word_of(vgic: VgicV3, vcpu: int, offset: int) -> Sequence[VirtualIrq]:
    return vgic.vcpus[vcpu].irqs[offset * 8 : offset * 8 + 32]


def _read_enable(vgic: VgicV3, vcpu: int, offset: int, size: int) -> int:
    return sum(1 << n for n, irq in enumerate(_word_of(vgic, vcpu, offset)) if irq.enabled)


def _set_enable(vgic: VgicV3, vcpu: int, offset: int, size: int, value: int) -> bool:
    for irq in _set_bits(_word_of(vgic, vcpu, offset), value):
        irq.enabled = True
        irq.settle()
    return True


def _clear_enable(vgic: VgicV3, vcpu: int, offset: int, size: int, value: int) -> bool:
    for irq in _set_bits(_word_of(vgic, vcpu, offset), value):
        irq.enabled = False
        irq.settle()
    return True


def _set_pending(vgic: VgicV3, vcpu: int, offset: int, size: int, value: int) -> bool:
    for irq in _set_bits(_word_of(vgic, vcpu, offset), value):
        irq.latch = True
        irq.settle()
    return True


def _ignore_active(vgic: VgicV3, vcpu: int, offset: int, size: int, value: int) -> bool:
    if value:
        log.debug("d%dv%d: vGICv3: write of %#x to the active bits of interrupts %d.. ignored", vgic.domid, vcpu, value,
                  offset * 8)
    return True


def _read_priority(vgic: VgicV3, vcpu: int, offset: int, size: int) -> int:
    irqs = vgic.vcpus[vcpu].irqs[offset : offset + size]
    return sum(irq.priority << 8 * n for n, irq in enumerate(irqs))


def _write_priority(vgic: VgicV3, vcpu: int, offset: int, size: int, value: int) -> bool:
    for n, irq in enumerate(vgic.vcpus[vcpu].irqs[offset : offset + size]):
        irq.priority = value >> 8 * n & 0xFF
        irq.settle()
    return True


def _read_config(vgic: VgicV3, vcpu: int, offset: int, size: int) -> int:
    irqs = vgic.vcpus[vcpu].irqs[offset * 4 : offset * 4 + 16]
    return sum(2 << 2 * n for n, irq in enumerate(irqs) if irq.edge)


def _write_config(vgic: VgicV3, vcpu: int, offset: int, size: int, value: int) -> bool:
    for n, irq in enumerate(vgic.vcpus[vcpu].irqs[offset * 4 : offset * 4 + 16]):
        if irq.intid >= NR_SGIS:
            irq.edge = value >> 2 * n & 2 != 0
            irq.settle()
    return True


def interrupt_rows(words: int) -> tuple[Row, ...]:
    """The rows of ``words`` times 32 interrupts, from IGROUPR to NSACR, at the same offsets in GICD and GICR frames."""

    def bits(name: str, first: int, read: Reader | None = None, write: Writer | None = None) -> Row:
        return Row(name, first, first + 4 * words, WORD, read, write)

    return (
        bits("IGROUPR", 0x080),
        bits("ISENABLER", 0x100, _read_enable, _set_enable),
        bits("ICENABLER", 0x180, _read_enable, _clear_enable),
        bits("ISPENDR", 0x200, None, _set_pending),
        bits("ICPENDR", 0x280),
        bits("ISACTIVER", 0x300, None, _ignore_active),
        bits("ICACTIVER", 0x380, None, _ignore_active),
        Row("IPRIORITYR", 0x400, 0x400 + min(32 * words, 1020), BYTE_OR_WORD, _read_priority, _write_priority),
        Row("ICFGR", 0xC00, 0xC00 + 8 * words, WORD, _read_config, _write_config),
        bits("IGRPMODR", 0xD00),
        Row("NSACR", 0xE00, 0xE00 + 8 * words, WORD),
    )
