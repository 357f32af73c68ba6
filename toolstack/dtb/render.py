"""A specification to a device tree blob with placeholders: what libxl makes before it knows any address."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from fdt import Node, PropBytes, parse_dts
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from toolstack import layout
from toolstack.build_error import BuildError
from toolstack.dtb.blob import Blob, BlobError, NodeEnd, NodeStart, PropertyToken
from toolstack.dtb.flatten import flatten
from toolstack.dtb.spec import SEED_SIZE, VIRTIO_FIRST_INTID, DeviceTreeSpec, VirtioDevice

GIC_PHANDLE = 65000
GRANT_IOMMU_PHANDLE = 65001
#: Pairs of address and size that the hypervisor node has room for: the grant table and 256 extended regions.
REGION_PLACES = 257
#: An address and a size at the root: two cells each.
REG_SIZE = 16

_SPI, _PPI = 0, 1
_EDGE_RISING, _LEVEL_HIGH, _LEVEL_LOW = 1, 4, 8
_ALL_CPUS = 0xF00
_PCI_MEMORY, _PCI_PREFETCHABLE_MEMORY = 0x0200_0000, 0x4300_0000
#: chosen/rng-seed comes after the ACPI module there.
_AFTER_NODES = frozenset({"rng-seed", "kaslr-seed"})


def affinity(vcpu: int) -> int:
    """MPIDR affinity of a vCPU: sixteen to a cluster in Aff0, the cluster in Aff1."""
    return vcpu % 16 | (vcpu // 16 % 256) << 8


def render(spec: DeviceTreeSpec, *, ramdisk: bool) -> bytes:
    """The blob with zeros for all that :func:`toolstack.dtb.finalise.finalise` fills in; its size is final.

    RAMDISK says whether there is one. Raises BuildError for values that no device tree can hold, or a partial device
    tree that is damaged or has no /passthrough.
    """
    spec.check()
    bootargs = spec.bootargs()
    text = _template().render(_context(spec, ramdisk=ramdisk, bootargs=bootargs is not None))
    root = parse_dts(text).root
    chosen = root.get_subnode("chosen")
    if bootargs is not None:
        chosen.set_property("bootargs", bootargs)
    if ramdisk:
        chosen.set_property("linux,initrd-start", bytes(8))
        chosen.set_property("linux,initrd-end", bytes(8))
    chosen.set_property("rng-seed", _seed(spec))
    if spec.kaslr_seed is not None:
        chosen.set_property("kaslr-seed", spec.kaslr_seed.to_bytes(8, "big"))
    for module in chosen.nodes:
        module.set_property("reg", bytes(REG_SIZE))
    for node in root.nodes:
        if node.name.startswith("memory@"):
            node.set_property("reg", bytes(REG_SIZE))
        elif node.name == "hypervisor":
            node.set_property("reg", bytes(REG_SIZE * REGION_PLACES))
    if spec.partial is not None:
        root.nodes.extend(_partial_nodes(spec.partial))
    return flatten(root, after_nodes=_AFTER_NODES)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=False,  # not HTML, and no value of a user's goes through it
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cells": _cells, "reg": _reg}
    return environment.get_template("guest.dts.j2")


def _seed(spec: DeviceTreeSpec) -> bytes:
    """A Realm's default seed is constant: it is measured, and a random one would give every start another RIM."""
    if spec.seed is not None:
        return spec.seed
    return bytes(SEED_SIZE) if spec.realm else os.urandom(SEED_SIZE)


def _interrupt(kind: int, intid: int, trigger: int) -> list[int]:
    return [kind, intid - (16 if kind == _PPI else 32), _ALL_CPUS | trigger]


