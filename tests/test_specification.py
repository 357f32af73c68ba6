"""SPECIFICATION.md says what enforces each promise; what it names has to exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, main

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"\| (\d+\.\d+) \| (.+) \|\Z")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
BENCHMARK = re.compile(r"`python -m benchmarks ([\w-]+)`")
OPEN = "not enforced yet"


def promises() -> list[tuple[str, str]]:
    """Number and the rest of the row, of every promise."""
    lines = (ROOT / "SPECIFICATION.md").read_text(encoding="utf-8").splitlines()
    return [(match[1], match[2]) for match in map(ROW.match, lines) if match]


@cache
def functions(path: Path) -> frozenset[str]:
    """Names of all functions in a file, without running it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_there_are_promises_and_no_number_is_used_twice() -> None:
    numbers = [number for number, _ in promises()]
    assert len(numbers) > 40
    assert sorted(set(numbers)) == sorted(numbers)


@pytest.mark.parametrize(("number", "row"), promises(), ids=[number for number, _ in promises()])
def test_a_promise_names_what_enforces_it_and_that_exists(number: str, row: str) -> None:
    tests, benchmarks = TEST.findall(row), BENCHMARK.findall(row)
    for name, function in tests:
        path = ROOT / name
        assert path.is_file(), f"{number}: there is no {name}"
        assert function in functions(path), f"{number}: {name} has no {function}"
    for name in benchmarks:
        assert name in BENCHMARKS, f"{number}: there is no benchmark {name}"
    assert tests or benchmarks or OPEN in row or "`make lint`" in row, f"{number}: nothing enforces it"


def test_every_benchmark_of_a_figure_is_in_the_specification() -> None:
    named = {name for _, row in promises() for name in BENCHMARK.findall(row)}
    assert named == set(BENCHMARKS)


def test_an_unknown_benchmark_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["no-such-benchmark"])
    assert ended.value.code == 2
    assert "unknown benchmark 'no-such-benchmark'" in capsys.readouterr().err
