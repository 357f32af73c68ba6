"""A guest as the domain builder hands it over: bytes for guest memory, and the registers of vCPU 0.

Enter at :func:`build` (from a configuration's inputs) or :func:`assemble` (from images already in memory). Nothing
here talks to the hypervisor or writes a file: the same inputs give the same guest, for ``xl create``, for a dry run,
for ``xl dtb`` and for predicting a Realm's measurement. (A plain guest's random seed is the exception, unless one is
given.)
"""

from __future__ import annotations

from dataclasses import dataclass

from toolstack.build_error import BuildError
from toolstack.dtb.finalise import finalise
from toolstack.dtb.render import render
from toolstack.dtb.spec import DeviceTreeSpec
from toolstack.image import KernelImage, load_kernel, load_ramdisk
from toolstack.layout import MAGIC_PAGES, Placement, Range, place

__all__ = ["BuildError", "GuestImage", "GuestSpec", "Segment", "VcpuContext", "assemble", "build"]

#: PSTATE at entry: EL1h with D, A, I and F masked.
ENTRY_PSTATE = 0x3C5
#: SCTLR_EL1 at entry: the reset value, MMU and caches off.
ENTRY_SCTLR = 0x00C5_0078


class GuestSpec(DeviceTreeSpec, frozen=True, kw_only=True):
    """Everything that decides the bytes of a guest: the device tree's inputs, the images, and the memory."""

    #: Path of the arm64 Image, raw or gzip.
    kernel: str
    ramdisk: str | None = None
    #: RAM in KiB; whole MiB of it are built. As in Xen this is maxmem, which decides, not memory.
    max_memkb: int = 128 * 1024


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes of one image in guest memory. The rest of its last page is zero, as is all memory without a segment."""

    name: str
    gpa: int
    data: bytes


@dataclass(frozen=True, slots=True)
class VcpuContext:
    """Registers of vCPU 0 at entry; the others are off until PSCI CPU_ON. Those not named are zero."""

    pc: int
    x0: int
    x1: int = 0
    x2: int = 0
    x3: int = 0
    pstate: int = ENTRY_PSTATE
    sctlr: int = ENTRY_SCTLR


@dataclass(frozen=True, slots=True)
class GuestImage:
    """A guest, ready to be written to its memory."""

    placement: Placement
    #: In the order in which Xen writes them: kernel, ramdisk (if any), device tree.
    segments: tuple[Segment, ...]
    context: VcpuContext
    dtb: bytes

    @property
    def banks(self) -> tuple[Range, ...]:
        """RAM of the guest, banks that are not empty."""
        return tuple(bank for bank in self.placement.banks if bank.size)

    @property
    def magic_pages(self) -> tuple[Range, ...]:
        """Zero pages outside RAM that a guest has besides: console, XenStore, monitor and vuart ring."""
        return MAGIC_PAGES


def build(spec: GuestSpec) -> GuestImage:
    """Read the images of SPEC and assemble the guest. Raises BuildError with the first reason why it cannot be."""
    kernel = load_kernel(spec.kernel)
    ramdisk = load_ramdisk(spec.ramdisk) if spec.ramdisk is not None else None
    return assemble(spec, kernel, ramdisk)


def assemble(spec: GuestSpec, kernel: KernelImage, ramdisk: bytes | None) -> GuestImage:
    """The guest of SPEC with images already read; the paths in SPEC are not looked at. Raises BuildError."""
    tree = render(spec, ramdisk=ramdisk is not None)
    placement = place(
        max_memkb=spec.max_memkb,
        text_offset=kernel.text_offset,
        kernel_size=len(kernel.data),
        kernel_memory_size=kernel.memory_size,
        ramdisk_size=None if ramdisk is None else len(ramdisk),
        dtb_size=len(tree),
    )
    if spec.realm and placement.banks[1].size:
        message = "Realm guests must fit entirely within the first RAM bank"
        raise BuildError(message, step="libxl__build_dom")
    dtb = finalise(tree, spec, placement)
    segments = [Segment("kernel", placement.kernel.base, kernel.data)]
    if ramdisk is not None and placement.ramdisk is not None:
        segments.append(Segment("ramdisk", placement.ramdisk.base, ramdisk))
    segments.append(Segment("dtb", placement.dtb.base, dtb))
    return GuestImage(
        placement=placement,
        segments=tuple(segments),
        context=VcpuContext(pc=placement.entry, x0=placement.dtb.base),
        dtb=dtb,
    )
