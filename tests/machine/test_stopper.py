"""The stopping thread: no kick and no deadline is lost, wherever it comes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from machine.cpu.stopper import Stopper


class Engine:
    """Counts requests to stop; ``asked`` is set by the first."""

    def __init__(self) -> None:
        self.requests = 0
        self.asked = threading.Event()

    def stop(self) -> None:
        self.requests += 1
        self.asked.set()


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def stopper(engine: Engine) -> Iterator[Stopper]:
    made = Stopper(engine.stop)
    yield made
    made.close()


def soon(nanoseconds: int = 2_000_000) -> int:
    return time.monotonic_ns() + nanoseconds


def test_a_kick_before_a_run_forbids_it_until_it_is_taken(stopper: Stopper) -> None:
    stopper.kick()
    assert not stopper.begin(None)
    assert not stopper.begin(None)
    assert stopper.take_kick()
    assert not stopper.take_kick()
    assert stopper.begin(None)


def test_a_kick_during_a_run_asks_for_a_stop_again_and_again_until_the_run_ends(
    stopper: Stopper, engine: Engine
) -> None:
    assert stopper.begin(None)
    stopper.kick()
    assert engine.asked.wait(5)
    patience = time.monotonic() + 5
    while engine.requests < 5 and time.monotonic() < patience:
        time.sleep(0.001)
    assert engine.requests >= 5
    stopper.end()
    time.sleep(0.005)
    after = engine.requests
    time.sleep(0.01)
    assert engine.requests == after
    assert stopper.take_kick()


def test_a_kick_when_nothing_runs_asks_for_nothing(stopper: Stopper, engine: Engine) -> None:
    stopper.kick()
    assert not engine.asked.wait(0.02)


def test_a_run_is_stopped_at_its_deadline(stopper: Stopper, engine: Engine) -> None:
    deadline = soon()
    assert stopper.begin(deadline)
    assert engine.asked.wait(5)
    assert time.monotonic_ns() >= deadline
    stopper.end()
    assert not stopper.take_kick()


def test_a_deadline_in_the_past_stops_at_once(stopper: Stopper, engine: Engine) -> None:
    if stopper.begin(1):
        assert engine.asked.wait(5)


def test_a_deadline_set_during_a_run_is_kept(stopper: Stopper, engine: Engine) -> None:
    assert stopper.begin(soon(60_000_000_000))
    stopper.stop_at(soon())
    assert engine.asked.wait(5)


def test_a_deadline_that_passed_between_two_runs_is_looked_at_again(stopper: Stopper) -> None:
    assert stopper.begin(soon(1_000_000))
    stopper.end()
    time.sleep(0.02)
    assert not stopper.begin(None)
    assert stopper.begin(None)


def test_a_later_deadline_replaces_one_that_has_fired(stopper: Stopper, engine: Engine) -> None:
    for _ in range(3):
        engine.asked.clear()
        deadline = soon()
        while not stopper.begin(deadline):
            pass
        assert engine.asked.wait(5)
        stopper.end()


def test_a_deadline_that_never_comes_is_accepted(stopper: Stopper, engine: Engine) -> None:
    assert stopper.begin((1 << 64) * 16)
    assert not engine.asked.wait(0.01)


def test_wait_ends_at_the_deadline_and_says_so(stopper: Stopper) -> None:
    deadline = soon()
    assert not stopper.wait(deadline)
    assert time.monotonic_ns() >= deadline


def test_wait_ends_with_a_kick_from_another_thread_and_consumes_it(stopper: Stopper) -> None:
    threading.Timer(0.005, stopper.kick).start()
    assert stopper.wait(None)
    assert not stopper.take_kick()


def test_a_kick_before_waiting_ends_the_wait_at_once(stopper: Stopper) -> None:
    stopper.kick()
    assert stopper.wait(soon(60_000_000_000))
    assert stopper.begin(None)


def test_no_kick_is_lost_by_a_waiter(stopper: Stopper) -> None:
    count = 500
    woken = 0

    def kick() -> None:
        for n in range(count):
            stopper.kick()
            while woken <= n:
                time.sleep(0)

    thread = threading.Thread(target=kick)
    thread.start()
    for _ in range(count):
        assert stopper.wait(soon(10_000_000_000))
        woken += 1
    thread.join()


def test_closing_twice_is_harmless_and_leaves_no_thread_and_no_descriptor() -> None:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    stopper = Stopper(lambda: None)
    assert threading.active_count() == threads + 1
    stopper.close()
    stopper.close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors
