"""Command lines: global options, abbreviations, option errors, help."""

from __future__ import annotations

import subprocess
import sys

import pytest
from command_line import Xl
from fake_hypervisor import FakeHypervisor, domain

from toolstack import command_table, options
from toolstack.errors import HelpRequested, UsageError, XlError


def test_without_a_command_the_help_is_printed_and_the_status_is_1(xl: Xl) -> None:
    ran = xl()
    assert ran.status == 1
    assert ran.out.startswith("Usage xl [-vfNtT] <subcommand> [args]\n")
    assert ran.err == ""


def test_help_lists_every_command(xl: Xl) -> None:
    ran = xl("help")
    assert ran.status == 0
    for row in command_table.COMMANDS:
        assert f"\n {row.name} " in ran.out


@pytest.mark.parametrize("row", command_table.COMMANDS, ids=lambda row: row.name)
def test_every_command_has_help(xl: Xl, row: command_table.Command) -> None:
    asked = xl("help", row.name)
    assert asked.status == 0
    assert asked.out.startswith("Usage: xl [-v] ") and row.summary in asked.out
    assert xl(row.name, "-h") == asked
    assert xl(row.name, "--help") == asked


def test_an_unknown_global_option(xl: Xl) -> None:
    assert xl("-x", "list") == (1, "", "unknown global option\n")


@pytest.mark.parametrize("word", ["frobnicate", "dom", ""])
def test_an_unknown_or_ambiguous_command(xl: Xl, word: str) -> None:
    assert xl(word) == (1, "", "command not implemented\n")


def test_a_command_may_be_abbreviated_and_an_exact_name_wins() -> None:
    assert command_table.find("des").name == "destroy"
    assert command_table.find("li").name == "list"
    assert command_table.find("vm").name == "vm-list"
    assert command_table.find("unp").name == "unpause"


def test_a_dry_run_is_refused_where_it_means_nothing(xl: Xl) -> None:
    assert xl("-N", "destroy", "r1") == (1, "", "command does not implement -N (dryrun) option\n")


def test_an_option_that_a_command_does_not_have(xl: Xl) -> None:
    assert xl("pause", "-z", "r1") == (2, "", "option `z' not supported.\n")
    assert xl("pause", "--zeal", "r1") == (2, "", "option `--zeal' not supported.\n")


def test_too_few_arguments_print_the_help_of_the_command(xl: Xl) -> None:
    ran = xl("destroy")
    assert ran.status == 2
    assert ran.err.startswith("'xl destroy' requires at least 1 argument.\n\nUsage: xl [-v] destroy ")


def test_options_combine_and_mix_with_arguments() -> None:
    given = options.read("create", ["a.cfg", "-cp", "x=1", "--defc", "b.cfg", "-fc.cfg", "--", "-n"], "cpnf:",
                         {"defconfig": "f:"})  # fmt: skip
    assert given.arguments == ["a.cfg", "x=1", "-n"]
    assert given.found == [("c", ""), ("p", ""), ("f", "b.cfg"), ("f", "c.cfg")]
    assert given.value("f") == "c.cfg"
    assert "n" not in given


def test_a_missing_value_and_an_unwanted_one_are_errors() -> None:
    with pytest.raises(UsageError, match="needs a value"):
        options.read("create", ["-f"], "f:")
    with pytest.raises(UsageError, match="--quiet=1"):
        options.read("create", ["--quiet=1"], "q", {"quiet": "q"})
    with pytest.raises(HelpRequested):
        options.read("create", ["-qh"], "q")


def test_timestamps_go_before_each_line(xl: Xl, hypervisor: FakeHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # put back afterwards
    ran = xl("-T", "shutdown", "77")
    assert ran.status == 1
    first = ran.err.splitlines()[0]
    assert first[:2] == "20" and first.endswith("libxl: error: Domain 77:Non-existant domain")


def test_listing_imports_no_parser_and_no_decoration(hypervisor: FakeHypervisor) -> None:
    hypervisor.domains = [domain("r1", 1)]
    program = (
        "import sys\nfrom toolstack import main\nassert main.run(['list']) == 0\n"
        "heavy = {'rich', 'lark', 'jinja2', 'fdt', 'click', 'asyncio', 'subprocess', 'xlconfig'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith("r1 ")


def test_a_word_that_names_two_commands_is_not_guessed() -> None:
    with pytest.raises(XlError):
        command_table.find("d")
