"""The `vnuma` language: one list of `key=value` items for each virtual node."""

from __future__ import annotations

from xlconfig.c_text import as_uint64, split_pair, strtok
from xlconfig.cpu_list import parse_range
from xlconfig.domain_config import BuildInfo, ConfigError, HostFacts, VnumaNode
from xlconfig.nic_spec import parse_ulong
from xlconfig.settings import Settings
from xlconfig.values import Atom

__all__ = ["read_vnuma"]


def read_vnuma(settings: Settings, build: BuildInfo, host: HostFacts) -> None:
    """Read `vnuma` and derive maxvcpus and maxmem from it, or check them. Raises ConfigError (status 1)."""
    nodes = settings.get_list("vnuma", warn=False).value
    if not nodes:
        return
    # A node's bitmap is as wide as maxvcpus, or as the host when that is not given; bits beyond it are lost.
    width = ((build.max_vcpus or host.cpus) + 7) // 8 * 8
    total_vcpus = total_memkb = 0
    for spec in nodes:
        node = VnumaNode(distances=[0] * len(nodes))
        build.vnuma_nodes.append(node)
        items = settings.item_list(spec).value
        if items is None:
            raise ConfigError("xl: cannot get vnode config option list")
        for item in items:
            if not isinstance(item, Atom):
                continue
            pair = split_pair(item.text, "=")
            if pair is None:
                raise ConfigError(f'xl: failed to split "{item.text}" into pair')
            key, value = pair
            if key == "pnode":
                node.pnode = parse_ulong(value)
                if node.pnode >= host.nodes:
                    raise ConfigError(f"xl: invalid pnode number: {node.pnode}")
                build.numa_placement = False
            elif key == "size":
                node.memkb = as_uint64(parse_ulong(value) << 10)
                total_memkb = as_uint64(total_memkb + node.memkb)
            elif key == "vcpus":
                for text in strtok(value, ","):
                    bounds = parse_range(text)
                    if bounds is None:
                        raise ConfigError(f"Invalid vcpu range: {text}.")
                    total_vcpus += bounds[1] - bounds[0] + 1
                    node.vcpus.extend(range(bounds[0], min(bounds[1], width - 1) + 1))
            elif key == "vdistances":
                distances = [parse_ulong(text) & 0xFFFFFFFF for text in strtok(value, ",")][: len(nodes)]
                node.distances[: len(distances)] = distances
        node.vcpus = sorted(set(node.vcpus))

    if build.max_vcpus:
        if build.max_vcpus != total_vcpus:
            raise ConfigError("xl: vnuma vcpus and maxvcpus= mismatch")
    elif host.cpus < total_vcpus:
        raise ConfigError("xl: vnuma specifies more vcpus than pcpus, use maxvcpus= to override this check.")
    else:
        build.max_vcpus = total_vcpus
    if build.max_memkb is not None and build.max_memkb != total_memkb:
        raise ConfigError("xl: maxmem and vnuma memory size mismatch")
    build.max_memkb = total_memkb
