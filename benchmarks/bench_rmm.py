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


class Bench:
    """A machine with one realm under construction, all of its memory resident."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory.create(256 << 20)
        self.memory.populate(DRAM_BASE, self.memory.dram_size)
        self.board = Board(self.memory)
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

    def new_realm(self) -> None:
        """A realm of 48 bits with SHA-256, with tables for PAGES pages from IPA 0 on."""
        self.delegate(RD, 2)
        params = RealmParams.encode(s2sz=48, num_bps=5, num_wps=3, rtt_base=ROOT, rtt_num_start=1)
        self.memory.write(PARAMS, params)
        self.call(rmi.REALM_CREATE, RD, PARAMS)
        self.delegate(TABLES, 2 + PAGES // 512)
        self.call(rmi.RTT_CREATE, RD, TABLES, 0, 1)
        self.call(rmi.RTT_CREATE, RD, TABLES + PAGE, 0, 2)


def timed(name: str, count: int, promise: int | None, action: Callable[[], None]) -> None:
    """Run ``action``, which carries out ``count`` commands, and print a line."""
    start = time.perf_counter()
    action()
    seconds = time.perf_counter() - start
    rate = count / seconds
    print(f"{name:<44}{seconds / count * 1e6:>9.2f} us{rate:>12,.0f} /s" + (f"{promise:>12,}" if promise else ""))


def main() -> None:
    """Measure and print."""
    bench = Bench()
    smc = bench.board.smc
    print(f"{'command':<44}{'each':>12}{'rate':>14}{'promised':>12}")
    bench.new_realm()
    leaves = PAGES // 512

    def create() -> None:
        for n in range(leaves):
            smc(rmi.RTT_CREATE, RD, TABLES + (2 + n) * PAGE, n << 21, 3)

    create()

    def destroy_and_create() -> None:
        for _ in range(200):
            for n in range(leaves):
                smc(rmi.RTT_DESTROY, RD, n << 21, 3)
            create()

    timed("RTT_CREATE and RTT_DESTROY (each)", 400 * leaves, None, destroy_and_create)

    def recreate() -> None:
        # A child of an UNASSIGNED/DESTROYED entry is filled entry by entry; of EMPTY, which is the rule, with zeros.
        for _ in range(200):
            for n in range(leaves):
                bench.memory.write_u64(TABLES + PAGE + 8 * n, 0)
                bench.memory.buf[bench_state(bench, n)] = 1
            create()

    timed("RTT_CREATE (with a store to undo it)", 200 * leaves, 60_000, recreate)

    bench.memory.write(SOURCE, random.Random(1).randbytes(PAGE))
    timed("delegate, 8192 granules a call", PAGES, None, lambda: bench.delegate(DATA, PAGES))

    def populate() -> None:
        for n in range(PAGES):
            smc(rmi.RTT_DATA_MAP_INIT, RD, DATA + n * PAGE, n * PAGE, SOURCE, MEASURE)

    def unmap() -> None:
        for n in range(PAGES):
            smc(rmi.RTT_DATA_UNMAP, RD, n * PAGE, (n + 1) * PAGE, 1, 0)

    timed("RTT_DATA_MAP_INIT measured, random content", PAGES, 40_000, populate)

    def read() -> None:
        for n in range(PAGES):
            smc(rmi.RTT_READ_ENTRY, RD, n * PAGE, 3)

    timed("RTT_READ_ENTRY", PAGES, 60_000, read)
    timed("RTT_DATA_UNMAP, page by page, SINGLE", PAGES, 60_000, unmap)
    bench.memory.punch(SOURCE, PAGE)
    timed("RTT_DATA_MAP_INIT measured, known zero, scrub", PAGES, None, populate)
    unmap()
    # A host that recycles pages it gave back has them known to be zero.
    bench.memory.punch(DATA, PAGES * PAGE)
    timed("RTT_DATA_MAP_INIT measured, known zero", PAGES, 80_000, populate)

    def unmap_runs() -> None:
        base = 0
        while base < PAGES * PAGE:
            base = smc(rmi.RTT_DATA_UNMAP, RD, base, PAGES * PAGE, 0, 0)[1]

    timed("RTT_DATA_UNMAP, table by table (per page)", PAGES, None, unmap_runs)

    def undelegate() -> None:
        base = DATA
        while base < DATA + PAGES * PAGE:
            base = bench.call(rmi.GRANULE_RANGE_UNDELEGATE, base, DATA + PAGES * PAGE)[1]

    timed("undelegate, 8192 granules a call", PAGES, None, undelegate)

    def one_by_one() -> None:
        for n in range(PAGES):
            smc(rmi.GRANULE_RANGE_DELEGATE, DATA + n * PAGE, DATA + (n + 1) * PAGE)

    timed("delegate, one granule a call", PAGES, None, one_by_one)

    def version() -> None:
        for _ in range(PAGES):
            smc(rmi.RMI_VERSION_FID, rmi.RMI_VERSION)

    timed("VERSION", PAGES, None, version)


def bench_state(bench: Bench, n: int) -> int:
    """Offset in memory of the granule table's byte of leaf table ``n``: the bench undoes RTT_CREATE behind its back."""
    monitor = bench.board.smc.__self__  # type: ignore[attr-defined]
    table: int = monitor.carveout.table_pa - DRAM_BASE
    return table + ((TABLES + (2 + n) * PAGE - DRAM_BASE) >> 12)


if __name__ == "__main__":
    main()
