"""A connection to hypervisord that notices at once when the daemon is gone.

Enter at :class:`Connection`. :func:`explained` turns what a call can raise into the lines that a user sees.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import zmq

from hypervisor.rpc.client import Client, RpcError, Unreachable
from hypervisor.rpc.endpoint import EndpointError
from toolstack.errors import DOMAIN_NOTFOUND, FAIL, INVAL, XlError, libxl

#: Milliseconds in which an answer that the daemon sent just before its end arrives.
_LAST_ANSWER_MS = 50

#: libxl's code for a refusal of the hypervisor, by errno; everything else is FAIL.
_CODES = {"ESRCH": DOMAIN_NOTFOUND, "EINVAL": INVAL, "ENOMEM": -5}


class Connection(Client):
    """A client of the daemon with process id PID that listens on PATH. One thread, one connection.

    Unlike its base it does not wait for the answer of a daemon that has died: every call then raises Unreachable.
    """

    def __init__(self, path: Path, pid: int) -> None:
        super().__init__(path)
        self.pid = pid
        try:
            self._process = os.pidfd_open(pid)
        except OSError as error:
            self.close()
            raise Unreachable(f"hypervisord (pid {pid}) has just ended: {error.strerror}") from None

    def close(self) -> None:
        """Drop the connection; a second time does nothing."""
        super().close()
        process, self._process = getattr(self, "_process", -1), -1
        if process >= 0:
            os.close(process)

    def another(self) -> Connection:
        """A second connection to the same daemon, for another thread."""
        return Connection(self.path, self.pid)

    def wait_for_end(self, seconds: float) -> bool:
        """Wait for the daemon to end; False when it has not after SECONDS."""
        poller = zmq.Poller()
        poller.register(self._process, zmq.POLLIN)
        return bool(poller.poll(int(seconds * 1000)))

    def _wait(self, event: int, deadline: float | None, method: str) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, event)
        poller.register(self._process, zmq.POLLIN)
        remaining = None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000))
        ready = dict(poller.poll(remaining))
        if self._socket in ready:
            return
        if self._process in ready:
            if event == zmq.POLLIN and self._socket.poll(_LAST_ANSWER_MS, event):
                return
            raise Unreachable(f"hypervisord (pid {self.pid}) has ended")
        raise Unreachable(f"hypervisord does not answer at {self.path} ({method})")


def code_of(error: RpcError) -> int:
    """libxl's error code for a refusal."""
    return _CODES.get(error.failure.errno, FAIL)


def message_of(error: RpcError) -> str:
    """The refusal in one sentence, with the raw result of the RMM where that was the cause."""
    raw = error.failure.rmi_result
    return f"{error} (raw RMI result {raw:#x})" if raw else str(error)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Inside, what the lower layers raise becomes an XlError with one line that names the cause."""
    try:
        yield
    except (EndpointError, Unreachable) as error:
        raise XlError(f"xl: {error}") from None
    except RpcError as error:
        raise XlError(libxl(message_of(error))) from None
