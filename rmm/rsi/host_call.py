"""RSI_HOST_CALL: a message to the host, in a structure in Realm memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from machine.memory import DRAM_BASE
from rmm import exits
from rmm.abi.rsi import RsiStatus
from rmm.abi.structures import HostCall, RecRun
from rmm.rec import Pending
from rmm.rsi import Answer, again, done, leave, rsi
from rmm.rsi.buffer import locate

if TYPE_CHECKING:
    from rmm.exits import RecExit
    from rmm.session import Session

_GPRS_SIZE = HostCall.gprs.size


@rsi("RSI_HOST_CALL")
def host_call(session: Session, x: Sequence[int]) -> Answer:
    """X1: IPA of an RsiHostCall (aligned to its size, so that it lies in one granule)."""
    ipa = x[1]
    if ipa & (HostCall.SIZE - 1) or ipa >= session.par_size:
        return done(RsiStatus.ERROR_INPUT)
    place = locate(session, ipa)
    if place is None:
        return done(RsiStatus.ERROR_INPUT)
    if not isinstance(place, int):
        return again(place)
    message = session.memory.read(place, HostCall.SIZE)
    session.rec.host_call = ipa
    session.rec.pending |= Pending.HOST_CALL
    return leave(exits.host_call(HostCall.imm.read(message), HostCall.gprs.read(message)))


def complete(session: Session, run: int) -> RecExit | None:
    """Finish the call in the next entry: the host's registers go into the structure, X0 is the status.

    The REC exit to make when the structure is not mapped any more; the call stays pending then. ERROR_INPUT when the
    Realm itself has made the place EMPTY meanwhile.
    """
    rec = session.rec
    place = locate(session, rec.host_call)
    if place is not None and not isinstance(place, int):
        return place
    status = RsiStatus.ERROR_INPUT
    if place is not None:
        source = run - DRAM_BASE + RecRun.enter_gprs.offset
        session.memory.write(place + HostCall.gprs.offset, session.memory.buf[source : source + _GPRS_SIZE])
        session.cpu.invalidate_code(place, HostCall.SIZE)
        status = RsiStatus.SUCCESS
    session.cpu.set_gprs((status, 0, 0, 0))
    rec.pending &= ~Pending.HOST_CALL
    return None
