"""The keys of the device model and of the display, which no Arm guest has: read for their messages, and printed."""

from __future__ import annotations

import errno

from xlconfig.c_text import as_int32
from xlconfig.devices import Vfb, Vkb
from xlconfig.domain_config import ConfigError, DomainConfig, HvmGuest, PvGuest
from xlconfig.enumerations import DeviceModelVersion
from xlconfig.settings import Settings

__all__ = ["read_device_model"]

ERROR_FAIL_STATUS = 3


def read_device_model(settings: Settings, config: DomainConfig) -> None:
    """Keys of QEMU; `cpuid` has no meaning on Arm."""
    build = config.b_info
    if settings.string("device_model") is not None:
        settings.say("WARNING: ignoring device_model directive.")
        settings.say('WARNING: Use "device_model_override" instead if you really want a non-default device_model')
    build.device_model = settings.string("device_model_override")
    version = settings.string("device_model_version")
    if version is not None:
        if version != "qemu-xen":
            raise ConfigError(f'Unknown device_model_version "{version}" specified')
        build.device_model_version = DeviceModelVersion.QEMU_XEN
    elif build.device_model is not None:
        settings.say("WARNING: device model override given without specific DM version")
    build.device_model_stubdomain = settings.defbool("device_model_stubdomain_override")
    build.device_model_ssid_label = settings.string("device_model_stubdomain_seclabel")
    build.device_model_user = settings.string("device_model_user")
    for name in ("kernel", "cmdline", "ramdisk"):
        setattr(build, f"stubdomain_{name}", settings.string(f"stubdomain_{name}"))
    build.stubdomain_memkb = settings.kib("stubdomain_memory")
    for suffix in ("", "_pv", "_hvm"):
        error, arguments = settings.get_string_list(f"device_model_args{suffix}")
        if error not in (0, errno.ESRCH):
            raise ConfigError(f"xl: Unable to parse device_model_args{suffix}.", ERROR_FAIL_STATUS)
        setattr(build, f"extra{suffix}", arguments or [])
    _display(settings, config)
    build.dm_restrict = settings.defbool("dm_restrict")


def _display(settings: Settings, config: DomainConfig) -> None:
    """The top-level display keys: a frame buffer for PV, of an HVM guest the display, for PVH read and dropped."""
    frame_buffer = Vfb(devid=0)
    if isinstance(config.b_info.type, PvGuest) and not config.vfbs:
        if not settings.long("vnc"):
            return
        config.vfbs.append(frame_buffer)
        config.vkbs.append(Vkb(devid=len(config.vkbs)))
    elif isinstance(config.b_info.type, HvmGuest):
        frame_buffer.vnc, frame_buffer.sdl = config.b_info.type.vnc, config.b_info.type.sdl
    vnc, sdl = frame_buffer.vnc, frame_buffer.sdl
    vnc.enable = settings.defbool("vnc")
    vnc.listen = settings.string("vnclisten")
    vnc.passwd = settings.string("vncpasswd")
    vnc.display = as_int32(settings.long("vncdisplay") or 0)
    vnc.findunused = settings.defbool("vncunused")
    sdl.enable = settings.defbool("sdl")
    sdl.opengl = settings.defbool("opengl")
    sdl.display = settings.string("display")
    sdl.xauthority = settings.string("xauthority")
    if isinstance(config.b_info.type, PvGuest):
        frame_buffer.keymap = settings.string("keymap")
