"""RTT_DATA_MAP_INIT, RTT_DATA_MAP and RTT_DATA_UNMAP (B3.2).

RTT_DATA_MAP_INIT is the hot path of building a realm; benchmarks/bench_rmm.py shapes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmm import rtt
from rmm.abi.registers import ProtMapFlags, Ripas
from rmm.abi.rmi import Status, error_rtt
from rmm.granules import GranuleState
from rmm.realm import RealmState
from rmm.rmi import command
from rmm.rmi.address_list import Outputs, blocks

if TYPE_CHECKING:
    from rmm.monitor import Monitor
    from rmm.realm import Realm

_MASK = 0xFFF
_ERROR_INPUT = int(Status.ERROR_INPUT)
_DELEGATED = int(GranuleState.DELEGATED)
_DATA = int(GranuleState.DATA)
_NEW = int(RealmState.NEW)
_PAGE_LEAF = rtt.LEAF_ATTRIBUTES | rtt.PAGE_BIT
_MAP_FLAGS = ProtMapFlags.defined_mask()
_ZERO_PAGE = bytes(4096)
#: Granules that one RTT_DATA_MAP zeroes, unless its one block is larger: every other command waits meanwhile.
_GRANULES_AT_ONCE = 1 << 14


@command("RMI_RTT_DATA_MAP_INIT")
def rtt_data_map_init(rmm: Monitor, rd: int, data: int, ipa: int, src: int, flags: int) -> int:
    """Copy a host page into a page of a NEW realm, map it with RIPAS RAM, and extend the RIM."""
    granules = rmm.granules
    base = granules.base
    states = granules.states
    source = src - base
    target = data - base
    if flags > 1 or source & _MASK or not 0 <= source < granules.size or states[source >> 12]:
        return _ERROR_INPUT
    if target & _MASK or not 0 <= target < granules.size or states[target >> 12] != _DELEGATED:
        return granules.refusal(data, GranuleState.DELEGATED)
    realm = rmm.realm(rd)
    if realm is None:
        return granules.refusal(rd, GranuleState.RD)
    if ipa & _MASK or ipa >= realm.par_size:
        return _ERROR_INPUT
    memory = rmm.memory
    words = memory.words
    if words[realm.state_word] != _NEW:
        return int(Status.ERROR_REALM)
    level, index, descriptor = rtt.find(memory, realm, ipa, 3)
    if level != 3:
        return error_rtt(level)
    if descriptor & 0x11:
        return error_rtt(3)
    buf = memory.buf
    touched = memory.touched
    algorithm = realm.hash
    if touched[source >> 12] or rmm.carveout.mapped[source >> 12]:
        # One copy taken before it is hashed: the host may change its page meanwhile.
        touched[target >> 12] = 1
        page = buf[target : target + 4096]
        page[:] = buf[source : source + 4096]
        content = algorithm.content(page) if flags else algorithm.no_content
    else:
        if touched[target >> 12]:
            buf[target : target + 4096] = _ZERO_PAGE
        content = algorithm.zero_page if flags else algorithm.no_content
    rim = realm.rim_word
    slot = rim << 3
    changes = [index, data | _PAGE_LEAF]
    for value in algorithm.unpack(algorithm.extend_data(bytes(buf[slot : slot + 64]), ipa, flags, content)):
        changes += (rim, value)
        rim += 1
    rmm.journal.write(changes, [target >> 12, _DATA], [])
    return 0


def _bad_range(realm: Realm, base: int, top: int) -> bool:
    return bool((base | top) & _MASK) or top <= base or top > realm.par_size


@command("RMI_RTT_DATA_MAP")
def rtt_data_map(rmm: Monitor, rd: int, base: int, top: int, flags: int, oaddr: int) -> int | tuple[int, int]:
    """Map zeroed memory in one leaf table of the protected half, RIPAS unchanged; out: the first address not mapped."""
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    if _bad_range(realm, base, top):
        return _ERROR_INPUT
    source = blocks(rmm, flags, oaddr, _MAP_FLAGS)
    if source is None:
        return _ERROR_INPUT
    if realm.state not in (RealmState.NEW, RealmState.ACTIVE):
        return Status.ERROR_REALM
    first = next(source, None)
    if first is None:
        return _ERROR_INPUT
    level = first.level
    shift = rtt.entry_shift(level) if level else 0
    if not shift or base & ((1 << shift) - 1) or first.pa & ((1 << shift) - 1):
        return _ERROR_INPUT
    if top - base < 1 << shift:
        return error_rtt(level)
    at, index, _ = rtt.find(rmm.memory, realm, base, level)
    if at != level:
        return error_rtt(at)
    granules = 1 << (shift - 12)
    blocks_at_once = max(_GRANULES_AT_ONCE // granules, 1)
    end = min((index | (rtt.ENTRIES - 1)) + 1, index + min((top - base) >> shift, blocks_at_once))
    table = rmm.granules
    used: set[int] = set()
    refused = 0
    where = index
    block = first
    with rmm.commit() as txn:
        while where < end:
            descriptor = rmm.words[where]
            elsewhere = rtt.is_assigned(descriptor) and rtt.pa(descriptor) != block.pa
            if block.level != level or rtt.is_table(descriptor) or elsewhere:
                refused = error_rtt(level)
            elif block.pa & ((1 << shift) - 1) or block.state != 0:
                refused = _ERROR_INPUT
            elif rtt.is_unassigned(descriptor):
                refused = table.refusal(block.pa, _DELEGATED)
                if not refused and (block.pa in used or table.run_length(block.pa, granules, _DELEGATED) != granules):
                    refused = _ERROR_INPUT
                if not refused:
                    used.add(block.pa)
                    for offset in range(0, granules << 12, 4096):
                        rmm.zero_granule(block.pa + offset)
                    txn.store_word(where, rtt.assigned(block.pa, rtt.ripas(descriptor), level))
                    txn.set_states(block.pa, granules, _DATA)
            if refused:
                break
            where += 1
            following = next(source, None)
            if following is None:
                break
            block = following
    if where == index:
        return refused
    for pa in used:
        rmm.invalidate_code(pa, granules << 12)
    return 0, base + ((where - index) << shift)


@command("RMI_RTT_DATA_UNMAP")
def rtt_data_unmap(
    rmm: Monitor, rd: int, base: int, top: int, flags: int, oaddr: int
) -> int | tuple[int, int, int, int]:
    """Unmap what one leaf table maps of [base, top) in the protected half.

    Out: the first address not done, the run of granules freed (SINGLE), the number of list entries written (LIST).
    """
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    if _bad_range(realm, base, top):
        return _ERROR_INPUT
    outputs = Outputs.open(rmm, flags, oaddr)
    if outputs is None:
        return _ERROR_INPUT
    level, index, _ = rtt.find(rmm.memory, realm, base, 3)
    shift = 39 - 9 * level
    if base & ((1 << shift) - 1):
        return error_rtt(level)
    end = min((index | (rtt.ENTRIES - 1)) + 1, index + ((top - base) >> shift))
    where = index
    granules = 1 << (shift - 12)
    unmapped = False
    with rmm.commit() as txn:
        for descriptor in rmm.words[index:end].tolist():
            if descriptor & 0x11:
                if descriptor & 0x403 == rtt.TABLE_BITS:
                    break
                pa = descriptor & rtt.PA_MASK
                if not outputs.add(pa, level):
                    break
                ripas = rtt.ripas(descriptor)
                txn.store_word(where, rtt.unassigned(Ripas.EMPTY if ripas == Ripas.EMPTY else Ripas.DESTROYED))
                unmapped = unmapped or bool(descriptor & 1)
                if granules == 1:
                    txn.set_state(pa, _DELEGATED)
                else:
                    txn.set_states(pa, granules, _DELEGATED)
            where += 1
        if where == index:
            return error_rtt(level)
        if unmapped:
            rmm.bump_generation(txn, realm)
    single, count = outputs.finish(rmm)
    return 0, base + ((where - index) << shift), single, count
