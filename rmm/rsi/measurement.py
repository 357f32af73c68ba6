"""RSI_MEASUREMENT_READ and RSI_MEASUREMENT_EXTEND (DEN0137 2.0-bet1, A7.1 and B5.3)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rmm.abi.rsi import RsiStatus
from rmm.rsi import Answer, done, rsi

if TYPE_CHECKING:
    from rmm.session import Session

#: Slots: the RIM and four REMs.
_SLOTS = 5
_MAX_VALUE = 64


@rsi("RSI_MEASUREMENT_READ")
def measurement_read(session: Session, x: Sequence[int]) -> Answer:
    """X1: slot. X1.. get the digest, a register for every eight bytes; further registers keep their value (TF-RMM)."""
    if x[1] >= _SLOTS:
        return done(RsiStatus.ERROR_INPUT)
    realm = session.realm
    digest = realm.measurement(x[1])[: realm.hash.size]
    return Answer((RsiStatus.SUCCESS, *realm.hash.unpack(digest)))


@rsi("RSI_MEASUREMENT_EXTEND")
def measurement_extend(session: Session, x: Sequence[int]) -> Answer:
    """X1: slot 1..4, X2: size up to 64, X3..X10: value. The slot becomes the hash of its digest and the value."""
    slot, size = x[1], x[2]
    if not 1 <= slot < _SLOTS or size > _MAX_VALUE:
        return done(RsiStatus.ERROR_INPUT)
    realm = session.realm
    value = struct.pack("<8Q", *x[3:11])[:size]
    digest = realm.hash.extend(realm.measurement(slot), value)
    with session.rmm.commit() as txn:
        for at, word in enumerate(realm.hash.unpack(digest), realm.measurement_word(slot)):
            txn.store_word(at, word)
    return done(RsiStatus.SUCCESS)
