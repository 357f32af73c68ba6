"""``python -m benchmarks [NAME ...] [--runs N] [--json]``: measure, and print a table of figures against targets.

Exit status 0 whether targets are reached or not; 1 when a benchmark could not run, with a line that says why.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figure import CannotRun, Figure, table


@dataclass(frozen=True)
class Benchmark:
    """A measurement by name: the module whose ``measure(runs)`` answers figures, and how often it runs by default."""

    module: str
    runs: int
    about: str

    def measure(self, runs: int | None) -> list[Figure]:
        """Run it. Raises CannotRun."""
        function: Callable[[int], list[Figure]] = importlib.import_module(self.module).measure
        return function(runs or self.runs)


#: The figures that SPECIFICATION.md promises.
BENCHMARKS = {
    "linux-boot": Benchmark("benchmarks.linux_boot", 5, "Linux as a Realm to its shell, against qemu TCG"),
    "first-byte": Benchmark("benchmarks.first_byte", 5, "hello-realm: xl create to first console byte, no daemon"),
    "rec-exit": Benchmark("benchmarks.rec_exit", 5, "REC exit round trips (MMIO read) a second"),
    "data-map": Benchmark("benchmarks.data_map", 5, "RTT_DATA_MAP_INIT, granules a second"),
}
#: Tables and profiles of single layers; each prints what it likes.
COMPONENTS = {
    "engine": "the processing element alone (pytest-benchmark)",
    "vgic": "vGIC and timers at each exit (pytest-benchmark)",
    "rec-loop": "the host's part of an exit and of a build, without the RMM (pytest-benchmark)",
    "rmm": "RMI commands one by one",
    "profile-boot": "where the time of one boot goes, by function: profile-boot [linux|hello] (cProfile, no daemon)",
    "profile-exit": "where the time of a REC exit goes, by function (cProfile)",
}


def _parser() -> argparse.ArgumentParser:
    rows = [(name, benchmark.about) for name, benchmark in BENCHMARKS.items()]
    names = "\n".join(f"  {name:<14}{about}" for name, about in [*rows, *COMPONENTS.items()])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the simulator; without a name, the four promised figures.",
        epilog=f"names:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure")
    parser.add_argument("--runs", type=int, metavar="N", help="samples of each figure (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    return parser


def _component(arguments: Sequence[str]) -> int:
    from benchmarks import components

    return components.run(arguments[0], list(arguments[1:]))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.runs is not None and arguments.runs < 1:
        parser.error("--runs must be 1 or more")
    if arguments.names and arguments.names[0] in COMPONENTS:
        try:
            return _component(arguments.names)
        except CannotRun as reason:
            print(f"{arguments.names[0]}: cannot run: {reason}", file=sys.stderr)
            return 1
    for name in arguments.names:
        if name not in BENCHMARKS:
            parser.error(f"unknown benchmark {name!r} (known: {', '.join([*BENCHMARKS, *COMPONENTS])})")
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    for name in arguments.names or BENCHMARKS:
        if sys.stderr.isatty():
            print(f"{name} ...", file=sys.stderr)
        try:
            figures += BENCHMARKS[name].measure(arguments.runs)
        except CannotRun as reason:
            failures[name] = str(reason)
    if arguments.json:
        host = {"machine": platform.machine(), "system": platform.platform(), "python": platform.python_version()}
        rows = [figure.as_json() for figure in figures]
        print(json.dumps({"host": host, "figures": rows, "cannot_run": failures}, indent=1))
    elif figures:
        print(table(figures))
    for name, why in failures.items():
        print(f"{name}: cannot run: {why}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
