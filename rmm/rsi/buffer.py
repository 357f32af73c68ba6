"""Realm memory that a call names: where it is, or why it cannot be used (DEN0137 2.0-bet1, A4.3.4 and B5.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machine.memory import GRANULE_SIZE
from rmm import exits, rtt
from rmm.abi.registers import Hipas, Ripas

if TYPE_CHECKING:
    from rmm.exits import RecExit
    from rmm.session import Session


def locate(session: Session, ipa: int) -> int | RecExit | None:
    """Physical address of the protected ``ipa``.

    None when it is EMPTY (the Realm's mistake); the REC exit to make when it is RAM that the host has not mapped.
    ``ipa`` is below the protected top.
    """
    found = rtt.walk(session.rmm, session.realm, ipa, 3)
    state = rtt.ripas(found.descriptor)
    if state == Ripas.RAM and rtt.hipas(found.descriptor) == Hipas.ASSIGNED:
        size = GRANULE_SIZE << 9 * (3 - found.level)
        return rtt.pa(found.descriptor) | ipa & (size - 1)
    if state == Ripas.EMPTY:
        return None
    return exits.unmapped_buffer(ipa, found.level)
