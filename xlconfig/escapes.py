"""Backslash escapes of quoted strings, as libxlu treats them.

Two of its treatments are surprising and kept: `\\x` is always an error, and an octal escape that is accepted adds
nothing."""

from __future__ import annotations

import re

__all__ = ["EscapeError", "unescape"]

_SIMPLE = {
    '"': '"', "'": "'", "\\": "\\",
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
}  # fmt: skip

# strtoul with base 10: blanks, a sign, digits.
_DECIMAL = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+")


class EscapeError(Exception):
    """Raised for an escape that libxlu refuses; the message is its text."""


def unescape(body: str) -> str:
    """Resolve the escapes of `body`, the text between the quotes. Raises EscapeError."""
    if "\\" not in body:
        return body
    parts: list[str] = []
    at = 0
    while True:
        backslash = body.find("\\", at)
        if backslash < 0:
            parts.append(body[at:])
            return "".join(parts)
        parts.append(body[at:backslash])
        kind = body[backslash + 1]
        at = backslash + 2
        if kind in _SIMPLE:
            parts.append(_SIMPLE[kind])
        elif kind == "x":
            raise EscapeError("invalid digit after backslash hexnumerical character escape in quoted string")
        elif "0" <= kind <= "7":
            at = _skip_octal(body, at)
        else:
            raise EscapeError("invalid character after backlash in quoted string")


def _skip_octal(body: str, at: int) -> int:
    """Return where reading goes on after an octal escape whose first digit stands before `at`.

    libxlu reads the three characters that follow the first digit with strtoul, base 10, and wants two of them taken.
    """
    taken = _DECIMAL.match(body[at : at + 3])
    if taken is None or taken.end() < 2:
        raise EscapeError("invalid digit after backslash octalnumerical character escape in quoted string")
    return at + taken.end()
