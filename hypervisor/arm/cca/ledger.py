"""A ledger of the pages that one RMM object was given through stateful operations.

An array of words, each 0 or a page's address with its :class:`Entry` state in the low bits, so that every change is one
store; a domain's ledgers are part of its records, the RMM's own (activation) is a list. The same page is never in two
slots.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import IntEnum
from typing import Any

_PAGE = ~0xFFF


class Entry(IntEnum):
    """What is known of a page in a ledger."""

    #: Free slot.
    NONE = 0
    #: About to be delegated and offered.
    OFFERED = 1
    #: The RMM took it.
    HELD = 2
    #: The RMM does not need it (any more), but undelegating it failed.
    ABANDONED = 3


class Ledger:
    """``capacity`` slots of ``words`` from ``base`` on."""

    def __init__(self, words: MutableSequence[int] | memoryview, base: int = 0, capacity: int | None = None) -> None:
        self._words: Any = words
        self._base = base
        self.capacity = len(words) - base if capacity is None else capacity

    def _slots(self) -> range:
        return range(self._base, self._base + self.capacity)

    def _find(self, pa: int) -> int:
        for at in self._slots():
            if self._words[at] & _PAGE == pa and self._words[at]:
                return at
        raise KeyError(f"page {pa:#x} is not in the ledger")

    def __len__(self) -> int:
        """Slots in use."""
        return sum(1 for at in self._slots() if self._words[at])

    def offer(self, pa: int) -> None:
        """Take a free slot for a page; IndexError when there is none."""
        for at in self._slots():
            if not self._words[at]:
                self._words[at] = pa | Entry.OFFERED
                return
        raise IndexError(f"no free slot for page {pa:#x}")

    def mark(self, pa: int, entry: Entry) -> None:
        """Change a page's state; KeyError when it is not here."""
        self._words[self._find(pa)] = pa | entry

    def drop(self, pa: int) -> None:
        """The page is Non-secure again (or another record has it); KeyError when it is not here."""
        self._words[self._find(pa)] = 0

    def pages(self, entry: Entry | None = None) -> list[int]:
        """The pages in a state (default: all)."""
        words = [int(self._words[at]) for at in self._slots() if self._words[at]]
        return [word & _PAGE for word in words if entry is None or word & 0xFFF == entry]

    def __contains__(self, pa: object) -> bool:
        return pa in self.pages()
