"""RTT_DATA_MAP_INIT, measured: what building a Realm spends most of its time on.

Commands go through ``Board.smc`` one granule at a time, with every check, the lock and the commit. Two cases:

* random contents: each page differs, sources and destinations are resident;
* known zero: the source was never written since its page was given back, and neither was the destination, so that the
  RMM may skip copying and hashing the content. The measurement is the same as for a page full of zeros.
"""

from __future__ import annotations

import random
import time

from benchmarks.bench_rmm import DATA, PAGE, PAGES, RD, TABLES, Bench
from benchmarks.figure import Figure
from rmm.abi import rmi

NAME = "data-map"
PROMISE_RANDOM = 40_000
PROMISE_ZERO = 80_000
_MEASURE = 1
#: Distinct source pages: as many as the host copies at a time, one level-3 table's worth.
_SOURCES = 512
_SOURCE_BASE = DATA - _SOURCES * PAGE


class Machine(Bench):
    """A realm under construction with tables for PAGES pages, which are DELEGATED."""

    def __init__(self) -> None:
        super().__init__()
        self.new_realm()
        for n in range(PAGES // 512):
            self.call(rmi.RTT_CREATE, RD, TABLES + (2 + n) * PAGE, n << 21, 3)
        self.delegate(DATA, PAGES)

    def map_all(self) -> float:
        """Map every page; granules a second."""
        smc, fid = self.board.smc, rmi.RTT_DATA_MAP_INIT
        statuses = 0
        start = time.perf_counter()
        for n in range(PAGES):
            source = _SOURCE_BASE + n % _SOURCES * PAGE
            statuses |= smc(fid, RD, DATA + n * PAGE, n * PAGE, source, _MEASURE)[0]
        seconds = time.perf_counter() - start
        if statuses:
            raise RuntimeError(f"RMI_RTT_DATA_MAP_INIT failed: {rmi.describe(statuses)}")
        return PAGES / seconds

    def unmap_all(self) -> None:
        """Take every page out again; the granules stay DELEGATED."""
        base, top = 0, PAGES * PAGE
        while base < top:
            base = self.call(rmi.RTT_DATA_UNMAP, RD, base, top, 0, 0)[1]


def random_contents(runs: int) -> list[float]:
    """Granules a second, one sample a run of 8192 granules."""
    machine = Machine()
    machine.memory.write(_SOURCE_BASE, random.Random(1).randbytes(_SOURCES * PAGE))
    samples = []
    for _ in range(runs):
        samples.append(machine.map_all())
        machine.unmap_all()
    return samples


def known_zero(runs: int) -> list[float]:
    """Granules a second, one sample a run of 8192 granules."""
    machine = Machine()
    samples = []
    for _ in range(runs):
        # What the host does with pages that it gets back: from then on they are known to read as zero.
        machine.memory.punch(_SOURCE_BASE, _SOURCES * PAGE)
        machine.memory.punch(DATA, PAGES * PAGE)
        samples.append(machine.map_all())
        machine.unmap_all()
    return samples


def measure(runs: int) -> list[Figure]:
    """Two figures: granules a second of either case."""
    command = f"python -m benchmarks {NAME}"
    what = "RTT_DATA_MAP_INIT, measured, "
    return [
        Figure(what + "random contents", "granules/s", random_contents(runs), command, PROMISE_RANDOM, True),
        Figure(what + "known zero", "granules/s", known_zero(runs), command, PROMISE_ZERO, True),
    ]
