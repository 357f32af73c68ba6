"""Realm translation tables: real VMSAv8-64 stage 2 tables, their entries and the walk.

An entry is what the walker of the processing element sees, and holds HIPAS and RIPAS where the walker does not look:

==================================  ================================================================================
Valid leaf, bit 55 clear            ASSIGNED, RIPAS RAM (protected half)
Valid leaf, bit 55 set              ASSIGNED (unprotected half): host memory, attributes as the host gave them, and XN
Table (bits [1:0] = 3, AF clear)    TABLE
Invalid, bits 4 and 55 clear        UNASSIGNED; bits [3:2] hold the RIPAS
Invalid, bit 4 set, 55 clear        ASSIGNED with the PA in [47:12]; bits [3:2] hold the RIPAS (not RAM)
Invalid, bit 55 set                 ASSIGNED (unprotected half) to memory that is not the host's now: the leaf without
                                    its valid bit, restored when the granule protection check would pass again
==================================  ================================================================================

So a table of zeros is UNASSIGNED/EMPTY (or UNASSIGNED in the unprotected half), the state of a new realm. A leaf always
has AF (bit 10) set and a table descriptor never, so a descriptor is understood without its level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from machine.memory import PhysicalMemory
from rmm.abi.registers import Hipas, Ripas

if TYPE_CHECKING:
    from rmm.monitor import Monitor
    from rmm.realm import Realm

ENTRIES = 512
PAGE_LEVEL = 3
PA_MASK = 0x0000_FFFF_FFFF_F000
TABLE_BITS = 3
_AF = 1 << 10
#: Normal write-back, read and write, inner shareable, AF; bit 1 makes a page of what is otherwise a block.
LEAF_ATTRIBUTES = 0x7FD
PAGE_BIT = 2
#: The leaf maps host memory.
NS = 1 << 55
#: Attribute bits of an unprotected leaf that are the host's: MemAttr [4:2], S2AP [7:6].
NS_ATTRIBUTES = 0xDC
#: XN, no fetch from Non-secure memory (as RME has it for Realms), AF, inner shareable.
_NS_FIXED = NS | 1 << 54 | _AF | 3 << 8
_ASSIGNED = 1 << 4
_RIPAS_SHIFT = 2
_EMPTY_TABLE = bytes(4096)

#: log2 of what one entry maps, by level 0..3.
SHIFTS = (39, 30, 21, 12)


def entry_shift(level: int) -> int:
    """log2 of the bytes that one entry of a table at ``level`` maps (4 KiB granule)."""
    return 39 - 9 * level


def is_table(descriptor: int) -> bool:
    """Whether the entry points to a table."""
    return descriptor & (_AF | 3) == TABLE_BITS


def hipas(descriptor: int) -> Hipas:
    """Host IPA state of an entry."""
    if descriptor & 1:
        return Hipas.ASSIGNED if descriptor & _AF else Hipas.TABLE
    return Hipas.ASSIGNED if descriptor & (_ASSIGNED | NS) else Hipas.UNASSIGNED


def is_assigned(descriptor: int) -> bool:
    """Whether the entry is ASSIGNED, in either half."""
    return bool(descriptor & _AF if descriptor & 1 else descriptor & (_ASSIGNED | NS))


def is_unassigned(descriptor: int) -> bool:
    """Whether the entry is UNASSIGNED."""
    return not descriptor & (_ASSIGNED | NS | 1)


def ripas(descriptor: int) -> int:
    """RIPAS of an entry; EMPTY for tables and unprotected entries."""
    if descriptor & 1:
        return Ripas.RAM if descriptor & (_AF | NS) == _AF else Ripas.EMPTY
    return (descriptor >> _RIPAS_SHIFT) & 3 if not descriptor & NS else Ripas.EMPTY


def pa(descriptor: int) -> int:
    """Output address of an ASSIGNED entry, table address of a TABLE entry, 0 for UNASSIGNED."""
    return descriptor & PA_MASK


def unassigned(value: int) -> int:
    """The entry UNASSIGNED with a RIPAS."""
    return value << _RIPAS_SHIFT


def assigned(address: int, value: int, level: int) -> int:
    """The entry ASSIGNED with a RIPAS at a level: a valid leaf when RAM."""
    if value == Ripas.RAM:
        return address | LEAF_ATTRIBUTES | (PAGE_BIT if level == PAGE_LEVEL else 0)
    return address | _ASSIGNED | value << _RIPAS_SHIFT


def assigned_ns(address: int, attributes: int, level: int, accessible: bool) -> int:
    """The unprotected leaf for host memory with the host's attribute bits (``NS_ATTRIBUTES``).

    ``accessible``: whether all of it is in the Non-secure PAS; otherwise the leaf is not valid yet.
    """
    return address | attributes | _NS_FIXED | (PAGE_BIT if level == PAGE_LEVEL else 0) | accessible


def table(address: int) -> int:
    """The entry that points to a table."""
    return address | TABLE_BITS


def with_ripas(descriptor: int, value: int, level: int) -> int:
    """A protected UNASSIGNED or ASSIGNED entry with another RIPAS."""
    if descriptor & (_ASSIGNED | 1):
        return assigned(descriptor & PA_MASK, value, level)
    return unassigned(value)


def child(descriptor: int, level: int, index: int) -> int:
    """Entry ``index`` of the table at ``level`` that replaces a leaf or UNASSIGNED entry of the level above."""
    if is_unassigned(descriptor):
        return descriptor
    out = descriptor + (index << entry_shift(level))
    if descriptor & _AF and level == PAGE_LEVEL:
        out |= PAGE_BIT
    return out


def parent(descriptor: int, level: int) -> int:
    """The entry of the level above that replaces a homogeneous table at ``level`` whose first entry this is."""
    if descriptor & _AF and level == PAGE_LEVEL:
        return descriptor & ~PAGE_BIT
    return descriptor


class WalkResult(NamedTuple):
    """Where a walk stopped: level, physical address of the entry, its descriptor."""

    level: int
    entry_pa: int
    descriptor: int


def find(memory: PhysicalMemory, realm: Realm, ipa: int, level: int) -> tuple[int, int, int]:
    """Walk towards ``level``: (level reached, word index of the entry, descriptor). ``ipa`` is below 2^s2sz."""
    words = memory.words
    at = realm.rtt_level_start
    shift = realm.start_shift
    index = realm.root + (ipa >> shift)
    descriptor = words[index]
    base = memory.dram_base
    while at < level and descriptor & 0x403 == TABLE_BITS:
        shift -= 9
        at += 1
        index = ((descriptor & PA_MASK) - base >> 3) + (ipa >> shift & 511)
        descriptor = words[index]
    return at, index, descriptor


def walk(rmm: Monitor, realm: Realm, ipa: int, level: int = PAGE_LEVEL) -> WalkResult:
    """Walk towards ``level`` and describe the entry where the walk stopped. ``ipa`` is below 2^s2sz."""
    at, index, descriptor = find(rmm.memory, realm, ipa, level)
    return WalkResult(at, rmm.memory.dram_base + (index << 3), descriptor)


def is_live_entry(descriptor: int) -> bool:
    """Whether the entry keeps its table alive: a table, or a protected mapping."""
    return bool(descriptor & (_ASSIGNED | 1)) and not descriptor & NS


def is_live(memory: PhysicalMemory, first: int) -> bool:
    """Whether the table whose first entry is word ``first`` holds a live entry."""
    offset = first << 3
    if memory.buf[offset : offset + 4096] == _EMPTY_TABLE:
        return False
    return any(entry & (_ASSIGNED | 1) and not entry & NS for entry in set(memory.words[first : first + ENTRIES]))
