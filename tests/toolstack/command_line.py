"""Running one command line of xl in the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Ran(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


Xl = Callable[..., Ran]
