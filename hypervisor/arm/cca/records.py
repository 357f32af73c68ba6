"""The host's records of a Realm, in Non-secure pages that outlive the process that builds and runs it.

Every page that may be delegated, and every operation that may be in flight, is found from here at any time: a record is
written *before* the SMC it is about, and each change is one 8-byte store, so that a reader who finds the records after
their writer was killed sees a state in between, never a torn one. What a record cannot say ("was that SMC carried
out?") teardown finds out from the RMM.

The root page belongs to the domain and is zero when there is no Realm. Its words::

    0  magic                4  RD page               8   operation: command id (0: none)
    1  domid                5  root table page       9   operation: handle (all ones: not known)
    2  RealmState           6  guest image lost      10  operation: may be cancelled
    3  realm ObjectState    7  work pages' count     11  operation: the REC it belongs to (all ones: the realm)
    12 tables' count        13 extents' count        14  RECs' count
    32..95    ledger of the pages that REALM_CREATE took
    128..511  directory: the pages that hold the sections, in the order below

Sections, each in whole pages: work pages (Non-secure scratch: one word each), abandoned granules (one page of words),
tables (2 words each), DATA extents (8 words each), RECs (32 words each).
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence, Sequence
from typing import Final

from hypervisor.arm.cca.ledger import Ledger
from hypervisor.arm.cca.ports import Extent, HostPages
from hypervisor.arm.cca.state import ObjectState, RealmState, check_transition
from machine.memory import GRANULE_SIZE, NonSecureView

MAGIC: Final = 0x31_434552_4D4C_52  # "RLMREC1" and a zero byte
NOT_KNOWN: Final = (1 << 64) - 1
#: Most pages that the realm's operations may take.
REALM_LEDGER: Final = 64
#: Most pages that one REC's operations may take.
REC_LEDGER: Final = 16

_WORDS: Final = GRANULE_SIZE // 8
(_MAGIC, _DOMID, _STATE, _REALM, _RD, _ROOT, _LOST, _WORK_COUNT, _OP_FID, _OP_HANDLE, _OP_CANCEL, _OP_REC,
 _TABLES, _EXTENTS, _RECS) = range(15)
_LEDGER: Final = 32
_DIRECTORY: Final = 128
_TABLE_WORDS: Final = 2
_EXTENT_WORDS: Final = 8
_REC_WORDS: Final = 32


class RecordsError(Exception):
    """Raised when a Realm is too large to record, or a root page holds something else."""


class _Section:
    """An array of fixed-size entries over record pages; ``at(i)`` is (words of the page, index of the entry)."""

    def __init__(self, pages: Sequence[memoryview], entry_words: int, count: int) -> None:
        self.pages = pages
        self.entry_words = entry_words
        self.per_page = _WORDS // entry_words
        self.count = count

    def at(self, index: int) -> tuple[memoryview, int]:
        page, slot = divmod(index, self.per_page)
        return self.pages[page], slot * self.entry_words


def _pages_for(entries: int, entry_words: int) -> int:
    return -(-entries // (_WORDS // entry_words))


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
        self._words[_OP_HANDLE] = NOT_KNOWN
        self._words[_OP_CANCEL] = 0
        self._words[_OP_REC] = NOT_KNOWN if self.owner is None else self.owner
        self._words[_OP_FID] = fid

    def running(self, fid: int, handle: int, cancellable: bool) -> None:
        self._words[_OP_CANCEL] = cancellable
        self._words[_OP_HANDLE] = handle
        self._words[_OP_FID] = fid

    def ended(self) -> None:
        self._words[_OP_FID] = 0

    @property
    def fid(self) -> int:
        """The command, 0 when nothing is in flight."""
        return int(self._words[_OP_FID])

    @property
    def handle(self) -> int | None:
        """The handle, None while it is not known."""
        handle = int(self._words[_OP_HANDLE])
        return None if handle == NOT_KNOWN else handle

    @property
    def cancellable(self) -> bool:
        return bool(self._words[_OP_CANCEL])

    @property
    def rec(self) -> int | None:
        """The vCPU whose REC the operation is about; None: the realm."""
        index = int(self._words[_OP_REC])
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


class Records:
    """A Realm's records; :meth:`create` makes them, :meth:`open` finds them."""

    def __init__(self, ns: NonSecureView, root_pa: int) -> None:
        self.root_pa = root_pa
        self._ns = ns
        self._root = root = ns.window(root_pa, GRANULE_SIZE).cast("Q")
        if root[_MAGIC] != MAGIC:
            raise RecordsError(f"page {root_pa:#x} does not hold the records of a Realm")
        self.domid = int(root[_DOMID])
        work, tables, extents, recs = (int(root[at]) for at in (_WORK_COUNT, _TABLES, _EXTENTS, _RECS))
        position = _DIRECTORY

        def section(count: int, words: int) -> _Section:
            nonlocal position
            number = _pages_for(count, words)
            pages = [
                ns.window(int(root[position + i]), GRANULE_SIZE).cast("Q") for i in range(number)
            ]
            position += number
            return _Section(pages, words, count)

        self._work = section(work, 1)
        self.abandoned = AbandonedGranules(section(_WORDS, 1).pages[0])
        self._tables = section(tables, _TABLE_WORDS)
        self._extents = section(extents, _EXTENT_WORDS)
        self._recs = section(recs, _REC_WORDS)
        self._directory_end = position
        self.ledger = Ledger(root, _LEDGER, REALM_LEDGER)
        self.operation = OperationRecord(root)
        self.tables = [TableRecord(*self._tables.at(index)) for index in range(tables)]
        self.extents = [ExtentRecord(*self._extents.at(index)) for index in range(extents)]
        self.recs = [RecRecord(index, *self._recs.at(index)) for index in range(recs)]

    @classmethod
    def create(
        cls,
        ns: NonSecureView,
        root_pa: int,
        pages: HostPages,
        *,
        domid: int,
        ram: Sequence[Extent],
        tables: int,
        recs: int,
        work: int,
    ) -> Records:
        """Lay the records out in the (zero) root page and pages of their own; the state is NEW.

        MemoryError when there are no pages, RecordsError when the directory is too small (RAM in too many extents).
        """
        counts = ((work, 1), (_WORDS, 1), (tables, _TABLE_WORDS), (len(ram), _EXTENT_WORDS), (recs, _REC_WORDS))
        number = sum(_pages_for(count, words) for count, words in counts)
        if number > _WORDS - _DIRECTORY:
            raise RecordsError(f"d{domid}: RAM in {len(ram)} extents needs {number} record pages")
        root = ns.window(root_pa, GRANULE_SIZE).cast("Q")
        if root[_MAGIC]:
            raise RecordsError(f"page {root_pa:#x} is in use")
        taken = pages.alloc(number + work)
        for index, pa in enumerate(taken[:number]):
            root[_DIRECTORY + index] = pa
        root[_DOMID] = domid
        for at, count in ((_WORK_COUNT, work), (_TABLES, tables), (_EXTENTS, len(ram)), (_RECS, recs)):
            root[at] = count
        root[_STATE] = RealmState.NEW
        root[_MAGIC] = MAGIC
        records = cls(ns, root_pa)
        for index, extent in enumerate(ram):
            words, at = records._extents.at(index)
            for offset, value in enumerate(extent):
                words[at + offset] = value
        records.extents = [ExtentRecord(*records._extents.at(index)) for index in range(len(ram))]
        for index, pa in enumerate(taken[number:]):
            records.set_work_page(index, pa)
        return records

    @classmethod
    def open(cls, ns: NonSecureView, root_pa: int) -> Records | None:
        """The records that start at ``root_pa``; None when there is no Realm."""
        if ns.read_u64(root_pa) == 0:
            return None
        return cls(ns, root_pa)

    def erase(self, pages: HostPages) -> None:
        """Give the record pages back and make the root page blank; only for a DEAD Realm."""
        check_transition(self.state, RealmState.NONE)
        directory = [int(self._root[at]) for at in range(_DIRECTORY, self._directory_end)]
        directory += [pa for pa in self.work_pages() if pa]
        self._root[_MAGIC] = 0
        for at in range(1, _WORDS):
            self._root[at] = 0
        pages.free(directory)

    # The realm.

    @property
    def state(self) -> RealmState:
        """The host's view of the Realm."""
        return RealmState(self._root[_STATE])

    def set_state(self, state: RealmState) -> None:
        """StateError for a transition that there is not."""
        check_transition(self.state, state)
        self._root[_STATE] = state

    @property
    def realm(self) -> ObjectState:
        """Whether the realm exists in the RMM."""
        return ObjectState(self._root[_REALM])

    @realm.setter
    def realm(self, state: ObjectState) -> None:
        self._root[_REALM] = state

    @property
    def rd(self) -> int:
        """The RD's page, 0 when there is none; :attr:`realm` says whether it holds a realm."""
        return int(self._root[_RD])

    @rd.setter
    def rd(self, pa: int) -> None:
        self._root[_RD] = pa

    @property
    def root_table(self) -> int:
        """The root table's page, 0 when there is none."""
        return int(self._root[_ROOT])

    @root_table.setter
    def root_table(self, pa: int) -> None:
        self._root[_ROOT] = pa

    @property
    def image_lost(self) -> bool:
        """Whether part of the guest's image has left the Non-secure world (it cannot be brought back)."""
        return bool(self._root[_LOST])

    @image_lost.setter
    def image_lost(self, lost: bool) -> None:
        self._root[_LOST] = lost

    # Work pages: Non-secure, never delegated.

    def work_page(self, index: int) -> int:
        """PA of a work page, 0 once it was freed."""
        words, at = self._work.at(index)
        return int(words[at])

    def set_work_page(self, index: int, pa: int) -> None:
        """Record (or with 0 forget) a work page."""
        words, at = self._work.at(index)
        words[at] = pa

    def work_pages(self) -> list[int]:
        """All work pages, 0 for one that was freed."""
        return [self.work_page(index) for index in range(self._work.count)]

    # What is not back yet.

    def unreturned(self) -> list[int]:
        """Every granule that teardown still has to get back, known to be delegated or not."""
        found = [pa for pa in (self.rd, self.root_table) if pa]
        found += self.ledger.pages()
        found += [table.pa for table in self.tables if table.pa]
        for rec in self.recs:
            found += rec.aux.pages()
            if rec.page:
                found.append(rec.page)
        for extent in self.extents:
            found += range(extent.pa + extent.returned, extent.pa + extent.delegated, GRANULE_SIZE)
        found += self.abandoned
        return found


def handle_in_use(ns: NonSecureView, root_pa: int) -> int | None:
    """The handle of the operation that the Realm with records at ``root_pa`` has in flight; None without one."""
    records = Records.open(ns, root_pa)
    return records.operation.handle if records is not None and records.operation.fid else None
