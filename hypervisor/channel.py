"""The channel between the daemon and a domain's process: a SOCK_SEQPACKET pair carrying msgpack, one message a packet.

Both ends close when either process dies, and there is no name in the file system to clean up. Each message is a tagged
struct; what does not decode is a :class:`ChannelError`, which the daemon treats as the death of the domain's process.
"""

from __future__ import annotations

import socket

import msgspec

#: Largest packet; console input comes in pieces below it.
MAX_PACKET = 192 * 1024


class ChannelError(Exception):
    """Raised when a packet is not one of the declared messages."""


class ToDomain(msgspec.Struct, tag_field="op"):
    """Base of what the daemon sends."""


class Init(ToDomain, tag="init"):
    """Everything a domain's process starts from. Extents are (gpa, pa, size) in bytes."""

    domid: int
    name: str
    uuid: str
    max_vcpus: int
    extents: list[tuple[int, int, int]]
    records_pa: int
    runstate_pa: int
    pages: list[int]
    console_log: str
    vuart: bool
    trap_unmapped_accesses: bool
    cca_available: bool
    debug_vuart: bool
    features: tuple[int, int]


class SetContext(ToDomain, tag="set_context"):
    """Registers of a vCPU before it first runs."""

    vcpu: int
    pc: int
    x: list[int]


class Finalize(ToDomain, tag="finalize"):
    """Build the Realm."""

    base_gfn: int
    nr_pages: int


class Pause(ToDomain, tag="pause"):
    """Stop running vCPUs until :class:`Unpause`."""


class Unpause(ToDomain, tag="unpause"):
    """Run vCPUs."""


class Input(ToDomain, tag="input"):
    """Console input; answered with :class:`InputTaken`."""

    ident: int
    data: bytes


class Pages(ToDomain, tag="pages"):
    """The answer to :class:`NeedPages`; empty when there are none."""

    pages: list[int]


class Stop(ToDomain, tag="stop"):
    """Leave: the domain shuts down with ``reason`` (from outside) or, None, is being destroyed."""

    reason: int | None


class FromDomain(msgspec.Struct, tag_field="op"):
    """Base of what a domain's process sends."""


class Ready(FromDomain, tag="ready"):
    """The process is up and its processing element has passed its self-test."""


class Failed(FromDomain, tag="failed"):
    """The process cannot start; it exits after this."""

    message: str


class LogLine(FromDomain, tag="log"):
    """A line for the hypervisor log."""

    level: str
    text: str


class BuildProgress(FromDomain, tag="progress"):
    """How far the build is."""

    phase: str
    done: int
    total: int


class Finalized(FromDomain, tag="finalized"):
    """The build ended: errno name ("" for success), a sentence, the raw RMI result, whether the domain is crashed."""

    errno: str
    message: str
    rmi_result: int
    crash: bool


class Shutdown(FromDomain, tag="shutdown"):
    """The domain shut down by itself."""

    reason: int
    message: str


class NeedPages(FromDomain, tag="need_pages"):
    """Ask for pages; answered with :class:`Pages`."""

    count: int


class InputTaken(FromDomain, tag="input_taken"):
    """How many bytes of an :class:`Input` were taken."""

    ident: int
    taken: int


ToDomainMessage = Init | SetContext | Finalize | Pause | Unpause | Input | Pages | Stop
FromDomainMessage = (
    Ready | Failed | LogLine | BuildProgress | Finalized | Shutdown | NeedPages | InputTaken
)

_to_domain: msgspec.msgpack.Decoder[ToDomainMessage] = msgspec.msgpack.Decoder(ToDomainMessage)
_from_domain: msgspec.msgpack.Decoder[FromDomainMessage] = msgspec.msgpack.Decoder(FromDomainMessage)
_encode = msgspec.msgpack.Encoder().encode


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends: (daemon's, domain's)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_PACKET)
    return ours, theirs


def encode(message: ToDomain | FromDomain) -> bytes:
    """One packet."""
    return _encode(message)


def decode_to_domain(packet: bytes) -> ToDomainMessage:
    """Decode at the domain's end; ChannelError."""
    try:
        return _to_domain.decode(packet)
    except msgspec.MsgspecError as error:
        raise ChannelError(str(error)) from None


def decode_from_domain(packet: bytes) -> FromDomainMessage:
    """Decode at the daemon's end; ChannelError."""
    try:
        return _from_domain.decode(packet)
    except msgspec.MsgspecError as error:
        raise ChannelError(str(error)) from None
