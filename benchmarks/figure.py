"""One measured figure: its samples, what it is held against, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

_HEADINGS = ("figure", "min", "median", "max", "unit", "target", "reached", "shown by")


class CannotRun(Exception):
    """Raised when a benchmark cannot measure anything here; the message is one line that names what is missing."""


@dataclass(frozen=True)
class Figure:
    """A figure with one sample or more, in ``unit``.

    ``target`` is held against the median: the least value when ``at_least``, else the greatest; None when nothing is
    promised. ``command`` reproduces this row alone. ``centre`` stands in for the median of the samples where these are
    quotients: there it is the quotient of two medians.
    """

    what: str
    unit: str
    samples: Sequence[float]
    command: str
    target: float | None = None
    at_least: bool = False
    centre: float | None = None

    @property
    def median(self) -> float:
        """The value that is compared with the target."""
        return median(self.samples) if self.centre is None else self.centre

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        if self.target is None:
            return None
        return self.median >= self.target if self.at_least else self.median <= self.target

    def as_json(self) -> dict[str, Any]:
        """The row for ``--json``."""
        return {
            "figure": self.what,
            "unit": self.unit,
            "samples": list(self.samples),
            "min": min(self.samples),
            "median": self.median,
            "max": max(self.samples),
            "target": self.target,
            "target_is": None if self.target is None else ("least" if self.at_least else "greatest"),
            "reached": self.reached,
            "command": self.command,
        }


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def _row(figure: Figure) -> tuple[str, ...]:
    target = "-"
    if figure.target is not None:
        target = (">= " if figure.at_least else "<= ") + _number(figure.target)
    reached = {None: "-", True: "yes", False: "no"}[figure.reached]
    samples = figure.samples
    values = (_number(value) for value in (min(samples), figure.median, max(samples)))
    return (figure.what, *values, figure.unit, target, reached, figure.command)


def table(figures: Sequence[Figure]) -> str:
    """Figures as text, a line each below a line of headings; numbers are right-aligned."""
    rows = [_HEADINGS, *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if 1 <= column <= 3 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
