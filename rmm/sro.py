"""Stateful operations: their contexts in the carve-out, and the memory that the host lends them.

A context (:class:`SroContext`) is a page of the carve-out; its index is the handle. An operation is in one of three
phases: it waits for OP_MEM_DONATE, for OP_CONTINUE, or for OP_MEM_RECLAIM to take back what it holds. What an operation
does when it continues is registered per command with :func:`completion`.

:class:`Operation` views a context; its changes go through the command's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from rmm.abi.fields import Structure, field, u64
from rmm.carveout import SRO_CONTEXT_SIZE

if TYPE_CHECKING:
    from rmm.commit import Transaction
    from rmm.monitor import Monitor

#: Granules that one operation can hold.
MAX_HELD = 256


class Phase(IntEnum):
    """What an operation waits for; FREE is a context not in use."""

    FREE = 0
    DONATE = 1
    CONTINUE = 2
    RECLAIM = 3


class SroContext(Structure):
    """A context. ``status`` is x0 of a failure that is recorded (0: none), ``ending`` set once only the final answer of
    the command is left, ``counted`` when the realm's ``operations`` counts this one. The rest are the command's
    arguments and the granules held."""

    SIZE = SRO_CONTEXT_SIZE
    phase = u64(0x00)
    command = u64(0x08)
    rd = u64(0x10)
    rec = u64(0x18)
    params = u64(0x20)
    status = u64(0x28)
    ending = u64(0x30)
    counted = u64(0x38)
    wanted = u64(0x40)
    held = u64(0x48)
    cancellable = u64(0x50)
    flags = u64(0x58)
    mpidr = u64(0x60)
    pc = u64(0x68)
    gprs = u64(0x70, 8)
    granules = u64(0x800, MAX_HELD)


class Operation:
    """View of the context ``handle``."""

    __slots__ = ("_at", "_rmm", "handle")

    def __init__(self, rmm: Monitor, handle: int) -> None:
        self._rmm = rmm
        self.handle = handle
        self._at = rmm.carveout.word(rmm.carveout.sro_pa + handle * SRO_CONTEXT_SIZE)

    def load(self, item: field) -> int:
        """A one-word field."""
        return self._rmm.words[self._at + (item.offset >> 3)]

    def load_all(self, item: field) -> list[int]:
        """An array field."""
        first = self._at + (item.offset >> 3)
        return self._rmm.words[first : first + item.count].tolist()

    def store(self, txn: Transaction, item: field, value: int, at: int = 0) -> None:
        """A word of a field, with the transaction."""
        txn.store_word(self._at + (item.offset >> 3) + at, value)

    def held(self) -> list[int]:
        """Granules that the operation holds, in the order in which they were donated."""
        return self.load_all(SroContext.granules)[: self.load(SroContext.held)]

    def hold(self, txn: Transaction, granules: Sequence[int]) -> None:
        """Let the operation hold exactly these granules."""
        for at, pa in enumerate(granules):
            self.store(txn, SroContext.granules, pa, at)
        self.store(txn, SroContext.held, len(granules))

    def start(self, txn: Transaction, phase: Phase, command: int, **arguments: int | Sequence[int]) -> None:
        """Take the context into use: the given fields, the others zero (``granules`` is left as it was)."""
        values: dict[str, int | Sequence[int]] = {"phase": phase, "command": command, **arguments}
        for name, item in SroContext.FIELDS.items():
            if name == "granules":
                continue
            value = values.pop(name, 0 if item.count == 1 else (0,) * item.count)
            for at, word in enumerate((value,) if isinstance(value, int) else value):
                self.store(txn, item, word, at)
        if values:
            raise TypeError(f"no such fields in an SRO context: {', '.join(values)}")

    def free(self, txn: Transaction) -> None:
        """The operation is over; its handle is dead."""
        self.store(txn, SroContext.phase, Phase.FREE)


#: What an operation does when it continues: (rmm, operation) -> x0 or (x0, ...).
Completion = Callable[["Monitor", Operation], int | tuple[int, ...]]

COMPLETIONS: dict[int, Completion] = {}


def completion(fid: int) -> Callable[[Completion], Completion]:
    """Register what OP_CONTINUE does with an operation of the command ``fid``."""

    def register(function: Completion) -> Completion:
        COMPLETIONS[fid] = function
        return function

    return register


def find_free(rmm: Monitor) -> Operation | None:
    """The context with the lowest handle that is not in use."""
    first = rmm.carveout.word(rmm.carveout.sro_pa)
    stride = SRO_CONTEXT_SIZE >> 3
    words = rmm.words
    for handle in range(rmm.options.sro_contexts):
        if not words[first + handle * stride]:
            return Operation(rmm, handle)
    return None


def find(rmm: Monitor, handle: int) -> Operation | None:
    """The live operation with this handle."""
    if not 0 <= handle < rmm.options.sro_contexts:
        return None
    operation = Operation(rmm, handle)
    return operation if operation.load(SroContext.phase) else None
