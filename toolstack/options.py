"""Options of a command, read as Xen's xl reads them (getopt_long with permutation).

Enter at :func:`read`. Short options combine (``-cp``), options and arguments may be mixed, ``--`` ends the options, and
long options may be abbreviated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolstack.errors import HelpRequested, UsageError


class Options:
    """What :func:`read` found: the options in order, as (letter or long name, value), and the other arguments."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []
        self.arguments: list[str] = []

    def __contains__(self, option: object) -> bool:
        return any(name == option for name, _ in self.found)

    def count(self, option: str) -> int:
        """How often OPTION was given."""
        return sum(name == option for name, _ in self.found)

    def value(self, option: str) -> str | None:
        """The value of the last OPTION, None without one."""
        values = [value for name, value in self.found if name == option]
        return values[-1] if values else None


def read(
    command: str, arguments: Sequence[str], short: str = "", long: Mapping[str, str] | None = None, required: int = 0
) -> Options:
    """Take the options of COMMAND out of ARGUMENTS.

    SHORT lists letters, each followed by ``:`` when it takes a value; LONG maps a long name to the name it is reported
    as, with a ``:`` at the end when it takes a value. Raises UsageError (exit status 2) for an option that COMMAND
    does not have and for fewer than REQUIRED arguments, HelpRequested for ``-h`` and ``--help``.
    """
    options = Options()
    names = {"help": "h", **(long or {})}
    letters = short + "h"
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            options.arguments += left
            break
        if word.startswith("--"):
            name, value = _long(word, names, left)
            options.found.append((name, value))
        elif word.startswith("-") and len(word) > 1:
            options.found += _short(word[1:], letters, left)
        else:
            options.arguments.append(word)
        if "h" in options:
            raise HelpRequested(command)
    if len(options.arguments) < required:
        plural = "s" if required > 1 else ""
        raise UsageError(f"'xl {command}' requires at least {required} argument{plural}.", "", help_for=command)
    return options


def _unknown(option: str) -> UsageError:
    return UsageError(f"option `{option}' not supported.")


def _long(word: str, names: Mapping[str, str], left: list[str]) -> tuple[str, str]:
    name, equals, value = word[2:].partition("=")
    matches = [full for full in names if full == name] or [full for full in names if full.startswith(name)]
    if len(matches) != 1:
        raise _unknown(f"--{name}")
    reported = names[matches[0]]
    if not reported.endswith(":"):
        if equals:
            raise _unknown(word)
        return reported, ""
    if not equals:
        if not left:
            raise UsageError(f"option `--{matches[0]}' needs a value.")
        value = left.pop(0)
    return reported[:-1], value


def _short(cluster: str, letters: str, left: list[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    while cluster:
        letter, cluster = cluster[0], cluster[1:]
        position = letters.find(letter)
        if position < 0 or letter == ":":
            raise _unknown(letter)
        if letters[position + 1 : position + 2] != ":":
            found.append((letter, ""))
            continue
        if not cluster and not left:
            raise UsageError(f"option `{letter}' needs a value.")
        found.append((letter, cluster or left.pop(0)))
        cluster = ""
    return found
