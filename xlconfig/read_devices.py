"""The keys of a configuration that ask for devices, in xl's order.

Each list is read up to its first item that is not a text, as in xl. Messages go to `settings.messages`; every
function raises ConfigError with xl's message and exit status."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import copy
from typing import TypeVar

from xlconfig.c_text import UINT32_MAX, as_uint32, as_uint64, strtoul
from xlconfig.device_specs import (
    parse_channel,
    parse_p9,
    parse_pvcalls,
    parse_usb_controller,
    parse_usb_device,
    parse_vdispl,
    parse_vfb,
    parse_virtio,
    parse_vkb,
    parse_vtpm,
)
from xlconfig.devices import DtDev, Pci, Vkb
from xlconfig.disk_spec import parse_disk
from xlconfig.domain_config import ConfigError, DomainConfig, HvmGuest, IoMem, IoPorts, PvGuest
from xlconfig.enumerations import Passthrough, RdmPolicy, from_libxl
from xlconfig.nic_spec import parse_nic
from xlconfig.pci_spec import parse_pci
from xlconfig.settings import Settings, leading_atoms
from xlconfig.sound_spec import parse_sound_card
from xlconfig.values import Atom

__all__ = ["all_texts", "read_devices", "read_late_devices", "read_passthrough_devices", "read_passthrough_resources"]

D = TypeVar("D")


def read_passthrough_devices(settings: Settings, config: DomainConfig) -> None:
    """`pci`, `dtdev` and `passthrough`."""
    if isinstance(config.b_info.type, PvGuest):
        config.b_info.type.e820_host = settings.defbool("e820_host")
    defaults = Pci()
    for name in ("msitranslate", "power_mgmt", "permissive", "seize"):
        setattr(defaults, name, bool(settings.long(f"pci_{name}")))
    if not isinstance(config.b_info.type, HvmGuest):
        defaults.rdm_policy = RdmPolicy.STRICT  # what an all-zero HVM part of the union says
    settings.string("rdm")
    for text in settings.strings("pci"):
        pci = copy(defaults)
        parse_pci(text, pci)
        config.pcidevs.append(pci)
    if config.pcidevs and isinstance(config.b_info.type, PvGuest):
        config.b_info.type.e820_host = True
    config.dtdevs = [DtDev(path=text) for text in settings.strings("dtdev")]
    mode = settings.string("passthrough")
    if mode is not None:
        parsed = from_libxl(Passthrough, mode)
        if parsed is None:
            raise ConfigError(f"ERROR: unknown passthrough option '{mode}'")
        config.c_info.passthrough = parsed


def read_passthrough_resources(settings: Settings, config: DomainConfig) -> None:
    """`ioports`, `irqs` and `iomem`."""
    build = config.b_info
    for text in all_texts(settings, "ioports", "xl: Unable to get element #{index} in ioport list"):
        build.ioports.append(_ioports(settings, text))
    for text in all_texts(settings, "irqs", "xl: Unable to get element {index} in irq list"):
        build.irqs.append(_irq(text))
    for text in all_texts(settings, "iomem", "xl: Unable to get element {index} in iomem list"):
        build.iomem.append(_iomem(text))


def read_devices(settings: Settings, config: DomainConfig) -> None:
    """The devices from `disk` to `usbdev`."""
    name = config.c_info.name or ""
    config.disks = _each(settings, "disk", lambda text, _: parse_disk(text, settings.source))
    config.p9s = _each(settings, "p9", lambda text, _: parse_p9(text, name))
    config.vtpms = _each(settings, "vtpm", parse_vtpm)
    config.vdispls = _each(settings, "vdispl", parse_vdispl)
    config.pvcallsifs = _each(settings, "pvcalls", parse_pvcalls)
    for index, card in enumerate(settings.get_list("vsnd").value or []):
        items = settings.item_list(card).value
        if items is None:
            raise ConfigError("Failed to get vsnd card list: Invalid argument")
        config.vsnds.append(parse_sound_card(leading_atoms(items), index))
    config.channels = _each(settings, "channel", lambda text, _: parse_channel(text, settings.say))
    config.nics = _each(settings, "vif", lambda text, index: parse_nic(text, settings.source, index, settings.say))
    if settings.get_list("vif2").value is not None:
        settings.say("WARNING: vif2: netchannel2 is deprecated and not supported by xl")
    config.vfbs = _each(settings, "vfb", parse_vfb)
    config.vkbs = [Vkb(devid=vfb.devid) for vfb in config.vfbs]
    config.usbctrls = _each(settings, "usbctrl", parse_usb_controller)
    config.usbdevs = _each(settings, "usbdev", lambda text, _: parse_usb_device(text))


def read_late_devices(settings: Settings, config: DomainConfig) -> None:
    """`vkb` and `virtio`, which xl reads behind the keys of the architecture."""
    already = len(config.vkbs)
    config.vkbs += _each(settings, "vkb", lambda text, index: parse_vkb(text, already + index))
    config.virtios = _each(settings, "virtio", parse_virtio)


def _each(settings: Settings, name: str, parse: Callable[[str, int], D]) -> list[D]:
    """Parse the atoms of a list with their index, up to the first that is no atom."""
    return [parse(text, index) for index, text in enumerate(settings.strings(name))]


def all_texts(settings: Settings, name: str, missing: str) -> Iterator[str]:
    """The texts of a list in which every item must be an atom; `missing` is the message with `{index}`."""
    for index, item in enumerate(settings.get_list(name).value or []):
        if not isinstance(item, Atom):
            raise ConfigError(missing.format(index=index))
        yield item.text


def _ioports(settings: Settings, text: str) -> IoPorts:
    refused = f"xl: Invalid argument parsing ioport: {text}"
    first, taken = strtoul(text, 16)
    if not taken:
        raise ConfigError(refused)
    if first >= UINT32_MAX:
        raise ConfigError(f"xl: ioport {first:x} too big")
    last, rest = first, text[taken:]
    if rest.startswith("-"):
        last, taken = strtoul(rest[1:], 16)
        if not taken or taken < len(rest) - 1:
            raise ConfigError(refused)
        if last >= UINT32_MAX:
            raise ConfigError(f"xl: ioport {last:x} too big")
    elif rest:
        settings.say(refused)  # and goes on, as xl does
    return IoPorts(first=first, number=as_uint32(last - first + 1))


def _irq(text: str) -> int:
    number, taken = strtoul(text, 10)
    if not taken or taken < len(text):
        raise ConfigError(f"xl: Invalid argument parsing irq: {text}")
    if number >= UINT32_MAX:
        raise ConfigError(f"xl: irq {number:x} too big")
    return number


_IOMEM_HEX = r"[ \t\n\v\f\r]*([+-]?(?:0[xX])?[0-9a-fA-F]+)"
_IOMEM = re.compile(f"{_IOMEM_HEX},{_IOMEM_HEX}(?:@{_IOMEM_HEX})?")


def _iomem(text: str) -> IoMem:
    """`START,NUM[@GFN]`, hexadecimal page numbers."""
    found = _IOMEM.fullmatch(text)
    if found is None:
        raise ConfigError(f"xl: Invalid argument parsing iomem: {text}")
    start, number, gfn = (None if part is None else as_uint64(int(part, 16)) for part in found.groups())
    iomem = IoMem(start=start or 0, number=number or 0)
    if gfn is not None:
        iomem.gfn = gfn
    return iomem
