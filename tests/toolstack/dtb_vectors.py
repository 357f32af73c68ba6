"""The device tree vectors: what libxl made of given arguments, and these arguments as our inputs.

``dtb_vectors.tar.xz`` holds, for plain guests (pvh) and Realms (realm), an index with the arguments and, per case, the
blob; its README describes the arguments.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from toolstack.dtb.finalise import finalise
from toolstack.dtb.render import render
from toolstack.dtb.spec import DeviceTreeSpec, IomemRange, VirtioDevice
from toolstack.layout import Placement, place

ARCHIVE = Path(__file__).with_name("dtb_vectors.tar.xz")
UNITS = {"K": 1, "M": 1 << 10, "G": 1 << 20}
#: What the generator of the vectors was given as size of the ACPI tables.
ACPI_SIZE = 0x5000


@dataclass(frozen=True)
class Made:
    """What we make of a case."""

    blob: bytes
    placement: Placement | None


@dataclass(frozen=True)
class Case:
    family: str
    name: str
    args: list[str]
    facts: dict[str, Any]
    #: libxl's blob; None where it refused.
    blob: bytes | None

    def __str__(self) -> str:
        return f"{self.family}/{self.name}"

    def make(self) -> Made:
        """Ours for the same arguments. Raises BuildError where it is refused."""
        spec, options = self._inputs()
        ramdisk_size = options.get("--ramdisk-bytes")
        tree = render(spec, ramdisk=ramdisk_size is not None)
        if "--prefinal" in self.args:
            return Made(tree, None)
        placement = place(
            max_memkb=options.get("--mem-kb", 128 << 10),
            text_offset=options.get("--text-offset", 0x80000),
            kernel_size=options.get("--kernel-bytes", 8192),
            ramdisk_size=ramdisk_size,
            dtb_size=len(tree),
        )
        return Made(finalise(tree, spec, placement), placement)

    def _inputs(self) -> tuple[DeviceTreeSpec, dict[str, int]]:
        fields: dict[str, Any] = {"realm": self.family == "realm", "seed": bytes(128)}
        numbers: dict[str, int] = {}
        iomem: list[IomemRange] = []
        disks, devices, kind = 0, 0, ""
        args = iter(self.args)
        for arg in args:
            match arg:
                case "--vuart":
                    fields["vuart"] = True
                case "--acpi":
                    fields["acpi_size"] = ACPI_SIZE
                case "--optee":
                    fields["optee"] = True
                case "--arm32":
                    fields["aarch32"] = True
                case "--grant" | "--prefinal":
                    pass
                case "--vcpus":
                    fields["vcpus"] = int(next(args))
                case "--cmdline":
                    fields["cmdline"] = next(args)
                case "--gpaddr":
                    fields["gpaddr_bits"] = int(next(args))
                case "--clock":
                    fields["clock_frequency"] = int(next(args))
                case "--gic":
                    fields["gic_version"] = int(next(args))
                case "--seed":
                    assert next(args) == "count"
                    fields["seed"] = bytes(range(128))
                case "--xen-version":
                    major, minor = next(args).split(".")
                    fields["xen_version"] = (int(major), int(minor))
                case "--iomem":
                    start, count = next(args).split(",")
                    iomem.append(IomemRange(int(start, 16), int(count, 16)))
                case "--virtio-disks":
                    disks = int(next(args))
                case "--virtio-devs":
                    devices = int(next(args))
                case "--virtio-type":
                    kind = next(args)
                case "--mem-kb":
                    text = next(args)
                    numbers[arg] = int(text.rstrip("KMG")) * UNITS.get(text[-1], 1)
                case "--kernel-bytes" | "--ramdisk-bytes" | "--text-offset":
                    numbers[arg] = int(next(args), 0)
                case _:
                    raise AssertionError(f"the vectors use {arg}, which this test does not know")
        grants = "--grant" in self.args
        virtio = [VirtioDevice(grants=grants)] * disks + [VirtioDevice(kind=kind, grants=grants)] * devices
        return DeviceTreeSpec(**fields, iomem=tuple(iomem), virtio=tuple(virtio)), numbers


@cache
def cases() -> tuple[Case, ...]:
    """Every case of both families."""
    with tarfile.open(ARCHIVE) as archive:
        files = {member.name: archive.extractfile(member) for member in archive.getmembers() if member.isfile()}
        data = {name: file.read() for name, file in files.items() if file is not None}
    found = []
    for family in ("pvh", "realm"):
        for name, facts in json.loads(data[f"{family}/index.json"]).items():
            found.append(Case(family, name, facts["args"], facts, data.get(f"{family}/{name}.dtb")))
    return tuple(found)


def case(family: str, name: str) -> Case:
    """One case by its name."""
    return next(found for found in cases() if (found.family, found.name) == (family, name))
