"""The disk language: `target, format, vdev, access` by position, then `key=value`, and the old prefixes.

It is a scanner and nothing more. At each place the rule that matches the most text wins, the earlier one of two
equals; some rules look at the text behind them, and that text counts. Messages are those of libxlu."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from xlconfig.c_text import atoi
from xlconfig.devices import Disk
from xlconfig.domain_config import ConfigError
from xlconfig.enumerations import DiskBackend, DiskFormat, DiskSpecification

__all__ = ["parse_disk"]

E = TypeVar("E", bound=StrEnum)

FLAGS: dict[str, tuple[str, object]] = {
    "cdrom": ("is_cdrom", 1),
    "devtype=cdrom": ("is_cdrom", 1),
    "devtype=disk": ("is_cdrom", 0),
    "direct-io-safe": ("direct_io_safe", True),
    "discard": ("discard_enable", True),
    "no-discard": ("discard_enable", False),
    "colo": ("colo_enable", True),
    "no-colo": ("colo_enable", False),
    "trusted": ("trusted", True),
    "untrusted": ("trusted", False),
    "grant_usage=1": ("grant_usage", True),
    "grant_usage=0": ("grant_usage", False),
}

TEXTS = {
    "backend": "backend_domname",
    "vdev": "vdev",
    "script": "script",
    "colo-host": "colo_host",
    "colo-export": "colo_export",
    "active-disk": "active_disk",
    "hidden-disk": "hidden_disk",
}

FORMATS = {"": DiskFormat.RAW} | {form.value: form for form in DiskFormat if form is not DiskFormat.UNKNOWN}
BACKENDS = {backend.value: backend for backend in DiskBackend if backend is not DiskBackend.UNKNOWN}
SPECIFICATIONS = {kind.value: kind for kind in DiskSpecification if kind is not DiskSpecification.UNKNOWN}
ACCESS = {"r": 0, "ro": 0, "rw": 1, "w": 1, "": 1}

STOP = True


def parse_disk(spec: str, source: str) -> Disk:
    """Parse one disk specification. Raises ConfigError (status 1) with a line for each error."""
    scanner = _Scanner(spec, source)
    scanner.disk.readwrite = 1
    scanner.run()
    if not scanner.errors:
        scanner.finish()
    if scanner.errors:
        raise ConfigError("\n".join(scanner.errors))
    return scanner.disk


class _Scanner:
    def __init__(self, spec: str, source: str) -> None:
        self.spec = spec
        self.source = source
        self.disk = Disk()
        self.errors: list[str] = []
        self.had_old_prefix = False
        self.access_given = False

    def error(self, near: str | None, message: str) -> None:
        where = "" if near is None else f": near `{near}'"
        self.errors.append(
            f"{self.source}: config parsing error in disk specification: {message}{where} in `{self.spec}'"
        )

    def run(self) -> None:
        """Scan the whole specification, or up to an error behind which nothing makes sense."""
        at = 0
        while at < len(self.spec):
            best: tuple[int, re.Match[str], Callable[[_Scanner, str], bool | None]] | None = None
            for pattern, act in RULES:
                found = pattern.match(self.spec, at)
                if found is not None and found.end() > at and (best is None or found.end() > best[0]):
                    best = (found.end(), found, act)
            if best is None:
                if at + 1 == len(self.spec):
                    return  # the scanner meets the end before it can complain
                self.error(self.spec[at:].partition("\n")[0], "bad disk syntax")
                return
            _, found, act = best
            at = found.end("text")
            if act(self, found["text"]) is STOP:
                return

    def finish(self) -> None:
        """Fill in what was not said, and check that enough was."""
        disk = self.disk
        if disk.format is DiskFormat.UNKNOWN:
            disk.format = DiskFormat.RAW
        if disk.is_cdrom:
            disk.removable, disk.readwrite = 1, 0
            if not disk.pdev_path:
                disk.format = DiskFormat.EMPTY
        if disk.vdev is None:
            self.error(None, "no vdev specified")
        elif disk.pdev_path is None and not disk.removable:
            self.error(None, "no target specified (and device not removable)")

    def save(self, what: str, attribute: str, value: str) -> None:
        if getattr(self.disk, attribute):
            self.error(value, f"{what} respecified")
        else:
            setattr(self.disk, attribute, value)

    def choose(self, what: str, choices: dict[str, E], text: str) -> None:
        chosen = choices.get(text)
        if chosen is None:
            attribute = "backendtype" if what == "backend" else what
            self.error(text, f"unknown value for {attribute}")
        elif getattr(self.disk, what) not in ("unknown", chosen):
            self.error(text, f"{what} respecified")
        else:
            setattr(self.disk, what, chosen)

    def set_access(self, text: str) -> None:
        if text in ACCESS:
            self.disk.readwrite = ACCESS[text]
        else:
            self.error(text, "unknown value for access")

    def vdev_and_type(self, text: str) -> bool:
        """Take `VDEV:TYPE`; False when there is no type."""
        vdev, colon, kind = text.rpartition(":")
        if not colon:
            return False
        self.save("vdev", "vdev", vdev)
        if kind in ("cdrom", "disk"):
            self.disk.is_cdrom = int(kind == "cdrom")
        else:
            self.error(kind, "unknown deprecated type")
        return True

    def positional(self, text: str) -> bool | None:
        disk, text = self.disk, text.removesuffix(",")
        if self.errors:
            return None
        if disk.pdev_path is None:
            self.save("target", "pdev_path", text)
        elif not self.had_old_prefix and disk.format is DiskFormat.UNKNOWN:
            if not disk.pdev_path and self.vdev_and_type(text):
                disk.format = DiskFormat.EMPTY
            else:
                self.choose("format", FORMATS, text)
        elif disk.vdev is None:
            if not self.vdev_and_type(text):
                self.save("vdev", "vdev", text)
        elif not self.access_given:
            self.access_given = True
            self.set_access(text)
        else:
            self.error(text, "too many positional parameters")
            return STOP
        return None


Act = Callable[[_Scanner, str], "bool | None"]


def _value(text: str) -> str:
    """What stands behind the first `=`, without the comma that ends it."""
    return text.removesuffix(",").partition("=")[2]


def _flag(attribute: str, value: object) -> Act:
    return lambda scanner, _: setattr(scanner.disk, attribute, value)


def _text(key: str, attribute: str) -> Act:
    return lambda scanner, text: scanner.save(key, attribute, _value(text))


def _colo_port(scanner: _Scanner, text: str) -> None:
    port = atoi(_value(text))
    if port:
        scanner.disk.colo_port = port
    else:
        scanner.error(_value(text), "unknown value for colo_port")


def _old_format(scanner: _Scanner, text: str) -> None:
    scanner.had_old_prefix = True
    scanner.choose("format", FORMATS, text.removesuffix(":"))


def _old_script(scanner: _Scanner, text: str) -> None:
    scanner.had_old_prefix = True
    scanner.save("script", "script", "block-" + text.removesuffix(":"))


def _old_prefix(scanner: _Scanner, _: str) -> None:
    scanner.had_old_prefix = True


def _unknown_prefix(scanner: _Scanner, text: str) -> bool:
    scanner.error(text, "unknown deprecated disk prefix")
    return STOP


def _rule(text: str, act: Act, behind: str = "") -> tuple[re.Pattern[str], Act]:
    return re.compile(f"(?P<text>{text}){behind}"), act


RULES: list[tuple[re.Pattern[str], Act]] = [
    _rule(r"[ \t\n]+", lambda scanner, _: None, behind=r"(?:[^ \t\n].*)?"),
    _rule(r"format=[^,]*,?", lambda scanner, text: scanner.choose("format", FORMATS, _value(text))),
    *(_rule(f"{re.escape(key)},?", _flag(*setting)) for key, setting in FLAGS.items()),
    _rule(r"devtype=[^,]*,?", lambda scanner, text: scanner.error(text, "unknown value for type")),
    _rule(r"access=[^,]*,?", lambda scanner, text: scanner.set_access(_value(text))),
    _rule(r"backendtype=[^,]*,?", lambda scanner, text: scanner.choose("backend", BACKENDS, _value(text))),
    _rule(
        r"specification=[^,]*,?",
        lambda scanner, text: scanner.choose("specification", SPECIFICATIONS, _value(text)),
    ),
    *(_rule(f"{key}=[^,]*,?", _text(key, attribute)) for key, attribute in TEXTS.items()),
    _rule(r"colo-port=[^,]*,?", _colo_port),
    _rule(r"target=.*", _text("target", "pdev_path")),
    _rule(r"[a-z][-a-z0-9]*=[^,],?", lambda scanner, text: scanner.error(text, "unknown parameter")),
    _rule(r"(?:raw|qcow2?|vhd):", _old_format, behind=".*"),
    _rule(r"(?:iscsi|e?nbd|drbd):", _old_script, behind=".*"),
    _rule(r"(?:tapdisk|tap2?|aio|ioemu|file|phy):", _old_prefix, behind=".*"),
    _rule(r"[a-z][a-z0-9]*:", _unknown_prefix, behind=r"(?:[^a-z0-9].*)?"),
    _rule(r"[^=,]*,|[^=,]+,?", _Scanner.positional),
]
