"""A hypervisor for tests: a thread that speaks the protocol on a real socket, with a few domains in a list.

Every request is recorded. ``refuse`` makes a method fail, ``progress`` makes it report first.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from hypervisor.rpc.messages import (
    METHODS,
    PROTOCOL_VERSION,
    Answer,
    ConsoleOutput,
    ConsoleTaken,
    Dmesg,
    DomainInfo,
    DomainList,
    Envelope,
    Failure,
    Hello,
    Message,
    Nothing,
    Physinfo,
    Progress,
    VcpuInfo,
    VcpuList,
    WaitAnswer,
)


def domain(name: str, domid: int, **fields: Any) -> DomainInfo:
    """A domain with one idle vCPU and 256 MiB, except for FIELDS."""
    values: dict[str, Any] = {
        "domid": domid,
        "uuid": f"00000000-0000-0000-0000-{domid:012x}",
        "name": name,
        "running": False,
        "blocked": True,
        "paused": False,
        "shutdown": False,
        "dying": False,
        "shutdown_reason": None,
        "outstanding_memkb": 0,
        "current_memkb": 256 * 1024,
        "max_memkb": 256 * 1024,
        "cpu_time_ns": 1_250_000_000,
        "vcpu_max_id": 0,
        "vcpu_online": 1,
        "created_ns": 0,
        "realm": True,
        "realm_state": "ACTIVE",
        "vuart": True,
        "pid": 4711,
        "crash_reason": "",
        "config": json.dumps({"c_info": {"name": name}}),
    }
    return DomainInfo(**{**values, **fields})


HOST = Physinfo(
    host="board",
    release="6.1.0",
    host_version="#1",
    machine="aarch64",
    nr_cpus=4,
    total_memory_kib=2 * 1024 * 1024,
    free_memory_kib=1024 * 1024,
    xen_major=4,
    xen_minor=23,
    xen_extra="-unstable",
    scheduler="round-robin",
    command_line="--memory 2G",
    cpu="emulated",
    rmm="RMM 2.0",
    cca=True,
    realm_debug_vuart=False,
    delegated_granules=7,
    activation_granules=7,
    build_date="today",
)


class FakeHypervisor:
    """Listens on PATH until closed."""

    def __init__(self, path: Path) -> None:
        self.domains: list[DomainInfo] = []
        self.host = HOST
        self.version = PROTOCOL_VERSION
        self.calls: list[tuple[str, Any]] = []
        self.refusals: dict[str, Failure] = {}
        self.progress: dict[str, list[Progress]] = {}
        self.before: dict[str, Callable[[], None]] = {}
        self.after: dict[str, Callable[[], None]] = {}
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._router.bind(f"ipc://{path}")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def refuse(self, method: str, code: str, message: str, errno: str = "", rmi_result: int = 0) -> None:
        """From now on METHOD fails."""
        self.refusals[method] = Failure(code, message, errno, rmi_result)

    def called(self, method: str) -> list[Any]:
        """The parameters of every call of METHOD."""
        return [params for name, params in self.calls if name == method]

    def methods(self) -> list[str]:
        """The methods called, without repetitions in a row."""
        names = [name for name, _ in self.calls]
        return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]

    def close(self) -> None:
        """Stop serving."""
        self._ending.set()
        self._thread.join(10)
        self._router.close()
        self._context.term()

    def _serve(self) -> None:
        while not self._ending.is_set():
            if not self._router.poll(20):
                continue
            peer, frame = self._router.recv_multipart()
            request = msgspec.msgpack.decode(frame, type=Envelope)
            for answer in self._answers(request):
                self._router.send_multipart([peer, msgspec.msgpack.encode(answer)])

    def _answers(self, request: Envelope) -> list[Answer]:
        if request.v != self.version:
            text = f"this hypervisord speaks protocol version {self.version}, the client version {request.v}"
            return [Answer(v=self.version, id=request.id, error=Failure("protocol_version", text))]
        params = msgspec.convert(request.params, METHODS[request.method][0])
        self.calls.append((request.method, params))
        self.before.get(request.method, lambda: None)()
        answers = [Answer(v=1, id=request.id, progress=progress) for progress in self.progress.get(request.method, [])]
        refusal = self.refusals.get(request.method)
        if refusal is None:
            result = self._result(request.method, params)
            self.after.get(request.method, lambda: None)()
            if isinstance(result, Failure):
                refusal = result
            else:
                return [*answers, Answer(v=1, id=request.id, result=result)]
        return [*answers, Answer(v=1, id=request.id, error=refusal)]

    def _result(self, method: str, params: Any) -> Message | Failure:
        found = next((row for row in self.domains if row.domid == getattr(params, "domid", -1)), None)
        missing = Failure("no_domain", f"Domain {getattr(params, 'domid', -1)} does not exist.", "ESRCH")
        match method:
            case "hello":
                return Hello(protocol=1, version="4.23-unstable", pid=1, started_ns=0)
            case "physinfo":
                return self.host
            case "dmesg":
                return Dmesg(text="(XEN) hello\n")
            case "domain_list":
                return DomainList(domains=self.domains)
            case "domain_create":
                created = domain(params.name, 1 + max((row.domid for row in self.domains), default=0), paused=True)
                self.domains.append(created)
                return created
            case "domain_wait":
                return WaitAnswer(done=True, info=None if found is None else found)
            case "domain_info":
                return found or missing
            case "domain_vcpus":
                return VcpuList(
                    vcpus=[VcpuInfo(vcpu=0, online=True, blocked=True, running=False, cpu=0, cpu_time_ns=10**9)]
                )
            case "domain_destroy" if found is not None:
                self.domains.remove(found)
            case "console_read":
                return ConsoleOutput(offset=params.offset, data=b"", ended=True)
            case "console_write":
                return ConsoleTaken(taken=len(params.data))
            case _ if method.startswith("domain_") and found is None:
                return missing
        return Nothing()
