"""The small device languages: `key=value` fields between commas, each with its own way to refuse.

Each function parses one specification. All raise ConfigError (status 1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from uuid import UUID

from xlconfig.c_text import as_int32, as_uint32, atoi, split_pair, strtok, strtoul
from xlconfig.devices import (
    P9,
    Channel,
    HostUsbDevice,
    PtyChannel,
    PvCalls,
    SocketChannel,
    UsbController,
    UsbDevice,
    Vdispl,
    VdisplConnector,
    Vfb,
    Virtio,
    Vkb,
    Vtpm,
)
from xlconfig.domain_config import ConfigError, QuotaItem
from xlconfig.enumerations import P9Type, UsbControllerType, VirtioTransport, VkbBackend, from_libxl
from xlconfig.nic_spec import parse_ulong

__all__ = [
    "parse_channel",
    "parse_p9",
    "parse_pvcalls",
    "parse_quota_item",
    "parse_usb_controller",
    "parse_usb_device",
    "parse_uuid",
    "parse_vdispl",
    "parse_vfb",
    "parse_virtio",
    "parse_vkb",
    "parse_vtpm",
]

Say = Callable[[str], None]

LOG_DIRECTORY = "/var/log/xen"

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_RESOLUTION = re.compile(r"\s*(\d+)x\s*(\d+)")


def parse_uuid(text: str) -> str | None:
    """The UUID in lower case; None unless it is written 8-4-4-4-12."""
    return str(UUID(text)) if _UUID.fullmatch(text) else None


def _unsigned(text: str) -> int:
    return as_uint32(strtoul(text)[0])


def _truth(text: str) -> bool:
    return strtoul(text)[0] != 0


def _fields(spec: str) -> Iterator[tuple[str, str, str]]:
    """Token, key and value of each field; a token without `=` has the empty key."""
    for field in strtok(spec, ","):
        token = field.lstrip(" ")
        key, equals, value = token.partition("=")
        yield token, key if equals else "", value


def _pairs(spec: str, what: str) -> Iterator[tuple[str, str]]:
    for item in strtok(spec, ","):
        pair = split_pair(item, "=")
        if pair is None:
            raise ConfigError(f"failed to parse {what} configuration: {item}")
        yield pair


def parse_p9(spec: str, domain_name: str) -> P9:
    """`tag= path= security_model= ...` of a 9pfs device."""
    p9 = P9()
    for key, value in _pairs(spec, "9pfs"):
        if key in ("security_model", "path", "tag"):
            setattr(p9, key, value)
        elif key == "backend":
            p9.backend_domname = value
        elif key == "type":
            kind = from_libxl(P9Type, value)
            if kind is None:
                raise ConfigError(f"failed to parse 9pfs type: {value}")
            p9.type = kind
        elif key in ("max-files", "max-open-files", "max-space"):
            setattr(p9, key.replace("-", "_"), as_int32(parse_ulong(value)))
        elif key == "auto-delete":
            p9.auto_delete = _truth(value)
        else:
            raise ConfigError(f"Unknown 9pfs parameter '{key}'")
    if p9.type is P9Type.XEN_9PFSD and p9.path is None:
        p9.path = f"{LOG_DIRECTORY}/guests/{domain_name}"
    return p9


def parse_vtpm(spec: str, devid: int) -> Vtpm:
    """`backend=` (required) and `uuid=` of a virtual TPM; reading stops at a field without `=`."""
    vtpm = Vtpm(devid=devid)
    for token, key, value in _fields(spec):
        if "=" not in token:
            break
        if key == "backend":
            vtpm.backend_domname = value
        elif key == "uuid":
            uuid = parse_uuid(value)
            if uuid is None:
                raise ConfigError(f"Failed to parse vtpm UUID: {value}")
            vtpm.uuid = uuid
        else:
            raise ConfigError(f"Unknown string `{key}' in vtpm spec")
    if vtpm.backend_domname is None:
        raise ConfigError("vtpm spec missing required backend field!")
    return vtpm


def parse_vdispl(spec: str, devid: int) -> Vdispl:
    """`backend= be-alloc= connectors=ID:WxH[;ID:WxH...]` of a para-virtual display."""
    display = Vdispl(devid=devid)
    for token, key, value in _fields(spec):
        if key == "backend":
            display.backend_domname = value
        elif key == "be-alloc":
            display.be_alloc = _truth(value)
        elif key == "connectors":
            display.connectors = [_connector(item) for item in strtok(value, ";")]
        else:
            raise ConfigError(f'Unknown string "{token}" in vdispl spec')
    if not display.connectors:
        raise ConfigError("At least one connector should be specified.")
    return display


def _connector(text: str) -> VdisplConnector:
    pair = split_pair(text, ":", trim="")
    found = _RESOLUTION.match(pair[1]) if pair else None
    if pair is None or found is None:
        raise ConfigError("Can't parse connector resolution")
    return VdisplConnector(unique_id=pair[0], width=as_uint32(int(found[1])), height=as_uint32(int(found[2])))


def parse_pvcalls(spec: str, devid: int) -> PvCalls:
    """`backend=` of a PV calls interface; reading stops at a field without `=`."""
    interface = PvCalls(devid=devid)
    for token, key, value in _fields(spec):
        if "=" not in token:
            break
        if key != "backend":
            raise ConfigError(f"Unknown string `{key}' in pvcalls spec")
        interface.backend_domname = value
    return interface


def parse_channel(spec: str, say: Say) -> Channel:
    """`connection=pty|socket`, `path=`, `name=`, `backend=` of a channel."""
    channel = Channel(connection=PtyChannel())
    connection = path = None
    for key, value in _pairs(spec, "channel"):
        if key == "backend":
            channel.backend_domname = value
        elif key == "name":
            channel.name = value
        elif key == "path":
            path = value
        elif key == "connection":
            if value not in ("pty", "socket"):
                raise ConfigError(f"unknown channel connection '{value}'")
            connection = value
        else:
            say(f"unknown channel parameter '{key}', ignoring")
    if connection is None:
        raise ConfigError("channel has unknown 'connection'")
    if connection == "socket":
        if path is None:
            raise ConfigError("channel connection 'socket' requires path=..")
        channel.connection = SocketChannel(path=path)
    return channel


def parse_vfb(spec: str, devid: int) -> Vfb:
    """A frame buffer's `vnc= vnclisten= ... sdl= keymap=`; unknown fields are ignored, one without `=` ends it."""
    vfb = Vfb(devid=devid)
    for token, key, value in _fields(spec):
        if "=" not in token:
            break
        if key == "vnc":
            vfb.vnc.enable = atoi(value) != 0
        elif key == "vnclisten":
            vfb.vnc.listen = value
        elif key == "vncpasswd":
            vfb.vnc.passwd = value
        elif key == "vncdisplay":
            vfb.vnc.display = atoi(value)
        elif key == "vncunused":
            vfb.vnc.findunused = atoi(value) != 0
        elif key == "keymap":
            vfb.keymap = value
        elif key == "sdl":
            vfb.sdl.enable = atoi(value) != 0
        elif key == "opengl":
            vfb.sdl.opengl = atoi(value) != 0
        elif key == "display":
            vfb.sdl.display = value
        elif key == "xauthority":
            vfb.sdl.xauthority = value
    return vfb


