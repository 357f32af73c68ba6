"""Every command of ``xl``: one row each. Help texts and the search for a command by prefix come from here.

The module of a row is imported when the command runs; it has a function ``run_NAME(arguments, settings)`` (dashes as
underscores) that answers with the exit status.
"""

from __future__ import annotations

from typing import NamedTuple

from toolstack.errors import XlError


class Settings(NamedTuple):
    """Global options of ``xl``."""

    #: How often -v was given.
    verbose: int = 0
    dry_run: bool = False
    #: -t: progress on one line that is overwritten, even when standard error is no terminal.
    line_progress: bool = False
    #: -T: time and process id before each line on standard error.
    timestamps: bool = False


class Command(NamedTuple):
    """A row. ``options`` is help text, a line each; ``dry_run`` says whether -N is understood."""

    name: str
    module: str
    summary: str
    usage: str
    options: tuple[str, ...] = ()
    dry_run: bool = False


COMMANDS = (
    Command(
        "create",
        "create",
        "Create a domain from config file <filename>",
        "<ConfigFile> [options] [vars]",
        (
            "-h                      Print this help.",
            "-p                      Leave the domain paused after it is created.",
            "-f FILE, --defconfig=FILE",
            "                        Use the given configuration file.",
            "-n, --dryrun            Dry run: print the resulting configuration, create nothing.",
            "-q, --quiet             Quiet.",
            "-d                      Print the configuration as JSON on standard error.",
            "-c                      Connect to the console after the domain is created.",
            "-e                      Do not wait in the background for the death of the domain.",
            "-F                      Run in foreground until death of the domain.",
            "-V, -A                  Accepted for compatibility; a Realm has no VNC display.",
        ),
        dry_run=True,
    ),
    Command(
        "list",
        "listing",
        "List information about all/some domains",
        "[options] [Domain]",
        (
            "-l, --long              Output all domain details, as JSON.",
            "-v, --verbose           Prints out UUIDs and security context.",
            "-Z, --context           Prints out security context.",
            "-c, --cpupool           List the cpupool the domain is in.",
            "-n, --numa              List the NUMA node affinity.",
            "--json                  What is known of each domain, as JSON.",
        ),
    ),
    Command(
        "destroy",
        "lifecycle",
        "Terminate a domain immediately",
        "[options] <Domain>",
        ("-f                      Permit destroying domain 0, which will only succeed when it is a guest.",),
    ),
    Command(
        "shutdown",
        "lifecycle",
        "Issue a shutdown signal to a domain",
        "[options] <-a|Domain>",
        (
            "-a, --all               Shutdown all guest domains.",
            "-h                      Print this help.",
            "-F                      Accepted for compatibility (ACPI fallback).",
            "-w, --wait              Wait for guest(s) to shut down; twice: until they are gone.",
        ),
    ),
    Command(
        "reboot",
        "lifecycle",
        "Issue a reboot signal to a domain",
        "[options] <-a|Domain>",
        (
            "-a, --all               Reboot all guest domains.",
            "-h                      Print this help.",
            "-F                      Accepted for compatibility (ACPI fallback).",
            "-w, --wait              Wait for guest(s) to reboot.",
        ),
    ),
    Command("pause", "lifecycle", "Pause execution of a domain", "<Domain>"),
    Command("unpause", "lifecycle", "Unpause a paused domain", "<Domain>"),
    Command(
        "console",
        "console",
        "Attach to domain's console",
        "[options] <Domain>\n-t <type>       console type, pv, serial or vuart\n"
        "-n <number>     console number\n-e <escape>     escape character (default: ^])",
    ),
    Command(
        "vcpu-list",
        "listing",
        "List the VCPUs for all/some domains",
        "[Domain, ...]",
        ("--json                  The same, as JSON.",),
    ),
    Command("vm-list", "listing", "List guest domains, excluding dom0, stubdoms, etc.", ""),
    Command(
        "info",
        "host",
        "Get information about Xen host",
        "[options] [Name]",
        (
            "-n, --numa              List host NUMA topology information",
            "--json                  What the hypervisor reports, as JSON.",
        ),
    ),
    Command("domid", "listing", "Convert a domain name to domain id", "<DomainName>"),
    Command("domname", "listing", "Convert a domain id to domain name", "<DomainId>"),
    Command(
        "dmesg",
        "host",
        "Read and/or clear dmesg buffer",
        "[-c]",
        ("-c                      Clear dmesg buffer as well as printing it",),
    ),
    Command(
        "uptime",
        "listing",
        "Print uptime for all/some domains",
        "[-s] [Domain]",
        ("-s                      Use a shorter format without seconds and with the time of day.",),
    ),
    Command(
        "version",
        "host",
        "Show the versions of this program, the hypervisor and the RMM",
        "[--json]",
        ("--json                  The same as JSON.",),
    ),
    Command(
        "daemon",
        "daemon",
        "Show, start or stop the hypervisor daemon",
        "<status|start|stop> [options]",
        (
            "--json                  status: as JSON.",
            "-f, --force             stop: also when domains exist; they are destroyed.",
        ),
    ),
    Command(
        "dtb",
        "dtb",
        "Write the device tree that a configuration gives its guest",
        "<ConfigFile> [options] [vars]",
        (
            "-o FILE, --output=FILE  Write there (default: standard output).",
            "--dts                   As source text instead of a blob.",
        ),
    ),
)


def find(word: str) -> Command:
    """The command that WORD names: exactly, or as the only one with that prefix. Raises XlError."""
    matches = [row for row in COMMANDS if row.name == word] or [row for row in COMMANDS if row.name.startswith(word)]
    if len(matches) != 1 or not word:
        raise XlError("command not implemented")
    return matches[0]


def help_of(name: str) -> str:
    """The help text of the command NAME."""
    row = find(name)
    first, *rest = row.usage.split("\n")
    dry = "[-N] " if row.dry_run else ""
    lines = [f"Usage: xl [-v] {dry}{row.name} {first}".rstrip(), *rest, "", f"{row.summary}.", ""]
    if row.options:
        lines += ["Options:", "", *row.options, ""]
    return "\n".join(lines) + "\n"


def help_of_all() -> str:
    """What ``xl help`` prints."""
    rows = "".join(f" {row.name:<19} {row.summary}\n" for row in COMMANDS)
    return (
        "Usage xl [-vfNtT] <subcommand> [args]\n\n"
        f"xl full list of subcommands:\n\n{rows}\n"
        "<Domain> can either be the Domain Name or Id.\n"
        "For more help on 'xl' see the documentation of Xen's xl; this one runs Realm guests.\n"
        "For help on <subcommand>: xl help <subcommand>\n"
    )
