"""A program in a pseudo-terminal of its own, as a user runs it: wait for what it prints, type, end it."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from benchmarks.figure import CannotRun

_CHUNK = 1 << 16
#: Characters of the last output that an error quotes.
_QUOTED = 300


class Terminal:
    """Started when made; ``started`` is the clock (time.perf_counter) just before that.

    Everything the program prints, on stdout and stderr, is in ``output``.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        self._command = command
        self._master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        self.output = bytearray()
        self.started = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                command, cwd=directory, env=environment, stdin=slave, stdout=slave, stderr=slave,
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)

    def wait_for(self, marker: bytes, timeout: float) -> float:
        """Read until ``marker`` was printed; seconds since the start. CannotRun when it does not come."""
        end = self.started + timeout
        seen = 0
        while marker not in self.output[max(0, seen - len(marker)) :]:
            seen = len(self.output)
            left = end - time.perf_counter()
            if left <= 0:
                raise CannotRun(f"no {marker.decode()!r} within {timeout:.0f} s{self._tail()}")
            if select.select([self._master], [], [], left)[0] and not self._read():
                raise CannotRun(f"{self._command[0]} ended without {marker.decode()!r}{self._tail()}")
        return time.perf_counter() - self.started

    def type(self, data: bytes) -> None:
        """Type into it."""
        os.write(self._master, data)

    def wait_end(self, timeout: float) -> None:
        """Wait for its end, reading what it still prints. CannotRun when it goes on."""
        end = time.perf_counter() + timeout
        while self._process.poll() is None:
            if time.perf_counter() > end:
                raise CannotRun(f"{self._command[0]} did not end within {timeout:.0f} s{self._tail()}")
            if select.select([self._master], [], [], 0.05)[0]:
                self._read()

    def _read(self) -> bool:
        try:
            data = os.read(self._master, _CHUNK)
        except OSError:
            # EIO: nobody holds the other side any more.
            data = b""
        self.output += data
        return bool(data)

    def _tail(self) -> str:
        text = " ".join(self.output[-_QUOTED:].decode(errors="replace").split())
        return f"; the last it printed: {text}" if text else ", and nothing was printed"
