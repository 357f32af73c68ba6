"""Who owns each granule, worked out from realms, RECs and operations alone, without the granule table."""

from __future__ import annotations

from collections.abc import Iterator

from machine.memory import Pas
from rmm import rtt, sro
from rmm.granules import GranuleState
from rmm.monitor import Monitor
from rmm.rec import Rec
from rmm.sro import SroContext

PAGE = 4096


def _entries(rmm: Monitor, first: int, count: int, level: int) -> Iterator[tuple[int, GranuleState]]:
    """Granules under ``count`` entries from word ``first`` on, tables and protected memory."""
    for descriptor in rmm.words[first : first + count].tolist():
        if rtt.is_table(descriptor):
            table = rtt.pa(descriptor)
            yield table, GranuleState.RTT
            yield from _entries(rmm, (table - rmm.base) >> 3, rtt.ENTRIES, level + 1)
        elif rtt.is_live_entry(descriptor):
            for n in range(1 << (rtt.entry_shift(level) - 12)):
                yield rtt.pa(descriptor) + n * PAGE, GranuleState.DATA


def owned(rmm: Monitor) -> list[tuple[int, GranuleState]]:
    """(granule, state that its owner gives it) for every granule that something owns."""
    found: list[tuple[int, GranuleState]] = []
    for at, state in enumerate(bytes(rmm.granules.states)):
        pa = rmm.base + at * PAGE
        if state == GranuleState.RD:
            realm = rmm.realm(pa)
            assert realm is not None
            found.append((pa, GranuleState.RD))
            found += [(realm.rtt_base + n * PAGE, GranuleState.RTT) for n in range(realm.rtt_num_start)]
            found += _entries(rmm, realm.root, realm.rtt_num_start * rtt.ENTRIES, realm.rtt_level_start)
        elif state == GranuleState.REC:
            found.append((pa, GranuleState.REC))
            found += [(aux, GranuleState.REC_AUX) for aux in Rec(rmm.memory, pa).aux]
    for handle in range(rmm.options.sro_contexts):
        operation = sro.find(rmm, handle)
        if operation is not None:
            found.append((operation.load(SroContext.rec), GranuleState.PARTIAL))
            found += [(pa, GranuleState.REC_AUX) for pa in operation.held()]
    return found


def check(rmm: Monitor) -> None:
    """Every granule has at most one owner, the table says what the owner says, and the GPT agrees with the table."""
    found = owned(rmm)
    owners = dict(found)
    assert len(owners) == len(found), "a granule has two owners"
    for at, state in enumerate(bytes(rmm.granules.states)):
        pa = rmm.base + at * PAGE
        if state > GranuleState.DELEGATED:
            assert owners.pop(pa, None) == state, f"{pa:#x} is {GranuleState(state).name} without an owner that says so"
        assert rmm.memory.gpt[at] == (Pas.REALM if state else Pas.NON_SECURE), hex(pa)
    assert not owners, {hex(pa): state.name for pa, state in owners.items()}
