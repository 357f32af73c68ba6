"""``xl daemon``: the hypervisor daemon itself. Not a command of Xen."""

from __future__ import annotations

import time

from hypervisor.rpc import endpoint
from hypervisor.rpc.client import Unreachable
from hypervisor.rpc.messages import Hello, Nothing
from toolstack import options, tables
from toolstack.command_table import Settings
from toolstack.commands.listing import print_json
from toolstack.connection import explained
from toolstack.daemon import connected, ensure_running, serving
from toolstack.domains import all_domains
from toolstack.errors import UsageError, XlError

#: Exit status of ``daemon status`` when none runs, as init scripts have it.
NOT_RUNNING = 3
#: Seconds that a daemon may take to power off.
STOP_TIMEOUT = 60.0


def run_daemon(arguments: list[str], settings: Settings) -> int:
    """``xl daemon status|start|stop``. Only ``start`` starts one."""
    given = options.read("daemon", arguments, "f", {"force": "f", "json": "json"}, required=1)
    match given.arguments:
        case ["status"]:
            return _status(as_json="json" in given)
        case ["start"]:
            with explained():
                ensure_running()
            return 0
        case ["stop"]:
            return _stop(force="f" in given)
    raise UsageError(f"'{' '.join(given.arguments)}' is none of status, start, stop.", "", help_for="daemon")


def _status(*, as_json: bool) -> int:
    with explained():
        path = endpoint.socket_path()
        pid = serving(path)
    if pid is None:
        if as_json:
            print_json({"running": False, "socket": str(path)})
        else:
            print(f"hypervisord is not running ({path.parent})")
        return NOT_RUNNING
    with connected(autostart=False) as connection:
        hello = connection.call("hello", Nothing(), Hello)
        domains = all_domains(connection)
    if as_json:
        print_json({"running": True, "socket": str(path), "daemon": hello, "domains": len(domains)})
    else:
        up = tables.duration((time.time_ns() - hello.started_ns) // 1_000_000_000).strip()
        print(f"hypervisord {hello.version} is running (pid {hello.pid}, protocol {hello.protocol}, {path})")
        print(f"up {up}, {len(domains)} domain{'' if len(domains) == 1 else 's'}")
    return 0


def _stop(*, force: bool) -> int:
    with explained():
        path = endpoint.socket_path()
        if serving(path) is None:
            print(f"hypervisord is not running ({path.parent})")
            return 0
    with connected(autostart=False) as connection:
        domains = all_domains(connection)
        if domains and not force:
            names = ", ".join(tables.name_of(domain) for domain in domains)
            raise XlError(
                f"xl: hypervisord has {len(domains)} domain{'' if len(domains) == 1 else 's'} ({names}): "
                "destroy them first, or use --force"
            )
        try:
            connection.call("stop", Nothing(), Nothing, timeout=None)
        except Unreachable:
            # Gone before its answer arrived: that is what was asked for.
            if not connection.wait_for_end(0):
                raise
        if not connection.wait_for_end(STOP_TIMEOUT):
            raise XlError(f"xl: hypervisord (pid {connection.pid}) does not end")
    return 0
