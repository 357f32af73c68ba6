"""A domain's console over RPC: :class:`RpcConsole` is the transport of :func:`vuart.attach.attach`."""

from __future__ import annotations

import signal
import sys

from hypervisor.rpc.client import RpcError, Unreachable
from hypervisor.rpc.messages import ConsoleOutput, ConsoleReadRequest, ConsoleTaken, ConsoleWriteRequest
from toolstack.connection import Connection, message_of
from vuart.attach import ESCAPE, Reason, attach

#: Seconds beyond the wait that a read may take: the daemon may be busy building another Realm.
_GRACE = 60.0


class RpcConsole:
    """The console of one domain. Reading and writing have a connection each, for they run in threads of their own."""

    def __init__(self, connection: Connection, domid: int) -> None:
        self._domid = domid
        self._reading = connection.another()
        self._writing = connection.another()

    def read(self, offset: int, max_bytes: int, wait_ms: int) -> tuple[int, bytes, bool]:
        """Output from OFFSET on; see :class:`vuart.attach.Transport`."""
        request = ConsoleReadRequest(domid=self._domid, offset=offset, max_bytes=max_bytes, wait_ms=wait_ms)
        try:
            output = self._reading.call("console_read", request, ConsoleOutput, timeout=wait_ms / 1000 + _GRACE)
        except RpcError as error:
            if error.code == "no_domain":
                return offset, b"", True
            raise
        return output.offset, output.data, output.ended

    def write(self, data: bytes) -> int:
        """Input; the number of bytes that the guest's UART took."""
        request = ConsoleWriteRequest(domid=self._domid, data=data)
        return self._writing.call("console_write", request, ConsoleTaken, timeout=_GRACE).taken


def attach_to_console(connection: Connection, domid: int, *, escape: int = ESCAPE) -> int:
    """Connect the terminal with the console until one side ends it; the exit status.

    0 when the escape character was typed, the domain ended or the input's or output's other side is gone; 128 + N for
    signal N; 1, with a line that says why, when the hypervisor does not answer any more.
    """
    outcome = attach(RpcConsole(connection, domid), escape=escape)
    if sys.stdout.isatty() and outcome.reason in (Reason.ESCAPE, Reason.ERROR):
        print(flush=True)
    if outcome.reason is Reason.SIGNAL:
        return 128 + signal.Signals(outcome.signal)
    if outcome.reason is Reason.ERROR:
        error = outcome.error
        if isinstance(error, RpcError):
            print(f"xl: console of domain {domid}: {message_of(error)}", file=sys.stderr)
        elif isinstance(error, (Unreachable, OSError)):
            print(f"xl: console of domain {domid}: {error}", file=sys.stderr)
        elif error is not None:
            raise error
        return 1
    return 0
