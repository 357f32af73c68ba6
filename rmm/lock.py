"""Exclusion between the processes of one machine, on memory's own descriptor.

Locks that belong to an inherited descriptor do not exclude, so every process opens the memfd again and locks its own
open file descriptions. All of them vanish with their process, whatever killed it.

- :class:`RmmLock`: held for the duration of an RMI command.
- :class:`RunningRecs`: "this REC is running, on the account of that process".
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import weakref
from types import TracebackType

from machine.memory import PhysicalMemory
from rmm.commit import Journal

#: The byte that stands for runner ``n`` is ``_RUNNER_BASE + n``: above all memory.
_RUNNER_BASE = 1 << 60
_RUNNERS = 0xFFFF
#: RECs of a realm at most, and where in its RD their runners' numbers (16 bits each) are.
MAX_RECS = 1024
RUNNERS_OFFSET = 0x800
#: The kernel's struct flock, with C's own alignment: four bytes of padding before the 64-bit fields.
_FLOCK = struct.Struct("@hhqqi4x")


class _Descriptor:
    """An open file description of this process's own: reopened in a forked child, under the same number."""

    def __init__(self, fd: int) -> None:
        self._memory_fd = fd
        self.fd = self._open()
        _descriptors.add(self)
        weakref.finalize(self, os.close, self.fd)

    def _open(self) -> int:
        return os.open(f"/proc/self/fd/{self._memory_fd}", os.O_RDWR | os.O_CLOEXEC)

    def reopen(self) -> None:
        """In a forked child: stop sharing the parent's description."""
        fresh = self._open()
        os.dup2(fresh, self.fd, inheritable=False)
        os.close(fresh)


class RmmLock:
    """The RMM lock; taking it first finishes what a killed process had committed. Not recursive.

    ``mutex`` excludes the threads of this process, the flock on ``fd`` other processes; ``valid[0]`` is the journal's
    mark.
    """

    def __init__(self, fd: int, journal: Journal, valid: memoryview) -> None:
        self._descriptor = _Descriptor(fd)
        self.fd = self._descriptor.fd
        self.journal = journal
        self.valid = valid
        self.mutex = threading.Lock()
        _locks.add(self)

    def acquire(self) -> None:
        """Wait for the lock."""
        self.mutex.acquire()
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            if self.valid[0]:
                self.journal.recover()
        except BaseException:
            # A signal handler that raises while this process waits.
            self.release()
            raise

    def release(self) -> None:
        """Let the next command in."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        finally:
            self.mutex.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _request(kind: int, runner: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, _RUNNER_BASE + runner, 1, 0)


class RunningRecs:
    """Which RECs run, and on whose account: a dead runner's REC is a stopped REC.

    A process that runs RECs is a runner: it holds the lock on the byte that stands for its number as long as it lives.
    While a REC runs, the runner's number stands at the REC's index in the RD (:attr:`RealmDescriptor.runners`), so that
    starting and stopping one costs no system call. Numbers are given out in turn, 65,535 of them: a number that a dead
    runner left in an RD does not soon belong to another.

    One descriptor holds the lock, another asks (a descriptor does not see its own). ``next_word`` is the index of the
    last number given out. A REC is named by its realm's RD and its index in the realm.
    """

    def __init__(self, memory: PhysicalMemory, next_word: int) -> None:
        self._descriptors = (_Descriptor(memory.fd), _Descriptor(memory.fd))
        self._holder, self._probe = (descriptor.fd for descriptor in self._descriptors)
        self._base = memory.dram_base
        self._words = memory.words
        self._next = next_word
        self._numbers = memory.buf.cast("H")
        self._runner = 0
        _runners.add(self)

    def _at(self, rd: int, index: int = 0) -> int:
        return (rd - self._base + RUNNERS_OFFSET >> 1) + index

    def runner(self) -> int:
        """This process's number; it becomes a runner when it has none yet."""
        while not self._runner:
            number = self._words[self._next] = self._words[self._next] % _RUNNERS + 1
            try:
                fcntl.fcntl(self._holder, fcntl.F_OFD_SETLK, _request(fcntl.F_WRLCK, number))
            except (BlockingIOError, PermissionError):
                continue
            self._runner = number
        return self._runner

    def forked(self) -> None:
        """In a forked child: the number is the parent's."""
        self._runner = 0

    def claim(self, rd: int, index: int) -> Claim:
        """What this process starts and stops a REC with."""
        return Claim(self, self._numbers, self._at(rd, index))

    def alive(self, runner: int) -> bool:
        """Whether the process with this number lives."""
        answer = fcntl.fcntl(self._probe, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK, runner))
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def is_running(self, rd: int, index: int) -> bool:
        """Whether a REC runs, in any process."""
        runner = self._numbers[self._at(rd, index)]
        return runner != 0 and self.alive(runner)

    def any_running(self, rd: int) -> bool:
        """Whether any REC of the realm runs, in any process."""
        first = self._at(rd)
        return any(self.alive(runner) for runner in set(self._numbers[first : first + MAX_RECS]) if runner)


class Claim:
    """The right to run one REC, made once for many runs (:meth:`RunningRecs.claim`)."""

    __slots__ = ("_at", "_numbers", "_running")

    def __init__(self, running: RunningRecs, numbers: memoryview, at: int) -> None:
        self._running = running
        self._numbers = numbers
        self._at = at

    def start(self) -> bool:
        """Mark the REC as running; False when it runs already. The caller excludes everybody else meanwhile."""
        numbers, at = self._numbers, self._at
        if numbers[at] and self._running.alive(numbers[at]):
            return False
        numbers[at] = self._running.runner()
        return True

    def stop(self) -> None:
        """Mark the REC, which this process runs, as stopped."""
        self._numbers[self._at] = 0


_descriptors: weakref.WeakSet[_Descriptor] = weakref.WeakSet()
_locks: weakref.WeakSet[RmmLock] = weakref.WeakSet()
_runners: weakref.WeakSet[RunningRecs] = weakref.WeakSet()


def _after_fork() -> None:
    for descriptor in _descriptors:
        descriptor.reopen()
    for lock in _locks:
        lock.mutex = threading.Lock()
    for running in _runners:
        running.forked()


os.register_at_fork(after_in_child=_after_fork)
