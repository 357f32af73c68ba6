"""Replaying traces: the recorded ones agree with this RMM, and a deviation is reported and not swallowed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rmm import replay
from rmm.abi.rmi import BY_NAME

VECTORS = Path(__file__).parents[1] / "vectors" / "rmm"
KNOWN = VECTORS / "known.json"


def command(name: str, args: list[int], ret: list[int], **more: Any) -> dict[str, Any]:
    fid = BY_NAME["RMI_" + name].fid
    return {"op": "smc", "cmd": "RMI_" + name, "fid": hex(fid), "args": [hex(a) for a in args],
            "ret": [hex(r) for r in ret], **more}  # fmt: skip


VERSION = command("VERSION", [0x2_0000], [0, 0x2_0000, 0x2_0000, 0, 0])
ACTIVATE = command("RMM_ACTIVATE", [], [0, 0, 0, 0, 0])


@pytest.fixture
def trace(tmp_path: Path) -> Any:
    """Write a file of traces, given as name and steps."""

    def write(**traces: list[dict[str, Any]]) -> Path:
        path = tmp_path / "trace.json"
        path.write_text(json.dumps({"traces": [{"name": name, "steps": steps} for name, steps in traces.items()]}))
        return path

    return write


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(replay.main, [str(item) for item in arguments])


# The recorded traces.


@pytest.mark.parametrize("name", ["rim", "lifecycle", "errors"])
def test_recorded_traces_agree_but_for_the_known_differences(name: str) -> None:
    path = VECTORS / f"{name}.json.xz"
    known = json.loads(KNOWN.read_text())
    arguments = [sys.executable, "-m", "rmm.replay", str(path), "--known", str(KNOWN)]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stdout + process.stderr
    cases = [case.name for case in replay.load(path)]
    expected = sum(case not in known for case in cases)
    assert process.stdout.splitlines()[-1] == f"{expected} of {len(cases)} agree"


def test_the_known_differences_are_cases_of_the_traces() -> None:
    names = {case.name for file in VECTORS.glob("*.xz") for case in replay.load(file)}
    assert set(json.loads(KNOWN.read_text())) <= names


def test_every_recorded_measurement_agrees() -> None:
    cases = {case.name: case for case in replay.load(VECTORS / "rim.json.xz")}
    for name in ("full-1rec-sha256", "full-1rec-sha512", "flags-da-mec"):
        assert any(step["op"] == "whitebox_measurement" for step in cases[name].steps)
        assert replay.replay_case(cases[name]) == []


# Reporting.


def test_an_agreeing_trace(trace: Any) -> None:
    result = run(trace(start=[VERSION, ACTIVATE]))
    assert (result.exit_code, result.output) == (0, "1 of 1 agree\n")


def test_a_difference_names_case_step_register_and_both_values(trace: Any) -> None:
    wrong = command("GRANULE_RANGE_DELEGATE", [0x8000_0000, 0x8000_2000], [0xB, 0x8000_2000, 0, 0, 7])
    path = trace(good=[VERSION], bad=[VERSION, ACTIVATE, wrong])
    result = run(path)
    assert result.exit_code == 1
    where = f"{path}: bad: step 3 (RMI_GRANULE_RANGE_DELEGATE):"
    assert result.output.splitlines() == [
        f"{where} x0: expected 0xb ERROR_GLOBAL, found 0x0 SUCCESS",
        f"{where} x1: expected 0x80002000, found 0x80001000",
        f"{where} x4: expected 0x7, found 0x0",
        "1 of 2 agree",
    ]


def test_the_pace_of_range_commands_can_be_chosen(trace: Any) -> None:
    step = command("GRANULE_RANGE_DELEGATE", [0x8000_0000, 0x8000_2000], [0, 0x8000_2000, 0, 0, 0])
    path = trace(two=[ACTIVATE, step])
    assert run(path).exit_code == 1
    assert run(path, "--range-step", "2").exit_code == 0


def test_one_case_can_be_chosen(trace: Any) -> None:
    path = trace(good=[VERSION], bad=[command("VERSION", [0x2_0000], [1, 0, 0, 0, 0])])
    assert run(path, "--case", "good").output == "1 of 1 agree\n"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rec_exit": {"reason": 1}}, "exit reason: expected 0x1, found 0x2"),
        ({"rec_exit": {"gprs": ["0x0"] * 30 + ["0x5"]}}, "exit gprs[30]: expected 0x5, found 0x0"),
        ({"realm_saw": [["0"]]}, "number of calls that returned to the Realm: expected 0x1, found 0x0"),
    ],
)
def test_a_rec_exit_is_compared_field_by_field(change: dict[str, Any], text: str) -> None:
    case = next(case for case in replay.load(VECTORS / "lifecycle.json.xz") if case.name == "minimal")
    for step in case.steps:
        if step.get("cmd") == "RMI_REC_ENTER":
            step.update(change)
    (difference,) = replay.replay_case(case)
    assert str(difference).endswith(text)


def test_what_the_realm_saw_is_compared_register_by_register() -> None:
    case = next(case for case in replay.load(VECTORS / "lifecycle.json.xz") if case.name == "ripas-change")
    step = next(step for step in case.steps if step.get("realm_saw"))
    step["realm_saw"][0][1] = "c000"
    (difference,) = replay.replay_case(case)
    assert str(difference).endswith("X1 that the Realm saw after call 1: expected 0xc000, found 0xb000")


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ({"op": "read64", "addr": "0x80000000", "values": [0, 1]}, "word at 0x80000008: expected 0x1, found 0x0"),
        ({"op": "read8", "addr": "0x80000000", "values": [3]}, "byte at 0x80000000: expected 0x3, found 0x0"),
        ({"op": "whitebox_granule", "addr": "0x80000000", "state": ["DATA", 0]}, "expected DATA, found UNDELEGATED"),
        ({"op": "whitebox_measurement", "rd": "0x80000000", "slot": 0, "value": "00"}, "expected 00, found no realm"),
        ({"op": "w64", "addr": "0x10", "vals": [1]}, "expected done, found no DRAM at [0x10, 0x18)"),
    ],
)
def test_other_steps_are_compared_too(trace: Any, step: dict[str, Any], text: str) -> None:
    assert text in run(trace(one=[VERSION, step])).output


def test_written_memory_is_read_back(trace: Any) -> None:
    steps = [
        {"op": "fill", "addr": "0x80000000", "len": "0x10", "byte": "0xff"},
        {"op": "w8", "addr": "0x80000001", "vals": [1, 2]},
        {"op": "w64", "addr": "0x80000008", "vals": ["0x-1"]},
        {"op": "read64", "addr": "0x80000000", "values": ["0xffffffffff0201ff", "0xffffffffffffffff"]},
        {"op": "lin_u32le", "addr": "0x80000000", "len": "0x8", "mul": "0x80000001", "add": "0x2"},
        {"op": "read64", "addr": "0x80000000", "values": ["0x8000000300000002"]},
    ]
    assert run(trace(memory=steps)).output == "1 of 1 agree\n"


# Known differences.


def test_a_known_difference_is_reported_and_no_failure(trace: Any, tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    known.write_text(json.dumps({"odd": "bet1 leads"}))
    result = run(trace(odd=[command("VERSION", [0x2_0000], [1, 0, 0, 0, 0])]), "--known", known)
    assert result.exit_code == 0
    assert "odd: known: bet1 leads" in result.output
    assert result.output.endswith("0 of 1 agree\n")


def test_a_case_listed_as_known_that_agrees_is_a_failure(trace: Any, tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    known.write_text(json.dumps({"start": "no longer"}))
    result = run(trace(start=[VERSION]), "--known", known)
    assert result.exit_code == 1
    assert "start: listed as known to differ, but agrees" in result.output


# Files that are no traces.


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[]", "not a JSON object"),
        ("{", "Expecting property name"),
        ("{}", "no vectors, traces or cases in it"),
        ('{"cases": [{"name": "a", "fixture": "nowhere", "steps": []}]}', "case 1: KeyError('nowhere')"),
        ('{"traces": [{"name": "a", "steps": [{"op": "dance"}]}]}', "a: step 1: unknown op 'dance'"),
        ('{"traces": [{"name": "a", "steps": [{"op": "fill", "addr": "0x0"}]}]}', "a: step 1: no 'byte' in fill"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_with_its_place(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(content)
    result = run(path)
    assert result.exit_code == 2
    assert re.search(re.escape(text), result.output)
