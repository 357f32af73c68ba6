"""The last step of a device tree: addresses and sizes into the placeholders, in place as libxl does it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from toolstack import layout
from toolstack.build_error import BuildError
from toolstack.dtb.blob import Blob
from toolstack.dtb.render import REGION_PLACES
from toolstack.dtb.spec import DeviceTreeSpec, IomemRange
from toolstack.layout import Placement, Range

#: Pieces of unused address space below this are not offered to the guest, bytes.
EXTENDED_REGION_MINIMUM = 64 * layout.MIB

_U64 = struct.Struct(">Q")
_REG = struct.Struct(">QQ")


def finalise(blob: bytes, spec: DeviceTreeSpec, placement: Placement) -> bytes:
    """The blob of :func:`toolstack.dtb.render.render` for the same SPEC, with the guest's places filled in.

    The size stays: a property that shrinks leaves stale bytes at the tail, and an empty memory bank leaves NOPs.
    ``linux,initrd-end`` is the page-rounded end, as in libxl.
    """
    tree = Blob(blob)
    if placement.ramdisk is not None:
        tree.overwrite("/chosen", "linux,initrd-start", _U64.pack(placement.ramdisk.base))
        tree.overwrite("/chosen", "linux,initrd-end", _U64.pack(placement.ramdisk.end))
    if not spec.realm:
        regions = [layout.GRANT_TABLE, *extended_regions(placement.banks, spec.gpaddr_bits, spec.iomem)]
        tree.shrink("/hypervisor", "reg", b"".join(map(_reg, regions)))
    for bank, whole in zip(placement.banks, (layout.RAM0, layout.RAM1), strict=True):
        path = f"/memory@{whole.unit}"
        if bank.size:
            tree.overwrite(path, "reg", _reg(bank))
        else:
            tree.erase(path)
    if spec.acpi_size:
        if spec.acpi_size > layout.ACPI.size:
            message = f"ACPI tables of {spec.acpi_size} bytes do not fit in {layout.ACPI.size}"
            raise BuildError(message, step="libxl__arch_domain_finalise_hw_description")
        path = f"/chosen/module@{layout.ACPI.unit}"
        tree.overwrite(path, "reg", _reg(Range(layout.ACPI.base, spec.acpi_size)))
    return bytes(tree.data)


def extended_regions(banks: Sequence[Range], gpaddr_bits: int, iomem: Sequence[IomemRange]) -> list[Range]:
    """Guest addresses that are free for the guest's own use (to map grants): what BANKS leave of the two RAM banks,
    within GPADDR_BITS and without IOMEM, in pieces of at least 64 MiB. Empty when there is none; at most 256."""
    holes = sorted((Range(r.gfn * layout.PAGE_SIZE, r.count * layout.PAGE_SIZE) for r in iomem), key=_base)
    regions: list[Range] = []
    for bank, whole in zip(banks, (layout.RAM0, layout.RAM1), strict=True):
        start = bank.base + layout.round_up(bank.size, layout.BLOCK_SIZE)
        end = min(whole.end, 1 << gpaddr_bits)
        regions += (piece for piece in _without(start, end, holes) if piece.size >= EXTENDED_REGION_MINIMUM)
    return regions[: REGION_PLACES - 1]


def _without(start: int, end: int, holes: Sequence[Range]) -> Iterator[Range]:
    """What HOLES, sorted by base, leave of START..END."""
    for hole in holes:
        if hole.base >= end:
            break
        if hole.base > start:
            yield Range(start, hole.base - start)
        start = max(start, hole.end)
    if end > start:
        yield Range(start, end - start)


def _base(region: Range) -> int:
    return region.base


def _reg(region: Range) -> bytes:
    return _REG.pack(region.base, region.size)
