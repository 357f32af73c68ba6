"""The report of a parse: error lines in libxlu's form, and which of them libxlu keeps silent about.

The line numbers are libxlu's, quirks included: an error at the end of a line names the line before, and an error on a
line (or before it) that already had a lexical error is not mentioned."""

from __future__ import annotations

from collections.abc import Sequence

from xlconfig.values import Setting

__all__ = ["ParseFailure", "ParseReport", "text_of"]

PYTHON_WARNING = (
    "warning: Config file looks like it contains Python code.\n"
    "warning:  Arbitrary Python is no longer supported.\n"
    "warning:  See https://wiki.xen.org/wiki/PythonInXlConfig\n"
)

NUL = "\0"


def text_of(latin1: str) -> str:
    """Decode scanner text (one character a byte) as UTF-8; bytes that are not UTF-8 become surrogate escapes."""
    if latin1.isascii():
        return latin1
    return latin1.encode("latin-1").decode("utf-8", "surrogateescape")


class ParseFailure(Exception):
    """Raised when a configuration does not parse.

    `report` is libxlu's text, one line per error, newline at the end; `stored` the assignments read before the first
    one."""

    def __init__(self, report: str, stored: Sequence[Setting]) -> None:
        super().__init__(report)
        self.report = report
        self.stored = stored


class ParseReport:
    """Collects the error lines of one parse."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.failed = False
        self.looks_like_python = False
        self._lines: list[str] = []
        self._lexical_error_line = -1

    def error(self, line: int, near: str, message: str) -> None:
        """Report an error at `line` with the scanner's current token text `near`."""
        if line <= self._lexical_error_line:
            return
        newline = ""
        if near.endswith("\n"):
            near, line = near[:-1], line - 1
            newline = "" if near else "<newline>"
        near = near.rstrip(" \t")
        quoted = f"`{near.partition(NUL)[0]}'" if near else ""
        self._lines.append(f"{self.source}:{line}: config parsing error near {text_of(quoted)}{newline}: {message}\n")
        self.failed = True

    def lexical_error(self, line: int, near: str, message: str) -> None:
        """Report an error of the scanner; further errors on this line or before it stay unmentioned."""
        self.error(line, near, message)
        self._lexical_error_line = line

    def text(self) -> str:
        """All lines, and the Python warning where libxlu gives it."""
        warning = PYTHON_WARNING if self.failed and self.looks_like_python else ""
        return "".join(self._lines) + warning
