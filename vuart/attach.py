"""Attaching a terminal to a guest's console. Enter at ``attach``.

Three threads, so that whatever is slow holds up only itself:

* the calling thread watches the keyboard (and signals): the escape key works whatever the others wait for;
* the printer copies console output to the terminal; a stopped terminal stops the printer, which then asks for no more,
  while guest, daemon and other clients go on, because the output is kept in the console's log;
* the sender passes on what was typed, again and again if the guest does not take it at once.

The two threads may still be waiting when ``attach`` returns (on a stopped terminal, or in a read which the transport
ends within ``wait_ms``); they are daemon threads and do nothing more after that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from types import FrameType
from typing import Final, Protocol

from vuart.raw_terminal import RawTerminal

ESCAPE: Final = 0x1D
"""Ctrl-], as in Xen's console client."""
_READ: Final = 64 * 1024
_TYPED: Final = 4096
_PENDING: Final = 64 * 1024
_WAIT_MS: Final = 1000
_RETRY_S: Final = (0.05, 1.0)
"""First and longest pause before offering again what the guest's UART had no room for."""
_LAST_WORDS_S: Final = 0.5
_GRACE_S: Final = 2.0
"""How long a failed write waits for the printer to learn that the domain has ended, which is the usual cause."""
_QUERIES: Final = re.compile(rb"\x1b(?:\[[0-9;?>=]*[cn]|Z)")
"""What a terminal answers (where its cursor is, what it is): asked by the guest long ago, it is not to be typed now."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


class Transport(Protocol):
    """How console bytes travel. ``read`` and ``write`` are called from one thread each, at the same time."""

    def read(self, offset: int, max_bytes: int, wait_ms: int) -> tuple[int, bytes, bool]:
        """Console output from ``offset`` on, waiting up to ``wait_ms`` for the first byte: (offset of the first byte,
        bytes, whether the domain has ended). The offset is later than asked if that part is no longer kept."""

    def write(self, data: bytes) -> int:
        """Console input. Answers how many bytes the guest's UART took; the rest is offered again later."""


class Reason(Enum):
    """Why an attachment ended."""

    ESCAPE = "escape"
    DOMAIN_ENDED = "domain ended"
    STDIN_EOF = "terminal input ended"
    STDOUT_CLOSED = "output closed"
    SIGNAL = "signal"
    ERROR = "error"


@dataclass(frozen=True)
class Outcome:
    """``signal`` is the number of the signal for Reason.SIGNAL (the caller exits as if killed by it); ``error`` is what
    the transport or a descriptor raised for Reason.ERROR."""

    reason: Reason
    signal: int = 0
    error: Exception | None = None


def parse_escape(text: str) -> int:
    """The escape character of ``--escape``: one character, or ``^X`` for Ctrl-X. Raises ValueError."""
    encoded = text.encode()
    if len(encoded) == 1:
        return encoded[0]
    if len(encoded) == 2 and text[0] == "^" and "@" <= text[1].upper() <= "_":
        return ord(text[1].upper()) - ord("@")
    raise ValueError(f"escape character {text!r} is neither one character nor ^ and a letter")


def attach(
    transport: Transport,
    *,
    stdin: int = 0,
    stdout: int = 1,
    escape: int = ESCAPE,
    offset: int = 0,
    notice: Callable[[str], None] | None = None,
) -> Outcome:
    """Connect descriptors ``stdin`` and ``stdout`` with a console until one side ends it.

    Everything printed since ``offset`` is shown first. On a terminal, input is raw and the escape character leaves.
    Otherwise ``stdin`` is copied to its end, escape or not, and output is shown until the domain ends; the end of
    ``stdin`` is not passed on. What is left of the output is printed before the end of the domain is reported.

    ``notice(text)`` gets remarks for the user (default: a line on stderr). Signals are handled only when called in the
    main thread. The terminal is as it was when this returns or raises.
    """
    session = _Session(transport, stdin, stdout, escape, offset, notice or _notice)
    with contextlib.closing(session):
        if not os.isatty(stdin):
            with _signals(session, None):
                return session.run(keyboard=False)
        terminal = RawTerminal(stdin)
        with _signals(session, terminal), terminal:
            return session.run(keyboard=True)


