"""The PCI device language of `pci`: `[DDDD:]BB:DD.F[@VSLOT]`, then `key=value` fields."""

from __future__ import annotations

import re

from xlconfig.c_text import atoi
from xlconfig.devices import Pci
from xlconfig.domain_config import ConfigError
from xlconfig.enumerations import RdmPolicy, from_libxl

__all__ = ["parse_pci"]

ERROR_INVAL_STATUS = 6
ALL_FUNCTIONS = 0xFFFFFFFF

_HEX = r"[ \t\n\v\f\r]*(?:0[xX])?([0-9a-fA-F]+)"
_SHORT = re.compile(f"{_HEX}:{_HEX}\\.")
_LONG = re.compile(f"{_HEX}:{_HEX}:{_HEX}\\.")
_NUMBER = re.compile(_HEX)

SWITCHES = ("permissive", "msitranslate", "seize", "power_mgmt")


class _Refused(Exception):
    """Raised for a specification that libxlu refuses; the message may be empty."""


def parse_pci(spec: str, pci: Pci) -> None:
    """Parse one specification into `pci`, which holds the defaults. Raises ConfigError (status 6)."""
    try:
        _parse(spec, pci)
    except _Refused as refused:
        raise ConfigError(
            f"{refused}unable to parse PCI_SPEC_STRING `{spec}' for passthrough", ERROR_INVAL_STATUS
        ) from None


def _parse(spec: str, pci: Pci) -> None:
    has_address = has_name = False
    at = _address(spec, pci)
    if at is None:
        at = 0
    else:
        has_address = True
        if spec[at : at + 1] == "@":
            at = _slot(spec, at + 1, pci)
        if spec[at : at + 1] == ",":
            at += 1
        elif at < len(spec):
            raise _Refused
    while at < len(spec):
        key, equals, behind = spec[at:].partition("=")
        if not equals:
            raise _Refused
        value, _, _ = behind.partition(",")
        at += len(key) + 1 + len(value) + 1
        if key == "bdf":
            if _address(value, pci) is None:
                raise _Refused
            has_address = True
        elif key == "vslot":
            _slot(value, 0, pci)
        elif key in SWITCHES:
            setattr(pci, key, atoi(value) != 0)
        elif key == "rdm_policy":
            policy = from_libxl(RdmPolicy, value)
            if policy is None:
                raise _Refused(f"Unknown RDM policy: {value}")
            pci.rdm_policy = policy
        elif key == "name":
            has_name, pci.name = True, value
        else:
            raise _Refused(f"Unknown PCI_SPEC_STRING option: {key}")
    if has_address == has_name:
        raise _Refused


def _address(text: str, pci: Pci) -> int | None:
    """Read domain, bus, device and function; return where they end, or None."""
    colons = re.match(r"[0-9a-fA-F:]*", text)
    assert colons is not None
    found = {1: _SHORT, 2: _LONG}.get(colons[0].count(":"), re.compile(r"(?!)")).match(text)
    if found is None:
        return None
    *domain, bus, device = (int(number, 16) for number in found.groups())
    if (domain and domain[0] > 0xFFFF) or bus > 0xFF or device > 0x1F:
        return None
    at = found.end()
    if text[at : at + 1] == "*":
        pci.vfunc_mask, function = ALL_FUNCTIONS, 0
        at += 1
    else:
        number = _NUMBER.match(text, at)
        if number is None or int(number[1], 16) > 7:
            return None
        function, pci.vfunc_mask = int(number[1], 16), 1
        at = number.end()
    pci.domain, pci.bus, pci.dev, pci.func = (domain[0] if domain else 0), bus, device, function
    return at


def _slot(text: str, at: int, pci: Pci) -> int:
    found = _NUMBER.match(text, at)
    if found is None or int(found[1], 16) > 0x1F:
        raise _Refused
    pci.vdevfn = int(found[1], 16) << 3
    return found.end()
