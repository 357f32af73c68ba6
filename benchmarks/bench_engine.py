"""What the processing element costs: exits and entries, exceptions inside the guest, GIC and timer accesses, switches.

Run with ``pytest benchmarks/bench_engine.py``. The budget is set by booting Linux as a Realm with an emulated UART and
vGIC: tens of thousands of device exits, so one round trip (exit, complete, enter) must cost under 12.5 µs (80,000 a
second). The figures depend on the machine, so nothing here asserts them.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "machine"))

import guest_asm as a
from realm_box import CODE, VECTORS, RealmBox

from machine.cpu import CONTEXT_SIZE
from machine.cpu.engine import Engine
from machine.ich import ICH_HCR, ICH_VMCR

EL0_SYNC = VECTORS + 0x400
MMIO = 0x9000_0000
ROUND_TRIP_BUDGET = 12.5e-6
LOOPS = 10_000


@pytest.fixture
def box() -> Iterator[RealmBox]:
    with RealmBox() as made:
        made.engine.ich.hcr = ICH_HCR.EN
        made.engine.ich.vmcr = ICH_VMCR.VENG1 | 0xFF << ICH_VMCR.VPMR_SHIFT
        yield made


def test_a_device_read_round_trip(benchmark: Any, box: RealmBox) -> None:
    """run() to a stage-2 fault, the register written, PC advanced."""
    box.put(CODE, a.mov(1, MMIO), a.ldr_w(2, 1), a.b(-1))
    box.run()
    engine, regime = box.engine, box.regime

    def round_trip() -> None:
        engine.run(regime)
        engine.set_gpr(2, 1)
        engine.pc += 4

    benchmark(round_trip)
    benchmark.extra_info["budget"] = ROUND_TRIP_BUDGET


def test_an_smc_round_trip(benchmark: Any, box: RealmBox) -> None:
    """As an RSI call costs it: four registers read, four written."""
    box.put(CODE, a.smc(), a.b(-1))
    box.run()
    engine, regime = box.engine, box.regime
    results = (0, 1, 2, 3)

    def round_trip() -> None:
        engine.run(regime)
        engine.gprs(4)
        engine.set_gprs(results)
        engine.pc += 4

    benchmark(round_trip)


def loop(box: RealmBox, *body: int) -> Any:
    """A function that runs ``body`` LOOPS times in the guest."""
    words = [*body, a.sub(20, 20, 1), a.cbnz(20, -len(body) - 1)]
    box.put(CODE, a.mov(20, LOOPS), words, a.smc())

    def once() -> None:
        box.engine.pc = CODE
        box.run()

    once()
    return once


def per_loop(benchmark: Any, function: Any) -> None:
    benchmark(function)
    benchmark.extra_info["per loop (us)"] = round(benchmark.stats.stats.median / LOOPS * 1e6, 3)


def test_system_calls_inside_the_guest(benchmark: Any, box: RealmBox) -> None:
    """SVC from EL0, entered by the library at the hook's request, and ERET."""
    box.put(EL0_SYNC, a.sub(20, 20, 1), a.cbz(20, 2), a.ERET, a.smc())
    box.put(CODE, a.mov(20, LOOPS), a.svc(), a.b(-1))

    def once() -> None:
        box.engine.set_sysreg("PSTATE", 0)
        box.engine.pc = CODE
        box.run()

    per_loop(benchmark, once)


def test_acknowledge_and_end_of_interrupt(benchmark: Any, box: RealmBox) -> None:
    """ICC_IAR1_EL1 (spurious) and ICC_PMR_EL1: one read and one write of the virtual interface."""
    per_loop(benchmark, loop(box, a.mrs(1, "ICC_IAR1_EL1"), a.msr("ICC_PMR_EL1", 2)))


def test_programming_the_timer(benchmark: Any, box: RealmBox) -> None:
    """CNTV_CVAL_EL0 as a tickless kernel writes it (far ahead)."""
    box.engine.set_sysreg("CNTV_CTL_EL0", 1)
    box.engine.set_sysreg("CNTV_CVAL_EL0", (1 << 62))
    box.engine.set_gpr(2, (1 << 62) - 1)
    per_loop(benchmark, loop(box, a.msr("CNTV_CVAL_EL0", 2)))


def test_loads_from_memory(benchmark: Any, box: RealmBox) -> None:
    """Eight loads a loop: translated code on the fast path."""
    per_loop(benchmark, loop(box, *(a.ldr(1, 31) for _ in range(8))))


def test_a_switch_between_two_contexts(benchmark: Any, box: RealmBox) -> None:
    """save, restore and a run to the next SMC, with a cold TLB."""
    box.put(CODE, a.smc(), a.b(-1))
    images = [memoryview(bytearray(CONTEXT_SIZE)) for _ in range(2)]
    for image in images:
        box.engine.save(image)
    engine, regime = box.engine, box.regime

    def switch() -> None:
        for image in images:
            engine.restore(image)
            engine.run(regime)
            engine.pc = CODE
            engine.save(image)

    benchmark(switch)


def test_save_and_restore_alone(benchmark: Any, box: RealmBox) -> None:
    image = memoryview(bytearray(CONTEXT_SIZE))

    def both() -> None:
        box.engine.save(image)
        box.engine.restore(image)

    benchmark(both)


def test_a_kick_until_run_answers(benchmark: Any, box: RealmBox) -> None:
    """From another thread's kick to the IRQ exit of a guest that spins."""
    box.put(CODE, a.b())
    latencies = []
    kicked = 0.0

    def kick() -> None:
        nonlocal kicked
        kicked = time.perf_counter()
        box.engine.kick()

    def once() -> None:
        threading.Timer(0.002, kick).start()
        box.run()
        latencies.append(time.perf_counter() - kicked)

    benchmark.pedantic(once, rounds=100)
    benchmark.extra_info["latency, median (us)"] = round(median(latencies) * 1e6, 1)
    benchmark.extra_info["latency, worst (us)"] = round(max(latencies) * 1e6, 1)


def test_creating_an_engine(benchmark: Any, box: RealmBox) -> None:
    benchmark.pedantic(lambda: Engine(box.memory).close(), rounds=20)
