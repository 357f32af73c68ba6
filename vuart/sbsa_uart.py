"""The SBSA UART (vpl011) of a guest, register by register. Enter at ``SbsaUart``.

The model is Xen's: a PL011 subset with 8, 16 and 32-bit registers, an input ring of 1024 bytes and an output ring of
2048 bytes between the device and its back end. Interrupt status follows Xen's thresholds (a modelled FIFO of 32,
triggering at half); the interrupt line is a level, as the device tree announces it: high while ``RIS & IMSC`` is not 0.

Two things stand behind the rings. Output is offered to the sink at once, byte by byte, so that a killed process loses
nothing; the output ring fills only while the sink takes less than it is offered. Input beyond the ring waits in a
backlog and moves up as the guest reads.

One thread calls into a ``SbsaUart``: the one that runs the guest's vCPUs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import Final

IN_RING: Final = 1024
OUT_RING: Final = 2048
BACKLOG: Final = 64 * 1024
_TRIGGER: Final = 16
"""Half of the modelled FIFO: the distance from a full ring at which RX is raised and TX lowered."""
_RX_LEVEL: Final = IN_RING - _TRIGGER
_TX_LEVEL: Final = OUT_RING - _TRIGGER


class Register(IntEnum):
    """Register offsets (Arm PL011 TRM; the SBSA subset that Xen implements)."""

    DR = 0x00
    RSR = 0x04
    FR = 0x18
    IMSC = 0x38
    RIS = 0x3C
    MIS = 0x40
    ICR = 0x44


class Flag(IntFlag):
    """FR bits."""

    BUSY = 1 << 3
    RXFE = 1 << 4
    TXFF = 1 << 5
    RXFF = 1 << 6
    TXFE = 1 << 7


class Interrupt(IntFlag):
    """Bits of RIS, IMSC, MIS and ICR."""

    RX = 1 << 4
    TX = 1 << 5
    RT = 1 << 6


# Plain ints: an IntFlag operation costs about 1 µs, and a console character costs several.
_DR, _FR = int(Register.DR), int(Register.FR)
_BUSY, _RXFE, _TXFF, _RXFF, _TXFE = (int(f) for f in (Flag.BUSY, Flag.RXFE, Flag.TXFF, Flag.RXFF, Flag.TXFE))
_RX, _TX, _RT = (int(i) for i in (Interrupt.RX, Interrupt.TX, Interrupt.RT))
_BYTES: Final = tuple(bytes((i,)) for i in range(256))
_MASKS: Final = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF}

_logger = logging.getLogger(__name__)


def _no_line(level: bool) -> None:
    """An interrupt line that leads nowhere (a guest that only polls)."""


class SbsaUart:
    """One guest's UART.

    ``sink(data)`` takes output and returns how many of the bytes it took; what it leaves stays in the output ring until
    ``drain`` is called. ``on_irq(level)`` is called whenever the interrupt line changes. ``log(message)`` gets what Xen
    logs about guest misbehaviour; a guest can cause any number of these, so the receiver limits the rate.
    """

    def __init__(
        self,
        sink: Callable[[bytes], int],
        on_irq: Callable[[bool], None] = _no_line,
        log: Callable[[str], None] = _logger.warning,
    ) -> None:
        self._sink = sink
        self._on_irq = on_irq
        self._log = log
        self._out = bytearray()
        self._in = bytearray()
        self._fr = _TXFE | _RXFE
        self._ris = 0
        self._imsc = 0
        self._level = False

    # The guest's side

    def read(self, offset: int, size: int) -> int | None:
        """A guest load of ``size`` bytes at ``offset``. None: the access aborts (64-bit access, reading ICR)."""
        mask = _MASKS.get(size)
        if mask is None:
            return None
        if offset == _FR:
            return self._fr
        if offset == _DR:
            return self._read_data()
        if offset == Register.RIS:
            return self._ris
        if offset == Register.MIS:
            return self._ris & self._imsc
        if offset == Register.IMSC:
            return self._imsc & mask
        if offset == Register.RSR:
            return 0
        if offset == Register.ICR:
            return None
        self._log(f"vpl011: unhandled read offset {offset:#08x}")
        return 0

    def write(self, offset: int, size: int, value: int) -> bool:
        """A guest store of ``size`` bytes at ``offset``. False: the access aborts (64-bit access)."""
        mask = _MASKS.get(size)
        if mask is None:
            return False
        if offset == _DR:
            self._write_data(value & 0xFF)
        elif offset == Register.IMSC:
            self._imsc = (self._imsc & ~mask) | (value & mask)
            self._update_line()
        elif offset == Register.ICR:
            self._ris &= ~(value & mask)
            self._update_line()
        elif offset not in (Register.RSR, Register.FR, Register.RIS, Register.MIS):
            self._log(f"vpl011: unhandled write offset {offset:#08x}")
        return True

    # The back end's side

    @property
    def irq_level(self) -> bool:
        """Whether the interrupt line is high: some interrupt is raised (RIS) and unmasked (IMSC)."""
        return self._level

    @property
    def input_waiting(self) -> int:
        """Bytes received and not yet read by the guest, ring and backlog together."""
        return len(self._in)

    @property
    def output_waiting(self) -> int:
        """Bytes of the output ring, which the sink has not taken."""
        return len(self._out)

    def receive(self, data: bytes) -> int:
        """Give the guest input. Answers how many bytes were taken: fewer than given once the ring (``IN_RING``) and
        the backlog behind it (``BACKLOG``) are full; the rest was not stored and may be offered again."""
        taken = min(len(data), IN_RING + BACKLOG - len(self._in))
        if taken:
            self._in += data[:taken]
            self._raise_receive()
            self._update_line()
        return taken

    def drain(self) -> int:
        """Offer the output ring to the sink again; answers how many bytes are left in it."""
        if self._out:
            taken = self._sink(bytes(self._out))
            del self._out[:taken]
            self._settle_output()
            if self._in:
                self._raise_receive()
            self._update_line()
        return len(self._out)

    # Inside

    def _write_data(self, byte: int) -> None:
        if not self._out and self._sink(_BYTES[byte]) == 1:
            self._ris |= _TX
        elif len(self._out) >= OUT_RING:
            self._log("vpl011: Unexpected OUT ring buffer full")
            return
        else:
            self._out.append(byte)
            self._settle_output()
        if self._in:
            self._raise_receive()  # Xen's back end answers output with an event, which looks at the input as well
        if self._imsc:
            self._update_line()

    def _read_data(self) -> int:
        if not self._in:
            self._log("vpl011: Unexpected IN ring buffer empty")
            return 0
        byte = self._in.pop(0)
        level = len(self._in)
        if level >= IN_RING:
            self._raise_receive()  # one more came up from the backlog
        else:
            self._fr &= ~_RXFF
            if level < _RX_LEVEL:
                self._ris &= ~_RX
            if not level:
                self._fr |= _RXFE
                self._ris &= ~_RT
        self._update_line()
        return byte

    def _raise_receive(self) -> None:
        """FR and RIS after the back end put something into the input ring (which is not empty)."""
        self._fr &= ~_RXFE
        self._ris |= _RT
        level = len(self._in)
        if level >= _RX_LEVEL:
            self._ris |= _RX
            if level >= IN_RING:
                self._fr |= _RXFF

    def _settle_output(self) -> None:
        """FR and RIS after the output ring changed."""
        level = len(self._out)
        if level >= OUT_RING:
            self._fr |= _TXFF | _BUSY
        else:
            self._fr &= ~(_TXFF | _BUSY)
        if level:
            self._fr &= ~_TXFE
        else:
            self._fr |= _TXFE
        if level <= _TX_LEVEL:
            self._ris |= _TX
        else:
            self._ris &= ~_TX

    def _update_line(self) -> None:
        level = bool(self._ris & self._imsc)
        if level != self._level:
            self._level = level
            self._on_irq(level)
