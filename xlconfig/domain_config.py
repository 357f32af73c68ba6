"""A domain's typed configuration, field by field as libxl names and orders it.

`c_info` is what creates the domain, `b_info` what builds it. A field that the configuration did not set holds libxl's
initial value (None for text, booleans and sizes), so that a dry run prints what was set and nothing else; the
properties of DomainConfig answer with libxl's defaults filled in, and are what a builder should read."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from msgspec import Struct, field

from xlconfig.c_text import UINT32_MAX
from xlconfig.devices import (
    P9,
    Channel,
    Disk,
    DtDev,
    Nic,
    Pci,
    PvCalls,
    Sdl,
    UsbController,
    UsbDevice,
    Vdispl,
    Vfb,
    Virtio,
    Vkb,
    Vnc,
    Vsnd,
    Vtpm,
)
from xlconfig.enumerations import (
    ActionOnShutdown,
    Altp2mMode,
    ArmSciType,
    DeviceModelVersion,
    DomainType,
    GicVersion,
    Passthrough,
    SveType,
    TeeType,
    TimerMode,
    TscMode,
    VuartType,
)

__all__ = [
    "ArchArm",
    "ArchX86",
    "ArmSci",
    "BuildInfo",
    "ConfigError",
    "CreateInfo",
    "DomainConfig",
    "HostFacts",
    "IoMem",
    "IoPorts",
    "VnumaNode",
]

DEFAULT_MEMORY_KIB = 32 * 1024
INVALID_GFN = 2**64 - 1


class ConfigError(Exception):
    """Raised for a configuration that xl refuses. `message` may be empty or several lines: xl is not always helpful."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_status = exit_status


class HostFacts(Struct, frozen=True, kw_only=True):
    """What a configuration is checked against: the host's physical CPUs and NUMA nodes."""

    cpus: int = 8
    nodes: int = 1


class CreateInfo(Struct, kw_only=True):
    type: DomainType = DomainType.INVALID
    hap: bool | None = None
    oos: bool | None = None
    ssid_label: str | None = None
    name: str | None = None
    uuid: str
    pool_name: str | None = None
    run_hotplug_scripts: bool | None = None
    driver_domain: bool | None = None
    passthrough: Passthrough = Passthrough.DEFAULT
    xend_suspend_evtchn_compat: bool | None = None


class SchedParams(Struct, kw_only=True):
    weight: int = -1
    cap: int = -1
    period: int = -1
    extratime: int = -1
    slice: int = -1
    latency: int = -1


class VnumaNode(Struct, kw_only=True):
    memkb: int | None = None
    distances: list[int] = field(default_factory=list)
    pnode: int = 0
    vcpus: list[int] = field(default_factory=list)


class IoPorts(Struct, kw_only=True):
    first: int = 0
    number: int = 0


class IoMem(Struct, kw_only=True):
    """Page numbers; `gfn` INVALID_GFN means the same as `start`."""

    start: int = 0
    number: int = 0
    gfn: int = INVALID_GFN


class HvmGuest(Struct, kw_only=True):
    """Only what every HVM configuration prints: no HVM key is read, since no Arm guest is one."""

    VARIANT: ClassVar[str] = "hvm"

    class Vga(Struct, kw_only=True):
        pass

    class Spice(Struct, kw_only=True):
        pass

    class Rdm(Struct, kw_only=True):
        pass

    vga: Vga = field(default_factory=Vga)
    vnc: Vnc = field(default_factory=Vnc)
    sdl: Sdl = field(default_factory=Sdl)
    spice: Spice = field(default_factory=Spice)
    rdm: Rdm = field(default_factory=Rdm)


class PvGuest(Struct, kw_only=True):
    VARIANT: ClassVar[str] = "pv"
    e820_host: bool | None = None


class PvhGuest(Struct, kw_only=True):
    VARIANT: ClassVar[str] = "pvh"
    pvshim: bool | None = None
    pvshim_path: str | None = None
    pvshim_cmdline: str | None = None
    pvshim_extra: str | None = None