def parse_usb_controller(spec: str, devid: int) -> UsbController:
    """`type= version= ports=` of a USB controller."""
    controller = UsbController(devid=devid)
    for token, key, value in _fields(spec):
        if key == "type":
            kind = from_libxl(UsbControllerType, value)
            if kind is None:
                raise ConfigError(f"Invalid usb controller type '{value}'")
            controller.type = kind
        elif key == "version":
            controller.version = atoi(value)
        elif key == "ports":
            controller.ports = atoi(value)
        else:
            raise ConfigError(f"Unknown string `{token}' in usbctrl spec")
    return controller


def parse_usb_device(spec: str) -> UsbDevice:
    """`type=hostdev hostbus= hostaddr= controller= port=` of a USB device."""
    device = UsbDevice()
    for token, key, value in _fields(spec):
        if key == "type":
            if value.lower() != HostUsbDevice.VARIANT:
                raise ConfigError(f"Invalid usb device type: {value}")
        elif key == "hostbus":
            device.type.hostbus = strtoul(value)[0] & 0xFF
        elif key == "hostaddr":
            device.type.hostaddr = strtoul(value)[0] & 0xFF
        elif key == "controller":
            device.ctrl = atoi(value)
        elif key == "port":
            device.port = atoi(value)
        else:
            raise ConfigError(f"Unknown string `{token}' in usbdev spec")
    return device


