"""RTT_INIT_RIPAS and RTT_SET_RIPAS (B3.2): sweeps over one leaf table that change the RIPAS of its entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmm import rtt
from rmm.abi.registers import Ripas
from rmm.abi.rmi import Status, error_rtt
from rmm.granules import GranuleState
from rmm.realm import RealmState
from rmm.rec import Rec, RecGranule, is_running
from rmm.rmi import command

if TYPE_CHECKING:
    from rmm.commit import Transaction
    from rmm.monitor import Monitor
    from rmm.realm import Realm

_MASK = 0xFFF


def _sweep(
    rmm: Monitor, txn: Transaction, realm: Realm, base: int, top: int, value: int, allowed: frozenset[int]
) -> tuple[int, int]:
    """Give the entries from ``base`` on the RIPAS ``value``: (x0, first address not swept).

    Stops at the end of the leaf table, at an entry that reaches beyond ``top``, at a table, and at an entry whose RIPAS
    is not in ``allowed``. Entries that have the value already count as progress. x0 is ERROR_RTT without progress.
    """
    level, index, _ = rtt.find(rmm.memory, realm, base, rtt.PAGE_LEVEL)
    size = 1 << rtt.entry_shift(level)
    if base & (size - 1):
        return error_rtt(level), 0
    end = min((index | (rtt.ENTRIES - 1)) + 1, index + (top - base) // size)
    at = index
    removed = False
    for descriptor in rmm.words[index:end].tolist():
        present = rtt.ripas(descriptor)
        if rtt.is_table(descriptor) or present not in allowed:
            break
        if present != value:
            removed = removed or bool(descriptor & 1)
            txn.store_word(at, rtt.with_ripas(descriptor, value, level))
        at += 1
    if at == index:
        return error_rtt(level), 0
    if removed:
        rmm.bump_generation(txn, realm)
    return Status.SUCCESS, base + (at - index) * size


_INITIAL = frozenset({Ripas.EMPTY, Ripas.RAM})
_ANY_RAM = frozenset({Ripas.EMPTY, Ripas.RAM, Ripas.DESTROYED})


@command("RMI_RTT_INIT_RIPAS")
def rtt_init_ripas(rmm: Monitor, rd: int, base: int, top: int) -> int | tuple[int, int]:
    """EMPTY to RAM in a NEW realm, without measuring it; out: the first address not done."""
    if top <= base:
        return Status.ERROR_INPUT
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    if (base | top) & _MASK or top > realm.par_size:
        return Status.ERROR_INPUT
    if realm.state != RealmState.NEW:
        return Status.ERROR_REALM
    with rmm.commit() as txn:
        return _sweep(rmm, txn, realm, base, top, Ripas.RAM, _INITIAL)


@command("RMI_RTT_SET_RIPAS")
def rtt_set_ripas(rmm: Monitor, rd: int, rec_pa: int, base: int, top: int) -> int | tuple[int, int]:
    """Carry out (part of) the RIPAS change that a REC asked for; out: how far it came."""
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    refused = rmm.granules.refusal(rec_pa, GranuleState.REC)
    if refused:
        return refused
    rec = Rec(rmm.memory, rec_pa)
    if is_running(rmm, rec_pa) or rec.rd != rd:
        return Status.ERROR_REC
    request = rec.ripas_request
    if request is None or base != request[0] or not base < top <= request[1]:
        return Status.ERROR_INPUT
    _, _, value, change_destroyed = request
    allowed = _INITIAL if value == Ripas.RAM and not change_destroyed else _ANY_RAM
    if top & _MASK:
        level, _, _ = rtt.find(rmm.memory, realm, base, rtt.PAGE_LEVEL)
        return error_rtt(level) if base & ((1 << rtt.entry_shift(level)) - 1) else Status.ERROR_INPUT
    with rmm.commit() as txn:
        refused, out = _sweep(rmm, txn, realm, base, top, value, allowed)
        if not refused:
            txn.store_u64(rec.address(RecGranule.ripas_next), out)
    return refused, out
