"""``xl -T``: the time and the process id before each line on standard error."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO


class _Stamping:
    """A text stream that puts a stamp before each line; everything else is the stream behind it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._at_start = True

    def write(self, text: str) -> int:
        """Write TEXT, stamped at the start of each line."""
        for line in text.splitlines(keepends=True):
            if self._at_start:
                now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
                self._stream.write(f"{now} [{os.getpid()}] ")
            self._stream.write(line)
            self._at_start = line.endswith("\n")
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def stamp_standard_error() -> None:
    """From now on each line on standard error is stamped."""
    sys.stderr = _Stamping(sys.stderr)
