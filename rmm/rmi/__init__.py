"""RMI command handlers, one module per group; each registers against a row of :data:`rmm.abi.rmi.COMMANDS`.

A handler is ``handler(rmm, x1, x2, ...)`` with as many registers as its row has arguments, and answers x0 or a tuple
(x0, x1, ...). It runs under the RMM lock unless registered with ``locked=False``, and only in the monitor states of its
``states``; the dispatcher (:mod:`rmm.monitor`) sees to both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from rmm.abi.rmi import BY_NAME
from rmm.carveout import RmmState

_ANY = frozenset(RmmState)
_ACTIVE = frozenset({RmmState.ACTIVE})


class Handler(NamedTuple):
    """A registered handler: the function, its number of arguments, whether it holds the lock, and when it may run."""

    function: Callable[..., Any]
    arguments: int
    locked: bool
    states: frozenset[RmmState]


HANDLERS: dict[int, Handler] = {}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def command(
    name: str, *, locked: bool = True, states: frozenset[RmmState] = _ACTIVE
) -> Callable[[_Function], _Function]:
    """Register the decorated function as the handler of the command ``name``; KeyError for an unknown command.

    In a monitor state outside ``states`` the command fails with ERROR_GLOBAL.
    """
    row = BY_NAME[name]

    def register(function: _Function) -> _Function:
        HANDLERS[row.fid] = Handler(function, len(row.arguments), locked, states)
        return function

    return register


ANY_STATE = _ANY
INIT_ONLY = frozenset({RmmState.INIT})
