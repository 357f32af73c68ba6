"""The guest's address map, and where the builder puts kernel, ramdisk and device tree in it.

Enter at :func:`memory_banks` and :func:`place`. All addresses are guest physical, all sizes bytes. The numbers are
those of Xen's public guest interface for Arm, the rules those of libxenguest: byte for byte, because a Realm's initial
measurement depends on where each page lies.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolstack.build_error import OUT_OF_MEMORY, BuildError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
PAGE_SIZE = 4 * KIB
BLOCK_SIZE = 2 * MIB


@dataclass(frozen=True, slots=True)
class Range:
    """SIZE bytes of guest address space from BASE on."""

    base: int
    size: int

    @property
    def end(self) -> int:
        """First address after the range."""
        return self.base + self.size

    @property
    def unit(self) -> str:
        """The unit address of its node in a device tree."""
        return f"{self.base:x}"

    def overlaps(self, other: Range) -> bool:
        """True when the two share an address."""
        return self.base < other.end and other.base < self.end

    def contains(self, other: Range) -> bool:
        """True when all of OTHER lies inside this range."""
        return self.base <= other.base and other.end <= self.end


VIRTIO_MMIO = Range(0x0200_0000, 0x0010_0000)
VIRTIO_MMIO_DEVICE_SIZE = 0x200
GICV2_DISTRIBUTOR = Range(0x0300_1000, 0x1000)
GICV2_CPU_INTERFACE = Range(0x0300_2000, 0x2000)
GICV3_DISTRIBUTOR = Range(0x0300_1000, 0x1_0000)
GICV3_REDISTRIBUTORS = Range(0x0302_0000, 0x0100_0000)
VPCI_ECAM = Range(0x1000_0000, 0x1000_0000)
ACPI = Range(0x2000_0000, 0x0200_0000)
UART = Range(0x2200_0000, 0x1000)
VPCI_MEMORY = Range(0x2300_0000, 0x1000_0000)
GRANT_TABLE = Range(0x3800_0000, 0x0100_0000)
MAGIC = Range(0x3900_0000, 0x0100_0000)
RAM0 = Range(0x4000_0000, 0xC000_0000)
VPCI_PREFETCH = Range(0x1_0000_0000, 0x1_0000_0000)
RAM1 = Range(0x2_0000_0000, 0xFE_0000_0000)

#: The magic pages, in the order of their addresses: populated, zero, and told to Xen as HVM parameters.
CONSOLE_RING = Range(MAGIC.base, PAGE_SIZE)
XENSTORE_RING = Range(MAGIC.base + PAGE_SIZE, PAGE_SIZE)
MONITOR_RING = Range(MAGIC.base + 2 * PAGE_SIZE, PAGE_SIZE)
VUART_RING = Range(MAGIC.base + 3 * PAGE_SIZE, PAGE_SIZE)
MAGIC_PAGES = (CONSOLE_RING, XENSTORE_RING, MONITOR_RING, VUART_RING)

#: Where ramdisk and device tree go when they fit there.
MODULES_PREFERRED = RAM0.base + 128 * MIB

_STEP = "xc_dom_boot_mem_init"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where things are in guest memory. Ramdisk and device tree are whole pages, the device tree after the ramdisk."""

    banks: tuple[Range, Range]
    kernel: Range
    ramdisk: Range | None
    dtb: Range

    @property
    def entry(self) -> int:
        """Address of the kernel's first instruction."""
        return self.kernel.base


def round_up(value: int, to: int) -> int:
    """VALUE rounded up to a multiple of TO, a power of two."""
    return (value + to - 1) & ~(to - 1)


def memory_banks(max_memkb: int) -> tuple[Range, Range]:
    """RAM of a guest with MAX_MEMKB KiB, whole MiB of them: bank 0 is filled first; a bank may have size 0.

    Raises BuildError for no memory, or more than both banks hold.
    """
    size = max_memkb // KIB * MIB
    if size <= 0:
        raise BuildError(f"RAM of {max_memkb} KiB is less than 1 MiB", step=_STEP, kind=OUT_OF_MEMORY)
    if size > RAM0.size + RAM1.size:
        limit = (RAM0.size + RAM1.size) // MIB
        message = f"RAM of {size // MIB} MiB is larger than the two banks of a guest hold together ({limit} MiB)"
        raise BuildError(message, step=_STEP, kind=OUT_OF_MEMORY)
    first = min(size, RAM0.size)
    return Range(RAM0.base, first), Range(RAM1.base, size - first)


