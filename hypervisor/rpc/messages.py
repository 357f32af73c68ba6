"""Requests and answers, typed. A request that does not decode into its type is refused and changes nothing.

On the wire a request is ``{v, id, method, params}`` and each answer ``{v, id, ...}`` with exactly one of ``result``,
``error`` or ``progress`` (any number of the last before one of the first two). ``v`` is :data:`PROTOCOL_VERSION`.
Addresses are guest physical addresses in bytes, memory sizes KiB, times nanoseconds, unless a name says otherwise.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any

import msgspec

PROTOCOL_VERSION = 1
#: Largest piece of guest memory or console output in one message, in bytes.
MAX_CHUNK = 1 << 20

Domid = Annotated[int, msgspec.Meta(ge=0, lt=0x7FF0)]
#: msgpack has no larger integer.
U64 = Annotated[int, msgspec.Meta(ge=0)]


class ShutdownReason(IntEnum):
    """Why a domain shut down (Xen's SHUTDOWN_* codes)."""

    POWEROFF = 0
    REBOOT = 1
    SUSPEND = 2
    CRASH = 3
    WATCHDOG = 4
    SOFT_RESET = 5


class Message(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of everything that crosses the wire."""


class Nothing(Message):
    """A request or answer without content."""


class Hello(Message):
    """Who is there."""

    protocol: int
    version: str
    pid: int
    started_ns: int


class Physinfo(Message):
    """The host, as ``xl info`` shows it. Memory in KiB."""

    host: str
    release: str
    host_version: str
    machine: str
    nr_cpus: int
    total_memory_kib: int
    free_memory_kib: int
    xen_major: int
    xen_minor: int
    xen_extra: str
    scheduler: str
    command_line: str
    cpu: str
    rmm: str
    cca: bool
    realm_debug_vuart: bool
    delegated_granules: int
    activation_granules: int
    build_date: str


class DmesgRequest(Message):
    """Read (and clear) the hypervisor log."""

    clear: bool = False


class Dmesg(Message):
    """The hypervisor log as text."""

    text: str


class DomainCreateRequest(Message):
    """Create a paused domain with its RAM. ``config`` is libxl's JSON, kept for ``xl list -l``."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    uuid: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    max_vcpus: Annotated[int, msgspec.Meta(ge=1, le=128)]
    max_memkb: Annotated[int, msgspec.Meta(ge=1, le=1 << 32)]
    realm: bool = False
    vuart: bool = False
    trap_unmapped_accesses: bool = True
    config: str = "{}"


class DomainRef(Message):
    """Names a domain."""

    domid: Domid


class DomainWriteRequest(Message):
    """Write guest RAM of a domain that is still being built."""

    domid: Domid
    gpa: U64
    data: Annotated[bytes, msgspec.Meta(max_length=MAX_CHUNK)]


class VcpuContextRequest(Message):
    """Set vCPU registers before the first unpause: PC and X0..X3."""

    domid: Domid
    vcpu: Annotated[int, msgspec.Meta(ge=0, lt=128)]
    pc: U64
    x: Annotated[list[U64], msgspec.Meta(max_length=4)] = []


class FinalizeRealmRequest(Message):
    """Turn a paused domain into a Realm (the series' INIT_REALM domctl). Answers progress while it builds."""

    domid: Domid
    base_gfn: U64
    nr_pages: U64


class Progress(Message):
    """How far a long request has come; ``done`` of ``total`` units in ``phase``."""

    phase: str
    done: int
    total: int


class ShutdownRequest(Message):
    """Shut a domain down from outside (the equivalent of SCHEDOP_remote_shutdown)."""

    domid: Domid
    reason: ShutdownReason


class VcpuInfo(Message):
    """One vCPU, as ``xl vcpu-list`` shows it."""

    vcpu: int
    online: bool
    blocked: bool
    running: bool
    cpu: int
    cpu_time_ns: int


class DomainInfo(Message):
    """libxl_dominfo and what is ours beyond it."""

    domid: int
    uuid: str
    name: str
    running: bool
    blocked: bool
    paused: bool
    shutdown: bool
    dying: bool
    shutdown_reason: int | None
    outstanding_memkb: int
    current_memkb: int
    max_memkb: int
    cpu_time_ns: int
    vcpu_max_id: int
    vcpu_online: int
    created_ns: int
    realm: bool
    realm_state: str
    vuart: bool
    pid: int
    crash_reason: str
    config: str


class DomainList(Message):
    """All domains, in order of domid."""

    domains: list[DomainInfo]


class VcpuList(Message):
    """All vCPUs of a domain."""

    vcpus: list[VcpuInfo]


class WaitRequest(Message):
    """Wait until a domain is shut down (or gone: then ``info`` is None in the answer), at most ``wait_ms``."""

    domid: Domid
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)]
    gone: bool = False


class WaitAnswer(Message):
    """``info`` is None when the domain does not exist (any more); ``done`` is False when the time ran out first."""

    done: bool
    info: DomainInfo | None


class ConsoleReadRequest(Message):
    """Read console output from an absolute offset; waits up to ``wait_ms`` for output that is not there yet."""

    domid: Domid
    offset: U64
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHUNK)] = 65536
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 0


class ConsoleOutput(Message):
    """``data`` starts at ``offset``; ``ended`` when the domain will print nothing more and all was delivered."""

    offset: int
    data: bytes
    ended: bool


class ConsoleWriteRequest(Message):
    """Type into the console."""

    domid: Domid
    data: Annotated[bytes, msgspec.Meta(max_length=65536)]


class ConsoleTaken(Message):
    """How many bytes of the input were taken; the rest is to be sent again later."""

    taken: int


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """A request on the wire."""

    v: int
    id: int
    method: str
    params: Any = None


class Failure(msgspec.Struct, omit_defaults=True):
    """Why a request failed: a stable code, a sentence, an errno name where Xen has one, a raw RMI result."""

    code: str
    message: str
    errno: str = ""
    rmi_result: int = 0


class Answer(msgspec.Struct, omit_defaults=True):
    """An answer on the wire."""

    v: int
    id: int
    result: Any = None
    error: Failure | None = None
    progress: Progress | None = None


#: Every method: request type and answer type.
METHODS: dict[str, tuple[type[Message], type[Message]]] = {
    "hello": (Nothing, Hello),
    "health": (Nothing, Nothing),
    "physinfo": (Nothing, Physinfo),
    "dmesg": (DmesgRequest, Dmesg),
    "stop": (Nothing, Nothing),
    "domain_create": (DomainCreateRequest, DomainInfo),
    "domain_write": (DomainWriteRequest, Nothing),
    "domain_set_context": (VcpuContextRequest, Nothing),
    "domain_finalize_realm": (FinalizeRealmRequest, Nothing),
    "domain_pause": (DomainRef, Nothing),
    "domain_unpause": (DomainRef, Nothing),
    "domain_shutdown": (ShutdownRequest, Nothing),
    "domain_destroy": (DomainRef, Nothing),
    "domain_info": (DomainRef, DomainInfo),
    "domain_list": (Nothing, DomainList),
    "domain_vcpus": (DomainRef, VcpuList),
    "domain_wait": (WaitRequest, WaitAnswer),
    "console_read": (ConsoleReadRequest, ConsoleOutput),
    "console_write": (ConsoleWriteRequest, ConsoleTaken),
}
