"""The benchmarks themselves: what their tables say, and that they measure what they claim to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import first_byte, linux_boot, rec_exit
from benchmarks.figure import CannotRun, Figure, table
from benchmarks.realm_machine import RealmMachine
from hypervisor.domain import GUEST_RAM_BASE


def test_a_figure_is_held_against_its_target_by_its_median() -> None:
    assert Figure("rate", "1/s", [1, 100, 3], "c", 3, at_least=True).reached
    assert not Figure("rate", "1/s", [1, 100, 3], "c", 4, at_least=True).reached
    assert Figure("time", "s", [1, 100, 3], "c", 3).reached
    assert not Figure("time", "s", [1, 100, 3], "c", 2).reached
    assert Figure("time", "s", [1, 100, 3], "c").reached is None


def test_a_ratio_of_medians_is_not_the_median_of_the_ratios() -> None:
    figure = Figure("ratio", "x", [1, 2, 9], "c", 3, centre=4)
    assert (figure.median, figure.reached) == (4, False)


def test_the_table_shows_the_spread_the_target_and_the_command() -> None:
    heading, row = table([Figure("rate", "1/s", [1000.4, 3, 2000], "python -m x", 500, at_least=True)]).splitlines()
    assert heading.split() == ["figure", "min", "median", "max", "unit", "target", "reached", "shown", "by"]
    assert row == "rate    3.00   1,000  2,000  1/s   >= 500.00  yes      python -m x"


def test_a_benchmark_that_cannot_run_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing_here(runs: int) -> list[Figure]:
        raise CannotRun("qemu-system-aarch64 not found")

    monkeypatch.setattr(linux_boot, "measure", nothing_here)
    assert command.main(["linux-boot"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "linux-boot: cannot run: qemu-system-aarch64 not found\n"


def test_json_has_the_samples_and_what_could_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(first_byte, "measure", lambda runs: [Figure("first", "s", [1.0] * runs, "c", 4.0)])
    assert command.main(["first-byte", "--runs", "3", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["figures"][0]["samples"] == [1.0, 1.0, 1.0]
    assert answer["figures"][0]["reached"] is True
    assert answer["cannot_run"] == {}


def test_the_exit_benchmarks_guest_makes_exactly_the_exits_that_are_counted(tmp_path: Path) -> None:
    with RealmMachine(2 << 20, tmp_path / "console") as machine:
        uart = machine.guest.uart
        assert uart is not None
        reads: list[int] = []
        read = uart.read

        def counted(offset: int, size: int) -> int | None:
            reads.append(offset)
            return read(offset, size)

        uart.read = counted  # type: ignore[method-assign]
        machine.write(GUEST_RAM_BASE, rec_exit.program(123))
        machine.build(GUEST_RAM_BASE)
        machine.run()
    assert reads == [0x18] * 123
