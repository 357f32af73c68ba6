"""The consoles of all domains: output read by offset from the log on disk, input handed to the domain's process.

A domain's process writes its console log by itself and rings (an eventfd, while the doorbell in the run state page is
armed); whoever waits for output is woken. A console can be read to its end after its domain is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from hypervisor import channel
from hypervisor.domain import Domain
from hypervisor.refusal import Refusal
from vuart.history import ConsoleReader

#: Shortest time in seconds between two looks at a console that prints all the time.
CONSOLE_INTERVAL = 0.01
#: Seconds in which a domain's process answers what it took of console input.
INPUT_TIMEOUT = 20.0
#: Consoles of destroyed domains that can still be read to their end.
REMEMBERED_CONSOLES = 64


class Consoles:
    """``domains`` is the domain table's, by domid; ``get`` finds one or refuses."""

    def __init__(self, domains: dict[int, Domain], get: Callable[[int], Domain]) -> None:
        self._domains = domains
        self._get = get
        #: Input under way, by number: the domain, and how much of it was taken.
        self._inputs: dict[int, tuple[int, asyncio.Future[int]]] = {}
        self._input_ident = 0
        self._readers: dict[int, ConsoleReader] = {}
        self._events: dict[int, asyncio.Event] = {}

    # Output

    def rang(self, domain: Domain) -> None:
        """The domain's process has printed something."""
        self.wake(domain.domid)
        self._look_again(domain)

    def wake(self, domid: int) -> None:
        """Let whoever waits for output of this console look."""
        event = self._events.pop(domid, None)
        if event is not None:
            event.set()

    def _look_again(self, domain: Domain) -> None:
        if not domain.console_look_due:
            domain.console_look_due = True
            asyncio.get_running_loop().call_later(CONSOLE_INTERVAL, self._arm_doorbell, domain)

    def _arm_doorbell(self, domain: Domain) -> None:
        """Ask to be told of further output, and look whether some came while nobody asked."""
        domain.console_look_due = False
        if domain.gone:
            return
        domain.runstate.arm_doorbell()
        size = domain.console_log.stat().st_size if domain.console_log.exists() else 0
        if size != domain.console_seen:
            domain.console_seen = size
            self.wake(domain.domid)
            self._look_again(domain)

    def _reader(self, domid: int) -> ConsoleReader | None:
        reader = self._readers.get(domid)
        if reader is None:
            domain = self._get(domid)
            try:
                reader = self._readers[domid] = ConsoleReader(domain.console_log)
            except FileNotFoundError:
                return None
        return reader

    async def read(self, domid: int, offset: int, max_bytes: int, wait_ms: int) -> tuple[int, bytes, bool]:
        """Output from ``offset`` on, waiting for some; (offset, data, ended). Also after the domain is gone."""
        deadline = time.monotonic() + wait_ms / 1000
        while True:
            gone = domid not in self._domains
            reader = self._reader(domid)
            if reader is not None:
                chunk = reader.read(offset, max_bytes)
                if chunk.data:
                    return chunk.offset, chunk.data, False
            if gone:
                return offset, b"", True
            event = self._events.setdefault(domid, asyncio.Event())
            try:
                await asyncio.wait_for(event.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return offset, b"", False

    # Input

    async def write(self, domid: int, data: bytes) -> int:
        """Type into the console; answers how many bytes the UART took.

        Input that was handed to the domain's process counts as taken even when the answer does not come in time: it is
        on its way, and offered again it would be typed twice.
        """
        domain = self._get(domid)
        if not domain.vuart:
            raise Refusal("no_console", f"domain {domid} has no vuart", "ENODEV")
        if domain.shutdown_reason is not None:
            return len(data)
        if domain.building:
            return 0  # the process is busy until the Realm is built
        process = domain.live_process()
        self._input_ident += 1
        ident = self._input_ident
        taken: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._inputs[ident] = (domid, taken)
        process.send(channel.Input(ident, data))
        try:
            return await asyncio.wait_for(taken, INPUT_TIMEOUT)
        except TimeoutError:
            return len(data)
        finally:
            del self._inputs[ident]

    def input_taken(self, ident: int, taken: int) -> None:
        """The domain's process answers an input."""
        _, waiting = self._inputs.get(ident, (0, None))
        if waiting is not None and not waiting.done():
            waiting.set_result(taken)

    # The life of a domain

    def process_died(self, domain: Domain) -> None:
        """Nothing that is under way to the domain's process will be taken any more."""
        for domid, taken in self._inputs.values():
            if domid == domain.domid and not taken.done():
                taken.set_result(0)

    def begin(self, domid: int) -> None:
        """The number belongs to a new domain: an earlier one's console is no longer to be had under it."""
        earlier = self._readers.pop(domid, None)
        if earlier is not None:
            earlier.close()

    def keep(self, domid: int) -> None:
        """The domain is about to go: its console can still be read to its end. OSError when it cannot be opened."""
        self._reader(domid)

    def trim(self) -> None:
        """Close the consoles of domains that have been gone for long."""
        while len(self._readers) > len(self._domains) + REMEMBERED_CONSOLES:
            oldest = next(iter(self._readers))
            self._readers.pop(oldest).close()
