"""The enumerations of libxl that a configuration can set.

Members are spelled as libxl prints them; libxl parses them without regard to case.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

__all__ = [
    "ActionOnShutdown",
    "Altp2mMode",
    "ArmSciType",
    "DeviceModelVersion",
    "DiskBackend",
    "DiskFormat",
    "DiskSpecification",
    "DomainType",
    "GicVersion",
    "NicType",
    "P9Type",
    "Passthrough",
    "RdmPolicy",
    "SveType",
    "TeeType",
    "TimerMode",
    "TscMode",
    "UsbControllerType",
    "VirtioTransport",
    "VkbBackend",
    "VsndFormat",
    "VsndStreamType",
    "VuartType",
    "from_libxl",
]

E = TypeVar("E", bound=StrEnum)


def from_libxl(enumeration: type[E], text: str) -> E | None:
    """The member that libxl's from_string gives for `text`, or None."""
    try:
        return enumeration(text.lower())
    except ValueError:
        return None


class DomainType(StrEnum):
    INVALID = "invalid"
    HVM = "hvm"
    PV = "pv"
    PVH = "pvh"


class ActionOnShutdown(StrEnum):
    DESTROY = "destroy"
    RESTART = "restart"
    RESTART_RENAME = "restart_rename"
    PRESERVE = "preserve"
    COREDUMP_DESTROY = "coredump_destroy"
    COREDUMP_RESTART = "coredump_restart"
    SOFT_RESET = "soft_reset"


class Passthrough(StrEnum):
    DEFAULT = "default"
    DISABLED = "disabled"
    ENABLED = "enabled"
    SYNC_PT = "sync_pt"
    SHARE_PT = "share_pt"


class GicVersion(StrEnum):
    DEFAULT = "default"
    V2 = "v2"
    V3 = "v3"


class VuartType(StrEnum):
    UNKNOWN = "unknown"
    SBSA_UART = "sbsa_uart"


class TeeType(StrEnum):
    NONE = "none"
    OPTEE = "optee"
    FFA = "ffa"


class SveType(StrEnum):
    """Vector lengths are in bits; HW is the longest that the host has."""

    DISABLED = "disabled"
    HW = "hw"
    VL128 = "128"
    VL256 = "256"
    VL384 = "384"
    VL512 = "512"
    VL640 = "640"
    VL768 = "768"
    VL896 = "896"
    VL1024 = "1024"
    VL1152 = "1152"
    VL1280 = "1280"
    VL1408 = "1408"
    VL1536 = "1536"
    VL1664 = "1664"
    VL1792 = "1792"
    VL1920 = "1920"
    VL2048 = "2048"


class ArmSciType(StrEnum):
    NONE = "none"
    SCMI_SMC = "scmi_smc"


class TscMode(StrEnum):
    """In the order of their numbers, 0 to 3."""

    DEFAULT = "default"
    ALWAYS_EMULATE = "always_emulate"
    NATIVE = "native"
    NATIVE_PARAVIRT = "native_paravirt"


class TimerMode(StrEnum):
    """In the order of their numbers, -1 to 3."""

    UNKNOWN = "unknown"
    DELAY_FOR_MISSED_TICKS = "delay_for_missed_ticks"
    NO_DELAY_FOR_MISSED_TICKS = "no_delay_for_missed_ticks"
    NO_MISSED_TICKS_PENDING = "no_missed_ticks_pending"
    ONE_MISSED_TICK_PENDING = "one_missed_tick_pending"


class Altp2mMode(StrEnum):
    """In the order of their numbers, 0 to 3."""

    DISABLED = "disabled"
    MIXED = "mixed"
    EXTERNAL = "external"
    LIMITED = "limited"


class DeviceModelVersion(StrEnum):
    UNKNOWN = "unknown"
    QEMU_XEN = "qemu_xen"


class RdmPolicy(StrEnum):
    INVALID = "invalid"
    STRICT = "strict"
    RELAXED = "relaxed"


class DiskBackend(StrEnum):
    UNKNOWN = "unknown"
    PHY = "phy"
    TAP = "tap"
    QDISK = "qdisk"
    STANDALONE = "standalone"


class DiskFormat(StrEnum):
    UNKNOWN = "unknown"
    QCOW = "qcow"
    QCOW2 = "qcow2"
    VHD = "vhd"
    RAW = "raw"
    EMPTY = "empty"
    QED = "qed"


class DiskSpecification(StrEnum):
    UNKNOWN = "unknown"
    XEN = "xen"
    VIRTIO = "virtio"


class NicType(StrEnum):
    UNKNOWN = "unknown"
    VIF_IOEMU = "vif_ioemu"
    VIF = "vif"


class P9Type(StrEnum):
    UNKNOWN = "unknown"
    QEMU = "qemu"
    XEN_9PFSD = "xen_9pfsd"


class VkbBackend(StrEnum):
    UNKNOWN = "unknown"
    QEMU = "qemu"
    LINUX = "linux"


class VirtioTransport(StrEnum):
    UNKNOWN = "unknown"
    MMIO = "mmio"


class UsbControllerType(StrEnum):
    AUTO = "auto"
    PV = "pv"
    DEVICEMODEL = "devicemodel"
    QUSB = "qusb"


class VsndStreamType(StrEnum):
    UNSET = ""
    PLAYBACK = "p"
    CAPTURE = "c"


class VsndFormat(StrEnum):
    S8 = "s8"
    U8 = "u8"
    S16_LE = "s16_le"
    S16_BE = "s16_be"
    U16_LE = "u16_le"
    U16_BE = "u16_be"
    S24_LE = "s24_le"
    S24_BE = "s24_be"
    U24_LE = "u24_le"
    U24_BE = "u24_be"
    S32_LE = "s32_le"
    S32_BE = "s32_be"
    U32_LE = "u32_le"
    U32_BE = "u32_be"
    F32_LE = "f32_le"
    F32_BE = "f32_be"
    F64_LE = "f64_le"
    F64_BE = "f64_be"
    IEC958_SUBFRAME_LE = "iec958_subframe_le"
    IEC958_SUBFRAME_BE = "iec958_subframe_be"
    MU_LAW = "mu_law"
    A_LAW = "a_law"
    IMA_ADPCM = "ima_adpcm"
    MPEG = "mpeg"
    GSM = "gsm"
