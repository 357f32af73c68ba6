"""What a parsed xl.cfg file holds: atoms, lists, and the assignments in the order they were written.

A number and a quoted string give the same kind of atom, and the text of a number is kept as it was written, as in
libxlu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Atom", "ListValue", "Operator", "Setting", "Value"]

Operator: TypeAlias = Literal["=", "+="]


@dataclass(slots=True, eq=False)
class Atom:
    """One single value. `text` is decoded as UTF-8 with surrogate escapes, so that any file name survives."""

    text: str
    line: int


@dataclass(slots=True, eq=False, repr=False)
class ListValue:
    """A list of atoms and lists, nested to any depth; `line` is the line of its first item (of `]` when empty)."""

    items: list[Value]
    line: int


Value: TypeAlias = Atom | ListValue


@dataclass(slots=True, eq=False)
class Setting:
    """One assignment: the line is that of its value's first token."""

    name: str
    operator: Operator
    line: int
    value: Value
