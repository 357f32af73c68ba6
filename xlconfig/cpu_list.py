"""CPU lists (`0-3,^2`, `node:0`, `all`): which physical CPUs a vCPU may or should run on."""

from __future__ import annotations

from xlconfig.c_text import ULONG_MAX, strtok, strtoul
from xlconfig.domain_config import ConfigError, HostFacts

__all__ = ["parse_cpu_list", "parse_range"]


def parse_range(text: str) -> tuple[int, int] | None:
    """`N` or `A-B` in decimal; None when it is neither."""
    first, taken = strtoul(text, 10)
    if not taken or first == ULONG_MAX:
        return None
    last, rest = first, text[taken:]
    if rest.startswith("-"):
        last, taken = strtoul(rest[1:], 10)
        if not taken or last == ULONG_MAX or last < first:
            return None
        rest = rest[1 + taken :]
    return None if rest else (first, last)


def parse_cpu_list(text: str, host: HostFacts) -> list[int]:
    """The CPUs of a list, in order; those beyond the host's bitmap are dropped.

    Raises ConfigError (status 1).
    """
    size = (host.cpus + 7) // 8 * 8
    cpus: set[int] = set()
    for item in strtok(text, ","):
        excluded = item.startswith("^")
        item = item.removeprefix("^")
        by_node = item.startswith(("node:", "nodes:"))
        if by_node:
            item = item.partition(":")[2]
        if item == "all":
            if excluded:
                raise ConfigError('Can\'t combine "^" and "all".')
            cpus.update(range(size))
            continue
        bounds = parse_range(item)
        if bounds is None:
            raise ConfigError(f"Invalid pcpu range: {item}.")
        first, last = bounds
        if by_node:
            if last >= host.nodes:
                raise ConfigError("libxl_node_to_cpumap failed.")
            named = {cpu for cpu in range(host.cpus) if first <= cpu * host.nodes // host.cpus <= last}
        else:
            named = set(range(first, min(last, size - 1) + 1))
        cpus = cpus - named if excluded else cpus | named
    return sorted(cpus)
