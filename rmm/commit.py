"""The commit point: every change of RMM state is carried out here, all or nothing, even against SIGKILL.

A command collects its changes in a :class:`Transaction` (``with rmm.commit() as txn``); leaving the block writes them
to the journal in the carve-out, marks the journal valid, applies it, and clears the mark. A process killed before the
mark has changed nothing; one killed after it leaves a valid journal, which the next taker of the RMM lock applies again
(:meth:`Journal.recover`): records hold absolute values, so applying twice is applying once.

What a granule in state DELEGATED contains is unspecified, so a command may fill one in place before the commit that
puts it to use.
"""

from __future__ import annotations

import struct
from types import TracebackType

from machine.memory import GRANULE_SHIFT, PhysicalMemory
from rmm.carveout import JOURNAL_WORDS
from rmm.granules import GranuleState

_HEADER_WORDS = 4
_FILL_STATE = 0
_FILL_GPT = 1
_FILL_MAPPED = 2
#: States up to this one are those of granules that nothing uses.
_UNUSED = int(GranuleState.DELEGATED)
#: Packers by number of words; commands use a handful of sizes.
_PACKERS: dict[int, struct.Struct] = {}


class CommitError(Exception):
    """Raised when a transaction does not fit the journal: a command that does too much at once."""


class Transaction:
    """The changes of one command. Values are those after the commit; the last store to a place wins."""

    __slots__ = ("_base", "_journal", "fills", "states", "words")

    def __init__(self, journal: Journal, base: int) -> None:
        self._journal = journal
        self._base = base
        self.words: list[int] = []
        self.states: list[int] = []
        self.fills: list[int] = []

    def store_u64(self, pa: int, value: int) -> None:
        """Store a u64 at ``pa`` (8-byte aligned)."""
        self.words += ((pa - self._base) >> 3, value)

    def store_word(self, index: int, value: int) -> None:
        """Store a u64 at a word index of ``PhysicalMemory.words``."""
        self.words += (index, value)

    def store(self, pa: int, data: bytes) -> None:
        """Store bytes at ``pa``; address and length are multiples of 8."""
        if pa & 7 or len(data) & 7:
            raise CommitError(f"a store of {len(data)} bytes at {pa:#x} is not in whole words")
        index = (pa - self._base) >> 3
        for at, value in enumerate(struct.unpack(f"<{len(data) >> 3}Q", data), index):
            self.words += (at, value)

    def set_state(self, pa: int, state: int) -> None:
        """Give the granule at ``pa`` a state. In any state but UNDELEGATED and DELEGATED it counts as touched."""
        self.states += ((pa - self._base) >> GRANULE_SHIFT, state)

    def set_states(self, pa: int, count: int, state: int) -> None:
        """Give ``count`` granules from ``pa`` on a state."""
        self.fills += (_FILL_STATE, (pa - self._base) >> GRANULE_SHIFT, count, state)

    def set_pas(self, pa: int, count: int, pas: int) -> None:
        """Move ``count`` granules from ``pa`` on to a physical address space (the GPT)."""
        self.fills += (_FILL_GPT, (pa - self._base) >> GRANULE_SHIFT, count, pas)

    def set_mapped(self, pa: int, count: int, mapped: bool) -> None:
        """Note whether an unprotected leaf may name any of ``count`` granules from ``pa`` on."""
        self.fills += (_FILL_MAPPED, (pa - self._base) >> GRANULE_SHIFT, count, int(mapped))

    def part(self) -> None:
        """Commit what there is so far if it fills half the journal, and go on with the rest.

        For changes of any number, where a process killed between two parts leaves nothing that a later command cannot
        cope with.
        """
        if len(self.words) + len(self.states) + len(self.fills) > self._journal.room >> 1:
            self._journal.write(self.words, self.states, self.fills)
            self.words, self.states, self.fills = [], [], []

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._journal.write(self.words, self.states, self.fills)


class Journal:
    """The redo journal in the carve-out: a valid mark, three lengths, then words, states and fills.

    ``room`` is how many words a transaction may have.
    """

    def __init__(self, memory: PhysicalMemory, pa: int, states: memoryview, mapped: memoryview) -> None:
        self._mapped = mapped
        self._base = memory.dram_base
        self._words = memory.words
        self._buf = memory.buf
        self._states = states
        self._gpt = memory.gpt
        self._touched = memory.touched
        self._offset = pa - memory.dram_base
        self._header = self._offset >> 3
        self.room = JOURNAL_WORDS - _HEADER_WORDS

    def begin(self) -> Transaction:
        """A transaction with nothing in it."""
        return Transaction(self, self._base)

    def write(self, words: list[int], states: list[int], fills: list[int]) -> None:
        """Write, mark, apply, clear: flat lists of (word index, value), (granule, state) and fills.

        CommitError when they are larger than the journal. Hot paths call this without a :class:`Transaction`.
        """
        total = len(words) + len(states) + len(fills)
        if not total:
            return
        if total > self.room:
            raise CommitError(f"a transaction of {total} words does not fit the journal of {self.room}")
        packer = _PACKERS.get(total)
        if packer is None:
            packer = _PACKERS[total] = struct.Struct(f"<{total + _HEADER_WORDS - 1}Q")
        packer.pack_into(self._buf, self._offset + 8, len(words), len(states), len(fills), *words, *states, *fills)
        header = self._header
        self._words[header] = 1
        self._apply(words, states, fills)
        self._words[header] = 0

    def recover(self) -> bool:
        """Carry out what a killed process had committed but not finished; False when there is nothing to do."""
        memory, header = self._words, self._header
        if not memory[header]:
            return False
        counts = (memory[header + 1], memory[header + 2], memory[header + 3])
        at = header + _HEADER_WORDS
        parts: list[list[int]] = []
        for count in counts:
            parts.append(memory[at : at + count].tolist())
            at += count
        self._apply(*parts)
        memory[header] = 0
        return True

    def _apply(self, words: list[int], states: list[int], fills: list[int]) -> None:
        # Plain loops over constants: every command pays for this (benchmarks/bench_rmm.py).
        memory = self._words
        pairs = iter(words)
        for index in pairs:
            memory[index] = next(pairs)
        table, touched = self._states, self._touched
        pairs = iter(states)
        for index in pairs:
            table[index] = value = next(pairs)
            if value > _UNUSED:
                touched[index] = 1
        if fills:
            self._apply_fills(fills)

    def _apply_fills(self, fills: list[int]) -> None:
        for at in range(0, len(fills), 4):
            kind, first, count, value = fills[at : at + 4]
            run = bytes([value]) * count
            if kind == _FILL_GPT:
                self._gpt[first : first + count] = run
            elif kind == _FILL_MAPPED:
                self._mapped[first : first + count] = run
            else:
                self._states[first : first + count] = run
                if value > _UNUSED:
                    self._touched[first : first + count] = b"\x01" * count
