"""A console without a daemon, for tests: output is a file that the test appends to, input goes into another.

Run as a program it attaches its own standard input and output: ``scripted_console.py DIRECTORY``. It prints the outcome
on stderr and leaves with status 0.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from vuart.attach import attach
from vuart.history import ConsoleReader


class FileConsole:
    """DIRECTORY/output: what the guest printed. DIRECTORY/input: what it was sent. DIRECTORY/ended: it is gone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._reader = ConsoleReader(directory / "output")

    def read(self, offset: int, max_bytes: int, wait_ms: int) -> tuple[int, bytes, bool]:
        deadline = time.monotonic() + min(wait_ms, 100) / 1000
        while True:
            ended = (self.directory / "ended").exists()
            chunk = self._reader.read(offset, max_bytes)
            if chunk.data or ended or time.monotonic() > deadline:
                return chunk.offset, chunk.data, ended
            time.sleep(0.005)

    def write(self, data: bytes) -> int:
        with (self.directory / "input").open("ab") as file:
            file.write(data)
        return len(data)


if __name__ == "__main__":
    outcome = attach(FileConsole(Path(sys.argv[1])), notice=lambda text: print(f"notice: {text}", file=sys.stderr))
    print(f"{outcome.reason.name} {outcome.signal} {outcome.error!r}", file=sys.stderr)
