"""What a guest's device tree depends on."""

from __future__ import annotations

from typing import Literal

import msgspec

from toolstack.build_error import BuildError

#: Size of chosen/rng-seed that libxl writes.
SEED_SIZE = 128
#: vCPUs that have an affinity of their own (sixteen in Aff0, 256 in Aff1); platforms allow fewer.
VCPU_LIMIT = 4096
#: INTID of the first virtio-mmio device, and how many there are.
VIRTIO_FIRST_INTID = 33
VIRTIO_DEVICES = 11
#: Types of virtio device that libxl knows; the number is the virtio device id in hexadecimal.
GENERIC = "virtio,device"
I2C = "virtio,device22"
GPIO = "virtio,device29"

_STEP = "libxl__arch_domain_init_hw_description"


class IomemRange(msgspec.Struct, frozen=True):
    """Guest pages given to the guest with ``iomem``: COUNT pages from guest frame GFN on."""

    gfn: int
    count: int


class VirtioDevice(msgspec.Struct, frozen=True):
    """A virtio-mmio device. KIND is its ``type`` in xl.cfg; a disk is a generic device."""

    kind: str = GENERIC
    backend_domid: int = 0
    #: Its memory is granted page by page: it is behind the Xen grant-DMA IOMMU.
    grants: bool = False


class DeviceTreeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs of the device tree, all of them already checked against the platform by the caller."""

    realm: bool = False
    vcpus: int = 1
    #: The kernel command line. Bytes that are not UTF-8 are held as surrogateescape does.
    cmdline: str | None = None
    vuart: bool = False
    gic_version: Literal[2, 3] = 3
    #: chosen/rng-seed, 1 to 128 bytes. None: 128 zero bytes for a Realm, random bytes for a plain guest.
    seed: bytes | None = None
    #: chosen/kaslr-seed, which Linux takes (and clears) to choose its base; None: no such property, no KASLR.
    kaslr_seed: int | None = None
    #: Version of Xen in model and compatible.
    xen_version: tuple[int, int] = (4, 23)
    #: clock-frequency of the timer node, Hz; 0: not written (the guest reads CNTFRQ_EL0).
    clock_frequency: int = 0
    #: Width of guest physical addresses: bounds the extended regions.
    gpaddr_bits: int = 40
    iomem: tuple[IomemRange, ...] = ()
    #: Size of the ACPI tables in bytes; 0: no ACPI.
    acpi_size: int = 0
    optee: bool = False
    vpci: bool = False
    virtio: tuple[VirtioDevice, ...] = ()
    #: A blob whose /passthrough and /aliases are copied.
    partial: bytes | None = None
    #: An AArch32 guest.
    aarch32: bool = False

    def bootargs(self) -> bytes | None:
        """The value of chosen/bootargs with its final NUL, None without a command line.

        Raises BuildError for a NUL inside the command line: the kernel would see only the part before it.
        """
        if self.cmdline is None:
            return None
        text = self.cmdline.encode("utf-8", "surrogateescape")
        if b"\0" in text:
            raise BuildError(f"the kernel command line has a NUL at byte {text.index(0)}", step=_STEP)
        return text + b"\0"

    def check(self) -> None:
        """Raise BuildError for values that no device tree can hold."""
        if self.seed is not None and not 1 <= len(self.seed) <= SEED_SIZE:
            raise BuildError(f"seed is {len(self.seed)} bytes; it must be 1 to {SEED_SIZE}", step=_STEP)
        if self.kaslr_seed is not None and not 0 < self.kaslr_seed < 1 << 64:
            raise BuildError(f"kaslr_seed {self.kaslr_seed:#x} is not a number of 1 to 64 bits, not 0", step=_STEP)
        if self.gic_version not in (2, 3):
            raise BuildError(f"Unknown GIC version {self.gic_version}", step=_STEP)
        if not 0 <= self.vcpus <= VCPU_LIMIT:
            message = f"{self.vcpus} vCPUs; a device tree of this form can name 0 to {VCPU_LIMIT}"
            raise BuildError(message, step=_STEP)
        if not 32 <= self.gpaddr_bits <= 64:
            raise BuildError(f"guest addresses of {self.gpaddr_bits} bits; 32 to 64 are possible", step=_STEP)
        if len(self.virtio) > VIRTIO_DEVICES:
            message = f"Ran out of reserved range for Virtio MMIO: {len(self.virtio)} devices, at most {VIRTIO_DEVICES}"
            raise BuildError(message, step=_STEP)
        for device in self.virtio:
            if device.kind not in (GENERIC, I2C, GPIO):
                raise BuildError(f"Invalid type for virtio device: {device.kind}", step=_STEP)
