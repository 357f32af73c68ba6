"""The monitor: boot, and the dispatch of RMI commands. Enter at :func:`boot`, which the board's loader calls.

A :class:`Monitor` belongs to one process and holds no RMM state: that is in the carve-out and in granules, so every
process of the machine can carry out every command. Commands run one at a time under the RMM lock (REC_ENTER takes it
only in pieces) and change state only through :meth:`Monitor.commit`.
"""

from __future__ import annotations

import importlib
import time
from fcntl import LOCK_EX, LOCK_UN, flock
from typing import TYPE_CHECKING, Any, Final

from machine.board import SMC_UNKNOWN, Board, SmcHandler, SmcResult
from rmm.abi.rmi import Status
from rmm.carveout import MAGIC, CarveOut, Globals, RmmState
from rmm.commit import Journal, Transaction
from rmm.granules import GranuleState, GranuleTable
from rmm.lock import RmmLock, RunningRecs
from rmm.options import Options
from rmm.realm import Realm, RealmState
from rmm.rmi import HANDLERS

if TYPE_CHECKING:
    from rmm.session import Residents

_COMMAND_MODULES = (
    "management",
    "granule",
    "realm",
    "rtt",
    "ripas",
    "data",
    "unprot",
    "rec",
    "sro",
    "rec_enter",
    "psci_complete",
)

_SVE_HINT: Final = 1 << 16
_PADDING = tuple((0,) * n for n in range(6))
_ZERO_PAGE = bytes(4096)
#: Seconds between two looks at an engine that has to leave a REC.
_FIRST_PAUSE: Final = 20e-6
_LONGEST_PAUSE: Final = 1e-3
_NOT_NOW: SmcResult = (int(Status.ERROR_GLOBAL), 0, 0, 0, 0)


