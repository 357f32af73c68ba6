"""Signals that end a command in the middle of something that must be undone.

Inside ``with Interruption() as interruption:`` SIGINT, SIGTERM and SIGHUP raise :class:`~toolstack.errors.Interrupted`
wherever the program is; inside ``with interruption.deferred():`` they wait until the end of that block, and inside
``with interruption.shielded():`` they are dropped (once what was begun is being undone, there is nothing more to ask).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from toolstack.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Interruption:
    """Handles the signals between ``__enter__`` and ``__exit__``; does nothing in other threads than the main one."""

    def __init__(self) -> None:
        self._deferring = 0
        self._shielded = False
        self._pending: int | None = None
        self._before: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._shielded:
            return
        if self._deferring:
            self._pending = number
            return
        raise Interrupted(number)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A signal that comes inside is raised at the end of the block."""
        self._deferring += 1
        try:
            yield
        finally:
            self._deferring -= 1
        if self._pending is not None and not self._deferring:
            number, self._pending = self._pending, None
            raise Interrupted(number)

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Signals that come inside are dropped."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