def _context(spec: DeviceTreeSpec, *, ramdisk: bool, bootargs: bool) -> dict[str, object]:
    """The variables of the templates."""
    gic: dict[str, object] = {
        "phandle": GIC_PHANDLE,
        "compatible": '"arm,gic-v3"',
        "frames": (layout.GICV3_DISTRIBUTOR, layout.GICV3_REDISTRIBUTORS),
    }
    if spec.gic_version == 2:
        gic["compatible"] = '"arm,cortex-a15-gic", "arm,cortex-a9-gic"'
        gic["frames"] = (layout.GICV2_DISTRIBUTOR, layout.GICV2_CPU_INTERFACE)
    return {
        "spec": spec,
        "version": f"{int(spec.xen_version[0])}.{int(spec.xen_version[1])}",
        "bootargs": bootargs,
        "ramdisk": ramdisk,
        "affinities": [f"{affinity(vcpu):x}" for vcpu in range(spec.vcpus)],
        "banks": (layout.RAM0, layout.RAM1),
        "gic": gic,
        "interrupts": {
            "timer": [cell for intid in (29, 30, 27) for cell in _interrupt(_PPI, intid, _LEVEL_LOW)],
            "event_channel": _interrupt(_PPI, 31, _LEVEL_LOW),
            "uart": _interrupt(_SPI, 32, _LEVEL_HIGH),
        },
        "uart": layout.UART,
        "acpi": layout.ACPI,
        "devices": spec.optee or spec.vpci or bool(spec.virtio),
        "vpci": {"ecam": layout.VPCI_ECAM, "ranges": _vpci_ranges()},
        "virtio": [_virtio(index, device) for index, device in enumerate(spec.virtio)],
        "iommu": GRANT_IOMMU_PHANDLE if any(device.grants for device in spec.virtio) else 0,
    }


def _virtio(index: int, device: VirtioDevice) -> dict[str, object]:
    size = layout.VIRTIO_MMIO_DEVICE_SIZE
    return {
        "kind": device.kind,
        "frame": layout.Range(layout.VIRTIO_MMIO.base + index * size, size),
        "interrupt": _interrupt(_SPI, VIRTIO_FIRST_INTID + index, _EDGE_RISING),
        "iommus": [GRANT_IOMMU_PHANDLE, device.backend_domid] if device.grants else None,
    }


def _cells(numbers: Iterable[int]) -> str:
    """Template filter: numbers of 32 bits as cells."""
    return "<" + " ".join(f"{number:#x}" for number in numbers) + ">"


def _reg(ranges: Iterable[layout.Range]) -> str:
    """Template filter: ranges as the value of a reg at the root."""
    return _cells(cell for entry in ranges for number in (entry.base, entry.size) for cell in divmod(number, 1 << 32))


def _vpci_ranges() -> list[int]:
    """PCI address (3 cells), guest address (2) and size (2) of the two windows; the addresses are the same."""
    cells: list[int] = []
    windows = ((_PCI_MEMORY, layout.VPCI_MEMORY), (_PCI_PREFETCHABLE_MEMORY, layout.VPCI_PREFETCH))
    for kind, window in windows:
        cells.append(kind)
        for number in (window.base, window.base, window.size):
            cells += divmod(number, 1 << 32)
    return cells


def _partial_nodes(partial: bytes) -> list[Node]:
    """/passthrough, which must be there, and /aliases of a partial device tree."""
    step = "libxl__arch_domain_init_hw_description"
    try:
        found: dict[str, Node] = {}
        open_nodes: list[Node] = []
        for token in Blob(partial).walk():
            if isinstance(token, NodeStart):
                if open_nodes or token.path in ("/passthrough", "/aliases"):
                    node = Node(token.name)
                    if open_nodes:
                        open_nodes[-1].nodes.append(node)
                    else:
                        found[token.path] = node
                    open_nodes.append(node)
            elif isinstance(token, PropertyToken):
                if open_nodes:
                    open_nodes[-1].props.append(PropBytes(token.name, data=token.value))
            elif isinstance(token, NodeEnd) and open_nodes:
                open_nodes.pop()
    except BlobError as error:
        raise BuildError(f"Partial FDT is not a valid Flat Device Tree: {error}", step=step) from error
    if "/passthrough" not in found:
        raise BuildError("Unable to find the node /passthrough in the partial FDT", step=step)
    return [found[path] for path in ("/passthrough", "/aliases") if path in found]