def place(
    *,
    max_memkb: int,
    text_offset: int,
    kernel_size: int,
    kernel_memory_size: int = 0,
    ramdisk_size: int | None,
    dtb_size: int,
) -> Placement:
    """Place kernel, ramdisk and device tree in the first bank, by libxenguest's rules.

    KERNEL_SIZE is the size of the Image file, which alone decides in Xen. KERNEL_MEMORY_SIZE, when larger, is what the
    kernel needs with its BSS: Xen ignores it and may put the ramdisk where the kernel then clears its BSS. The places
    are not changed here (the measurement of a Realm depends on them); such a guest, which could never boot, is
    refused with the numbers. Raises BuildError when there is no room.
    """
    banks = memory_banks(max_memkb)
    ram = banks[0]
    kernel = Range(RAM0.base + text_offset, kernel_size)
    ramdisk_room = round_up(ramdisk_size or 0, PAGE_SIZE)
    dtb_room = round_up(dtb_size, PAGE_SIZE)
    base = _modules_base(ram, kernel, ramdisk_room + dtb_room)
    if not ram.contains(kernel):
        message = (
            f"kernel of {kernel_size} bytes at {kernel.base:#x} (text offset {text_offset:#x}) does not fit in the "
            f"first RAM bank, which ends at {ram.end:#x}"
        )
        raise BuildError(message, step=_STEP, kind=OUT_OF_MEMORY)
    placement = Placement(
        banks=banks,
        kernel=kernel,
        ramdisk=Range(base, ramdisk_room) if ramdisk_size is not None else None,
        dtb=Range(base + ramdisk_room, dtb_room),
    )
    _check_running_kernel(placement, Range(kernel.base, max(kernel_size, kernel_memory_size)), ram)
    return placement


def _modules_base(ram: Range, kernel: Range, modules_size: int) -> int:
    """Address of the ramdisk, or of the device tree when there is none: 128 MiB up, else the top of the bank, else
    just below the kernel."""
    kernel_end = round_up(kernel.end, BLOCK_SIZE)
    if modules_size + kernel_end - kernel.base <= ram.size:
        if ram.end >= MODULES_PREFERRED + modules_size and kernel_end < MODULES_PREFERRED:
            return MODULES_PREFERRED
        if ram.end - modules_size > kernel_end:
            return ram.end - modules_size
        if kernel.base - ram.base > modules_size:
            return kernel.base - modules_size
    message = (
        f"Not enough memory for the kernel+dtb+initrd: kernel of {kernel.size} bytes at {kernel.base:#x} and "
        f"{modules_size} bytes of ramdisk and device tree, in a first RAM bank of {ram.size // MIB} MiB"
    )
    raise BuildError(message, step=_STEP, kind=OUT_OF_MEMORY)


def _check_running_kernel(placement: Placement, running: Range, ram: Range) -> None:
    """Refuse a guest whose kernel, once running, needs memory that is not there or that holds a module."""
    if not ram.contains(running):
        message = (
            f"kernel needs {running.size} bytes from {running.base:#x} on, BSS included (image_size in its header), "
            f"but the first RAM bank ends at {ram.end:#x}: raise memory="
        )
        raise BuildError(message, step=_STEP, kind=OUT_OF_MEMORY)
    for what, module in (("ramdisk", placement.ramdisk), ("device tree", placement.dtb)):
        if module is not None and module.overlaps(running):
            message = (
                f"{what} at {module.base:#x}..{module.end:#x} lies in the memory of the running kernel, "
                f"{running.base:#x}..{running.end:#x} (its BSS would overwrite it): change memory= or use a smaller "
                "kernel"
            )
            raise BuildError(message, step=_STEP, kind=OUT_OF_MEMORY)
