"""The firmware carve-out: where the RMM keeps what does not live in a delegated granule.

One page of globals, the VMID pool, the journal of the commit point, the contexts of stateful operations, and the
granule table. :class:`CarveOut` knows where each of them is; nothing else computes an address in the carve-out.
"""

from __future__ import annotations

from enum import IntEnum

from machine.memory import GRANULE_SHIFT, GRANULE_SIZE, PhysicalMemory
from rmm.abi.fields import Structure, u64

#: Marks an initialised carve-out; names the layout of everything in it.
MAGIC = int.from_bytes(b"RMM2bet1", "little")

#: Words (u64) in the journal. The largest transaction is a GRANULE_RANGE_DELEGATE that withdraws the unprotected leaves
#: of everything it delegates, 2 words per leaf; it is committed in parts when there are more.
JOURNAL_WORDS = 1 << 17
#: VMIDs that there are: 8 bits, as the Cortex-A72 has them. 0 is not given to a realm.
VMIDS = 1 << 8
#: Bytes of one stateful operation's context.
SRO_CONTEXT_SIZE = 4096


class RmmState(IntEnum):
    """State of the monitor (section 1.6 of the command gating rules)."""

    INIT = 0
    ACTIVE = 1


class Globals(Structure):
    """The page of globals; ``serial`` is the last realm serial number given out, ``runner`` the last runner's."""

    SIZE = GRANULE_SIZE
    magic = u64(0x00)
    state = u64(0x08)
    tracking_region_size = u64(0x10)
    rmi_granule_size = u64(0x18)
    serial = u64(0x20)
    sro_contexts = u64(0x28)
    runner = u64(0x30)


class CarveOut:
    """Addresses (``*_pa``) and word indices (``*_word``, into ``PhysicalMemory.words``) of the RMM's own memory.

    ``states`` is the granule table: one byte per DRAM granule; ``mapped``, also one byte each, is 1 where an
    unprotected leaf of some realm may name the granule. Raises ValueError when the carve-out is too small.
    """

    def __init__(self, memory: PhysicalMemory, sro_contexts: int) -> None:
        base = memory.firmware_base
        self.globals_pa = base
        self.vmids_pa = base + GRANULE_SIZE
        self.journal_pa = self.vmids_pa + GRANULE_SIZE
        self.sro_pa = self.journal_pa + (JOURNAL_WORDS << 3)
        self.table_pa = self.sro_pa + sro_contexts * SRO_CONTEXT_SIZE
        entries = memory.dram_size >> GRANULE_SHIFT
        self.mapped_pa = self.table_pa + entries
        self.end = -(-(self.mapped_pa + entries) // GRANULE_SIZE) * GRANULE_SIZE
        if self.end > memory.top:
            raise ValueError(f"the RMM needs {self.end - base:#x} bytes of carve-out, not {memory.firmware_size:#x}")
        offset = self.table_pa - memory.dram_base
        self.states = memory.buf[offset : offset + entries]
        self.mapped = memory.buf[offset + entries : offset + 2 * entries]
        self._base = memory.dram_base

    def word(self, pa: int) -> int:
        """Index into ``PhysicalMemory.words`` of the u64 at ``pa``."""
        return (pa - self._base) >> 3

    def global_word(self, name: str) -> int:
        """Word index of a field of :class:`Globals`."""
        return self.word(self.globals_pa + Globals.FIELDS[name].offset)
