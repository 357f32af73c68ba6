"""Puts a terminal back when the program that made it raw is gone. Run by ``vuart.raw_terminal``, as a script.

``python termios_guard.py TTY PIPE SANE RAW``: two descriptors and two terminal states (see ``encode``). The other end
of the pipe belongs to the guarded program. One byte on it means that the program has put its terminal back itself; end
of file without that byte means that it was killed. Then the terminal is put back, but only if its input, output and
local modes are still the program's: a shell that got there first has its own idea of the terminal by now.

It imports nothing of ours, so that it starts fast, and runs in a session of its own, so that signals meant for the
program's process group or terminal do not reach it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import termios

State = list[int | list[bytes | int]]
"""What ``termios.tcgetattr`` gives."""


def encode(state: State) -> str:
    """A terminal state as one command line argument."""
    return json.dumps(state, default=lambda character: {"character": character[0]})


def decode(text: str) -> State:
    """The inverse of ``encode``."""
    state: State = json.loads(text, object_hook=lambda item: bytes((item["character"],)))
    return state


def main(tty: int, pipe: int, sane: State, raw: State) -> None:
    """Wait for the end of the guarded program, and clean up after it if it could not."""
    if os.read(pipe, 1):
        return
    with contextlib.suppress(termios.error):  # the terminal may be gone as well
        now = termios.tcgetattr(tty)
        if all(now[index] == raw[index] for index in (0, 1, 3)):  # iflag, oflag, lflag; a driver may adjust the rest
            termios.tcsetattr(tty, termios.TCSANOW, sane)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), decode(sys.argv[3]), decode(sys.argv[4]))
