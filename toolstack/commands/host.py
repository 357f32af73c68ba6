"""Commands that look at the host: info, dmesg, version."""

from __future__ import annotations

import sys

import msgspec

from hypervisor.rpc import endpoint
from hypervisor.rpc.messages import PROTOCOL_VERSION, Dmesg, DmesgRequest, Nothing, Physinfo
from toolstack import options, tables
from toolstack.command_table import Settings
from toolstack.commands.listing import print_json
from toolstack.connection import explained
from toolstack.daemon import connected, serving

_NUMA = (
    "numa_info              :\n"
    "node:    memsize    memfree    distances\n"
    "   0:{total:>11}{free:>11}      10\n"
)  # fmt: skip


def run_info(arguments: list[str], settings: Settings) -> int:
    """``xl info``: all lines, or the values of those that start with NAME."""
    given = options.read("info", arguments, "nx", {"numa": "n", "json": "json"})
    with connected() as connection:
        host = connection.call("physinfo", Nothing(), Physinfo)
    if "json" in given:
        print_json({"host": msgspec.structs.asdict(host)})
        return 0
    name = given.arguments[0] if given.arguments else None
    sys.stdout.write(tables.info_text(host, name))
    if "n" in given and name is None:
        sys.stdout.write(_NUMA.format(total=host.total_memory_kib // 1024, free=host.free_memory_kib // 1024))
    return 0


def run_version(arguments: list[str], settings: Settings) -> int:
    """``xl version``: ours, the protocol's, and those of a running hypervisor; it starts none."""
    given = options.read("version", arguments, "", {"json": "json"})
    rows = {"xl_version": tables.program_version(), "protocol": str(PROTOCOL_VERSION)}
    with explained():
        running = serving(endpoint.socket_path()) is not None
    if running:
        with connected(autostart=False) as connection:
            host = connection.call("physinfo", Nothing(), Physinfo)
        rows |= {
            "xen_version": f"{host.xen_major}.{host.xen_minor}{host.xen_extra}",
            "rmm_version": host.rmm,
            "cpu": host.cpu,
        }
    if "json" in given:
        print_json({"versions": rows})
    else:
        sys.stdout.write(tables.key_value_text(list(rows.items())))
        if not running:
            print("hypervisord is not running")
    return 0


def run_dmesg(arguments: list[str], settings: Settings) -> int:
    """``xl dmesg``: the hypervisor log; -c empties it."""
    given = options.read("dmesg", arguments, "c")
    with connected() as connection:
        log = connection.call("dmesg", DmesgRequest(clear="c" in given), Dmesg)
    sys.stdout.write(log.text)
    return 0
