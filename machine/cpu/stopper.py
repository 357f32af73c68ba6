"""Stopping a running engine, and waiting when there is nothing to run.

Enter at :class:`Stopper`. One thread per engine waits for a timer (the nearest deadline) and for kicks; while the
engine runs it asks it to stop, and asks again every 200 µs until the run loop acknowledges, because ``uc_emu_start``
clears a stop request that comes just before it.

The protocol needs three words and two orderings, so that a C thread can replace the Python one (sequentially consistent
atomics in place of the GIL):

* a kick sets ``_kicked``, then reads ``_state`` to see whom to wake (nobody, the stopping thread, a waiter);
* the run loop sets ``_state``, then reads ``_kicked`` and ``_expired``.

Whichever comes second sees the other, so no kick is lost; at worst a run is stopped once for nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from machine.cpu import CpuError

_IDLE, _RUNNING, _WAITING = 0, 1, 2
#: Seconds between two requests to stop.
_REPEAT: Final = 200e-6
#: A deadline that will not come (ns): half of what timerfd takes, 146 years.
_NEVER: Final = 1 << 62

_CLOCK_MONOTONIC: Final = 1
_TFD_TIMER_ABSTIME: Final = 1
_TFD_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


_libc = ctypes.PyDLL(None)
_libc.timerfd_create.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.timerfd_settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


class _Timer:
    """A timerfd on the monotonic clock."""

    def __init__(self) -> None:
        self.fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self.fd < 0:
            raise CpuError("timerfd_create failed: out of file descriptors?")
        self._spec = _Itimerspec()
        self._address = ctypes.addressof(self._spec)

    def arm(self, at: int) -> None:
        """Fire at ``at`` (ns, monotonic; in the past: at once); 0 disarms."""
        self._spec.value_s, self._spec.value_ns = divmod(min(at, _NEVER), 1_000_000_000)
        _libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._address, None)

    def close(self) -> None:
        os.close(self.fd)


def _drain(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(fd, 8)


class Stopper:
    """Kicks, deadlines and waiting for one engine; ``stop`` asks the engine to leave its run, from the thread.

    Deadlines are nanoseconds of the monotonic clock. :meth:`kick` may be called by any thread, everything else only by
    the one that runs the engine.
    """

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop
        self._state = _IDLE
        self._kicked = False
        self._expired = False
        self._closing = False
        #: When the run timer fires (0: not armed). An earlier firing than asked for only costs a spurious stop, so
        #: a deadline that moves away is not worth a system call.
        self._armed = 0
        self._run_timer = _Timer()
        self._wait_timer = _Timer()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._waiter = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wait_poll = select.poll()
        self._wait_poll.register(self._waiter, select.POLLIN)
        self._wait_poll.register(self._wait_timer.fd, select.POLLIN)
        self._thread = threading.Thread(target=self._watch, name="engine stopper", daemon=True)
        self._thread.start()

    def kick(self) -> None:
        """Stop the run that is going on; if none is, make the next :meth:`begin` or :meth:`wait` return at once."""
        self._kicked = True
        state = self._state
        if state == _RUNNING:
            os.eventfd_write(self._wake, 1)
        elif state == _WAITING:
            os.eventfd_write(self._waiter, 1)

    def take_kick(self) -> bool:
        """Consume a kick, if there was one."""
        if self._kicked:
            self._kicked = False
            return True
        return False

    def begin(self, deadline: int | None) -> bool:
        """Before the engine runs. False: do not, a kick came or the deadline may have passed; look again.

        After True the engine is stopped at ``deadline`` and by kicks, until :meth:`end`.
        """
        if deadline is not None:
            self.stop_at(deadline)
        self._state = _RUNNING
        if self._kicked or self._expired:
            self._state = _IDLE
            self._expired = False
            return False
        return True

    def end(self) -> None:
        """After the engine ran: acknowledge, so that nobody asks for a stop any more."""
        self._state = _IDLE

    def stop_at(self, deadline: int) -> None:
        """Stop no later than ``deadline``; also from inside a run (a timer that the guest has just set)."""
        armed = self._armed
        if not armed or deadline < armed:
            self._armed = deadline
            self._run_timer.arm(max(deadline, 1))

    def wait(self, deadline: int | None) -> bool:
        """Block until a kick, which is consumed (True), or until ``deadline`` (False)."""
        self._state = _WAITING
        try:
            if deadline is not None:
                self._wait_timer.arm(max(deadline, 1))
            while not self._kicked:
                if deadline is not None and time.monotonic_ns() >= deadline:
                    return False
                for fd, _ in self._wait_poll.poll():
                    _drain(fd)
        finally:
            self._state = _IDLE
            if deadline is not None:
                self._wait_timer.arm(0)
        return self.take_kick()

    def close(self) -> None:
        """End the thread and release the descriptors. Not while the engine runs."""
        if self._closing:
            return
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._run_timer.close()
        self._wait_timer.close()
        os.close(self._wake)
        os.close(self._waiter)

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._run_timer.fd, select.POLLIN)
        while not self._closing:
            for fd, _ in poll.poll():
                _drain(fd)
                if fd == self._run_timer.fd:
                    self._armed = 0
                    self._expired = True
            while self._state == _RUNNING and (self._kicked or self._expired) and not self._closing:
                self._stop()
                time.sleep(_REPEAT)
