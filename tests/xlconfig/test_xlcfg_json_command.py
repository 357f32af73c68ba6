"""`python -m xlconfig`: a configuration's outcome as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from xlconfig.__main__ import main


def test_a_good_file_gives_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.cfg"
    file.write_bytes(b'a=["x",[1,[]]]\nb+="\xff/\\""\n')
    assert main(["--json", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "rc": 0,
        "report": "",
        "settings": [
            {
                "name": "a",
                "op": "=",
                "line": 1,
                "value": {
                    "list": [
                        {"str": "x", "line": 1},
                        {"list": [{"str": "1", "line": 1}, {"list": [], "line": 1}], "line": 1},
                    ],
                    "line": 1,
                },
            },
            {"name": "b", "op": "+=", "line": 2, "value": {"str": '\xff/"', "line": 2}},
        ],
    }


def test_a_bad_file_gives_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.cfg"
    file.write_bytes(b"a=1\nb=\n")
    assert main(["--json", "--source", "x.cfg", str(file)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["rc"], len(answer["settings"])) == (22, 1)
    assert answer["report"].startswith("x.cfg:1: config parsing error near <newline>: syntax error")


def test_the_deepest_list_can_be_printed(tmp_path: Path) -> None:
    depth = 4996
    command = [sys.executable, "-m", "xlconfig", "--json", "-"]
    run = subprocess.run(command, input=b"a=" + b"[" * depth + b"]" * depth, capture_output=True, timeout=60)
    assert run.returncode == 0
    assert run.stdout.count(b'{"list": [') == depth


def test_without_json_the_report_goes_to_stderr_and_the_exit_status_tells() -> None:
    command = [sys.executable, "-m", "xlconfig", "-"]
    run = subprocess.run(command, input=b"a=True\n", capture_output=True, timeout=60)
    assert run.returncode == 1
    assert run.stderr == b"-:1: config parsing error near `True': lexical error\n"
