"""The hypervisor log: a bounded ring that ``xl dmesg`` shows, each line in Xen's form ``(XEN) text``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

ERR = "err"
WARNING = "warning"
INFO = "info"
DEBUG = "debug"

#: Lines kept; the oldest are dropped, and the first line of the text then says how many.
CAPACITY = 8192
#: Longest line kept, in characters.
LINE_LIMIT = 1024


class HypervisorLog:
    """Collects lines; ``sink`` also gets each one (the daemon's standard error)."""

    def __init__(self, sink: Callable[[str], None] | None = None) -> None:
        self._lines: deque[str] = deque(maxlen=CAPACITY)
        self._dropped = 0
        self._sink = sink

    def log(self, level: str, text: str) -> None:
        """Add a line (``level`` is one of this module's constants; the ring keeps all of them)."""
        line = f"(XEN) {text[:LINE_LIMIT]}"
        if len(self._lines) == CAPACITY:
            self._dropped += 1
        self._lines.append(line)
        if self._sink is not None:
            self._sink(line)

    def text(self, clear: bool = False) -> str:
        """All lines, oldest first; ``clear`` empties the ring."""
        lines = list(self._lines)
        if self._dropped:
            lines.insert(0, f"(XEN) *** {self._dropped} earlier lines dropped ***")
        if clear:
            self._lines.clear()
            self._dropped = 0
        return "".join(line + "\n" for line in lines)
