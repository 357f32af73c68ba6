"""The granule check on unprotected mappings: no leaf of a realm reaches a granule that the host has delegated since.

Hardware checks every access against the granule protection table. The processing element here does not, so the RMM
withdraws the unprotected leaves that name a granule when it leaves the Non-secure PAS, and restores them when it comes
back. An access in between is a stage 2 fault, which the host sees as one at an unprotected IPA. The carve-out notes per
granule whether any leaf may name it, so that the search for leaves is rare.

A realm's stores leave no trace in ``PhysicalMemory.touched``: the granules of a leaf count as touched when it becomes
valid, and again when it goes, because the host may have zeroed them in between.

There may be any number of leaves, so they are withdrawn and restored in parts (:meth:`Transaction.part`). A command
killed between two parts leaves leaves withdrawn whose granules are the host's; mapping them again makes them valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from machine.memory import GRANULE_SHIFT
from rmm import rtt
from rmm.granules import GranuleState

if TYPE_CHECKING:
    from rmm.commit import Transaction
    from rmm.monitor import Monitor
    from rmm.realm import Realm

_MAPPED_RUN = re.compile(rb"\x01+")


def _realms(rmm: Monitor) -> Iterator[Realm]:
    states = bytes(rmm.granules.states)
    at = states.find(GranuleState.RD)
    while at >= 0:
        realm = rmm.realm(rmm.base + (at << GRANULE_SHIFT))
        if realm is not None:
            yield realm
        at = states.find(GranuleState.RD, at + 1)


def _leaves(rmm: Monitor, first: int, count: int, level: int) -> Iterator[tuple[int, int, int]]:
    """(level, word index, descriptor) of the unprotected leaves in and below ``count`` entries from word ``first``."""
    for at, descriptor in enumerate(rmm.words[first : first + count].tolist(), first):
        if rtt.is_table(descriptor):
            below = (rtt.pa(descriptor) - rmm.base) >> 3
            yield from _leaves(rmm, below, rtt.ENTRIES, level + 1)
        elif descriptor & rtt.NS:
            yield level, at, descriptor


def _overlapping(rmm: Monitor, base: int, count: int) -> Iterator[tuple[Realm, int, int, int, int]]:
    """(realm, word index, descriptor, address, granules) of the unprotected leaves that name any of the granules."""
    top = base + (count << GRANULE_SHIFT)
    for realm in _realms(rmm):
        half = realm.par_size >> realm.start_shift
        for level, at, descriptor in _leaves(rmm, realm.root + half, half, realm.rtt_level_start):
            address = rtt.pa(descriptor)
            size = 1 << rtt.entry_shift(level)
            if address < top and base < address + size:
                yield realm, at, descriptor, address, size >> GRANULE_SHIFT


def _named(rmm: Monitor, base: int, count: int) -> bool:
    first = rmm.granules.index(base)
    return 1 in bytes(rmm.carveout.mapped[first : first + count])


def accessible(rmm: Monitor, base: int, count: int) -> bool:
    """Whether all of the granules are DRAM of the host."""
    if not rmm.granules.is_ns(base) or base + (count << GRANULE_SHIFT) > rmm.memory.dram_top:
        return False
    return rmm.granules.run_length(base, count, GranuleState.UNDELEGATED) == count


def _in_dram(rmm: Monitor, base: int, count: int) -> tuple[int, int]:
    """The part of the range that is DRAM: (first address, granules)."""
    start, top = max(base, rmm.base), min(base + (count << GRANULE_SHIFT), rmm.memory.dram_top)
    return start, max(top - start, 0) >> GRANULE_SHIFT


def _touch(rmm: Monitor, base: int, count: int) -> None:
    first = rmm.granules.index(base)
    rmm.memory.touched[first : first + count] = b"\x01" * count


def _touch_mapped(rmm: Monitor, base: int, count: int) -> None:
    """Of these granules, those that a leaf may name count as touched."""
    first = rmm.granules.index(base)
    for run in _MAPPED_RUN.finditer(bytes(rmm.carveout.mapped[first : first + count])):
        start, end = run.span()
        rmm.memory.touched[first + start : first + end] = run.group()


def note(rmm: Monitor, txn: Transaction, base: int, count: int) -> None:
    """A leaf that names these granules is being made, or made valid."""
    start, inside = _in_dram(rmm, base, count)
    if inside:
        txn.set_mapped(start, inside, True)
        _touch(rmm, start, inside)


def drop(rmm: Monitor, descriptor: int, level: int) -> None:
    """The unprotected leaf ``descriptor`` at ``level`` goes."""
    if descriptor & 1:
        _touch(rmm, *_in_dram(rmm, rtt.pa(descriptor), 1 << (rtt.entry_shift(level) - GRANULE_SHIFT)))


def drop_all(rmm: Monitor, first: int, level: int) -> None:
    """The table at ``level`` goes whose first entry is word ``first``; it has no table below it."""
    for _, _, descriptor in _leaves(rmm, first, rtt.ENTRIES, level):
        drop(rmm, descriptor, level)


def withdraw(rmm: Monitor, txn: Transaction, base: int, count: int) -> None:
    """The granules leave the Non-secure PAS with this transaction: their leaves lose the valid bit."""
    if not _named(rmm, base, count):
        return
    _touch_mapped(rmm, base, count)
    realms: dict[int, Realm] = {}
    for realm, at, descriptor, _, _ in _overlapping(rmm, base, count):
        realms[realm.rd] = realm
        if descriptor & 1:
            txn.store_word(at, descriptor & ~1)
            txn.part()
    # After the last leaf: an engine that takes the generation up must not find one of them again. Also for leaves found
    # withdrawn, by a command that may have been killed before it came here.
    for realm in realms.values():
        rmm.bump_generation(txn, realm)
    if not realms:
        txn.set_mapped(base, count, False)


def restore(rmm: Monitor, txn: Transaction, base: int, count: int) -> None:
    """The granules return to the Non-secure PAS with this transaction, which has said so: leaves are valid again that
    name nothing else that is not the host's."""
    if not _named(rmm, base, count):
        return
    _touch_mapped(rmm, base, count)
    top = base + (count << GRANULE_SHIFT)
    for _, at, descriptor, address, granules in _overlapping(rmm, base, count):
        end = address + (granules << GRANULE_SHIFT)
        before = max(0, base - address) >> GRANULE_SHIFT
        after = max(0, end - top) >> GRANULE_SHIFT
        if (not before or accessible(rmm, address, before)) and (not after or accessible(rmm, top, after)):
            txn.store_word(at, descriptor | 1)
            txn.part()
