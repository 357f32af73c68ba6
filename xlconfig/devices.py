"""The devices that a configuration can ask for, field by field as libxl names and orders them.

No device of these exists in this hypervisor: they are read so that a configuration is checked and printed as Xen
does, and so that a Realm guest that asks for one is refused by name. A field at its default is not printed."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct, field

from xlconfig.enumerations import (
    DiskBackend,
    DiskFormat,
    DiskSpecification,
    NicType,
    P9Type,
    RdmPolicy,
    UsbControllerType,
    VirtioTransport,
    VkbBackend,
    VsndFormat,
    VsndStreamType,
)

__all__ = [
    "P9",
    "Channel",
    "Disk",
    "DtDev",
    "HostUsbDevice",
    "Nic",
    "Pci",
    "PtyChannel",
    "PvCalls",
    "Sdl",
    "SocketChannel",
    "UsbController",
    "UsbDevice",
    "Vdispl",
    "VdisplConnector",
    "Vfb",
    "Virtio",
    "Vkb",
    "Vnc",
    "Vsnd",
    "VsndParams",
    "VsndPcm",
    "VsndStream",
    "Vtpm",
]

NO_DEVID = -1
NIL_UUID = "00000000-0000-0000-0000-000000000000"


class Disk(Struct, kw_only=True):
    backend_domname: str | None = None
    pdev_path: str | None = None
    vdev: str | None = None
    backend: DiskBackend = DiskBackend.UNKNOWN
    format: DiskFormat = DiskFormat.UNKNOWN
    script: str | None = None
    removable: int = 0
    readwrite: int = 0
    is_cdrom: int = 0
    direct_io_safe: bool = False
    discard_enable: bool | None = None
    specification: DiskSpecification = DiskSpecification.UNKNOWN
    colo_enable: bool | None = None
    colo_host: str | None = None
    colo_port: int = 0
    colo_export: str | None = None
    active_disk: str | None = None
    hidden_disk: str | None = None
    trusted: bool | None = None
    grant_usage: bool | None = None


class Nic(Struct, kw_only=True):
    backend_domname: str | None = None
    devid: int = NO_DEVID
    mtu: int = 0
    vlan: str | None = None
    model: str | None = None
    mac: str = "00:00:00:00:00:00"
    ip: str | None = None
    bridge: str | None = None
    ifname: str | None = None
    script: str | None = None
    nictype: NicType = NicType.UNKNOWN
    rate_bytes_per_interval: int = 0
    rate_interval_usecs: int = 0
    gatewaydev: str | None = None
    coloft_forwarddev: str | None = None
    colo: dict[str, str] = field(default_factory=dict)
    """COLO keys of the specification, by their own name; libxl prints each as a field."""
    trusted: bool | None = None


class Pci(Struct, kw_only=True):
    func: int = 0
    dev: int = 0
    bus: int = 0
    domain: int = 0
    vdevfn: int = 0
    vfunc_mask: int = 0
    msitranslate: bool = False
    power_mgmt: bool = False
    permissive: bool = False
    seize: bool = False
    rdm_policy: RdmPolicy = RdmPolicy.INVALID
    name: str | None = None


class DtDev(Struct, kw_only=True):
    path: str | None = None


class Vnc(Struct, kw_only=True):
    enable: bool | None = None
    listen: str | None = None
    passwd: str | None = None
    display: int = 0
    findunused: bool | None = None


class Sdl(Struct, kw_only=True):
    enable: bool | None = None
    opengl: bool | None = None
    display: str | None = None
    xauthority: str | None = None


class Vfb(Struct, kw_only=True):
    devid: int = NO_DEVID
    vnc: Vnc = field(default_factory=Vnc)
    sdl: Sdl = field(default_factory=Sdl)
    keymap: str | None = None


class Vkb(Struct, kw_only=True):
    backend_domname: str | None = None
    devid: int = NO_DEVID
    backend_type: VkbBackend = VkbBackend.UNKNOWN
    unique_id: str | None = None
    feature_disable_keyboard: bool = False
    feature_disable_pointer: bool = False
    feature_abs_pointer: bool = False
    feature_raw_pointer: bool = False
    feature_multi_touch: bool = False
    width: int = 0
    height: int = 0
    multi_touch_width: int = 0
    multi_touch_height: int = 0
    multi_touch_num_contacts: int = 0


class Virtio(Struct, kw_only=True):
    backend_domname: str | None = None
    type: str | None = None
    transport: VirtioTransport = VirtioTransport.UNKNOWN
    grant_usage: bool | None = None
    devid: int = NO_DEVID


class Vtpm(Struct, kw_only=True):
    backend_domname: str | None = None
    devid: int = NO_DEVID
    uuid: str = NIL_UUID


class P9(Struct, kw_only=True):
    backend_domname: str | None = None
    tag: str | None = None
    path: str | None = None
    security_model: str | None = None
    type: P9Type = P9Type.UNKNOWN
    max_space: int = 0
    max_files: int = 0
    max_open_files: int = 0
    auto_delete: bool = False


class PvCalls(Struct, kw_only=True):
    backend_domname: str | None = None
    devid: int = NO_DEVID


class VdisplConnector(Struct, kw_only=True):
    unique_id: str | None = None
    width: int = 0
    height: int = 0


class Vdispl(Struct, kw_only=True):
    backend_domname: str | None = None
    devid: int = NO_DEVID
    be_alloc: bool = False
    connectors: list[VdisplConnector] = field(default_factory=list)


class VsndParams(Struct, kw_only=True):
    sample_rates: list[int] = field(default_factory=list)
    sample_formats: list[VsndFormat] = field(default_factory=list)
    channels_min: int = 0
    channels_max: int = 0
    buffer_size: int = 0


class VsndStream(Struct, kw_only=True):
    unique_id: str | None = None
    type: VsndStreamType = VsndStreamType.UNSET
    params: VsndParams = field(default_factory=VsndParams)


class VsndPcm(Struct, kw_only=True):
    name: str | None = None
    params: VsndParams = field(default_factory=VsndParams)
    streams: list[VsndStream] = field(default_factory=list)


class Vsnd(Struct, kw_only=True):
    backend_domname: str | None = None
    devid: int = NO_DEVID
    short_name: str | None = None
    long_name: str | None = None
    params: VsndParams = field(default_factory=VsndParams)
    pcms: list[VsndPcm] = field(default_factory=list)


class PtyChannel(Struct, kw_only=True):
    VARIANT: ClassVar[str] = "pty"


class SocketChannel(Struct, kw_only=True):
    VARIANT: ClassVar[str] = "socket"
    path: str | None = None


class Channel(Struct, kw_only=True):
    backend_domname: str | None = None
    name: str | None = None
    connection: PtyChannel | SocketChannel


class UsbController(Struct, kw_only=True):
    type: UsbControllerType = UsbControllerType.AUTO
    devid: int = NO_DEVID
    version: int = 0
    ports: int = 0


class HostUsbDevice(Struct, kw_only=True):
    VARIANT: ClassVar[str] = "hostdev"
    hostbus: int = 0
    hostaddr: int = 0


class UsbDevice(Struct, kw_only=True):
    ctrl: int = NO_DEVID
    port: int = 0
    type: HostUsbDevice = field(default_factory=HostUsbDevice)
