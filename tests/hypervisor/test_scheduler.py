"""Round-robin scheduling, with vCPUs that follow a script and a processing element that only waits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import pytest

from hypervisor import scheduler as scheduler_module
from hypervisor.arm.cca.ports import VcpuState
from hypervisor.runstate import Runstate, VcpuRun
from hypervisor.scheduler import Scheduler
from machine.cpu import Cpu

RUN, YIELD, BLOCK, DOWN, PARK = VcpuState


class _Clock:
    def __init__(self) -> None:
        self.count = 0

    def now(self) -> int:
        self.count += 1
        return self.count


class _Element:
    def __init__(self, clock: _Clock) -> None:
        self._clock = clock
        self.deadline: int | None = None
        self.waits: list[int | None] = []

    def set_deadline(self, counter: int | None) -> None:
        self.deadline = counter

    def wait(self, counter: int | None) -> None:
        self.waits.append(counter)
        assert counter is not None, "would wait for ever"
        self._clock.count = counter


class _Vcpu:
    def __init__(
        self, clock: _Clock, name: str, states: Iterable[VcpuState], trace: list[str], deadline: int | None = None
    ) -> None:
        self._clock = clock
        self.name = name
        self.state = RUN
        self.deadline = deadline
        self._states = iter(states)
        self._trace = trace

    def run_once(self) -> VcpuState:
        self._trace.append(self.name)
        self.state = next(self._states, PARK)
        return self.state

    def poll(self) -> bool:
        return self.state is BLOCK and self.deadline is not None and self._clock.count >= self.deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr(scheduler_module.clock, "now", made.now)
    return made


def _scheduler(clock: _Clock, vcpus: list[_Vcpu], limit: int = 1000) -> tuple[Scheduler, _Element, Runstate]:
    left = [limit]

    def interrupted() -> bool:
        left[0] -= 1
        return left[0] < 0

    element, runstate = _Element(clock), Runstate(memoryview(bytearray(4096)))
    return Scheduler(cast(Any, vcpus), cast(Cpu, element), runstate, interrupted), element, runstate


def test_a_lone_vcpu_runs_without_a_quantum(clock: _Clock) -> None:
    trace: list[str] = []
    scheduler, element, _ = _scheduler(clock, [_Vcpu(clock, "a", [RUN] * 5, trace)])
    assert scheduler.run() is False
    assert trace == ["a"] * 6 and element.deadline is None and element.waits == []


def test_vcpus_that_yield_take_turns(clock: _Clock) -> None:
    trace: list[str] = []
    vcpus = [_Vcpu(clock, name, [YIELD] * 3, trace) for name in "abc"]
    scheduler, _, _ = _scheduler(clock, vcpus)
    assert scheduler.run() is False
    assert "".join(trace) == "abcabcabcabc"


def test_a_vcpu_that_wants_to_go_on_gives_way_at_the_end_of_its_quantum(
    clock: _Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "QUANTUM", 20)
    trace: list[str] = []
    vcpus = [_Vcpu(clock, name, [RUN] * 100, trace) for name in "ab"]
    scheduler, _, _ = _scheduler(clock, vcpus)
    scheduler.run()
    runs = "".join(trace)
    assert runs.count("ab") + runs.count("ba") > 2, runs


def test_all_blocked_the_element_waits_for_the_nearest_deadline(clock: _Clock) -> None:
    trace: list[str] = []
    vcpus = [_Vcpu(clock, "a", [BLOCK], trace, 5000), _Vcpu(clock, "b", [BLOCK], trace, 900)]
    scheduler, element, _ = _scheduler(clock, vcpus)
    assert scheduler.run() is False
    assert element.waits[0] == 900 and trace[:3] == ["a", "b", "b"]


def test_the_run_ends_when_something_else_wants_the_thread(clock: _Clock) -> None:
    trace: list[str] = []
    scheduler, _, _ = _scheduler(clock, [_Vcpu(clock, "a", [RUN] * 1000, trace)], limit=4)
    assert scheduler.run() is True
    assert len(trace) == 4


def test_the_run_state_page_says_what_each_vcpu_does(clock: _Clock) -> None:
    trace: list[str] = []
    down = _Vcpu(clock, "b", [], trace)
    down.state = DOWN
    scheduler, _, runstate = _scheduler(clock, [_Vcpu(clock, "a", [RUN, BLOCK], trace, 10_000), down], limit=5)
    assert runstate.read(1).state is VcpuRun.DOWN
    scheduler.run()
    assert runstate.read(0).cpu_time_ns > 0
    assert runstate.read(1).cpu_time_ns == 0
