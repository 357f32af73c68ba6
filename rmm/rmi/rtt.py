"""RTT_CREATE, RTT_DESTROY, RTT_FOLD and RTT_READ_ENTRY (B3.2)."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from rmm import ns_mappings, rtt
from rmm.abi.registers import Hipas, Ripas
from rmm.abi.rmi import Status, error_rtt
from rmm.granules import GranuleState
from rmm.rmi import command

if TYPE_CHECKING:
    from rmm.monitor import Monitor
    from rmm.realm import Realm

_SUCCESS = int(Status.SUCCESS)
_ERROR_INPUT = int(Status.ERROR_INPUT)
_RTT = int(GranuleState.RTT)


def _bad_table_argument(realm: Realm, ipa: int, level: int) -> bool:
    """Whether (ipa, level) cannot name a table of the realm below its root."""
    if not realm.rtt_level_start < level <= rtt.PAGE_LEVEL:
        return True
    return bool(ipa & ((1 << rtt.entry_shift(level - 1)) - 1)) or ipa >= realm.ipa_size


@command("RMI_RTT_CREATE")
def rtt_create(rmm: Monitor, rd: int, table: int, ipa: int, level: int) -> int:
    """Put a table of entries at ``level`` in place of the entry above, whose content the new entries inherit."""
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    if _bad_table_argument(realm, ipa, level):
        return _ERROR_INPUT
    refused = rmm.granules.refusal(table, GranuleState.DELEGATED)
    if refused:
        return refused
    at, index, descriptor = rtt.find(rmm.memory, realm, ipa, level - 1)
    if at != level - 1 or rtt.is_table(descriptor):
        return error_rtt(at)
    if not descriptor:
        rmm.zero_granule(table)
    elif rtt.is_unassigned(descriptor):
        rmm.fill_granule(table, descriptor.to_bytes(8, "little") * rtt.ENTRIES)
    else:
        entries = array("Q", [rtt.child(descriptor, level, n) for n in range(rtt.ENTRIES)])
        if descriptor & rtt.NS and not descriptor & 1:
            # A withdrawn block: some of its parts may be the host's.
            for n, entry in enumerate(entries):
                entries[n] |= ns_mappings.accessible(rmm, rtt.pa(entry), 1 << (rtt.entry_shift(level) - 12))
        rmm.fill_granule(table, entries.tobytes())
    rmm.journal.write([index, table | rtt.TABLE_BITS], [(table - rmm.base) >> 12, _RTT], [])
    return _SUCCESS


def _next_live(rmm: Monitor, ipa: int, level: int, index: int, first: int) -> int:
    """IPA of the first live entry at or after word ``first`` of the table around word ``index``, or of the table's end.

    ``index`` is the entry at ``level`` that maps ``ipa``.
    """
    shift = rtt.entry_shift(level)
    end = (index | (rtt.ENTRIES - 1)) + 1
    at = first
    for descriptor in rmm.words[first:end].tolist():
        # rtt.is_live_entry, in line: teardown calls this for every table.
        if descriptor & 0x11 and not descriptor & rtt.NS:
            break
        at += 1
    return (ipa >> shift << shift) + ((at - index) << shift)


@command("RMI_RTT_DESTROY")
def rtt_destroy(rmm: Monitor, rd: int, ipa: int, level: int) -> int | tuple[int, int, int]:
    """Free a table without live entries; out: its granule, and the next IPA that may have a live entry."""
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    if _bad_table_argument(realm, ipa, level):
        return _ERROR_INPUT
    at, index, descriptor = rtt.find(rmm.memory, realm, ipa, level - 1)
    if at != level - 1 or not rtt.is_table(descriptor):
        return error_rtt(at), 0, _next_live(rmm, ipa, at, index, index)
    table = rtt.pa(descriptor)
    first = (table - rmm.base) >> 3
    if rtt.is_live(rmm.memory, first):
        return error_rtt(level), 0, ipa
    with rmm.commit() as txn:
        txn.store_word(index, rtt.unassigned(Ripas.DESTROYED) if ipa < realm.par_size else 0)
        txn.set_state(table, GranuleState.DELEGATED)
        # An engine may be walking the table, and what is not live may still map host memory.
        rmm.bump_generation(txn, realm)
        if ipa >= realm.par_size:
            ns_mappings.drop_all(rmm, first, level)
    return _SUCCESS, table, _next_live(rmm, ipa, at, index, index + 1)


@command("RMI_RTT_FOLD")
def rtt_fold(rmm: Monitor, rd: int, ipa: int, level: int) -> int | tuple[int, int]:
    """Replace a homogeneous table by one entry of the level above; out: the table's granule."""
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    if _bad_table_argument(realm, ipa, level):
        return _ERROR_INPUT
    at, index, descriptor = rtt.find(rmm.memory, realm, ipa, level - 1)
    if at != level - 1 or not rtt.is_table(descriptor):
        return error_rtt(at)
    table = rtt.pa(descriptor)
    first = (table - rmm.base) >> 3
    entries = rmm.words[first : first + rtt.ENTRIES].tolist()
    folded = rtt.parent(entries[0], level)
    assigned = rtt.is_assigned(folded)
    if assigned and level == 1:
        return error_rtt(at)
    aligned = not rtt.pa(folded) & ((1 << rtt.entry_shift(level - 1)) - 1)
    if rtt.is_table(folded) or (assigned and not aligned):
        return error_rtt(level)
    if entries != [rtt.child(folded, level, n) for n in range(rtt.ENTRIES)]:
        return error_rtt(level)
    with rmm.commit() as txn:
        txn.store_word(index, folded)
        txn.set_state(table, GranuleState.DELEGATED)
        # An engine may be walking the table.
        rmm.bump_generation(txn, realm)
    return _SUCCESS, table


@command("RMI_RTT_READ_ENTRY")
def rtt_read_entry(rmm: Monitor, rd: int, ipa: int, level: int) -> int | tuple[int, int, int, int, int]:
    """Level where the walk stopped, HIPAS, output address (and attributes in the unprotected half), RIPAS."""
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    if not realm.rtt_level_start <= level <= 3 or ipa & ((1 << (39 - 9 * level)) - 1) or ipa >= realm.ipa_size:
        return _ERROR_INPUT
    at, _, descriptor = rtt.find(rmm.memory, realm, ipa, level)
    state = rtt.hipas(descriptor)
    if ipa < realm.par_size or state != Hipas.ASSIGNED:
        return _SUCCESS, at, int(state), descriptor & rtt.PA_MASK, int(rtt.ripas(descriptor))
    return _SUCCESS, at, int(state), descriptor & (rtt.PA_MASK | rtt.NS_ATTRIBUTES), 0
