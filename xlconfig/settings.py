"""Reading a parsed configuration: typed accessors with libxlu's warnings.

The last assignment of a name is the one that counts. Every accessor answers with a Reading: errno and value. Like xl,
most callers look only at whether there is a value, so a value of the wrong kind is warned about and then counts as
absent.

Messages are collected in `Settings.messages`, each with its newline, in the order in which xl would print them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from xlconfig.c_text import LONG_MAX, LONG_MIN, as_uint64, strtol
from xlconfig.values import Atom, ListValue, Setting, Value

__all__ = ["Reading", "Settings", "leading_atoms"]

T = TypeVar("T")


class Reading(NamedTuple, Generic[T]):
    """What an accessor found: `error` is 0, ESRCH (no such name), EINVAL or ERANGE; `value` is None unless it is 0."""

    error: int
    value: T | None


class Settings:
    """The assignments of one configuration."""

    def __init__(self, source: str, stored: Sequence[Setting]) -> None:
        self.source = source
        self.stored = stored
        self.messages: list[str] = []
        self._newest = {setting.name: setting for setting in stored}

    def __contains__(self, name: object) -> bool:
        return name in self._newest

    def say(self, line: str) -> None:
        """Add a message of one line to what the user will see."""
        self.messages.append(line + "\n")

    def names(self) -> list[str]:
        """Every name assigned, in the order of their first assignment."""
        return list(self._newest)

    def setting(self, name: str) -> Setting | None:
        """The assignment of `name` that counts."""
        return self._newest.get(name)

    def get_string(self, name: str, *, warn: bool = True) -> Reading[str]:
        """The text of an atom."""
        setting = self._newest.get(name)
        if setting is None:
            return Reading(errno.ESRCH, None)
        if isinstance(setting.value, Atom):
            return Reading(0, setting.value.text)
        if warn:
            self._warn(setting, f"parameter `{name}' is a list but should be a single value")
        return Reading(errno.EINVAL, None)

    def get_long(
        self, name: str, *, warn: bool = True, minimum: int = LONG_MIN, maximum: int = LONG_MAX
    ) -> Reading[int]:
        """A number within minimum..maximum, read like strtol with base 0."""
        error, text = self.get_string(name, warn=warn)
        if text is None:
            return Reading(error, None)
        setting = self._newest[name]
        error, number, complaint = errno.EINVAL, None, ""
        if setting.operator == "+=":
            complaint = f"can't use += with numbers for parameter `{name}'"
        else:
            value, taken = strtol(text)
            if not LONG_MIN <= value <= LONG_MAX:
                error = errno.ERANGE
                complaint = f"parameter `{name}' could not be parsed as a number: {os.strerror(errno.ERANGE)}"
            elif not taken or taken < len(text):
                complaint = f"parameter `{name}' is not a valid number"
            elif value < minimum:
                complaint = f"value `{value}' is smaller than minimum bound '{minimum}'"
            elif value > maximum:
                complaint = f"value `{value}' is greater than maximum bound '{maximum}'"
            else:
                error, number = 0, value
        if complaint and warn:
            self._warn(setting, complaint)
        return Reading(error, number)

    def get_defbool(self, name: str, *, warn: bool = True) -> Reading[bool]:
        """A number taken as a truth value; the bare words True and False are not of this language."""
        error, number = self.get_long(name, warn=warn)
        return Reading(error, None if number is None else number != 0)

    def get_list(self, name: str, *, warn: bool = True) -> Reading[list[Value]]:
        """The items of a list."""
        setting = self._newest.get(name)
        if setting is None:
            return Reading(errno.ESRCH, None)
        if isinstance(setting.value, ListValue):
            return Reading(0, setting.value.items)
        if warn:
            self._warn(setting, f"parameter `{name}' is a single value but should be a list")
        return Reading(errno.EINVAL, None)

    def get_string_list(self, name: str, *, warn: bool = True) -> Reading[list[str]]:
        """The atoms of a list up to the first nested list, where a C reader of the result stops."""
        error, items = self.get_list(name, warn=warn)
        return Reading(error, None if items is None else leading_atoms(items))

    def string(self, name: str) -> str | None:
        """get_string for callers to whom every failure is an absence."""
        return self.get_string(name).value

    def long(self, name: str) -> int | None:
        """get_long for callers to whom every failure is an absence."""
        return self.get_long(name).value

    def kib(self, name: str) -> int | None:
        """A size given in MiB, as KiB in the 64 bits that libxl has for it: negative sizes wrap."""
        number = self.long(name)
        return None if number is None else as_uint64(number * 1024)

    def defbool(self, name: str) -> bool | None:
        """get_defbool for callers to whom every failure is an absence."""
        return self.get_defbool(name).value

    def strings(self, name: str) -> list[str]:
        """get_string_list for callers to whom every failure is an empty list."""
        return self.get_string_list(name).value or []

    def item_string(self, value: Value) -> Reading[str]:
        """The text of a list item that must be an atom."""
        if isinstance(value, Atom):
            return Reading(0, value.text)
        self.messages.append(f"{self.source}:{value.line}:0: warning: value is not a string\n")
        return Reading(errno.EINVAL, None)

    def item_list(self, value: Value) -> Reading[list[Value]]:
        """The items of a list item that must be a list itself."""
        if isinstance(value, ListValue):
            return Reading(0, value.items)
        self.messages.append(f"{self.source}:{value.line}:0: warning: value is not a list\n")
        return Reading(errno.EINVAL, None)

    def _warn(self, setting: Setting, text: str) -> None:
        self.messages.append(f"{self.source}:{setting.line}: warning: {text}\n")


def leading_atoms(items: Sequence[Value]) -> list[str]:
    """The texts of the atoms before the first nested list."""
    texts: list[str] = []
    for item in items:
        if not isinstance(item, Atom):
            break
        texts.append(item.text)
    return texts
