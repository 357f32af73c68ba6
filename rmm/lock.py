"""Exclusion between the processes of one machine, on memory's own descriptor.

Locks that belong to an inherited descriptor do not exclude, so every process opens the memfd again and locks its own
open file descriptions. All of them vanish with their process, whatever killed it.

- :class:`RmmLock`: held for the duration of an RMI command.
- :class:`RunningRecs`: "this REC is running", a byte per REC, not covered by the RMM lock.
"""

from __future__ import annotations

import errno
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
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        if self.valid[0]:
            self.journal.recover()

    def release(self) -> None:
        """Let the next command in."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        self.mutex.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class RunningRecs:
    """Which RECs run, as byte-range locks: a dead runner's REC is a stopped REC.

    One descriptor holds the locks, another asks (a descriptor does not see its own). A REC is named by its realm's RD
    and its index in the realm.
    """

    def __init__(self, fd: int) -> None:
        self._descriptors = (_Descriptor(fd), _Descriptor(fd))
        self._holder, self._probe = (descriptor.fd for descriptor in self._descriptors)

    @staticmethod
    def _request(kind: int, rd: int, index: int, count: int) -> bytes:
        return _FLOCK.pack(kind, os.SEEK_SET, _RUNNING_BASE + rd + index, count, 0)

    def start(self, rd: int, index: int) -> bool:
        """Mark a REC as running; False when another process runs it. The caller excludes its own threads."""
        try:
            fcntl.fcntl(self._holder, fcntl.F_OFD_SETLK, self._request(fcntl.F_WRLCK, rd, index, 1))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
        return True

    def stop(self, rd: int, index: int) -> None:
        """Mark a REC that this process runs as stopped."""
        fcntl.fcntl(self._holder, fcntl.F_OFD_SETLK, self._request(fcntl.F_UNLCK, rd, index, 1))

    def is_running(self, rd: int, index: int) -> bool:
        """Whether a REC runs, in any process."""
        return self._locked(rd, index, 1)

    def any_running(self, rd: int) -> bool:
        """Whether any REC of the realm runs, in any process."""
        return self._locked(rd, 0, _MAX_RECS)

    def wait_stopped(self, rd: int) -> None:
        """Block until no REC of the realm runs (it may run again by the time of the return)."""
        fcntl.fcntl(self._probe, fcntl.F_OFD_SETLKW, self._request(fcntl.F_WRLCK, rd, 0, _MAX_RECS))
        fcntl.fcntl(self._probe, fcntl.F_OFD_SETLK, self._request(fcntl.F_UNLCK, rd, 0, _MAX_RECS))

    def _locked(self, rd: int, index: int, count: int) -> bool:
        answer = fcntl.fcntl(self._probe, fcntl.F_OFD_GETLK, self._request(fcntl.F_WRLCK, rd, index, count))
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


_descriptors: weakref.WeakSet[_Descriptor] = weakref.WeakSet()
_locks: weakref.WeakSet[RmmLock] = weakref.WeakSet()


def _after_fork() -> None:
    for descriptor in _descriptors:
        descriptor.reopen()
    for lock in _locks:
        lock.mutex = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
