"""The RPC server and client over a real socket: what is well formed is answered, what is not changes nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from hypervisor.refusal import Refusal
from hypervisor.rpc import messages
from hypervisor.rpc.client import Client, RpcError, Unreachable
from hypervisor.rpc_server import RpcServer


class _Served:
    """A server in a thread of its own, with handlers that record what reached them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reached: list[tuple[str, Any]] = []
        self.log: list[str] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def _handler(self, name: str) -> Callable[..., Any]:
        async def handle(request: Any, report: Any) -> messages.Message:
            self.reached.append((name, request))
            if name == "domain_info":
                raise Refusal("no_domain", f"Domain {request.domid} does not exist.", "ESRCH")
            if name == "domain_list":
                raise ZeroDivisionError("boom")
            if name == "domain_finalize_realm":
                for done in (1, 2):
                    report(messages.Progress(phase="data", done=done, total=2))
            if name == "console_read":
                return messages.ConsoleOutput(offset=request.offset, data=b"\x00\xffbytes", ended=False)
            return messages.Nothing()

        return handle

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        handlers = {name: self._handler(name) for name in messages.METHODS}
        server = RpcServer(self.path, handlers, lambda level, text: self.log.append(text))
        server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[_Served]:
    server = _Served(tmp_path / "rpc.sock")
    yield server
    server.close()


def _raw(path: Path, frame: bytes) -> dict[str, Any]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"ipc://{path}")
        socket.send(frame)
        assert socket.poll(5000)
        answer: dict[str, Any] = msgspec.msgpack.decode(socket.recv())
    context.term()
    return answer


def test_the_socket_is_private_and_gone_after_the_server(tmp_path: Path) -> None:
    server = _Served(tmp_path / "rpc.sock")
    assert server.path.stat().st_mode & 0o077 == 0
    server.close()
    assert not server.path.exists()


def test_an_answer_arrives_as_its_declared_type(served: _Served) -> None:
    with Client(served.path) as client:
        request = messages.ConsoleReadRequest(domid=3, offset=7)
        answer = client.call("console_read", request, messages.ConsoleOutput)
    assert answer == messages.ConsoleOutput(offset=7, data=b"\x00\xffbytes", ended=False)


def test_progress_comes_before_the_answer(served: _Served) -> None:
    seen: list[int] = []
    with Client(served.path) as client:
        request = messages.FinalizeRealmRequest(domid=1, base_gfn=0x40000, nr_pages=2)
        client.call("domain_finalize_realm", request, messages.Nothing, on_progress=lambda p: seen.append(p.done))
    assert seen == [1, 2]


def test_a_refusal_carries_code_text_and_errno(served: _Served) -> None:
    with Client(served.path) as client, pytest.raises(RpcError, match=r"Domain 9 does not exist\.") as refused:
        client.call("domain_info", messages.DomainRef(domid=9), messages.DomainInfo)
    assert (refused.value.code, refused.value.failure.errno) == ("no_domain", "ESRCH")


def test_an_internal_error_is_logged_and_answered(served: _Served) -> None:
    with Client(served.path) as client, pytest.raises(RpcError, match="internal error in hypervisord") as refused:
        client.call("domain_list", messages.Nothing(), messages.DomainList)
    assert refused.value.code == "internal"
    assert len(served.log) == 1
    assert served.log[0].startswith("internal error in domain_list: ZeroDivisionError: boom (test_rpc_server.py:")


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", "bad_request"),
        (b"\xc1garbage", "bad_request"),
        (b"\x91" * 100_000, "bad_request"),
        (msgspec.msgpack.encode([1, 2, 3]), "bad_request"),
        (msgspec.msgpack.encode({"v": 1, "id": 1, "method": "no such"}), "no_method"),
        (msgspec.msgpack.encode({"v": 2, "id": 1, "method": "hello"}), "protocol_version"),
        (msgspec.msgpack.encode({"v": 1, "id": 1, "method": "hello", "extra": 1}), "bad_request"),
        (msgspec.msgpack.encode({"v": 1, "id": 1, "method": "domain_info", "params": {"domid": -1}}), "bad_request"),
        (msgspec.msgpack.encode({"v": 1, "id": 1, "method": "domain_info", "params": {"domid": "1"}}), "bad_request"),
        (msgspec.msgpack.encode({"v": 1, "id": 1, "method": "domain_info", "params": {"x": 1}}), "bad_request"),
    ],
)
def test_what_is_not_a_request_is_answered_with_its_error_and_reaches_no_handler(
    served: _Served, frame: bytes, code: str
) -> None:
    assert _raw(served.path, frame)["error"]["code"] == code
    assert served.reached == []


def test_a_client_of_another_protocol_version_is_told_so(
    served: _Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypervisor.rpc.client.PROTOCOL_VERSION", 9)
    with Client(served.path) as client, pytest.raises(Unreachable, match="speaks protocol version 1, the client"):
        client.call("hello", messages.Nothing(), messages.Hello)


def test_without_a_daemon_a_call_is_unreachable_in_the_time_it_was_given(tmp_path: Path) -> None:
    with Client(tmp_path / "rpc.sock") as client, pytest.raises(Unreachable, match="hypervisord does not answer at"):
        client.call("hello", messages.Nothing(), messages.Hello, timeout=0.2)


class _LosesItsConnectionOnce:
    """A socket that was ready to send and is not any more when it comes to it."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._lost = False

    def send(self, *arguments: Any) -> None:
        if not self._lost:
            self._lost = True
            raise zmq.Again
        self._socket.send(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def test_a_connection_lost_at_the_moment_of_sending_is_waited_for_again(served: _Served) -> None:
    """So that :class:`toolstack.connection.Connection` looks again, and says that the daemon has ended if it has."""
    with Client(served.path) as client:
        client._socket = _LosesItsConnectionOnce(client._socket)  # type: ignore[assignment]
        client.call("health", messages.Nothing(), messages.Nothing, timeout=5)
    assert [name for name, _ in served.reached] == ["health"]