class Monitor:
    """R-EL2 in this process: ``board``, ``memory`` (raw), ``words`` (u64 view), ``granules``, ``lock``, ``running``."""

    def __init__(self, board: Board, options: Options) -> None:
        self.board = board
        self.options = options
        self.memory = memory = board.memory
        self.words = memory.words
        self.base = memory.dram_base
        self.features = options.features()
        self.carveout = carveout = CarveOut(memory, options.sro_contexts)
        self.granules = GranuleTable(memory, carveout.states)
        self.journal = Journal(memory, carveout.journal_pa, carveout.states, carveout.mapped)
        valid = carveout.word(carveout.journal_pa)
        self.lock = RmmLock(memory.fd, self.journal, memory.words[valid : valid + 1])
        self.running = RunningRecs(memory, carveout.global_word("runner"))
        self._state_word = carveout.global_word("state")
        self._realms: dict[int, Realm] = {}
        #: What :mod:`rmm.session` keeps of the RECs on this process's processing element.
        self.residents: Residents | None = None
        self._bumped: list[Realm] = []
        with self.lock:
            self._power_on()

    def _power_on(self) -> None:
        """Lay out the carve-out if this is the machine's first boot; ValueError if it was booted with other options."""
        carveout, memory = self.carveout, self.memory
        page = carveout.globals_pa - memory.dram_base
        found = Globals.parse(memory.buf, page)
        if found["magic"] != MAGIC:
            memory.populate(carveout.globals_pa, carveout.end - carveout.globals_pa)
            Globals.sro_contexts.write(memory.buf, self.options.sro_contexts, page)
            Globals.magic.write(memory.buf, MAGIC, page)
        elif found["sro_contexts"] != self.options.sro_contexts:
            raise ValueError(
                f"the RMM of this machine has {found['sro_contexts']} SRO contexts, not {self.options.sro_contexts}"
            )

    @property
    def state(self) -> RmmState:
        """INIT or ACTIVE."""
        return RmmState(self.words[self._state_word])

    def commit(self) -> Transaction:
        """A new transaction: ``with rmm.commit() as txn``. Only under the lock."""
        return self.journal.begin()

    def realm(self, rd: int) -> Realm | None:
        """The realm whose RD is the granule ``rd``; None when it is not an RD (alignment included)."""
        if not self.granules.has_state(rd, GranuleState.RD):
            return None
        realm = self._realms.get(rd)
        if realm is None or self.words[realm.serial_word] != realm.serial:
            realm = self._realms[rd] = Realm(self.memory, rd)
        return realm

    def bump_generation(self, txn: Transaction, realm: Realm) -> None:
        """Make the realm's engine drop what it holds of the realm's translations, with this commit."""
        txn.store_word(realm.word("generation"), realm.generation + 1)
        self._bumped.append(realm)

    def _shoot_down(self, realms: list[Realm]) -> None:
        """Wait, without the lock, until no engine runs a realm with translations older than its generation.

        A realm's engine takes the generation up when it enters a REC, so one that left since has acknowledged.
        """
        for realm in {realm.rd: realm for realm in realms}.values():
            if realm.state not in (RealmState.ACTIVE, RealmState.SYSTEM_OFF) or not self.running.any_running(realm.rd):
                continue
            if self.board.cpu is not None:
                self.board.cpu.kick()
            generation, entered = realm.generation, realm.word("entered_generation")
            pause = _FIRST_PAUSE
            while self.running.any_running(realm.rd) and self.words[entered] < generation:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def invalidate_code(self, pa: int, size: int) -> None:
        """Drop code that this process's element translated from the range; others follow the realm's generation."""
        if self.board.cpu is not None:
            self.board.cpu.invalidate_code(pa, size)

    def zero_granule(self, pa: int) -> None:
        """Make a DELEGATED granule read as zero, and mark it as touched: it is about to be put to use."""
        offset = pa - self.base
        memory = self.memory
        if memory.touched[offset >> 12]:
            memory.buf[offset : offset + 4096] = _ZERO_PAGE
        else:
            memory.touched[offset >> 12] = 1

    def fill_granule(self, pa: int, content: bytes | bytearray | memoryview) -> None:
        """Fill a DELEGATED granule with 4096 bytes, in place."""
        offset = pa - self.base
        self.memory.touched[offset >> 12] = 1
        self.memory.buf[offset : offset + 4096] = content

    def read_ns(self, pa: int, size: int) -> bytes | None:
        """``size`` bytes of one host granule; None when the host could not read them itself."""
        if pa >> 12 != (pa + size - 1) >> 12 or not self.granules.is_ns(pa & ~0xFFF):
            return None
        offset = pa - self.base
        return bytes(self.memory.buf[offset : offset + size])

    def write_ns(self, pa: int, data: bytes) -> bool:
        """Store bytes in one host granule; False when the host could not write there itself."""
        if pa >> 12 != (pa + len(data) - 1) >> 12 or not self.granules.is_ns(pa & ~0xFFF):
            return False
        self.memory.write(pa, data)
        return True

    def smc(self, fid: int, *args: int) -> SmcResult:
        """Carry out an RMI command: x0..x4. Missing argument registers read as zero, surplus ones are ignored."""
        handler = HANDLERS.get(fid & ~_SVE_HINT)
        if handler is None:
            return SMC_UNKNOWN
        function, count, locked, states = handler
        if len(args) != count:
            args = (args + (0,) * count)[:count]
        if locked:
            # RmmLock.acquire and release, in line: every command pays for them (benchmarks/bench_rmm.py).
            lock = self.lock
            mutex = lock.mutex
            mutex.acquire()
            try:
                flock(lock.fd, LOCK_EX)
                try:
                    if lock.valid[0]:
                        lock.journal.recover()
                    if self.words[self._state_word] not in states:
                        return _NOT_NOW
                    answer = function(self, *args)
                    bumped = self._bumped
                    if bumped:
                        self._bumped = []
                finally:
                    flock(lock.fd, LOCK_UN)
            finally:
                mutex.release()
            if bumped:
                self._shoot_down(bumped)
        elif self.words[self._state_word] not in states:
            return _NOT_NOW
        else:
            answer = function(self, *args)
        if answer.__class__ is int:
            return (answer, 0, 0, 0, 0)
        if answer.__class__ is tuple:
            result: SmcResult = answer + _PADDING[5 - len(answer)]
            return result
        return (int(answer), 0, 0, 0, 0)


def boot(board: Board, **options: Any) -> SmcHandler:
    """Start the RMM on a board; the keywords are those of :class:`rmm.options.Options`.

    Answers the SMC handler. TypeError for an unknown option, OutOfMemory when the machine cannot back the carve-out.
    """
    for name in _COMMAND_MODULES:
        importlib.import_module(f"rmm.rmi.{name}")
    return Monitor(board, Options(**options)).smc
