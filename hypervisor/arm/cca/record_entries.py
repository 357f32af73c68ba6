"""Views of the entries in a Realm's records: one table, one run of RAM, one REC, the operation in flight.

Each property is one 8-byte word of Non-secure memory, read and written there; :mod:`hypervisor.arm.cca.records` lays
them out.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from typing import Final

from hypervisor.arm.cca.ledger import Ledger
from hypervisor.arm.cca.state import ObjectState

NOT_KNOWN: Final = (1 << 64) - 1
#: Most pages that one REC's operations may take.
REC_LEDGER: Final = 16
#: The operation's words in the root page.
OP_FID, OP_HANDLE, OP_CANCEL, OP_REC = range(8, 12)


class RecordsError(Exception):
    """Raised when a Realm is too large to record, or a root page holds something else."""


class TableRecord:
    """A translation table: ``ipa`` and ``level`` say which, ``pa`` where; ``exists`` is whether the RMM may know it."""

    __slots__ = ("_at", "_words")
    _EXISTS: Final = 1 << 2

    def __init__(self, words: memoryview, at: int) -> None:
        self._words = words
        self._at = at

    def set(self, ipa: int, level: int, pa: int) -> None:
        """Record a table whose page is about to be delegated."""
        self._words[self._at] = ipa | level
        self._words[self._at + 1] = pa

    def creating(self) -> None:
        """RTT_CREATE is about to be issued."""
        self._words[self._at] |= self._EXISTS

    def gone(self) -> None:
        """The RMM does not know the table (any more)."""
        self._words[self._at] &= ~self._EXISTS

    def returned(self) -> None:
        """The page is Non-secure and no longer recorded."""
        self._words[self._at + 1] = 0

    @property
    def ipa(self) -> int:
        return int(self._words[self._at]) & ~0xFFF

    @property
    def level(self) -> int:
        return int(self._words[self._at]) & 3

    @property
    def exists(self) -> bool:
        return bool(self._words[self._at] & self._EXISTS)

    @property
    def pa(self) -> int:
        return int(self._words[self._at + 1])


class ExtentRecord:
    """A run of guest RAM and four marks in it, byte offsets from its start.

    Below ``delegated`` and ``mapped`` the granules may be delegated and mapped; below ``unmapped`` and ``returned``
    teardown has dealt with them.
    """

    __slots__ = ("_at", "_words", "gpa", "pa", "size")

    def __init__(self, words: memoryview, at: int) -> None:
        self._words = words
        self._at = at
        self.gpa, self.pa, self.size = (int(word) for word in words[at : at + 3])

    @property
    def delegated(self) -> int:
        return int(self._words[self._at + 3])

    @delegated.setter
    def delegated(self, offset: int) -> None:
        self._words[self._at + 3] = offset

    @property
    def mapped(self) -> int:
        return int(self._words[self._at + 4])

    @mapped.setter
    def mapped(self, offset: int) -> None:
        self._words[self._at + 4] = offset

    @property
    def unmapped(self) -> int:
        return int(self._words[self._at + 5])

    @unmapped.setter
    def unmapped(self, offset: int) -> None:
        self._words[self._at + 5] = offset

    @property
    def returned(self) -> int:
        return int(self._words[self._at + 6])

    @returned.setter
    def returned(self, offset: int) -> None:
        self._words[self._at + 6] = offset


class RecRecord:
    """A vCPU's REC: its page, whether the object exists, its RecRun page (never delegated), its auxiliary pages."""

    __slots__ = ("_at", "_words", "aux", "vcpu_id")

    def __init__(self, vcpu_id: int, words: memoryview, at: int) -> None:
        self.vcpu_id = vcpu_id
        self._words = words
        self._at = at
        self.aux = Ledger(words, at + 8, REC_LEDGER)

    @property
    def page(self) -> int:
        """The REC's page, 0 when there is none."""
        return int(self._words[self._at])

    @page.setter
    def page(self, pa: int) -> None:
        self._words[self._at] = pa

    @property
    def object(self) -> ObjectState:
        return ObjectState(self._words[self._at + 1])

    @object.setter
    def object(self, state: ObjectState) -> None:
        self._words[self._at + 1] = state

    @property
    def run(self) -> int:
        """The RecRun page, 0 when there is none."""
        return int(self._words[self._at + 2])

    @run.setter
    def run(self, pa: int) -> None:
        self._words[self._at + 2] = pa

    @property
    def rec(self) -> int:
        """PA of the REC when it exists, else 0."""
        return self.page if self.object == ObjectState.EXISTS else 0


class OperationRecord:
    """The operation in flight, as :class:`hypervisor.arm.cca.rmi.PendingOperation`; ``owner`` is set by its caller."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self.owner: int | None = None

    def started(self, fid: int) -> None:
        self._words[OP_HANDLE] = NOT_KNOWN
        self._words[OP_CANCEL] = 0
        self._words[OP_REC] = NOT_KNOWN if self.owner is None else self.owner
        self._words[OP_FID] = fid

    def running(self, fid: int, handle: int, cancellable: bool) -> None:
        self._words[OP_CANCEL] = cancellable
        self._words[OP_HANDLE] = handle
        self._words[OP_FID] = fid

    def ended(self) -> None:
        self._words[OP_FID] = 0

    @property
    def fid(self) -> int:
        """The command, 0 when nothing is in flight."""
        return int(self._words[OP_FID])

    @property
    def handle(self) -> int | None:
        """The handle, None while it is not known."""
        handle = int(self._words[OP_HANDLE])
        return None if handle == NOT_KNOWN else handle

    @property
    def cancellable(self) -> bool:
        return bool(self._words[OP_CANCEL])

    @property
    def rec(self) -> int | None:
        """The vCPU whose REC the operation is about; None: the realm."""
        index = int(self._words[OP_REC])
        return None if index == NOT_KNOWN else index


class AbandonedGranules:
    """Granules of guest RAM that the RMM did not let go of: a page of words, 0 for a free slot."""

    def __init__(self, words: MutableSequence[int] | memoryview) -> None:
        self._words = words

    def add(self, pa: int) -> None:
        """Remember a granule (once). RecordsError when the page is full: teardown stops there and can be retried."""
        free = -1
        for index in range(len(self._words)):
            word = self._words[index]
            if word == pa:
                return
            if not word and free < 0:
                free = index
        if free < 0:
            raise RecordsError(f"{len(self._words)} abandoned granules already: no record for {pa:#x}")
        self._words[free] = pa

    def discard(self, pa: int) -> None:
        """Forget a granule that came back after all."""
        for index in range(len(self._words)):
            if self._words[index] == pa:
                self._words[index] = 0

    def __iter__(self) -> Iterator[int]:
        return iter([int(word) for word in self._words if word])
