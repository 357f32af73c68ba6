"""A guest to a domain: libxl_domain_create_new over RPC, all or nothing.

Enter at :func:`make_domain`. Whatever goes wrong in it, the domain that it had begun is destroyed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hypervisor.rpc.client import RpcError, Unreachable
from hypervisor.rpc.messages import (
    MAX_CHUNK,
    DomainCreateRequest,
    DomainInfo,
    DomainRef,
    DomainWriteRequest,
    FinalizeRealmRequest,
    Nothing,
    Progress,
    VcpuContextRequest,
)  # fmt: skip
from toolstack.builder import GuestImage, Segment
from toolstack.connection import Connection, code_of, message_of
from toolstack.errors import FAIL, XlError, create_failure, libxl
from toolstack.interruption import Interruption
from xlconfig import DomainConfig, to_libxl_json
from xlconfig.enumerations import VuartType

#: Guest frame of the first byte of RAM: the only place where a Realm's memory can begin.
REALM_BASE_GFN = 0x40000
_PAGE_SHIFT = 12

Report = Callable[[Progress], None]


def make_domain(
    connection: Connection,
    config: DomainConfig,
    guest: GuestImage,
    *,
    interruption: Interruption | None = None,
    on_created: Callable[[int], None] = lambda domid: None,
    report: Report = lambda progress: None,
) -> int:
    """Create and fill the domain of CONFIG, and finalize it if it is a Realm; its domid. It is left paused.

    ON_CREATED is told the domid as soon as there is one to destroy, REPORT how far the work has come. Raises XlError
    (exit status 3) when the hypervisor refuses, Unreachable, and whatever a signal raises; nothing is left then.
    """
    signals = interruption or Interruption()
    domid: int | None = None
    try:
        with signals.deferred():
            domid = _create(connection, config)
            on_created(domid)
        _write(connection, domid, guest, report)
        if config.realm:
            _finalize(connection, domid, guest, report)
    except BaseException as error:
        if domid is not None:
            with signals.shielded():
                undo(connection, domid, error)
        raise
    return domid


def _create(connection: Connection, config: DomainConfig) -> int:
    request = DomainCreateRequest(
        name=config.name,
        uuid=config.uuid,
        max_vcpus=config.max_vcpus,
        max_memkb=config.max_memkb,
        realm=config.realm,
        vuart=config.vuart is VuartType.SBSA_UART,
        trap_unmapped_accesses=config.trap_unmapped_accesses,
        config=stored_config(config),
    )
    try:
        return connection.call("domain_create", request, DomainInfo, timeout=None).domid
    except RpcError as error:
        step = "cannot (re-)build domain" if error.code == "no_memory" else "cannot make domain"
        raise create_failure([libxl(message_of(error))], f"{step}: {code_of(error)}") from None


def stored_config(config: DomainConfig) -> str:
    """The configuration as the hypervisor keeps it for ``xl list -l``. Bytes that are not UTF-8 become ``?``."""
    import json

    text = json.dumps(to_libxl_json(config), ensure_ascii=False)
    return text.encode("utf-8", "replace").decode("utf-8")


def _write(connection: Connection, domid: int, guest: GuestImage, report: Report) -> None:
    """Write the guest's memory and the registers of vCPU 0."""
    total = sum(len(segment.data) for segment in guest.segments)
    done = 0
    context = guest.context
    try:
        for gpa, chunk in _chunks(guest.segments):
            connection.call("domain_write", DomainWriteRequest(domid=domid, gpa=gpa, data=chunk), Nothing)
            done += len(chunk)
            report(Progress(phase="write", done=done, total=total))
        registers = [context.x0, context.x1, context.x2, context.x3]
        request = VcpuContextRequest(domid=domid, vcpu=0, pc=context.pc, x=registers)
        connection.call("domain_set_context", request, Nothing)
    except RpcError as error:
        cause = f"Domain {domid}:{message_of(error)}"
        raise create_failure([libxl(cause)], f"cannot (re-)build domain: {FAIL}") from None


def _chunks(segments: tuple[Segment, ...]) -> Iterator[tuple[int, bytes]]:
    """The segments in pieces that fit a message. Pieces of zeros are left out: the domain's memory is zero already."""
    for segment in segments:
        for start in range(0, len(segment.data), MAX_CHUNK):
            chunk = segment.data[start : start + MAX_CHUNK]
            if chunk.count(0) != len(chunk):
                yield segment.gpa + start, chunk


def _finalize(connection: Connection, domid: int, guest: GuestImage, report: Report) -> None:
    """Turn the domain into a Realm."""
    request = FinalizeRealmRequest(domid=domid, base_gfn=REALM_BASE_GFN, nr_pages=guest.banks[0].size >> _PAGE_SHIFT)
    try:
        connection.call("domain_finalize_realm", request, Nothing, timeout=None, on_progress=report)
    except RpcError as error:
        cause = [libxl(f"Domain {domid}:{error}")]
        if error.failure.rmi_result:
            raw = error.failure.rmi_result
            cause.append(f"xc: error: xc_arm_cca_init_realm failed with raw RMI result {raw:#x}")
        raise create_failure(cause, "xc_arm_cca_init_realm failed", f"cannot (re-)build domain: {FAIL}") from None


def undo(connection: Connection, domid: int, cause: BaseException) -> None:
    """Destroy a domain that was not finished because of CAUSE; a failure to is added to what the user sees."""
    try:
        connection.call("domain_destroy", DomainRef(domid=domid), Nothing, timeout=None)
    except Unreachable:
        pass  # the machine is gone, and the domain with it
    except RpcError as error:
        if error.code == "no_domain":
            return
        text = libxl(f"Domain {domid}:{message_of(error)}")
        if isinstance(cause, XlError):
            cause.lines += (text,)
        else:
            raise XlError(text) from cause