GuestType: TypeAlias = HvmGuest | PvGuest | PvhGuest


class ArmSci(Struct, kw_only=True):
    type: ArmSciType = ArmSciType.NONE


class ArchArm(Struct, kw_only=True):
    gic_version: GicVersion = GicVersion.DEFAULT
    vuart: VuartType = VuartType.UNKNOWN
    sve_vl: SveType = SveType.DISABLED
    nr_spis: int = UINT32_MAX
    arm_sci: ArmSci = field(default_factory=ArmSci)


class ArchX86(Struct, kw_only=True):
    msr_relaxed: bool | None = None


class QuotaItem(Struct, kw_only=True):
    name: str | None = None
    val: int = 0


class XenstoreQuota(Struct, kw_only=True):
    quota: list[QuotaItem] = field(default_factory=list)


class BuildInfo(Struct, kw_only=True):
    """Sizes are in KiB; `avail_vcpus` and the affinities list bit numbers."""

    max_vcpus: int = 0
    avail_vcpus: list[int] = field(default_factory=list)
    vcpu_hard_affinity: list[list[int]] = field(default_factory=list)
    vcpu_soft_affinity: list[list[int]] = field(default_factory=list)
    numa_placement: bool | None = None
    tsc_mode: TscMode = TscMode.DEFAULT
    max_memkb: int | None = None
    target_memkb: int | None = None
    video_memkb: int | None = None
    shadow_memkb: int | None = None
    rtc_timeoffset: int = 0
    exec_ssid_label: str | None = None
    localtime: bool | None = None
    disable_migrate: bool | None = None
    vnuma_nodes: list[VnumaNode] = field(default_factory=list)
    max_grant_frames: int = UINT32_MAX
    max_maptrack_frames: int = UINT32_MAX
    max_grant_version: int = -1
    device_model_version: DeviceModelVersion = DeviceModelVersion.UNKNOWN
    device_model_stubdomain: bool | None = None
    stubdomain_memkb: int | None = None
    stubdomain_kernel: str | None = None
    stubdomain_cmdline: str | None = None
    stubdomain_ramdisk: str | None = None
    device_model: str | None = None
    device_model_ssid_label: str | None = None
    device_model_user: str | None = None
    extra: list[str] = field(default_factory=list)
    extra_pv: list[str] = field(default_factory=list)
    extra_hvm: list[str] = field(default_factory=list)
    sched_params: SchedParams = field(default_factory=SchedParams)
    ioports: list[IoPorts] = field(default_factory=list)
    irqs: list[int] = field(default_factory=list)
    iomem: list[IoMem] = field(default_factory=list)
    llc_colors: list[int] = field(default_factory=list)
    claim_mode: bool | None = None
    event_channels: int = 0
    kernel: str | None = None
    cmdline: str | None = None
    ramdisk: str | None = None
    device_tree: str | None = None
    acpi: bool | None = None
    bootloader: str | None = None
    bootloader_args: list[str] = field(default_factory=list)
    bootloader_restrict: bool | None = None
    bootloader_user: str | None = None
    timer_mode: TimerMode = TimerMode.UNKNOWN
    nested_hvm: bool | None = None
    dm_restrict: bool | None = None
    tee: TeeType = TeeType.NONE
    realm: bool | None = None
    type: GuestType = field(default_factory=PvhGuest)
    arch_arm: ArchArm = field(default_factory=ArchArm)
    arch_x86: ArchX86 = field(default_factory=ArchX86)
    altp2m: Altp2mMode = Altp2mMode.DISABLED
    altp2m_count: int = UINT32_MAX
    vmtrace_buf_kb: int = 0
    vpmu: bool | None = None
    trap_unmapped_accesses: bool | None = None
    xenstore_feature_mask: int = UINT32_MAX
    xenstore_quota: XenstoreQuota = field(default_factory=XenstoreQuota)


