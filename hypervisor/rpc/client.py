"""A blocking client of hypervisord.

:class:`Client` makes one call at a time; the answer comes as its declared type, an error as :class:`RpcError`. A daemon
that does not answer, or speaks another protocol version, is :class:`Unreachable`.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import zmq

from hypervisor.rpc import messages
from hypervisor.rpc.messages import METHODS, PROTOCOL_VERSION, Answer, Envelope, Message, Progress

_M = TypeVar("_M", bound=Message)
#: Seconds that a call may take beyond what it asked the daemon to wait.
CALL_TIMEOUT = 30.0


class Unreachable(Exception):
    """Raised when there is no daemon, it does not answer in time, or it speaks another protocol version."""


class RpcError(Exception):
    """Raised when the daemon refuses a request; carries its structured :class:`~messages.Failure`."""

    def __init__(self, failure: messages.Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure

    @property
    def code(self) -> str:
        """The stable error code."""
        return self.failure.code


class Client:
    """A connection to the daemon that listens on ``path``. Not thread-safe: one thread, one client."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.connect(f"ipc://{path}")
        self._ids = itertools.count(1)

    def close(self) -> None:
        """Drop the connection."""
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def call(
        self,
        method: str,
        request: Message,
        answer: type[_M],
        timeout: float | None = CALL_TIMEOUT,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> _M:
        """Send ``request`` and return the answer.

        ``timeout`` (seconds, None: for ever) starts anew with each progress report. Raises RpcError, or Unreachable.
        """
        expected = METHODS[method]
        assert isinstance(request, expected[0]) and answer is expected[1]
        ident = next(self._ids)
        envelope = Envelope(v=PROTOCOL_VERSION, id=ident, method=method, params=request)
        frame = msgspec.msgpack.encode(envelope)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._wait(zmq.POLLOUT, deadline, method)
            # The connection may be lost in between; then the next wait says what became of the daemon.
            with contextlib.suppress(zmq.Again):
                self._socket.send(frame, zmq.NOBLOCK)
                break
        while True:
            self._wait(zmq.POLLIN, deadline, method)
            raw = self._socket.recv()
            try:
                reply = msgspec.msgpack.decode(raw, type=Answer)
            except msgspec.MsgspecError as error:
                raise Unreachable(f"unreadable answer from hypervisord at {self.path}: {error}") from None
            if reply.error is not None and reply.error.code == "protocol_version":
                raise Unreachable(reply.error.message)
            if reply.id != ident:
                continue
            if reply.error is not None:
                raise RpcError(reply.error)
            if reply.progress is not None:
                deadline = None if timeout is None else time.monotonic() + timeout
                if on_progress is not None:
                    on_progress(reply.progress)
                continue
            try:
                return msgspec.convert(reply.result if reply.result is not None else {}, answer)
            except msgspec.MsgspecError as error:
                raise Unreachable(f"unexpected answer to {method} from hypervisord: {error}") from None

    def _wait(self, event: int, deadline: float | None, method: str) -> None:
        remaining = None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000))
        if not self._socket.poll(remaining, event):
            raise Unreachable(f"hypervisord does not answer at {self.path} ({method})")
