"""RSI_REALM_CONFIG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from machine.memory import GRANULE_SIZE
from rmm.abi.rsi import RsiStatus
from rmm.abi.structures import RealmConfig
from rmm.rsi import Answer, again, done, rsi
from rmm.rsi.buffer import locate

if TYPE_CHECKING:
    from rmm.session import Session


@rsi("RSI_REALM_CONFIG")
def realm_config(session: Session, x: Sequence[int]) -> Answer:
    """X1: IPA of a granule, which gets the RsiRealmConfig."""
    ipa = x[1]
    if ipa & (GRANULE_SIZE - 1) or ipa >= session.par_size:
        return done(RsiStatus.ERROR_INPUT)
    place = locate(session, ipa)
    if place is None:
        return done(RsiStatus.ERROR_INPUT)
    if not isinstance(place, int):
        return again(place)
    realm = session.realm
    page = RealmConfig.encode(
        ipa_width=realm.s2sz, hash_algo=realm.hash.algorithm, gicv3_vtr=session.cpu.ich.vtr, rpv=realm.rpv
    )
    session.memory.write(place, page)
    session.cpu.invalidate_code(place, GRANULE_SIZE)
    return done(RsiStatus.SUCCESS)