class DomainConfig(Struct, kw_only=True):
    """One domain's configuration."""

    c_info: CreateInfo
    b_info: BuildInfo = field(default_factory=BuildInfo)
    disks: list[Disk] = field(default_factory=list)
    nics: list[Nic] = field(default_factory=list)
    pcidevs: list[Pci] = field(default_factory=list)
    dtdevs: list[DtDev] = field(default_factory=list)
    vfbs: list[Vfb] = field(default_factory=list)
    vkbs: list[Vkb] = field(default_factory=list)
    virtios: list[Virtio] = field(default_factory=list)
    vtpms: list[Vtpm] = field(default_factory=list)
    p9s: list[P9] = field(default_factory=list)
    pvcallsifs: list[PvCalls] = field(default_factory=list)
    vdispls: list[Vdispl] = field(default_factory=list)
    vsnds: list[Vsnd] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)
    usbctrls: list[UsbController] = field(default_factory=list)
    usbdevs: list[UsbDevice] = field(default_factory=list)
    on_poweroff: ActionOnShutdown = ActionOnShutdown.DESTROY
    on_reboot: ActionOnShutdown = ActionOnShutdown.DESTROY
    on_watchdog: ActionOnShutdown = ActionOnShutdown.DESTROY
    on_crash: ActionOnShutdown = ActionOnShutdown.DESTROY
    on_soft_reset: ActionOnShutdown = ActionOnShutdown.DESTROY
    kaslr_seed: int | None = None
    """Ours: chosen/kaslr-seed, 64 bits and not 0; without one the kernel is not moved."""
    seed: bytes | None = None
    """Ours: the guest's rng-seed, for a device tree that is the same every time. libxl's JSON does not have it."""

    @property
    def name(self) -> str:
        return self.c_info.name or ""

    @property
    def uuid(self) -> str:
        """Lower case, 8-4-4-4-12."""
        return self.c_info.uuid

    @property
    def type(self) -> DomainType:
        """The type that libxl builds on Arm, where a PV guest is turned into PVH."""
        return DomainType.PVH if self.c_info.type is DomainType.PV else self.c_info.type

    @property
    def max_memkb(self) -> int:
        """KiB of RAM that are built."""
        given = self.b_info.max_memkb
        return self.target_memkb if given is None else given

    @property
    def target_memkb(self) -> int:
        """KiB of RAM that the domain is to have: `memory`, else `maxmem`, else 32 MiB."""
        for given in (self.b_info.target_memkb, self.b_info.max_memkb):
            if given is not None:
                return given
        return DEFAULT_MEMORY_KIB

    @property
    def vcpus(self) -> int:
        """vCPUs online at the start: 0 to vcpus - 1."""
        return len(self.b_info.avail_vcpus)

    @property
    def max_vcpus(self) -> int:
        return self.b_info.max_vcpus

    @property
    def kernel(self) -> str | None:
        return self.b_info.kernel

    @property
    def ramdisk(self) -> str | None:
        return self.b_info.ramdisk

    @property
    def cmdline(self) -> str | None:
        """The kernel command line, made of `cmdline`, or of `root` and `extra`."""
        return self.b_info.cmdline

    @property
    def realm(self) -> bool:
        return bool(self.b_info.realm)

    @property
    def vuart(self) -> VuartType:
        return self.b_info.arch_arm.vuart

    @property
    def gic_version(self) -> GicVersion:
        return self.b_info.arch_arm.gic_version

    @property
    def nr_spis(self) -> int | None:
        """The number of SPIs asked for, None to let the toolstack compute it."""
        given = self.b_info.arch_arm.nr_spis
        return None if given == UINT32_MAX else given

    @property
    def trap_unmapped_accesses(self) -> bool:
        """On Arm the default is to trap."""
        return self.b_info.trap_unmapped_accesses is not False

    @property
    def passthrough(self) -> Passthrough:
        """With libxl's default: enabled when devices are given, else disabled."""
        given = self.c_info.passthrough
        if given is not Passthrough.DEFAULT:
            return given
        return Passthrough.ENABLED if self.pcidevs or self.dtdevs else Passthrough.DISABLED
