"""A DomainConfig as libxl prints it: the object of `xl create -N` and of `xl list -l`.

A field is printed when it differs from libxl's initial value; structs are printed always, even empty; device arrays
only with something in them. The text form is json-c's "pretty" one, byte for byte."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from xlconfig.domain_config import DomainConfig
from xlconfig.nic_spec import COLO_FIELDS

__all__ = ["format_json", "to_libxl_json"]

OURS = frozenset({"seed", "kaslr_seed"})

Json = dict[str, Any]


def to_libxl_json(config: DomainConfig) -> Json:
    """The object that libxl prints for `config`, keys in libxl's order. What only we know (`seed`) is left out."""
    return _object(config)


@cache
def _fields(struct: type[Struct]) -> list[tuple[str, Any]]:
    """Name and initial value of each field."""
    fields: list[tuple[str, Any]] = []
    for field in msgspec.structs.fields(struct):
        initial = field.default
        if initial is msgspec.NODEFAULT:
            initial = None if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        fields.append((field.name, initial))
    return fields


def _object(struct: Struct) -> Json:
    result: Json = {}
    for name, initial in _fields(type(struct)):
        value = getattr(struct, name)
        if name in OURS:
            continue
        if isinstance(value, Struct):
            variant = getattr(value, "VARIANT", None)
            result[name if variant is None else f"{name}.{variant}"] = _object(value)
        elif isinstance(value, dict):
            result.update((key, value[key]) for key in COLO_FIELDS if key in value)
        elif value == initial:
            continue
        elif isinstance(value, bool):
            result[name] = str(value) if initial is None else value
        elif isinstance(value, list):
            result[name] = [_object(item) if isinstance(item, Struct) else item for item in value]
        else:
            result[name] = value
    return result


def format_json(value: object, level: int = 0) -> str:
    """Render as json-c does with its pretty flag: two blanks a level, `/` escaped, empty objects on two lines."""
    inner, outer = "  " * (level + 1), "  " * level
    if isinstance(value, dict):
        members = [f"{inner}{_string(key)}:{format_json(item, level + 1)}" for key, item in value.items()]
        return _enclose("{", members, outer + "}")
    if isinstance(value, list):
        return _enclose("[", [inner + format_json(item, level + 1) for item in value], outer + "]")
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return _string(str(value))


def _enclose(opening: str, members: list[str], closing: str) -> str:
    body = ",\n".join(members)
    return f"{opening}\n{body}\n{closing}" if members else f"{opening}\n{closing}"


_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in map(chr, range(0x20))} | {
    ord("\b"): "\\b", ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", ord("\f"): "\\f",
    ord('"'): '\\"', ord("\\"): "\\\\", ord("/"): "\\/",
}  # fmt: skip


def _string(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'
