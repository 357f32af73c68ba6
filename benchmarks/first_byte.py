"""From `xl create` to the guest's first console byte, daemon not yet running: hello-realm with 256 MiB.

What is timed is what a user sees in the terminal of ``xl create -c``: xl starts, starts the daemon, which brings the
RMM up, builds and measures the Realm, and attaches; the clock stops when the first word that the guest prints is there.
"""

from __future__ import annotations

from benchmarks.figure import Figure
from benchmarks.private_host import SOURCE, PrivateHost
from benchmarks.terminal import Terminal

NAME = "first-byte"
PROMISE = 4.0
CONFIG = "examples/hello-realm/hello-realm.cfg"
#: The first line that the guest prints begins so; no line of xl does.
_FIRST = b"hello-realm: RSI "
_TIMEOUT = 120


def seconds() -> float:
    """One run on a host of its own."""
    with PrivateHost() as host:
        command = [*host.xl, "create", "-c", CONFIG, "memory=256", "maxmem=256"]
        with Terminal(command, host.environment, SOURCE) as terminal:
            elapsed = terminal.wait_for(_FIRST, _TIMEOUT)
            terminal.type(b"quit\r")
            terminal.wait_end(_TIMEOUT)
        return elapsed


def measure(runs: int) -> list[Figure]:
    """One figure: seconds."""
    samples = [seconds() for _ in range(runs)]
    what = "hello-realm, 256 MiB, no daemon: xl create to first console byte"
    return [Figure(what, "s", samples, f"python -m benchmarks {NAME}", PROMISE)]
