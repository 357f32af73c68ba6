"""Commands that change what a domain does: destroy, pause, unpause, shutdown, reboot."""

from __future__ import annotations

import sys

from hypervisor.rpc.client import RpcError
from hypervisor.rpc.messages import DomainInfo, DomainRef, Nothing, WaitAnswer, WaitRequest
from toolstack import options
from toolstack.command_table import Settings
from toolstack.connection import Connection, message_of
from toolstack.daemon import connected
from toolstack.domains import all_domains, domid_of, info_of
from toolstack.errors import DOMAIN_NOTFOUND, FAIL, NOPARAVIRT, UsageError, XlError, libxl

#: Longest single wait for the end of a domain, in milliseconds; it is asked for again and again.
WAIT_MS = 30_000


def run_destroy(arguments: list[str], settings: Settings) -> int:
    """``xl destroy``: end the domain and give everything back."""
    given = options.read("destroy", arguments, "f", {"force": "f"}, required=1)
    with connected() as connection:
        domid = domid_of(connection, given.arguments[0])
        if domid == 0 and "f" not in given:
            raise XlError("Cannot destroy privileged domain 0.", "")
        try:
            connection.call("domain_destroy", DomainRef(domid=domid), Nothing, timeout=None)
        except RpcError as error:
            if error.code == "no_domain":
                raise XlError(libxl(f"Domain {domid}:Non-existant domain"), _destroy_failed(DOMAIN_NOTFOUND)) from None
            raise XlError(libxl(f"Domain {domid}:{message_of(error)}"), _destroy_failed(FAIL)) from None
    return 0


def _destroy_failed(code: int) -> str:
    return f"destroy failed (rc={code})"


def run_pause(arguments: list[str], settings: Settings) -> int:
    """``xl pause``; counted, as in Xen."""
    given = options.read("pause", arguments, required=1)
    with connected() as connection:
        domid = domid_of(connection, given.arguments[0])
        try:
            connection.call("domain_pause", DomainRef(domid=domid), Nothing)
        except RpcError as error:
            raise XlError(libxl(f"Domain {domid}:Failed to pause domain: {message_of(error)}")) from None
    return 0


def run_unpause(arguments: list[str], settings: Settings) -> int:
    """``xl unpause``. A domain that is not paused is mentioned, and is no failure: it runs, as was asked."""
    given = options.read("unpause", arguments, required=1)
    with connected() as connection:
        domid = domid_of(connection, given.arguments[0])
        try:
            connection.call("domain_unpause", DomainRef(domid=domid), Nothing)
        except RpcError as error:
            line = libxl(f"Domain {domid}:Failed to unpause domain: {message_of(error)}")
            if error.code != "not_paused":
                raise XlError(line) from None
            print(line, file=sys.stderr)
    return 0


def run_shutdown(arguments: list[str], settings: Settings) -> int:
    """``xl shutdown``."""
    return _ask_guests("shutdown", "Shutting down", arguments)


def run_reboot(arguments: list[str], settings: Settings) -> int:
    """``xl reboot``."""
    return _ask_guests("reboot", "Rebooting", arguments)


def _ask_guests(command: str, doing: str, arguments: list[str]) -> int:
    """Ask guests to power off or reboot.

    No guest here has the interface that Xen uses for that, so each is answered with what its user can do; with -w the
    command then waits for the user to do it.
    """
    given = options.read(command, arguments, "awF", {"all": "a", "wait": "w"})
    if "a" not in given and not given.arguments:
        raise UsageError("You must specify -a or a domain id.", "", status=1, help_for=command)
    if "a" in given and given.arguments:
        raise UsageError("You can't specify both -a and a domain id.", "", status=1, help_for=command)
    with connected() as connection:
        if "a" in given:
            domains = [domain for domain in all_domains(connection) if not domain.shutdown]
        else:
            domid = domid_of(connection, given.arguments[0])
            found = info_of(connection, domid)
            if found is None:
                raise XlError(libxl(f"Domain {domid}:Non-existant domain"), f"{command} failed (rc={DOMAIN_NOTFOUND})")
            domains = [found]
        for domain in domains:
            print(f"{doing} domain {domain.domid}", file=sys.stderr)
            print(_no_pv_control(domain, command), file=sys.stderr)
        if "w" in given:
            for domain in domains:
                _await_end(connection, domain, gone=given.count("w") > 1)
            return 0
    if domains:
        print(f"{command} failed (rc={NOPARAVIRT})", file=sys.stderr)
    return 1 if domains else 0


def _no_pv_control(domain: DomainInfo, command: str) -> str:
    verb = "power it off" if command == "shutdown" else "restart it"
    inside = f"{verb} from inside" + (f" (xl console {domain.name})" if domain.vuart else "")
    kind = "a Realm guest" if domain.realm else "this guest"
    return libxl(
        f"Domain {domain.domid}:{kind} has no PV control interface: {inside}, or end it with: xl destroy {domain.name}"
    )


def _await_end(connection: Connection, domain: DomainInfo, *, gone: bool) -> None:
    """Wait until DOMAIN is shut down or gone (GONE: until it does not exist)."""
    request = WaitRequest(domid=domain.domid, wait_ms=WAIT_MS, gone=gone)
    while True:
        answer = connection.call("domain_wait", request, WaitAnswer, timeout=2 * WAIT_MS / 1000)
        if answer.done:
            break
    how = "has been destroyed" if answer.info is None else "has been shut down"
    if answer.info is not None:
        how += f", reason code {answer.info.shutdown_reason}"
    print(f"Domain {domain.domid} {how}", file=sys.stderr)
