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

from collections.abc import Sequence
from typing import Final

from hypervisor.arm.cca.ledger import Ledger
from hypervisor.arm.cca.ports import Extent, HostPages
from hypervisor.arm.cca.record_entries import (
    NOT_KNOWN,
    OP_FID,
    OP_HANDLE,
    AbandonedGranules,
    ExtentRecord,
    OperationRecord,
    RecordsError,
    RecRecord,
    TableRecord,
)
from hypervisor.arm.cca.state import ObjectState, RealmState, check_transition
from machine.memory import GRANULE_SIZE, NonSecureView

MAGIC: Final = 0x31_434552_4D4C_52  # "RLMREC1" and a zero byte
#: Most pages that the realm's operations may take.
REALM_LEDGER: Final = 64

_WORDS: Final = GRANULE_SIZE // 8
_MAGIC, _DOMID, _STATE, _REALM, _RD, _ROOT, _LOST, _WORK_COUNT = range(8)
_TABLES, _EXTENTS, _RECS = range(12, 15)
_LEDGER: Final = 32
_DIRECTORY: Final = 128
_TABLE_WORDS: Final = 2
_EXTENT_WORDS: Final = 8
_REC_WORDS: Final = 32


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


def realm_state(ns: NonSecureView, root_pa: int) -> RealmState:
    """The host's view of a Realm without opening all of its records; NONE when there are none."""
    return RealmState(ns.read_u64(root_pa + 8 * _STATE)) if ns.read_u64(root_pa) == MAGIC else RealmState.NONE


def handle_in_use(ns: NonSecureView, root_pa: int) -> int | None:
    """The handle of the operation that the Realm with records at ``root_pa`` has in flight; None without one."""
    if ns.read_u64(root_pa) != MAGIC or not ns.read_u64(root_pa + 8 * OP_FID):
        return None
    handle = ns.read_u64(root_pa + 8 * OP_HANDLE)
    return None if handle == NOT_KNOWN else handle
