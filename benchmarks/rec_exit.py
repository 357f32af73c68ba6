"""REC exit round trips: a guest that does nothing but read a UART register, through engine, RMM and host.

Each read is one turn of the whole loop: stage-2 fault in the engine, exit record in RecRun, VUART emulation by the
host, value back through the next RMI_REC_ENTER. The guest counts them down itself and powers off, so the number of
turns is exact.
"""

from __future__ import annotations

import struct
import tempfile
import time
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.realm_machine import RealmMachine
from hypervisor.domain import GUEST_RAM_BASE

NAME = "rec-exit"
PROMISE = 25_000
READS = 40_000
_MEMORY = 4 << 20


def program(reads: int) -> bytes:
    """A64 code: ``reads`` loads of UARTFR, through the unprotected alias of a 48-bit IPA space, then SYSTEM_OFF."""
    words = (
        0xD2A4_4000,  # mov   x0, #0x22000000
        0xF2D0_0000,  # movk  x0, #0x8000, lsl #32
        0xD280_0002 | (reads & 0xFFFF) << 5,  # mov   x2, #reads
        0xF2A0_0002 | (reads >> 16) << 5,  # movk  x2, #reads >> 16, lsl #16
        0xB940_1801,  # ldr   w1, [x0, #0x18]
        0xD100_0442,  # sub   x2, x2, #1
        0xB5FF_FFC2,  # cbnz  x2, the ldr
        0x52B0_8000,  # mov   w0, #0x84000000
        0x7280_0100,  # movk  w0, #8
        0xD400_0003,  # smc   #0
    )
    return struct.pack(f"<{len(words)}I", *words)


def seconds_for(reads: int) -> float:
    """Wall-clock seconds that a fresh Realm takes from its first entry to its power-off."""
    with tempfile.TemporaryDirectory() as directory, RealmMachine(_MEMORY, Path(directory, "console")) as machine:
        machine.write(GUEST_RAM_BASE, program(reads))
        machine.build(GUEST_RAM_BASE)
        start = time.perf_counter()
        machine.run()
        return time.perf_counter() - start


def measure(runs: int) -> list[Figure]:
    """One figure: round trips a second."""
    rates = [READS / seconds_for(READS) for _ in range(runs)]
    return [Figure("REC exit round trip (MMIO read)", "1/s", rates, f"python -m benchmarks {NAME}", PROMISE, True)]
