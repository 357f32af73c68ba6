"""RTT_UNPROT_MAP and RTT_UNPROT_UNMAP (B3.2): host memory in the unprotected half, with the host's attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmm import ns_mappings, rtt
from rmm.abi.registers import UnprotMapFlags
from rmm.abi.rmi import Status, error_rtt
from rmm.granules import PA_WIDTH, GranuleState
from rmm.rmi import command
from rmm.rmi.address_list import Outputs, blocks

if TYPE_CHECKING:
    from rmm.monitor import Monitor
    from rmm.realm import Realm

_MASK = 0xFFF
#: The one reserved MemAttr value under stage 2 forced write-back.
_MEMATTR_RESERVED = 4
_S2AP_MAX = 3


def _bad_range(realm: Realm, base: int, top: int) -> bool:
    return bool((base | top) & _MASK) or top <= base or base < realm.par_size or top > realm.ipa_size


def _attributes(flags: int) -> int | None:
    """Descriptor bits for the host's memattr and s2ap (direct encoding: bit 0 write, bit 1 read); None if not legal."""
    fields = UnprotMapFlags(flags)
    memattr, s2ap = int(fields.MEMATTR), int(fields.S2AP)
    if memattr == _MEMATTR_RESERVED or s2ap > _S2AP_MAX:
        return None
    return memattr << 2 | (s2ap >> 1) << 6 | (s2ap & 1) << 7


@command("RMI_RTT_UNPROT_MAP")
def rtt_unprot_map(rmm: Monitor, rd: int, base: int, top: int, flags: int, oaddr: int) -> int | tuple[int, int]:
    """Map host memory in one leaf table; out: the first address not mapped.

    The granules' own state is not checked, as on hardware: memory that is not the host's now is not reachable through
    the mapping until it is. The state in the descriptors may be either.
    """
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    attributes = _attributes(flags)
    source = blocks(rmm, flags, oaddr, UnprotMapFlags.defined_mask())
    if _bad_range(realm, base, top) or attributes is None or source is None:
        return Status.ERROR_INPUT
    block = next(source, None)
    if block is None or not block.level:
        return Status.ERROR_INPUT
    level = block.level
    shift = rtt.entry_shift(level)
    size = 1 << shift
    if (base | block.pa) & (size - 1):
        return Status.ERROR_INPUT
    if top - base < size:
        return error_rtt(level)
    at, index, _ = rtt.find(rmm.memory, realm, base, level)
    if at != level:
        return error_rtt(at)
    end = min((index | (rtt.ENTRIES - 1)) + 1, index + ((top - base) >> shift))
    where = index
    refused = 0
    with rmm.commit() as txn:
        while where < end:
            descriptor = rmm.words[where]
            leaf = rtt.assigned_ns(block.pa, attributes, level, ns_mappings.accessible(rmm, block.pa, size >> 12))
            if block.level != level or rtt.is_table(descriptor):
                refused = error_rtt(level)
            elif block.pa & (size - 1) or block.pa >> PA_WIDTH:
                refused = int(Status.ERROR_INPUT)
            elif not rtt.is_unassigned(descriptor) and (descriptor ^ leaf) & (rtt.PA_MASK | rtt.NS_ATTRIBUTES):
                refused = error_rtt(level)
            elif descriptor != leaf:
                ns_mappings.note(rmm, txn, block.pa, size >> 12)
                txn.store_word(where, leaf)
            if refused:
                break
            where += 1
            following = next(source, None)
            if following is None:
                break
            block = following
    if where == index:
        return refused
    return int(Status.SUCCESS), base + ((where - index) << shift)


@command("RMI_RTT_UNPROT_UNMAP")
def rtt_unprot_unmap(
    rmm: Monitor, rd: int, base: int, top: int, flags: int, oaddr: int
) -> int | tuple[int, int, int, int]:
    """Unmap what one leaf table maps of [base, top) in the unprotected half; outputs as RTT_DATA_UNMAP."""
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    outputs = None if _bad_range(realm, base, top) else Outputs.open(rmm, flags, oaddr)
    if outputs is None:
        return Status.ERROR_INPUT
    level, index, _ = rtt.find(rmm.memory, realm, base, rtt.PAGE_LEVEL)
    shift = rtt.entry_shift(level)
    if base & ((1 << shift) - 1):
        return error_rtt(level)
    end = min((index | (rtt.ENTRIES - 1)) + 1, index + ((top - base) >> shift))
    where = index
    with rmm.commit() as txn:
        for descriptor in rmm.words[index:end].tolist():
            if rtt.is_table(descriptor):
                break
            if not rtt.is_unassigned(descriptor):
                if not outputs.add(rtt.pa(descriptor), level):
                    break
                ns_mappings.drop(rmm, descriptor, level)
                txn.store_word(where, 0)
            where += 1
        if txn.words:
            rmm.bump_generation(txn, realm)
    if where == index:
        return error_rtt(level)
    single, count = outputs.finish(rmm)
    return int(Status.SUCCESS), base + ((where - index) << shift), single, count
