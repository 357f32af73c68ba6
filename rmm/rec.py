"""Realm Execution Contexts: what a REC granule and its donated auxiliary granules hold.

Enter at :class:`Rec`, a view over the bytes of a granule in state REC, and :func:`initialise`, which REC_CREATE calls
to fill a granule before the commit that makes it a REC. :class:`RecGranule` declares the layout, field by field.

Implementation notes.

* A REC starts from the architectural reset state with the registers that are declared in its granule (``pc``,
  ``gprs``); so does the target of a PSCI CPU_ON. From its first exit on, the first four auxiliary granules hold the
  image that :meth:`machine.cpu.Cpu.save` wrote (:data:`machine.cpu.CONTEXT_SIZE` bytes) and ``saves`` counts the
  images: a process whose element still has the image of that number loaded need not restore it.
* What a REC waits for (``pending``) is completed by its next REC_ENTER, which has the context loaded; commands that run
  in between (RTT_SET_RIPAS, PSCI_COMPLETE) change the declared fields only.
* "Running" is no field of the REC: while REC_ENTER is under way, its runner's number is in the RD
  (:class:`rmm.lock.RunningRecs`), and a REC whose runner is dead is stopped.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from machine.cpu import CONTEXT_SIZE
from machine.memory import DRAM_BASE, GRANULE_SHIFT, GRANULE_SIZE, PhysicalMemory
from rmm.abi.fields import Structure, field, u64
from rmm.abi.registers import Ripas

if TYPE_CHECKING:
    from rmm.commit import Transaction
    from rmm.monitor import Monitor

#: Granules that REC_CREATE asks for (TF-RMM asks for as many; the context needs four).
AUX_GRANULES = 16
#: The first of them, which hold the context image.
IMAGE_GRANULES = CONTEXT_SIZE >> GRANULE_SHIFT


class Context(IntEnum):
    """Where a REC's registers are."""

    RESET = 0
    IMAGE = 1


class Pending:
    """Bits of ``pending``: what the next REC_ENTER completes (PSCI: what keeps it from entering)."""

    PSCI: Final = 1
    RIPAS: Final = 2
    HOST_CALL: Final = 4
    SYSREG_READ: Final = 8
    RESULT: Final = 16


class RecGranule(Structure):
    """A REC granule. Every field is a 64-bit word, so that a view is a word of memory away."""

    SIZE = GRANULE_SIZE
    # Identity, fixed at creation.
    rd = u64(0x000)
    index = u64(0x008)
    mpidr = u64(0x010)
    incarnation = u64(0x018)
    aux_count = u64(0x020)
    aux = u64(0x028, AUX_GRANULES)
    # State.
    runnable = u64(0x0C0)
    context = u64(0x0D0)
    saves = u64(0x0D8)
    pending = u64(0x0E0)
    # The exception of the last exit, as far as the next entry may complete it, and how the host may ask for that
    # (the bits of RmiRecEnterFlags); zero for every other exit.
    last_esr = u64(0x100)
    last_far = u64(0x108)
    last_allows = u64(0x110)
    # PSCI: the request of CPU_ON or AFFINITY_INFO.
    psci_function = u64(0x140)
    psci_target = u64(0x148)
    psci_entry = u64(0x150)
    psci_context = u64(0x158)
    psci_big_endian = u64(0x160)
    # RIPAS: [ripas_base, ripas_top) asked for, ripas_next how far RTT_SET_RIPAS came.
    ripas_base = u64(0x180)
    ripas_top = u64(0x188)
    ripas_next = u64(0x190)
    ripas_value = u64(0x198)
    ripas_change_destroyed = u64(0x1A0)
    # HOST_CALL: IPA of the structure. System register read: the register that gets the value.
    host_call = u64(0x1C0)
    sysreg_rt = u64(0x1C8)
    # X0..X3 that the next entry writes (Pending.RESULT).
    result = u64(0x1D0, 4)
    # Registers that Context.RESET starts from.
    pc = u64(0x200)
    big_endian = u64(0x208)
    gprs = u64(0x210, 31)


def _word(item: field) -> Any:
    """A property of :class:`Rec` over one word of the granule."""
    index = item.offset >> 3

    def load(self: Rec) -> int:
        return self.words[self.at + index]

    def store(self: Rec, value: int) -> None:
        self.words[self.at + index] = value

    return property(load, store, doc=f"Word {item.offset:#x} of the granule.")


