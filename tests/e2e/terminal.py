"""``xl`` at a terminal: a pseudo-terminal whose other end the test types into and reads."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import termios
import time

from .xl_host import ROOT, XlHost


class Terminal:
    """One command in a session of its own, with a pseudo-terminal as its controlling terminal."""

    def __init__(self, host: XlHost, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.output = b""
        self._searched = 0
        self.process = subprocess.Popen(
            host.command(*arguments),
            env={**host.environment, "TERM": "xterm"},
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )

    def type(self, text: str) -> None:
        """Type TEXT."""
        os.write(self._master, text.encode())

    def expect(self, text: str, seconds: float = 60) -> None:
        """Read until TEXT has come, behind what an earlier call has found."""
        deadline = time.monotonic() + seconds
        wanted = text.encode()
        while (place := self.output.find(wanted, self._searched)) < 0:
            left = deadline - time.monotonic()
            assert left > 0 and self._read(left), f"{text!r} did not come; the terminal shows:\n{self.shown()}"
        self._searched = place + len(wanted)

    def wait(self, seconds: float = 60) -> int:
        """Read until the command has ended; its exit status."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"xl has not ended; the terminal shows:\n{self.shown()}"
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.returncode

    def restored(self) -> bool:
        """Whether the terminal's settings are what they were before the command."""
        return termios.tcgetattr(self._slave) == self.before

    def shown(self) -> str:
        """All output so far."""
        return self.output.decode(errors="replace")

    def interrupt(self) -> None:
        """SIGINT to the foreground process group, as Ctrl-C does in the ordinary mode of a terminal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self.output += data
        return bool(data)

    def close(self) -> None:
        """End the command if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


def _take_terminal() -> None:
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
