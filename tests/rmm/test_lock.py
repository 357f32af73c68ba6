"""Which RECs run: a runner's number in the RD, good for as long as the runner lives."""

from __future__ import annotations

import os

import pytest

from machine.memory import DRAM_BASE, GRANULE_SIZE, PhysicalMemory
from rmm.lock import MAX_RECS, RUNNERS_OFFSET, RunningRecs
from rmm.realm import RealmDescriptor

RD = DRAM_BASE + 8 * GRANULE_SIZE
NEXT = 0


@pytest.fixture
def memory() -> PhysicalMemory:
    return PhysicalMemory.create(2 << 20)


def test_the_runners_fill_the_rd_to_its_end() -> None:
    assert RealmDescriptor.runners.offset + RealmDescriptor.runners.size == GRANULE_SIZE
    assert RUNNERS_OFFSET + 2 * MAX_RECS == GRANULE_SIZE


def test_a_running_rec_excludes_nothing_else(memory: PhysicalMemory) -> None:
    # Two sets of descriptors, as of two processes.
    here, there = RunningRecs(memory, NEXT), RunningRecs(memory, NEXT)
    claim = here.claim(RD, 1)
    assert claim.start()
    assert not there.claim(RD, 1).start() and not claim.start()
    assert there.is_running(RD, 1) and there.any_running(RD)
    for rd, index in ((RD, 0), (RD, 2), (RD, MAX_RECS - 1), (RD + GRANULE_SIZE, 1), (RD - GRANULE_SIZE, 1)):
        other = there.claim(rd, index)
        assert not here.is_running(rd, index)
        assert other.start(), (hex(rd), index)
        assert here.is_running(rd, index)
        other.stop()
    for rd in (RD - GRANULE_SIZE, RD + GRANULE_SIZE):
        assert not there.any_running(rd)
    claim.stop()
    assert not there.is_running(RD, 1) and not there.any_running(RD)


def test_the_kernel_sees_one_lock_for_each_runner_however_many_recs_it_runs(memory: PhysicalMemory) -> None:
    running, other = RunningRecs(memory, NEXT), RunningRecs(memory, NEXT)
    assert all(running.claim(RD, index).start() for index in range(5))
    assert other.claim(RD, 7).start()
    inode = os.fstat(memory.fd).st_ino
    with open("/proc/locks", encoding="ascii") as file:
        ranges = sorted(line.split()[-2:] for line in file if f":{inode} " in line)
    assert ranges == [[str((1 << 60) + runner)] * 2 for runner in (1, 2)]


def test_a_number_that_a_living_runner_has_is_not_given_out_again(memory: PhysicalMemory) -> None:
    first = RunningRecs(memory, NEXT)
    assert first.runner() == 1
    memory.words[NEXT] = 0xFFFF
    assert RunningRecs(memory, NEXT).runner() == 2


def test_a_forked_child_is_a_runner_of_its_own(memory: PhysicalMemory) -> None:
    running = RunningRecs(memory, NEXT)
    mine = running.runner()
    pid = os.fork()
    if pid == 0:
        os._exit(running.runner() if running.runner() != mine and running.alive(mine) else 0)
    child = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert child not in (0, mine)
    assert not running.alive(child) and RunningRecs(memory, NEXT).alive(mine)
