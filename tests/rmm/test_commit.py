"""A command is all or nothing, even when its process is killed in the middle, and commands of two processes exclude."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from typing import Any

import ownership
import pytest
from rmi_host import PAGE, SINGLE, Host

from machine.board import Board
from rmm.abi.rmi import RMI_VERSION_FID
from rmm.carveout import JOURNAL_WORDS
from rmm.commit import CommitError


class Killed(BaseException):
    """Stands for SIGKILL."""


class Countdown:
    """A memory view that dies at its ``left``-th store."""

    left = 0

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __getitem__(self, key: Any) -> Any:
        return self._view[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if not Countdown.left:
            raise Killed
        Countdown.left -= 1
        self._view[key] = value


def world() -> tuple[Host, int]:
    host = Host(dram=4 << 20)
    rd = host.realm()
    host.tables(rd)
    host.map(rd, 8 * PAGE, 4)
    return host, rd


def delegate(host: Host, rd: int) -> tuple[str, tuple[int, ...]]:
    base = host.ns(5)
    return "GRANULE_RANGE_DELEGATE", (base, base + 5 * PAGE)


def map_init(host: Host, rd: int) -> tuple[str, tuple[int, ...]]:
    return "RTT_DATA_MAP_INIT", (rd, host.delegated(), 0, host.source(b"code"), 1)


def unmap(host: Host, rd: int) -> tuple[str, tuple[int, ...]]:
    return "RTT_DATA_UNMAP", (rd, 8 * PAGE, 12 * PAGE, SINGLE, 0)


def create(host: Host, rd: int) -> tuple[str, tuple[int, ...]]:
    return "REALM_CREATE", (host.delegated(), host.params(rtt_base=host.delegated()))


def table(host: Host, rd: int) -> tuple[str, tuple[int, ...]]:
    return "RTT_CREATE", (rd, host.delegated(), 1 << 21, 3)


def rec(host: Host, rd: int) -> tuple[str, tuple[int, ...]]:
    return "REC_CREATE", (rd, host.delegated(), host.rec_params())


def rmm_state(host: Host) -> bytes:
    """What commands decide by: granule table, GPT, contexts, globals, and every RD and table."""
    rmm = host.rmm
    parts = [bytes(rmm.granules.states), bytes(host.memory.gpt)]
    first = rmm.carveout.globals_pa - rmm.base
    journal = rmm.carveout.journal_pa - rmm.base
    parts += [bytes(host.memory.buf[first:journal]), bytes(host.memory.buf[journal + 8 * JOURNAL_WORDS :])]
    for pa, state in ownership.owned(rmm):
        if state.name in ("RD", "RTT"):
            content = bytearray(host.memory.read(pa, PAGE))
            if state.name == "RD":
                content[0x240:0x260] = bytes(32)  # instance_id is random
            parts.append(bytes(content))
    return b"".join(parts)


@pytest.mark.parametrize("step", [delegate, map_init, unmap, create, table, rec])
def test_a_command_killed_anywhere_has_happened_or_not(
    step: Callable[[Host, int], tuple[str, tuple[int, ...]]],
) -> None:
    host, rd = world()
    name, args = step(host, rd)
    before = rmm_state(host)
    host.call(name, *args)
    after = rmm_state(host)
    assert after != before
    seen = []
    for stores in range(10_000):
        host, rd = world()
        name, args = step(host, rd)
        journal: Any = host.rmm.journal
        survivor = Board(host.memory)
        survivor.load_firmware("rmm.monitor")
        for view in ("_words", "_states", "_gpt"):
            setattr(journal, view, Countdown(getattr(journal, view)))
        Countdown.left = stores
        try:
            host.call(name, *args)
        except Killed:
            survivor.smc(RMI_VERSION_FID, 0)
            state = rmm_state(host)
            assert state in (before, after), f"torn after {stores} stores"
            ownership.check(host.rmm)
            seen.append(state == after)
        else:
            break
    assert seen[0] is False, "nothing happened before the mark"
    assert all(seen[1:]), "everything happened after it"
    assert len(seen) >= 3


def test_booting_finishes_what_a_killed_process_had_committed() -> None:
    host, rd = world()
    name, args = map_init(host, rd)
    journal: Any = host.rmm.journal
    journal._states = Countdown(journal._states)
    Countdown.left = 0
    with pytest.raises(Killed):
        host.call(name, *args)
    assert host.state(args[1]) == "DELEGATED"
    Board(host.memory).load_firmware("rmm.monitor")
    assert host.state(args[1]) == "DATA"


def test_a_transaction_that_fails_changes_nothing() -> None:
    host, rd = world()
    before = rmm_state(host)
    with pytest.raises(RuntimeError), host.rmm.lock, host.rmm.commit() as txn:
        txn.set_state(rd, 0)
        txn.store_u64(rd, 1)
        raise RuntimeError
    assert rmm_state(host) == before


def test_a_transaction_too_large_for_the_journal_is_refused_whole() -> None:
    host, rd = world()
    before = rmm_state(host)
    with pytest.raises(CommitError, match="does not fit the journal"), host.rmm.lock, host.rmm.commit() as txn:
        for _ in range(JOURNAL_WORDS):
            txn.store_u64(rd, 1)
    assert rmm_state(host) == before


def test_bytes_are_stored_as_whole_words() -> None:
    host, rd = world()
    with host.rmm.lock, host.rmm.commit() as txn:
        txn.store(rd + 0x800, bytes(range(16)))
    assert host.memory.read(rd + 0x800, 16) == bytes(range(16))
    with pytest.raises(CommitError, match="whole words"):
        host.rmm.commit().store(rd + 4, b"12345678")


def _tick(into: int) -> None:
    os.write(into, b".")


def child(action: Callable[[Callable[[], None]], None]) -> tuple[int, int]:
    """Fork a process that runs ``action(tick)``; answers its pid and a descriptor with one byte per tick."""
    out, into = os.pipe()
    pid = os.fork()
    if pid:
        os.close(into)
        return pid, out
    try:
        action(lambda: _tick(into))
        os._exit(0)
    finally:
        os._exit(1)


def churn(host: Host, rd: int, data: int, source: int) -> Callable[[Callable[[], None]], None]:
    """Map, unmap, delegate and undelegate without end."""

    def run(tick: Callable[[], None]) -> None:
        while True:
            for n in range(16):
                host.call("GRANULE_RANGE_DELEGATE", data + n * PAGE, data + 16 * PAGE)
                host.call("RTT_DATA_MAP_INIT", rd, data + n * PAGE, n * PAGE, source, 1)
            host.call("RTT_DATA_UNMAP", rd, 0, 16 * PAGE, 0, 0)
            host.call("GRANULE_RANGE_UNDELEGATE", data, data + 16 * PAGE)
            tick()

    return run


def test_a_killed_process_leaves_neither_a_lock_nor_a_torn_state() -> None:
    host = Host(dram=4 << 20)
    rd = host.realm()
    host.tables(rd)
    data, source = host.ns(16), host.source(b"code")
    for ticks in range(1, 25):
        pid, out = child(churn(host, rd, data, source))
        for _ in range(ticks):
            os.read(out, 1)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(out)
        assert host.call("VERSION", 0x2_0000)[0] == 0
        ownership.check(host.rmm)


def test_a_command_waits_for_the_command_of_another_process() -> None:
    host = Host(dram=4 << 20)

    def ask(tick: Callable[[], None]) -> None:
        tick()
        host.call("VERSION", 0)
        tick()

    with host.rmm.lock:
        pid, out = child(ask)
        os.read(out, 1)
        assert select.select([out], [], [], 0.1)[0] == [], "the command went ahead"
    assert os.read(out, 1) == b"."
    os.waitpid(pid, 0)
    os.close(out)


def test_commands_of_two_processes_do_not_mix() -> None:
    host = Host(dram=16 << 20)
    rd = host.realm()
    host.tables(rd)
    source = host.source(b"code")
    halves = [host.delegated(256), host.delegated(256)]

    def fill(half: int) -> Callable[[Callable[[], None]], None]:
        def run(tick: Callable[[], None]) -> None:
            for _ in range(4):
                for n in range(256):
                    ipa = (2 * n + half) * PAGE
                    host.ok("RTT_DATA_MAP_INIT", rd, halves[half] + n * PAGE, ipa, source, 1)
                for n in range(256):
                    ipa = (2 * n + half) * PAGE
                    host.ok("RTT_DATA_UNMAP", rd, ipa, ipa + PAGE, SINGLE, 0)

        return run

    children = [child(fill(half)) for half in (0, 1)]
    for pid, out in children:
        assert os.waitpid(pid, 0)[1] == 0
        os.close(out)
    ownership.check(host.rmm)
    realm = host.rmm.realm(rd)
    assert realm is not None
    assert realm.generation & 0xFFFF_FFFF == 4 * 512, "no command's change was lost to the other process"


def test_a_rec_whose_runner_died_is_a_stopped_rec() -> None:
    host = Host(dram=4 << 20)
    rd = host.realm()
    rec_pa = host.rec(rd)
    host.ok("REALM_ACTIVATE", rd)

    def run(tick: Callable[[], None]) -> None:
        assert host.rmm.running.claim(rd, 0).start()
        tick()
        signal.pause()

    pid, out = child(run)
    os.read(out, 1)
    assert host.rmm.running.is_running(rd, 0)
    assert not host.rmm.running.claim(rd, 0).start()
    assert host.status("REALM_TERMINATE", rd) == "ERROR_REALM"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(out)
    assert not host.rmm.running.any_running(rd)
    host.ok("REALM_TERMINATE", rd)
    host.destroy_rec(rec_pa)


def test_unmapping_waits_for_the_engine_that_runs_the_realm() -> None:
    """The unmapping process returns only after the runner of the REC has left it."""
    host = Host(dram=4 << 20)
    rd = host.realm()
    host.tables(rd)
    host.map_init(rd, 0)
    host.rec(rd)
    host.ok("REALM_ACTIVATE", rd)
    assert host.rmm.running.claim(rd, 0).start()

    def unmap_it(tick: Callable[[], None]) -> None:
        tick()
        host.ok("RTT_DATA_UNMAP", rd, 0, PAGE, SINGLE, 0)

    realm = host.rmm.realm(rd)
    assert realm is not None
    before = realm.generation
    pid, out = child(unmap_it)
    os.read(out, 1)
    while realm.generation == before:
        os.sched_yield()
    assert os.waitpid(pid, os.WNOHANG) == (0, 0), "committed, but not acknowledged"
    host.rmm.running.claim(rd, 0).stop()
    assert os.waitpid(pid, 0)[1] == 0
    os.close(out)


def test_waiting_for_a_rec_to_stop_does_not_keep_it_from_starting() -> None:
    """Otherwise the host's REC_ENTER would fail with ERROR_REC, for a REC that nobody runs."""
    host = Host(dram=4 << 20)
    rd = host.realm()
    table = host.tables(rd)[2]
    host.rec(rd)
    host.ok("REALM_ACTIVATE", rd)

    def remove_tables(tick: Callable[[], None]) -> None:
        while True:
            host.ok("RTT_DESTROY", rd, 0, 3)
            host.ok("RTT_CREATE", rd, table, 0, 3)
            tick()

    pid, out = child(remove_tables)
    try:
        os.read(out, 1)
        claim = host.rmm.running.claim(rd, 0)
        for _ in range(10_000):
            assert claim.start()
            claim.stop()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(out)
