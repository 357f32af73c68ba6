"""How ABI registers and structures are declared.

A register is a class and a field is a line (``S2SZ = bits(7, 0)``); a structure is a class with its fields beside their
offsets (``ipa_width = u64(0x0)``). A value too wide for its field raises :class:`FieldError`.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, ClassVar, Self


class FieldError(ValueError):
    """Raised when a value does not fit the field it is given to; the text names field, value and width."""


class bits:
    """A bit field [msb:lsb] of a :class:`Register`, optionally with the enumeration of its values."""

    __slots__ = ("enum", "lsb", "mask", "msb", "name")

    def __init__(self, msb: int, lsb: int | None = None, enum: type[IntEnum] | None = None) -> None:
        self.msb = msb
        self.lsb = msb if lsb is None else lsb
        self.mask = (1 << (self.msb - self.lsb + 1)) - 1
        self.enum = enum
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Register | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return (int(instance) >> self.lsb) & self.mask

    def insert(self, value: int) -> int:
        """``value`` shifted into place; FieldError when it is too wide."""
        if not 0 <= value <= self.mask:
            raise FieldError(f"{self.name} = {value:#x} does not fit in bits [{self.msb}:{self.lsb}]")
        return value << self.lsb


class Register(int):
    """A 64-bit value with named bit fields; printing it prints its fields."""

    FIELDS: ClassVar[Mapping[str, bits]] = {}

    def __init_subclass__(cls) -> None:
        cls.FIELDS = {name: item for name, item in vars(cls).items() if isinstance(item, bits)}

    @classmethod
    def make(cls, **values: int) -> Self:
        """The register with the given fields, the others zero."""
        total = 0
        for name, value in values.items():
            total |= cls.FIELDS[name].insert(int(value))
        return cls(total)

    @classmethod
    def defined_mask(cls) -> int:
        """All bits that belong to a field."""
        mask = 0
        for item in cls.FIELDS.values():
            mask |= item.mask << item.lsb
        return mask

    def decode(self) -> dict[str, int]:
        """Field values by name, enumerations as members where the value is one."""
        out: dict[str, int] = {}
        for name, item in self.FIELDS.items():
            value = (int(self) >> item.lsb) & item.mask
            if item.enum is not None and value in item.enum._value2member_map_:
                value = item.enum(value)
            out[name] = value
        return out

    def __repr__(self) -> str:
        parts = []
        for name, value in self.decode().items():
            parts.append(f"{name}={value.name if isinstance(value, IntEnum) else hex(value)}")
        return f"{type(self).__name__}({int(self):#x}: {', '.join(parts)})"

    __str__ = __repr__


class field:
    """A little-endian integer (or array of them, or raw bytes for width 1 with a count) at a byte offset."""

    __slots__ = ("codec", "count", "name", "offset", "size", "width")

    def __init__(self, offset: int, width: int, count: int = 1, signed: bool = False, raw: bool = False) -> None:
        self.offset = offset
        self.width = width
        self.count = count
        self.size = width * count
        self.name = ""
        code = {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
        if signed:
            code = code.lower()
        self.codec = struct.Struct(f"{count}s" if raw else f"<{count if count > 1 else ''}{code}")

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def read(self, buf: bytes | bytearray | memoryview, base: int = 0) -> Any:
        """The value in a structure that starts at ``base``: int, tuple of ints, or bytes."""
        values = self.codec.unpack_from(buf, base + self.offset)
        return values[0] if len(values) == 1 else values

    def write(self, buf: bytearray | memoryview, value: Any, base: int = 0) -> None:
        """Store the value; FieldError when it does not fit."""
        try:
            if isinstance(value, Sequence) and not isinstance(value, bytes):
                self.codec.pack_into(buf, base + self.offset, *value)
            else:
                self.codec.pack_into(buf, base + self.offset, value)
        except struct.error as error:
            raise FieldError(f"{self.name} = {value!r} does not fit in {self.width * 8} bits: {error}") from None


def u8(offset: int) -> field:
    """An unsigned byte."""
    return field(offset, 1)


def u16(offset: int) -> field:
    """An unsigned 16-bit integer."""
    return field(offset, 2)


def u32(offset: int) -> field:
    """An unsigned 32-bit integer."""
    return field(offset, 4)


def u64(offset: int, count: int = 1) -> field:
    """An unsigned 64-bit integer, or an array of ``count`` of them."""
    return field(offset, 8, count)


def i64(offset: int) -> field:
    """A signed 64-bit integer."""
    return field(offset, 8, signed=True)


def raw(offset: int, size: int) -> field:
    """``size`` opaque bytes."""
    return field(offset, 1, size, raw=True)


class Structure:
    """A structure in memory: SIZE bytes, fields at their offsets, everything else zero (SBZ).

    ``parse`` reads one from a buffer, ``encode`` gives its bytes; single fields of a live page are read and written
    through the class attribute (``RecRun.exit_reason.read(page)``).
    """

    SIZE: ClassVar[int] = 0
    FIELDS: ClassVar[Mapping[str, field]] = {}

    def __init_subclass__(cls) -> None:
        declared = {name: item for name, item in vars(cls).items() if isinstance(item, field)}
        cls.FIELDS = declared
        ends = sorted((item.offset, item.offset + item.size, name) for name, item in declared.items())
        for (_, end, name), (start, _, other) in itertools.pairwise(ends):
            if end > start:
                raise TypeError(f"{cls.__name__}: {name} and {other} overlap")
        if ends and ends[-1][1] > cls.SIZE:
            raise TypeError(f"{cls.__name__}: {ends[-1][2]} ends beyond SIZE")

    @classmethod
    def parse(cls, buf: bytes | bytearray | memoryview, base: int = 0) -> dict[str, Any]:
        """All fields by name."""
        return {name: item.read(buf, base) for name, item in cls.FIELDS.items()}

    @classmethod
    def encode(cls, **values: Any) -> bytes:
        """SIZE bytes with the given fields, the rest zero; KeyError for an unknown field."""
        page = bytearray(cls.SIZE)
        for name, value in values.items():
            cls.FIELDS[name].write(page, value)
        return bytes(page)