_VKB_SWITCHES = tuple(
    f"feature-{what}" for what in ("disable-keyboard", "disable-pointer", "abs-pointer", "raw-pointer", "multi-touch")
)
_VKB_NUMBERS = ("multi-touch-width", "multi-touch-height", "multi-touch-num-contacts", "width", "height")


def parse_vkb(spec: str, devid: int) -> Vkb:
    """A para-virtual keyboard and pointer; `backend-type=` is required."""
    vkb = Vkb(devid=devid)
    for token, key, value in _fields(spec):
        if key == "backend":
            vkb.backend_domname = value
        elif key == "backend-type":
            backend = from_libxl(VkbBackend, value)
            if backend is None:
                raise ConfigError(f'Unknown backend_type "{value}" in vkb spec')
            vkb.backend_type = backend
        elif key == "unique-id":
            vkb.unique_id = value
        elif key in _VKB_SWITCHES:
            setattr(vkb, key.replace("-", "_"), _truth(value))
        elif key in _VKB_NUMBERS:
            setattr(vkb, key.replace("-", "_"), _unsigned(value))
        else:
            raise ConfigError(f'Unknown string "{token}" in vkb spec')
    if vkb.backend_type is VkbBackend.UNKNOWN:
        raise ConfigError("backend-type should be set in vkb spec")
    if vkb.multi_touch_height or vkb.multi_touch_width or vkb.multi_touch_num_contacts:
        vkb.feature_multi_touch = True
    elif vkb.feature_multi_touch:
        raise ConfigError(
            "multi-touch-width, multi-touch-height, multi-touch-num-contacts should be set for multi touch in vkb spec"
        )
    return vkb


def parse_virtio(spec: str, devid: int) -> Virtio:
    """`type= transport= backend= grant_usage=`; a type that starts with `virtio` has a comma of its own."""
    virtio = Virtio(devid=devid)
    tokens = iter(strtok(spec, ","))
    for field in tokens:
        token = field.lstrip(" ")
        if token.startswith("type=virtio"):
            token = f"{token},{next(tokens, '')}"
        key, equals, value = token.partition("=")
        if key == "backend" and equals:
            virtio.backend_domname = value
        elif key == "type" and equals:
            virtio.type = value
        elif key == "transport" and equals:
            transport = from_libxl(VirtioTransport, value)
            if transport is None:
                raise ConfigError("")
            virtio.transport = transport
        elif key == "grant_usage" and equals:
            virtio.grant_usage = _truth(value)
        else:
            raise ConfigError(f'Unknown string "{token}" in virtio spec')
    return virtio


def parse_quota_item(text: str) -> QuotaItem:
    """`NAME=NUMBER` of a XenStore quota."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f'Quota specification "{text}" lacks "=".')
    number, taken = strtoul(value)
    if not taken or taken < len(value) or number != as_uint32(number):
        raise ConfigError(f'Quota specification "{text}" uses illegal value "{value}".')
    return QuotaItem(name=name, val=number)
