"""Progress of a build, on standard error when that is a terminal.

Enter at :func:`shown`. On a terminal rich draws a bar, which is gone when the build is done; with ``-t`` it is one
line that is overwritten. Elsewhere nothing is shown.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypervisor.rpc.messages import Progress

Report = Callable[["Progress"], None]


@contextlib.contextmanager
def shown(name: str, *, quiet: bool = False, line: bool = False) -> Iterator[Report]:
    """Show what is reported of the build of NAME. LINE: one line, terminal or not; QUIET: nothing."""
    if quiet:
        yield lambda progress: None
    elif line:
        with _line(name) as report:
            yield report
    elif sys.stderr.isatty():
        with _bar(name) as report:
            yield report
    else:
        yield lambda progress: None


@contextlib.contextmanager
def _line(name: str) -> Iterator[Report]:
    width = 0

    def report(progress: Progress) -> None:
        nonlocal width
        percent = 100 * progress.done // progress.total if progress.total else 0
        text = f"{name}: {progress.phase} {percent}%"
        width = max(width, len(text))
        sys.stderr.write(f"\r{text:<{width}}")
        sys.stderr.flush()

    try:
        yield report
    finally:
        if width:
            sys.stderr.write("\n")


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.fields[realm]}: {task.description}"), BarColumn(), TimeElapsedColumn())
    bars = Bars(*columns, console=Console(stderr=True), transient=True)
    with bars:
        task = bars.add_task("create", total=None, realm=name)

        def report(progress: Progress) -> None:
            bars.update(task, description=progress.phase, completed=progress.done, total=progress.total or None)

        yield report
