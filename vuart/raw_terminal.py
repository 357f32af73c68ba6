"""A terminal in raw mode that is put back however the program ends. Enter at ``RawTerminal``.

Ordinary ends (return, exception, a signal with a handler) go through ``RawTerminal.__exit__``. For the others
(SIGKILL, a crash) a small process waits for this one to vanish: ``vuart.termios_guard``. It is started before the
terminal is made raw, and what it waits for is a pipe, so that no moment is left uncovered.
"""

from __future__ import annotations

import contextlib
import copy
import os
import subprocess
import sys
import termios

from vuart import termios_guard


class RawTerminal:
    """The terminal behind descriptor ``fd``, raw inside the ``with`` block.

    Raises termios.error when made for something else. Changes take effect at once (TCSANOW): waiting for output
    to drain would hang on a stopped terminal, and dropping input would lose what was typed ahead.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._sane = termios.tcgetattr(fd)
        self._raw = _raw(self._sane)
        self._guard: subprocess.Popen[bytes] | None = None
        self._pipe = -1

    def __enter__(self) -> RawTerminal:
        self._start_guard()
        try:
            self.make_raw()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.foreground:  # otherwise the shell has its terminal back already
                self.make_sane()
        finally:
            self._stop_guard()

    def make_raw(self) -> None:
        """Raw mode: every byte goes through as typed, control characters included."""
        self._set(self._raw)

    def make_sane(self) -> None:
        """The terminal as it was found."""
        self._set(self._sane)

    @property
    def foreground(self) -> bool:
        """Whether this process may change the terminal without being stopped for it (SIGTTOU)."""
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:  # not our controlling terminal: job control does not apply
            return True

    def _set(self, state: termios_guard.State) -> None:
        with contextlib.suppress(termios.error):  # hung up: nothing left to change
            termios.tcsetattr(self._fd, termios.TCSANOW, state)

    def _start_guard(self) -> None:
        read_end, self._pipe = os.pipe()
        tty = os.dup(self._fd)  # descriptor 0 would be replaced by the guard's own standard input
        command = [sys.executable, "-I", "-S", termios_guard.__file__, str(tty), str(read_end)]
        try:
            self._guard = subprocess.Popen(
                [*command, termios_guard.encode(self._sane), termios_guard.encode(self._raw)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(tty, read_end),
                start_new_session=True,
            )
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(tty)
            os.close(read_end)

    def _stop_guard(self) -> None:
        if self._guard is None:
            return
        with contextlib.suppress(BrokenPipeError):  # somebody killed the guard
            os.write(self._pipe, b"x")
        os.close(self._pipe)
        self._guard.wait()
        self._guard = None


def _raw(state: termios_guard.State) -> termios_guard.State:
    """``state`` made raw as cfmakeraw(3) does."""
    raw = copy.deepcopy(state)
    iflag, oflag, cflag, lflag, _, _, characters = raw
    assert isinstance(iflag, int) and isinstance(oflag, int) and isinstance(cflag, int) and isinstance(lflag, int)
    assert isinstance(characters, list)
    breaks = termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
    raw[0] = iflag & ~(breaks | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
    raw[1] = oflag & ~termios.OPOST
    raw[2] = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[3] = lflag & ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return raw
