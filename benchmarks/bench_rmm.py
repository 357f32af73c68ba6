"""How fast the RMM carries out the commands that building and tearing down a realm consist of.

Run ``python benchmarks/bench_rmm.py``; each line is one command through ``Board.smc``, lock and commit included, on
resident memory. The last column is the least rate that the project promises (SPECIFICATION.md), where there is one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from machine.board import Board
from machine.memory import DRAM_BASE, PhysicalMemory
from rmm.abi import rmi
from rmm.abi.structures import RealmParams

PAGE = 4096
PAGES = 8192
RD, ROOT, PARAMS, SOURCE = (DRAM_BASE + n * PAGE for n in range(4))
TABLES = DRAM_BASE + (1 << 20)
DATA = DRAM_BASE + (64 << 20)
MEASURE = 1
ROUNDS = 5
#: Least rates, commands a second.
PROMISED = {
    "RTT_CREATE": 60_000,
    "RTT_DATA_MAP_INIT measured, random content": 40_000,
    "RTT_DATA_MAP_INIT measured, known zero": 80_000,
    "RTT_READ_ENTRY": 60_000,
    "RTT_DATA_UNMAP, page by page, SINGLE": 60_000,
}


class Bench:
    """A machine with one realm under construction, all of its memory resident."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory.create(256 << 20)
        self.memory.populate(DRAM_BASE, self.memory.dram_size)
        self.board = Board(self.memory)
        self._next_table = TABLES + (32 << 20)
        self.board.load_firmware("rmm.monitor")
        self.call(rmi.RMM_ACTIVATE)
        # Write and clear every page once: resident, and not known to be zero.
        blank = bytes(PAGE)
        for offset in range(0, self.memory.dram_size, PAGE):
            self.memory.write(DRAM_BASE + offset, blank)

    def call(self, fid: int, *args: int) -> tuple[int, ...]:
        """One command that has to succeed."""
        result = self.board.smc(fid, *args)
        if result[0]:
            raise RuntimeError(f"{rmi.COMMANDS[fid].name}: {rmi.describe(result[0])}")
        return result

    def delegate(self, base: int, count: int) -> None:
        """Delegate ``count`` granules."""
        top = base + count * PAGE
        while base < top:
            base = self.call(rmi.GRANULE_RANGE_DELEGATE, base, top)[1]

    def fresh_table(self) -> int:
        """A DELEGATED granule for a table."""
        self._next_table += PAGE
        self.delegate(self._next_table, 1)
        return self._next_table

    def new_realm(self) -> None:
        """A realm of 48 bits with SHA-256, with tables for PAGES pages from IPA 0 on."""
        self.delegate(RD, 2)
        params = RealmParams.encode(s2sz=48, num_bps=5, num_wps=3, rtt_base=ROOT, rtt_num_start=1)
        self.memory.write(PARAMS, params)
        self.call(rmi.REALM_CREATE, RD, PARAMS)
        self.delegate(TABLES, 2 + PAGES // 512)
        self.call(rmi.RTT_CREATE, RD, TABLES, 0, 1)
        self.call(rmi.RTT_CREATE, RD, TABLES + PAGE, 0, 2)


def timed(count: int, action: Callable[[], None]) -> float:
    """Seconds per command of ``action``, which carries out ``count`` of them."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) / count


def main() -> None:
    """Measure and print: the best of ROUNDS rounds, each of which puts everything back."""
    bench = Bench()
    smc = bench.board.smc
    bench.new_realm()
    leaves = PAGES // 512
    spare = DATA + PAGES * PAGE
    bench.delegate(spare, 512)
    content = random.Random(1).randbytes(PAGE)
    best: dict[str, float] = {}

    def measure(name: str, count: int, action: Callable[[], None]) -> None:
        best[name] = min(best.get(name, 1.0), timed(count, action))

    def create_leaves() -> None:
        for n in range(leaves):
            smc(rmi.RTT_CREATE, RD, TABLES + (2 + n) * PAGE, n << 21, 3)

    def destroy_leaves() -> None:
        for n in range(leaves):
            smc(rmi.RTT_DESTROY, RD, n << 21, 3)

    def create_fresh() -> None:
        # Entries that were never used are EMPTY, as in a realm that is being built: other IPAs each time.
        for n in range(512):
            smc(rmi.RTT_CREATE, RD, spare + n * PAGE, fresh + (n << 21), 3)

    def populate() -> None:
        for n in range(PAGES):
            smc(rmi.RTT_DATA_MAP_INIT, RD, DATA + n * PAGE, n * PAGE, SOURCE, MEASURE)

    def read() -> None:
        for n in range(PAGES):
            smc(rmi.RTT_READ_ENTRY, RD, n * PAGE, 3)

    def map_pages() -> None:
        for n in range(PAGES):
            smc(rmi.RTT_DATA_MAP, RD, n * PAGE, (n + 1) * PAGE, 1, DATA + n * PAGE | 4)

    def unmap_pages() -> None:
        for n in range(PAGES):
            smc(rmi.RTT_DATA_UNMAP, RD, n * PAGE, (n + 1) * PAGE, 1, 0)

    def unmap_tables() -> None:
        base = 0
        while base < PAGES * PAGE:
            base = bench.call(rmi.RTT_DATA_UNMAP, RD, base, PAGES * PAGE, 0, 0)[1]

    def undelegate() -> None:
        base = DATA
        while base < DATA + PAGES * PAGE:
            base = bench.call(rmi.GRANULE_RANGE_UNDELEGATE, base, DATA + PAGES * PAGE)[1]

    def delegate_one_by_one() -> None:
        for n in range(PAGES):
            smc(rmi.GRANULE_RANGE_DELEGATE, DATA + n * PAGE, DATA + (n + 1) * PAGE)

    def version() -> None:
        for _ in range(PAGES):
            smc(rmi.RMI_VERSION_FID, rmi.RMI_VERSION)

    for round_number in range(ROUNDS):
        fresh = (round_number + 1) << 30
        bench.call(rmi.RTT_CREATE, RD, bench.fresh_table(), fresh, 2)
        measure("RTT_CREATE", 512, create_fresh)
        for n in range(512):
            smc(rmi.RTT_DESTROY, RD, fresh + (n << 21), 3)
        create_leaves()
        measure("GRANULE_RANGE_DELEGATE, a range, per granule", PAGES, lambda: bench.delegate(DATA, PAGES))
        bench.memory.write(SOURCE, content)
        measure("RTT_DATA_MAP_INIT measured, random content", PAGES, populate)
        measure("RTT_READ_ENTRY", PAGES, read)
        measure("RTT_DATA_UNMAP, page by page, SINGLE", PAGES, unmap_pages)
        bench.memory.punch(SOURCE, PAGE)
        measure("RTT_DATA_MAP_INIT measured, zero over old data", PAGES, populate)
        unmap_pages()
        # Granules that a host took back and cleared are known to be zero; they stay resident.
        undelegate()
        bench.delegate(DATA, PAGES)
        measure("RTT_DATA_MAP_INIT measured, known zero", PAGES, populate)
        measure("RTT_DATA_UNMAP, a table a call, per page", PAGES, unmap_tables)
        measure("RTT_DATA_MAP, page by page", PAGES, map_pages)
        unmap_tables()
        measure("GRANULE_RANGE_UNDELEGATE, a range, per granule", PAGES, undelegate)
        measure("GRANULE_RANGE_DELEGATE, granule by granule", PAGES, delegate_one_by_one)
        undelegate()
        measure("RTT_DESTROY", leaves, destroy_leaves)
        measure("VERSION", PAGES, version)
    print(f"{'command':<50}{'each':>12}{'rate':>14}{'promised':>12}")
    for name, seconds in best.items():
        promise = f"{PROMISED[name]:>12,}" if name in PROMISED else ""
        print(f"{name:<50}{seconds * 1e6:>9.2f} us{1 / seconds:>12,.0f} /s{promise}")


if __name__ == "__main__":
    main()
