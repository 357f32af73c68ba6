"""RSI: the calls that a Realm makes by SMC (DEN0137 2.0-bet1, B5).

Enter at :func:`handle`, which carries out the SMC that the loaded context stands at. A handler registers against a row
of :data:`rmm.abi.rsi.RSI_COMMANDS` with :func:`rsi`, takes the session and the argument registers X1.., and answers an
:class:`Answer`. PSCI functions register the same way in :mod:`rmm.psci`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from rmm.abi.rsi import RSI_BY_NAME

if TYPE_CHECKING:
    from rmm.exits import RecExit
    from rmm.session import Session

#: Bit 16 of a function id is a hint of the SMCCC (no SVE state to keep): ignored.
_HINT = 1 << 16
#: Registers that a call may use: X0..X10.
_ARGUMENTS = 11
_NOT_SUPPORTED = 0xFFFF_FFFF_FFFF_FFFF


class Answer(NamedTuple):
    """What a call does to the Realm: X0.. written (None: nothing), a REC exit or none, and whether PC moves on."""

    registers: tuple[int, ...] | None = None
    exit: RecExit | None = None
    advance: bool = True


Handler = Callable[["Session", Sequence[int]], Answer]
#: Handlers by function id, RSI and PSCI.
HANDLERS: dict[int, Handler] = {}


def done(x0: int, x1: int = 0, x2: int = 0, x3: int = 0) -> Answer:
    """Results in X0..X3; the Realm runs on."""
    return Answer((x0 & _NOT_SUPPORTED, x1, x2, x3))


def leave(exit: RecExit) -> Answer:
    """A REC exit; what the call returns is written by the completion in the next entry."""
    return Answer(None, exit)


def again(exit: RecExit) -> Answer:
    """A REC exit after which the Realm makes the same call once more."""
    return Answer(None, exit, advance=False)


def rsi(name: str) -> Callable[[Handler], Handler]:
    """Register the handler of a command of the table; KeyError when there is none of that name."""
    fid = RSI_BY_NAME[name].fid

    def register(handler: Handler) -> Handler:
        HANDLERS[fid] = handler
        return handler

    return register


def handle(session: Session) -> RecExit | None:
    """Carry out the SMC at which the loaded context stands; a REC exit, or None when the Realm runs on.

    The RMM lock is taken for the call: handlers read and change what other processes' commands do.
    """
    cpu = session.cpu
    x = cpu.gprs(_ARGUMENTS)
    handler = HANDLERS.get(x[0] & ~_HINT)
    if handler is None:
        answer = done(_NOT_SUPPORTED)
    else:
        with session.rmm.lock:
            answer = handler(session, x)
    if answer.registers is not None:
        cpu.set_gprs(answer.registers)
    if answer.advance:
        cpu.pc += 4
    return answer.exit


for _group in ("version", "measurement", "realm_config", "ipa_state", "host_call"):
    import_module(f"rmm.rsi.{_group}")
import_module("rmm.psci")
