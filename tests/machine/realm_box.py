"""A bare-metal guest for engine tests: stage-2 tables built by hand, code at IPA 0x1000, one page of data.

IPA layout: 0 vectors (page of its own), 0x1000 code, 0x2000 data, everything else unmapped.
"""

from __future__ import annotations

from types import TracebackType

import guest_asm as a

from machine import clock
from machine.cpu import HCR, CpuExit, Regime
from machine.cpu.engine import Engine
from machine.memory import DRAM_BASE, PhysicalMemory

VECTORS, CODE, DATA = 0x0, 0x1000, 0x2000
#: Stage-2 page attributes: AF, inner shareable, read and write, normal write-back.
PAGE = 1 << 10 | 3 << 8 | 3 << 6 | 0xF << 2 | 3
#: Ticks that a guest may run without an exit.
PATIENCE = 10 * clock.COUNTER_FREQUENCY
#: VTCR_EL2: 4 KiB, 48-bit IPA (T0SZ 16), start level 0 (SL0 2), 48-bit PA.
VTCR_48 = 16 | 2 << 6 | 1 << 8 | 1 << 10 | 3 << 12 | 5 << 16 | 1 << 31
HCR_REALM = HCR.VM | HCR.TSC | HCR.TWI


class RealmBox:
    """An engine over 8 MiB of DRAM with one address space; ``map`` and ``put`` populate it."""

    def __init__(self, vtcr: int = VTCR_48, hcr: int = HCR_REALM, **regime: object) -> None:
        self.memory = PhysicalMemory.create(8 << 20, 2 << 20)
        self.engine = Engine(self.memory)
        self._next = DRAM_BASE + 0x10_0000
        self.start_level = 2 - (vtcr >> 6 & 3)
        self.root = self.take(16)
        self.regime = Regime(self.root, vtcr, hcr, 0x8000_0000, **regime)  # type: ignore[arg-type]
        self.pa = {ipa: self.take() for ipa in (VECTORS, CODE, DATA)}
        for ipa, pa in self.pa.items():
            self.map(ipa, pa)
        self.engine.reset()
        self.engine.pc = CODE

    def __enter__(self) -> RealmBox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.engine.close()

    def take(self, pages: int = 1) -> int:
        """Fresh zeroed pages, aligned to their number."""
        size = pages * 0x1000
        self._next = -(-self._next // size) * size
        self._next += size
        return self._next - size

    def entry(self, ipa: int, level: int = 3) -> int:
        """Physical address of the stage-2 entry for ``ipa`` at ``level``, making tables on the way."""
        table, at = self.root, self.start_level
        index = ipa >> (39 - 9 * at)
        while at < level:
            entry = self.memory.read_u64(table + 8 * index)
            if not entry & 1:
                entry = self.take() | 3
                self.memory.write_u64(table + 8 * index, entry)
            table, at = entry & 0xFFFF_FFFF_F000, at + 1
            index = ipa >> (39 - 9 * at) & 511
        return table + 8 * index

    def map(self, ipa: int, pa: int, attributes: int = PAGE) -> None:
        self.memory.write_u64(self.entry(ipa), pa | attributes)

    def unmap(self, ipa: int) -> None:
        self.memory.write_u64(self.entry(ipa), 0)

    def put(self, ipa: int, *words: int | list[int]) -> None:
        """Write instructions into a mapped page (the caller invalidates code that ran before)."""
        self.memory.write(self.pa[ipa & ~0xFFF] + (ipa & 0xFFF), a.code(*words))

    def run(self) -> CpuExit:
        """One run; EL2's deadline stops a guest that never comes back, so that the test fails instead of hanging."""
        if self.engine._deadline is not None:
            return self.engine.run(self.regime)
        self.engine.set_deadline(clock.now() + PATIENCE)
        try:
            return self.engine.run(self.regime)
        finally:
            self.engine.set_deadline(None)
