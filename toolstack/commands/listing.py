"""Commands that look at domains: list, vm-list, vcpu-list, domid, domname, uptime."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from hypervisor.rpc.messages import DomainInfo, DomainRef, VcpuList
from toolstack import options, tables
from toolstack.command_table import Settings
from toolstack.connection import Connection
from toolstack.daemon import connected
from toolstack.domains import all_domains, domid_of, info_of
from toolstack.errors import UsageError, XlError

#: Version of the objects that --json prints. Fields may be added within a version.
JSON_VERSION = 1


def run_list(arguments: list[str], settings: Settings) -> int:
    """``xl list``."""
    long = {"long": "l", "verbose": "v", "context": "Z", "cpupool": "c", "numa": "n", "json": "json"}
    given = options.read("list", arguments, "lvZcn", long)
    if len(given.arguments) > 1:
        raise UsageError(status=1, help_for="list")
    with connected() as connection:
        if given.arguments:
            domid = domid_of(connection, given.arguments[0])
            found = info_of(connection, domid)
            if found is None:
                raise XlError(f"Error: Domain '{given.arguments[0]}' does not exist.")
            domains = [found]
        else:
            domains = all_domains(connection)
    if "l" in given:
        sys.stdout.write(_details(domains))
    elif "json" in given:
        print_json({"domains": [_as_object(domain) for domain in domains]})
    else:
        table = tables.domain_table(
            domains, verbose="v" in given, context="Z" in given, cpupool="c" in given, numa="n" in given
        )
        sys.stdout.write(table)
    return 0


def _as_object(domain: DomainInfo) -> dict[str, object]:
    """The fields of DOMAIN, with its configuration as an object (None when it cannot be read)."""
    fields = msgspec.structs.asdict(domain)
    try:
        fields["config"] = msgspec.json.decode(domain.config)
    except msgspec.DecodeError:
        fields["config"] = None
    return fields


def print_json(content: dict[str, object]) -> None:
    """Print CONTENT as one JSON object with its version."""
    text = msgspec.json.encode({"version": JSON_VERSION, **content})
    print(msgspec.json.format(text, indent=2).decode())


def _details(domains: Sequence[DomainInfo]) -> str:
    """``xl list -l``; as in Xen a domain without a readable configuration is left out."""
    from xlconfig.libxl_json import format_json

    rows = []
    for domain in domains:
        try:
            config = msgspec.json.decode(domain.config)
        except msgspec.DecodeError:
            continue
        if config:
            rows.append({"domid": domain.domid, "config": config})
    return format_json(rows) + "\n"


def run_vm_list(arguments: list[str], settings: Settings) -> int:
    """``xl vm-list``."""
    options.read("vm-list", arguments)
    with connected() as connection:
        sys.stdout.write(tables.vm_table(all_domains(connection)))
    return 0


def run_vcpu_list(arguments: list[str], settings: Settings) -> int:
    """``xl vcpu-list``: all domains, or those named; one that does not exist makes the exit status 1."""
    given = options.read("vcpu-list", arguments, "", {"json": "json"})
    with connected() as connection:
        domains, status = _chosen(connection, given.arguments)
        rows = []
        for domain in domains:
            request = DomainRef(domid=domain.domid)
            rows.append((domain, connection.call("domain_vcpus", request, VcpuList).vcpus))
    if "json" in given:
        print_json({"domains": [{"domid": row.domid, "name": row.name, "vcpus": vcpus} for row, vcpus in rows]})
    else:
        sys.stdout.write(tables.vcpu_table(rows))
    return status


def run_uptime(arguments: list[str], settings: Settings) -> int:
    """``xl uptime``."""
    given = options.read("uptime", arguments, "s")
    with connected() as connection:
        domains, status = _chosen(connection, given.arguments)
    sys.stdout.write(tables.uptime_table(domains, short="s" in given))
    return status


def _chosen(connection: Connection, identifiers: Sequence[str]) -> tuple[list[DomainInfo], int]:
    """The domains named (all without a name), and the exit status: 1 when one of them does not exist."""
    if not identifiers:
        return all_domains(connection), 0
    domains, status = [], 0
    for identifier in identifiers:
        try:
            found = info_of(connection, domid_of(connection, identifier))
        except XlError as error:
            print(*error.lines, sep="\n", file=sys.stderr)
            status = error.status
            continue
        if found is None:
            print(f"Error: Domain '{identifier}' does not exist.", file=sys.stderr)
            status = 1
        else:
            domains.append(found)
    return domains, status


def run_domid(arguments: list[str], settings: Settings) -> int:
    """``xl domid``: the domid of a name."""
    given = options.read("domid", arguments, required=1)
    name = given.arguments[0]
    with connected() as connection:
        found = [domain.domid for domain in all_domains(connection) if domain.name == name]
    if not found:
        raise XlError(f"Can't get domid of domain name '{name}', maybe this domain does not exist.")
    print(found[0])
    return 0


def run_domname(arguments: list[str], settings: Settings) -> int:
    """``xl domname``: the name of a domid."""
    given = options.read("domname", arguments, required=1)
    text = given.arguments[0]
    if not (text.isascii() and text.isdigit()):
        raise XlError("Invalid domain id.", "")
    with connected() as connection:
        found = [domain for domain in all_domains(connection) if domain.domid == int(text)]
    if not found:
        raise XlError(f"Can't get domain name of domain id '{text}', maybe this domain does not exist.")
    print(found[0].name)
    return 0
