"""RSI_IPA_STATE_SET and RSI_IPA_STATE_GET (DEN0137 2.0-bet1, A5.4 and B5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from machine.memory import GRANULE_SHIFT, GRANULE_SIZE
from rmm import exits, rtt
from rmm.abi.registers import Hipas, Response, Ripas, RsiIpaStateFlags
from rmm.abi.rsi import RsiStatus
from rmm.rec import Pending
from rmm.rsi import Answer, done, leave, rsi

if TYPE_CHECKING:
    from rmm.session import Session

_TABLE_ENTRIES = 512


def _valid_range(session: Session, base: int, top: int) -> bool:
    return not (base | top) & (GRANULE_SIZE - 1) and base < top <= session.par_size


@rsi("RSI_IPA_STATE_SET")
def ipa_state_set(session: Session, x: Sequence[int]) -> Answer:
    """X1, X2: range, X3: EMPTY or RAM, X4: flags. Asks the host; :func:`complete` tells the Realm how far it came."""
    base, top, value = x[1], x[2], x[3]
    if value not in (Ripas.EMPTY, Ripas.RAM) or not _valid_range(session, base, top):
        return done(RsiStatus.ERROR_INPUT)
    rec = session.rec
    rec.ripas_base = rec.ripas_next = base
    rec.ripas_top = top
    rec.ripas_value = value
    rec.ripas_change_destroyed = RsiIpaStateFlags(x[4]).CHANGE_DESTROYED
    rec.pending |= Pending.RIPAS
    return leave(exits.ripas_change(base, top, value))


def complete(session: Session, rejected: bool) -> None:
    """Finish the call in the next entry: X1 how far the host came, X2 whether it refused the rest (RAM only)."""
    rec = session.rec
    reached = rec.ripas_next
    refused = rejected and rec.ripas_value == Ripas.RAM and reached != rec.ripas_top
    session.cpu.set_gprs((RsiStatus.SUCCESS, reached, Response.REJECT if refused else Response.ACCEPT, 0))
    rec.pending &= ~Pending.RIPAS


@rsi("RSI_IPA_STATE_GET")
def ipa_state_get(session: Session, x: Sequence[int]) -> Answer:
    """X1, X2: range. X1: end of the run that shares the RIPAS of its first address, X2: that RIPAS.

    One call looks at one leaf table, so a longer run takes several calls.
    """
    base, top = x[1], x[2]
    if not _valid_range(session, base, top):
        return done(RsiStatus.ERROR_INPUT)
    found = rtt.walk(session.rmm, session.realm, base, 3)
    state = rtt.ripas(found.descriptor)
    shift = GRANULE_SHIFT + 9 * (3 - found.level)
    end = base >> shift << shift
    index = base >> shift & (_TABLE_ENTRIES - 1)
    first = (found.entry_pa - session.memory.dram_base) >> 3
    for descriptor in session.memory.words[first : first + _TABLE_ENTRIES - index]:
        # At an entry above level 3 the run may end at a table.
        if end >= top or rtt.hipas(descriptor) == Hipas.TABLE or rtt.ripas(descriptor) != state:
            break
        end += 1 << shift
    return done(RsiStatus.SUCCESS, min(end, top), state)