class _Session:
    """One attachment: the state its three threads share."""

    def __init__(
        self, transport: Transport, stdin: int, stdout: int, escape: int, offset: int, notice: Callable[[str], None]
    ) -> None:
        self._transport = transport
        self._stdin = stdin
        self._stdout = stdout
        self._escape = escape
        self._offset = offset
        self._history = False
        self._notice = notice
        self._typed: deque[bytes] = deque()
        self._pending = 0
        self._dropping = False
        self._changed = threading.Condition()
        self._over = False
        self._outcome: Outcome | None = None
        self._write_error: Exception | None = None
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    @property
    def wake_fd(self) -> int:
        """A byte written here makes the calling thread look around; writing never blocks."""
        return self._wake

    def finish(self, outcome: Outcome) -> None:
        """End the attachment. The first reason given counts."""
        with self._changed:
            if self._outcome is None and not self._over:
                self._outcome = outcome
                self._poke()

    def run(self, keyboard: bool) -> Outcome:
        self._history = keyboard
        threads = [
            threading.Thread(target=target, name=f"console {target.__name__.strip('_')}", daemon=True)
            for target in (self._printer, self._sender)
        ]
        for thread in threads:
            thread.start()
        try:
            return self._watch(keyboard)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def close(self) -> None:
        """After ``run``: nothing wakes the calling thread any more."""
        with self._changed:
            self._over = True
            os.close(self._wake)
            os.close(self._woken)

    # The calling thread

    def _watch(self, keyboard: bool) -> Outcome:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.register(self._stdout, 0)  # errors only: the reader of a pipe is gone
        listening = False
        input_open = True
        deadline: float | None = None
        while self._outcome is None:
            # A keyboard is always read, for the escape key; a file or pipe waits until the guest has taken enough.
            listen = input_open and (keyboard or self._pending < _PENDING)
            if listen != listening:
                if listen:
                    poll.register(self._stdin, select.POLLIN)
                else:
                    poll.unregister(self._stdin)
                listening = listen
            if self._write_error and deadline is None:
                deadline = time.monotonic() + _GRACE_S
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if left == 0.0:
                return Outcome(Reason.ERROR, error=self._write_error)
            for fd, events in poll.poll(None if left is None else left * 1000):
                if fd == self._woken:
                    self._drain_wakes()
                elif fd == self._stdin and listening:
                    reason = self._take_input(keyboard)
                    if reason is Reason.ESCAPE:
                        self._let_typed_go()
                    if reason and keyboard:
                        return self._outcome or Outcome(reason)
                    input_open = not reason
                elif fd == self._stdout and events & (select.POLLERR | select.POLLHUP):
                    return self._outcome or Outcome(Reason.STDOUT_CLOSED)
                elif events & select.POLLNVAL:
                    return Outcome(Reason.STDOUT_CLOSED)
        return self._outcome

    def _take_input(self, keyboard: bool) -> Reason | None:
        """Read what was typed. A reason if that was the end of the input."""
        try:
            data = os.read(self._stdin, _TYPED)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EBADF):  # a terminal hung up; started without standard input
                raise
            data = b""
        if not data:
            return Reason.STDIN_EOF
        left = False
        if keyboard and self._escape in data:
            data = data[: data.index(self._escape)]
            left = True
        with self._changed:
            if self._pending + len(data) > _PENDING and keyboard:
                if not self._dropping:
                    self._notice("the guest takes no input; what is typed now is dropped")
                self._dropping = True
            elif data:
                self._typed.append(data)
                self._pending += len(data)
                self._changed.notify_all()
        return Reason.ESCAPE if left else None

    def _let_typed_go(self) -> None:
        """What was typed just before the escape character should still arrive, if the guest takes it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending or self._write_error, timeout=_LAST_WORDS_S)

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._woken, 512):
                pass

    def _poke(self) -> None:
        """Wake the main loop; called with ``_changed`` held, so that the pipe is still there."""
        if not self._over:
            with contextlib.suppress(BlockingIOError):  # full: it is awake anyway
                os.write(self._wake, b"\0")

    # The other two

    def _printer(self) -> None:
        try:
            while not self._over:
                # What was printed before this attachment is there without a wait.
                offset, data, ended = self._transport.read(self._offset, _READ, 0 if self._history else _WAIT_MS)
                if self._over:
                    return
                if offset > self._offset:
                    self._notice(f"{offset - self._offset} bytes of older output are no longer kept")
                self._offset = offset + len(data)
                if data:
                    if not self._print(_QUERIES.sub(b"", data) if self._history else data):
                        self.finish(Outcome(Reason.STDOUT_CLOSED))
                        return
                elif ended:
                    self.finish(Outcome(Reason.DOMAIN_ENDED))
                    return
                else:
                    self._history = False
        except Exception as error:  # the thread's boundary: handed to the caller of attach
            self.finish(Outcome(Reason.ERROR, error=error))

    def _print(self, data: bytes) -> bool:
        """False if nobody reads the output any more."""
        view = memoryview(data)
        while view and not self._over:
            try:
                view = view[os.write(self._stdout, view) :]
            except BlockingIOError:  # somebody else made the terminal non-blocking
                select.select((), (self._stdout,), ())
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO, errno.EBADF):
                    raise
                return False  # the reader is gone; the terminal hung up; started without standard output
        return True

    def _sender(self) -> None:
        pause, longest = _RETRY_S
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._typed or self._over)
                    if self._over:
                        return
                    data = b"".join(self._typed)
                    self._typed.clear()
                taken = self._transport.write(data)
                with self._changed:
                    if taken < len(data):
                        self._typed.appendleft(data[taken:])
                    self._pending -= taken
                    self._changed.notify_all()
                    self._poke()
                    if taken:
                        self._dropping = False
                        pause = _RETRY_S[0]
                    else:
                        self._changed.wait_for(lambda: self._over, timeout=pause)
                        pause = min(2 * pause, longest)
        except Exception as error:  # as above; usually the domain has just ended, and the printer will say so
            with self._changed:
                self._write_error = error
                self._changed.notify_all()
                self._poke()


@contextlib.contextmanager
def _signals(session: _Session, terminal: RawTerminal | None) -> Iterator[None]:
    """Handlers for the signals that end or stop a program at a terminal, while inside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        session.finish(Outcome(Reason.SIGNAL, signal=number))

    def stop(_: int, __: FrameType | None) -> None:
        if terminal is not None:
            terminal.make_sane()
        os.kill(os.getpid(), signal.SIGSTOP)  # back here after SIGCONT, whose handler makes the terminal raw again

    def resume(_: int, __: FrameType | None) -> None:
        if terminal is not None and terminal.foreground:
            terminal.make_raw()

    handlers = {**dict.fromkeys(_SIGNALS, leave), signal.SIGTSTP: stop, signal.SIGCONT: resume}
    before = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup, and jobs of a shell without job control
    }
    # The kernel may hand a signal to one of the other threads, which does not end the calling thread's wait; this does.
    wakeup = signal.set_wakeup_fd(session.wake_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _notice(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"\r\n[console: {text}]\r", file=sys.stderr, flush=True)
