"""The network interface language of `vif`: `key=value` fields.

An unknown field or a bad MAC address is mentioned and does not stop creation; a bad rate does.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from xlconfig.c_text import UINT32_MAX, ULONG_MAX, as_int32, strtok, strtoul
from xlconfig.devices import Nic
from xlconfig.domain_config import ConfigError
from xlconfig.enumerations import NicType

__all__ = ["COLO_FIELDS", "parse_nic", "parse_ulong"]

TEXTS = {
    "bridge": "bridge",
    "gatewaydev": "gatewaydev",
    "ip": "ip",
    "script": "script",
    "backend": "backend_domname",
    "vifname": "ifname",
    "model": "model",
    "forwarddev": "coloft_forwarddev",
    "vlan": "vlan",
}

TYPES = {"vif": NicType.VIF, "ioemu": NicType.VIF_IOEMU}

COLO_FIELDS = (
    *(f"colo_sock_mirror_{part}" for part in ("id", "ip", "port")),
    *(f"colo_sock_compare_{end}_{part}" for end in ("pri_in", "sec_in", "notify") for part in ("id", "ip", "port")),
    *(f"colo_sock_redirector{number}_{part}" for number in (0, 1, 2) for part in ("id", "ip", "port")),
    "colo_filter_mirror_queue",
    "colo_filter_mirror_outdev",
    *(f"colo_filter_redirector{number}_{part}" for number in (0, 1) for part in ("queue", "indev", "outdev")),
    "colo_compare_pri_in",
    "colo_compare_sec_in",
    "colo_compare_out",
    "colo_compare_notify_dev",
    *(f"colo_sock_sec_redirector{number}_{part}" for number in (0, 1) for part in ("id", "ip", "port")),
    *(f"colo_filter_sec_redirector{number}_{part}" for number in (0, 1) for part in ("queue", "indev", "outdev")),
    "colo_filter_sec_rewriter0_queue",
    "colo_checkpoint_host",
    "colo_checkpoint_port",
)

Say = Callable[[str], None]


def parse_ulong(text: str) -> int:
    """A decimal number with anything behind it. Raises ConfigError (status 1) without one."""
    number, taken = strtoul(text, 10)
    if not taken or number == ULONG_MAX:
        raise ConfigError(f'xl: failed to convert "{text}" to number')
    return number


def parse_nic(spec: str, source: str, devid: int, say: Say) -> Nic:
    """Parse one vif specification; remarks go to `say`. Raises ConfigError (status 1) for a bad rate or number."""
    nic = Nic(devid=devid)
    for field in strtok(spec, ","):
        token = field.lstrip(" ")
        key, equals, value = token.partition("=")
        if not equals:
            key = ""
        if key in TEXTS:
            setattr(nic, TEXTS[key], value)
        elif key in COLO_FIELDS:
            nic.colo[key] = value
        elif key == "type":
            if value in TYPES:
                nic.nictype = TYPES[value]
            else:
                say("Invalid parameter `type'.")
        elif key == "mac":
            _mac(nic, value, say)
        elif key == "netdev":
            say("the netdev parameter is deprecated, please use gatewaydev instead")
            nic.gatewaydev = value
        elif key == "rate":
            _rate(nic, value, source)
        elif key == "accel":
            say("the accel parameter for vifs is currently not supported")
        elif key == "devid":
            nic.devid = as_int32(parse_ulong(value))
        elif key == "mtu":
            nic.mtu = as_int32(parse_ulong(value))
        elif token in ("trusted", "untrusted"):
            nic.trusted = token == "trusted"
        else:
            say(f"unrecognized argument `{token}'")
    return nic


def _mac(nic: Nic, text: str, say: Say) -> None:
    """Six hexadecimal bytes with any one character between them; bytes before a bad one are kept."""
    octets = nic.mac.split(":")
    at = 0
    for index in range(6):
        octet, taken = strtoul(text[at:], 16)
        if not taken or octet > 255:
            say("Invalid parameter `mac'.")
            break
        octets[index] = f"{octet:02x}"
        at += taken + 1
    nic.mac = ":".join(octets)


def _rate(nic: Nic, text: str, source: str) -> None:
    """`NUMBER[GMK](B|b)/s[@NUMBER[m|u]s]`: bytes (or bits) per second, replenished each interval (50 ms)."""

    def refuse(message: str, near: str) -> ConfigError:
        return ConfigError(f"{source}: config parsing error in vif: {message} in `{near}'")

    rate, at, interval = text.partition("@")
    if not rate:
        raise refuse("no rate specified", text)
    if not re.fullmatch(r"[0-9]+[GMK]?[Bb]/s", rate):
        raise refuse("invalid rate", rate)
    number, taken = strtoul(rate)
    if not 0 < number <= UINT32_MAX:
        raise refuse("rate overflow", rate)
    unit = rate[taken : taken + 2]
    per_second = number * {"G": 10**9, "M": 10**6, "K": 10**3}.get(unit[:1], 1)
    if "b" in unit:
        per_second //= 8
    usecs = 50_000
    if at:
        if not re.fullmatch(r"[0-9]+[mu]?s?", interval):
            raise refuse("invalid replenishment interval", interval)
        usecs, taken = strtoul(interval)
        if not 0 < usecs <= UINT32_MAX:
            raise refuse("replenishment interval overflow", interval)
        usecs *= {"": 10**6, "s": 10**6, "m": 10**3}.get(interval[taken : taken + 1], 1)
        if usecs > UINT32_MAX:
            raise refuse("replenishment interval overflow", interval)
    if per_second > ULONG_MAX // usecs:
        raise refuse("rate overflow", text)
    nic.rate_interval_usecs = usecs
    nic.rate_bytes_per_interval = per_second * usecs // 10**6