class Rec:
    """A view over the REC granule at ``pa``; the caller has checked its state.

    Stores are immediate. What must be atomic with other changes goes through a commit, with :meth:`address`.
    """

    def __init__(self, memory: PhysicalMemory, pa: int) -> None:
        self.memory = memory
        self.words = memory.words
        self.pa = pa
        self.at = (pa - DRAM_BASE) >> 3

    rd: int = _word(RecGranule.rd)
    index: int = _word(RecGranule.index)
    mpidr: int = _word(RecGranule.mpidr)
    incarnation: int = _word(RecGranule.incarnation)
    aux_count: int = _word(RecGranule.aux_count)
    runnable: int = _word(RecGranule.runnable)
    context: int = _word(RecGranule.context)
    saves: int = _word(RecGranule.saves)
    pending: int = _word(RecGranule.pending)
    last_esr: int = _word(RecGranule.last_esr)
    last_far: int = _word(RecGranule.last_far)
    last_allows: int = _word(RecGranule.last_allows)
    psci_function: int = _word(RecGranule.psci_function)
    psci_target: int = _word(RecGranule.psci_target)
    psci_entry: int = _word(RecGranule.psci_entry)
    psci_context: int = _word(RecGranule.psci_context)
    psci_big_endian: int = _word(RecGranule.psci_big_endian)
    ripas_base: int = _word(RecGranule.ripas_base)
    ripas_top: int = _word(RecGranule.ripas_top)
    ripas_next: int = _word(RecGranule.ripas_next)
    ripas_value: int = _word(RecGranule.ripas_value)
    ripas_change_destroyed: int = _word(RecGranule.ripas_change_destroyed)
    host_call: int = _word(RecGranule.host_call)
    sysreg_rt: int = _word(RecGranule.sysreg_rt)
    pc: int = _word(RecGranule.pc)
    big_endian: int = _word(RecGranule.big_endian)

    def address(self, item: field) -> int:
        """Physical address of a field (``rec.address(RecGranule.ripas_next)``), for a commit."""
        return self.pa + item.offset

    @property
    def aux(self) -> tuple[int, ...]:
        """Physical addresses of the donated granules, in the order in which they were donated."""
        first = self.at + (RecGranule.aux.offset >> 3)
        return tuple(self.words[first : first + self.aux_count])

    @property
    def gprs(self) -> list[int]:
        """X0..X30 that Context.RESET starts from."""
        first = self.at + (RecGranule.gprs.offset >> 3)
        return list(self.words[first : first + 31])

    @property
    def result(self) -> list[int]:
        """X0..X3 that the next entry writes while Pending.RESULT is set."""
        first = self.at + (RecGranule.result.offset >> 3)
        return list(self.words[first : first + 4])

    @property
    def ripas_request(self) -> tuple[int, int, Ripas, bool] | None:
        """The pending RIPAS change: (next IPA, top, value, may DESTROYED become RAM), or None."""
        if not self.pending & Pending.RIPAS:
            return None
        return self.ripas_next, self.ripas_top, Ripas(self.ripas_value), bool(self.ripas_change_destroyed)

    def start_at(self, txn: Transaction, entry: int, context: int, big_endian: bool) -> None:
        """Make the REC runnable from the reset state at ``entry`` with ``context`` in X0 (PSCI CPU_ON), in ``txn``."""
        registers = (entry, int(big_endian), context, *(0,) * 30)
        txn.store(self.address(RecGranule.pc), struct.pack("<33Q", *registers))
        for item, value in (
            (RecGranule.pending, 0),
            (RecGranule.last_esr, 0),
            (RecGranule.last_far, 0),
            (RecGranule.last_allows, 0),
            (RecGranule.context, Context.RESET),
            (RecGranule.runnable, 1),
        ):
            txn.store_u64(self.address(item), value)

    def image(self) -> list[memoryview]:
        """The auxiliary memory of the context image, in as few contiguous pieces as the donation allows."""
        pieces: list[tuple[int, int]] = []
        for pa in self.aux[:IMAGE_GRANULES]:
            if pieces and pieces[-1][1] == pa:
                pieces[-1] = (pieces[-1][0], pa + GRANULE_SIZE)
            else:
                pieces.append((pa, pa + GRANULE_SIZE))
        return [self.memory.buf[base - DRAM_BASE : top - DRAM_BASE] for base, top in pieces]


def initialise(
    memory: PhysicalMemory,
    pa: int,
    *,
    rd: int,
    index: int,
    mpidr: int,
    runnable: bool,
    pc: int,
    gprs: Sequence[int],
    aux: Sequence[int],
) -> None:
    """Fill the granule at ``pa``, which is not a REC yet: it becomes one with the commit that sets its state.

    ``gprs`` are X0.. (the rest zero), ``aux`` the donated granules (at least the context image's). ValueError when
    there are too few or too many.
    """
    if not IMAGE_GRANULES <= len(aux) <= AUX_GRANULES:
        raise ValueError(f"REC {pa:#x}: {len(aux)} auxiliary granules, expected {IMAGE_GRANULES} to {AUX_GRANULES}")
    page = RecGranule.encode(
        rd=rd,
        index=index,
        mpidr=mpidr,
        # Unique as long as the machine lives: tells a REC from an earlier one at the same address.
        incarnation=time.monotonic_ns(),
        aux_count=len(aux),
        aux=tuple(aux) + (0,) * (AUX_GRANULES - len(aux)),
        runnable=int(runnable),
        pc=pc,
        gprs=tuple(gprs) + (0,) * (31 - len(gprs)),
    )
    memory.write(pa, page)
    for granule in aux[:IMAGE_GRANULES]:
        # The image is written through a raw view: from now on these granules are not known to be zero.
        memory.touched[(granule - DRAM_BASE) >> GRANULE_SHIFT] = 1


def rec_index(mpidr: int) -> int | None:
    """Index in its realm of the REC with that MPIDR: Aff0 has 4 bits, the others 8 each. None when no REC can have it,
    because of a bit without an affinity field: [7:4] and everything from 32 up."""
    if mpidr & ~0xFFFF_FF0F:
        return None
    return mpidr & 0xF | (mpidr >> 8 & 0xFF) << 4 | (mpidr >> 16 & 0xFF) << 12 | (mpidr >> 24) << 20


def is_running(rmm: Monitor, pa: int) -> bool:
    """Whether the REC at ``pa`` is being run, by a process that lives."""
    rec = Rec(rmm.memory, pa)
    return rmm.running.is_running(rec.rd, rec.index)
