"""Numbers and fields in text, read as the C library reads them.

The values of an xl.cfg file reach strtol, strtoul, strtok and atoi, and users see the consequences: leading blanks and
signs count, trailing text may or may not, empty fields vanish.
"""

from __future__ import annotations

import re

__all__ = [
    "LONG_MAX",
    "LONG_MIN",
    "UINT32_MAX",
    "ULONG_MAX",
    "as_int32",
    "as_uint32",
    "as_uint64",
    "atoi",
    "split_pair",
    "strtok",
    "strtol",
    "strtoul",
]

LONG_MAX = 2**63 - 1
LONG_MIN = -(2**63)
ULONG_MAX = 2**64 - 1
UINT32_MAX = 2**32 - 1

SPACE = " \t\n\v\f\r"

_INTEGER = {
    0: re.compile(r"[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))"),
    10: re.compile(r"[ \t\n\v\f\r]*([+-]?)()()([0-9]+)"),
    16: re.compile(r"[ \t\n\v\f\r]*([+-]?)(?:0[xX](?=[0-9a-fA-F]))?([0-9a-fA-F]+)()()"),
}


def strtol(text: str, base: int = 0) -> tuple[int, int]:
    """Return the number at the start of `text` (unbounded), and how many characters it took; nothing taken: no number.

    `base` is 0 (0x is hexadecimal, a leading 0 octal), 10 or 16.
    """
    found = _INTEGER[base].match(text)
    if found is None:
        return 0, 0
    sign, hexadecimal, octal, decimal = found.groups()
    magnitude = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    return (-magnitude if sign == "-" else magnitude), found.end()


def strtoul(text: str, base: int = 0) -> tuple[int, int]:
    """Like strtol, as an unsigned long: too large gives ULONG_MAX, negative numbers wrap."""
    number, taken = strtol(text, base)
    if abs(number) > ULONG_MAX:
        return ULONG_MAX, taken
    return number & ULONG_MAX, taken


def atoi(text: str) -> int:
    """The decimal number at the start of `text`, 0 without one, as a C int."""
    number, _ = strtol(text, 10)
    return as_int32(max(LONG_MIN, min(LONG_MAX, number)))


def as_int32(number: int) -> int:
    """The value that a C int keeps of `number`."""
    return (number + 2**31) % 2**32 - 2**31


def as_uint32(number: int) -> int:
    """The value that a uint32_t keeps of `number`."""
    return number & UINT32_MAX


def as_uint64(number: int) -> int:
    """The value that a uint64_t keeps of `number`."""
    return number & ULONG_MAX


def strtok(text: str, delimiters: str) -> list[str]:
    """The fields of `text` between any run of `delimiters`; there are no empty ones."""
    return [field for field in re.split(f"[{re.escape(delimiters)}]+", text) if field]


def split_pair(text: str, delimiter: str, trim: str = SPACE) -> tuple[str, str] | None:
    """Split at the first `delimiter` and trim both halves; None without one, or with nothing behind it."""
    key, found, value = text.partition(delimiter)
    if not found or not value:
        return None
    return key.strip(trim), value.strip(trim)
