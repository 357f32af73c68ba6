"""Exclusion between the processes of one machine, on memory's own descriptor.

Locks that belong to an inherited descriptor do not exclude, so every process opens the memfd again and locks its own
open file descriptions. All of them vanish with their process, whatever killed it.

- :class:`RmmLock`: held for the duration of an RMI command.
- :class:`RunningRecs`: "this REC is running", a byte per REC, not covered by the RMM lock.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import weakref
from types import TracebackType

from rmm.commit import Journal

#: The byte that stands for REC ``index`` of the realm at ``rd`` is ``_RUNNING_BASE + rd + index``: above all memory.
_RUNNING_BASE = 1 << 60
_MAX_RECS = 4096
_FLOCK = struct.Struct("=hhqqi4x")


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


def _request(kind: int, rd: int, index: int, count: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, _RUNNING_BASE + rd + index, count, 0)


class Claim:
    """The right to run one REC, made once for many runs (:meth:`RunningRecs.claim`)."""

    __slots__ = ("_fd", "_set", "_unset")

    def __init__(self, fd: int, rd: int, index: int) -> None:
        self._fd = fd
        self._set = _request(fcntl.F_WRLCK, rd, index, 1)
        self._unset = _request(fcntl.F_UNLCK, rd, index, 1)

    def start(self) -> bool:
        """Mark the REC as running; False when another process runs it. The caller excludes its own threads."""
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._set)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def stop(self) -> None:
        """Mark the REC, which this process runs, as stopped."""
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._unset)


class RunningRecs:
    """Which RECs run, as byte-range locks: a dead runner's REC is a stopped REC.

    One descriptor holds the locks, another asks (a descriptor does not see its own); it never locks, because that would
    make RECs seem to run. A REC is named by its realm's RD and its index in the realm.
    """

    def __init__(self, fd: int) -> None:
        self._descriptors = (_Descriptor(fd), _Descriptor(fd))
        self._holder, self._probe = (descriptor.fd for descriptor in self._descriptors)

    def claim(self, rd: int, index: int) -> Claim:
        """What this process starts and stops a REC with."""
        return Claim(self._holder, rd, index)

    def is_running(self, rd: int, index: int) -> bool:
        """Whether a REC runs, in any process."""
        return self._locked(rd, index, 1)

    def any_running(self, rd: int) -> bool:
        """Whether any REC of the realm runs, in any process."""
        return self._locked(rd, 0, _MAX_RECS)

    def _locked(self, rd: int, index: int, count: int) -> bool:
        answer = fcntl.fcntl(self._probe, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK, rd, index, count))
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


_descriptors: weakref.WeakSet[_Descriptor] = weakref.WeakSet()
_locks: weakref.WeakSet[RmmLock] = weakref.WeakSet()


def _after_fork() -> None:
    for descriptor in _descriptors:
        descriptor.reopen()
    for lock in _locks:
        lock.mutex = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
