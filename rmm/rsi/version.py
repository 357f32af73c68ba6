"""RSI_VERSION and RSI_FEATURES."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rmm.abi.rsi import RSI_VERSIONS, RsiStatus
from rmm.rsi import Answer, done, rsi

if TYPE_CHECKING:
    from rmm.session import Session


@rsi("RSI_VERSION")
def version(session: Session, x: Sequence[int]) -> Answer:
    """X1: requested version. A version that is offered is granted; else the highest one is named, with ERROR_INPUT."""
    highest = RSI_VERSIONS[-1]
    if x[1] in RSI_VERSIONS:
        return done(RsiStatus.SUCCESS, x[1], highest)
    return done(RsiStatus.ERROR_INPUT, highest, highest)


@rsi("RSI_FEATURES")
def features(session: Session, x: Sequence[int]) -> Answer:
    """X1: register index. Register 0 has no feature set (no devices, no MRO, no ATS), the others do not exist: zero."""
    return done(RsiStatus.SUCCESS, 0)
