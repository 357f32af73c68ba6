"""The daemon's RPC server: one ROUTER socket, one task that receives, one that sends, a task per request.

Each request is decoded into its declared type before anything looks at it; what does not decode is answered with a
structured error and changes nothing. A handler takes (request, progress) and answers with the declared type.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from hypervisor.refusal import Refusal
from hypervisor.rpc.messages import METHODS, PROTOCOL_VERSION, Answer, Envelope, Failure, Message, Progress

Report = Callable[[Progress], None]
Handler = Callable[[Any, Report], Awaitable[Message]]

#: Largest request frame accepted, in bytes; larger ones end the connection in the transport.
MAX_FRAME = 2 << 20
#: Requests of one client that may be under way at once; further ones are refused.
MAX_CONCURRENT = 64


class RpcServer:
    """Serves ``handlers`` (by method name) on an ipc socket that only its owner may use."""

    def __init__(self, path: Path, handlers: dict[str, Handler], log: Callable[[str, str], None]) -> None:
        missing = METHODS.keys() - handlers.keys()
        assert not missing, f"methods without a handler: {missing}"
        self._handlers = handlers
        self._log = log
        self._path = path
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)
        self._outgoing: asyncio.Queue[list[bytes]] = asyncio.Queue(4096)
        self._busy: dict[bytes, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Bind and serve; the caller holds the lock of the runtime directory, so a leftover socket is nobody's."""
        self._path.unlink(missing_ok=True)
        old = os.umask(0o177)
        try:
            self._socket.bind(f"ipc://{self._path}")
        finally:
            os.umask(old)
        self._loops = [asyncio.create_task(self._receive()), asyncio.create_task(self._send())]

    async def stop(self) -> None:
        """Send what is queued (briefly), close, and remove the socket."""
        for _ in range(50):
            if self._outgoing.empty():
                break
            await asyncio.sleep(0.002)
        for task in [*self._loops, *self._tasks]:
            task.cancel()
        await asyncio.gather(*self._loops, *self._tasks, return_exceptions=True)
        self._socket.close()
        self._context.term()
        self._path.unlink(missing_ok=True)

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            if len(frames) != 2:
                self._refuse(frames[0], 0, "bad_request", f"expected one frame, got {len(frames) - 1}")
                continue
            peer, frame = frames
            try:
                request = msgspec.msgpack.decode(frame, type=Envelope)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                self._refuse(peer, 0, "bad_request", f"not a request: {error}")
                continue
            self._accept(peer, request)

    def _accept(self, peer: bytes, request: Envelope) -> None:
        if request.v != PROTOCOL_VERSION:
            text = f"this hypervisord speaks protocol version {PROTOCOL_VERSION}, the client version {request.v}"
            self._refuse(peer, request.id, "protocol_version", text)
            return
        if request.method not in METHODS:
            self._refuse(peer, request.id, "no_method", f"unknown method {request.method[:64]!r}")
            return
        try:
            params = msgspec.convert(request.params if request.params is not None else {}, METHODS[request.method][0])
        except (msgspec.MsgspecError, RecursionError) as error:
            self._refuse(peer, request.id, "bad_request", f"{request.method}: {error}")
            return
        if self._busy.get(peer, 0) >= MAX_CONCURRENT:
            self._refuse(peer, request.id, "too_many", f"more than {MAX_CONCURRENT} requests under way")
            return
        self._busy[peer] = self._busy.get(peer, 0) + 1
        task = asyncio.create_task(self._serve(peer, request, params))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, peer: bytes, request: Envelope, params: Message) -> None:
        def report(progress: Progress) -> None:
            self._queue(peer, Answer(v=PROTOCOL_VERSION, id=request.id, progress=progress))

        try:
            result = await self._handlers[request.method](params, report)
        except Refusal as refusal:
            failure = Failure(refusal.code, str(refusal), refusal.errno, refusal.rmi_result)
            self._queue(peer, Answer(v=PROTOCOL_VERSION, id=request.id, error=failure))
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(at.filename).name}:{at.lineno}"
            self._log("err", f"internal error in {request.method}: {type(error).__name__}: {error} ({where})")
            failure = Failure("internal", f"internal error in hypervisord: {type(error).__name__}: {error}")
            self._queue(peer, Answer(v=PROTOCOL_VERSION, id=request.id, error=failure))
        else:
            self._queue(peer, Answer(v=PROTOCOL_VERSION, id=request.id, result=result))
        finally:
            left = self._busy[peer] - 1
            if left:
                self._busy[peer] = left
            else:
                del self._busy[peer]

    def _refuse(self, peer: bytes, ident: int, code: str, message: str) -> None:
        self._queue(peer, Answer(v=PROTOCOL_VERSION, id=ident, error=Failure(code, message[:500])))

    def _queue(self, peer: bytes, answer: Answer) -> None:
        # A full queue: the sender is behind by thousands of answers. The newest is dropped and its client times out.
        if not self._outgoing.full():
            self._outgoing.put_nowait([peer, msgspec.msgpack.encode(answer)])

    async def _send(self) -> None:
        while True:
            await self._socket.send_multipart(await self._outgoing.get())
