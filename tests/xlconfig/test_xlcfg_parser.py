"""The parser: what it does at its limits, and that nothing it is fed can harm it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import xlconfig
from xlconfig.values import Atom, ListValue

DEEPEST = 4996


def report_of(text: bytes) -> str:
    with pytest.raises(xlconfig.ParseFailure) as failure:
        xlconfig.load(text, "a.cfg")
    return failure.value.report


def test_lists_nest_as_deep_as_libxlu_takes_them() -> None:
    settings = xlconfig.load(b"a=" + b"[" * DEEPEST + b"]" * DEEPEST + b"\n", "a.cfg")
    [setting] = settings.stored
    value, depth = setting.value, 0
    while isinstance(value, ListValue):
        depth += 1
        value = value.items[0] if value.items else Atom("", 0)
    assert depth == DEEPEST


def test_one_level_more_exhausts_the_memory_that_libxlu_allows_itself() -> None:
    depth = DEEPEST + 1
    assert report_of(b"a=" + b"[" * depth + b"]" * depth) == (
        "a.cfg:1: config parsing error near `]': memory exhausted\n"
    )


def test_a_million_opening_brackets_are_refused_and_not_fatal() -> None:
    assert report_of(b"a=" + b"[" * 1_000_000) == "a.cfg:1: config parsing error near `[': memory exhausted\n"


def test_ten_thousand_lines_parse_well_under_a_second() -> None:
    text = b"".join(b'key_%d = "value %d" # why\nlist%d = ["a", "b", 0x10]\n' % (n, n, n) for n in range(5_000))
    xlconfig.load(b"a=1\n", "warm.cfg")
    began = time.process_time()
    settings = xlconfig.load(text, "a.cfg")
    assert time.process_time() - began < 1.0
    assert len(settings.stored) == 10_000


def test_the_last_assignment_of_a_name_counts() -> None:
    settings = xlconfig.load(b"a=1\na=2\n", "a.cfg")
    assert settings.string("a") == "2"
    assert [setting.line for setting in settings.stored] == [1, 2]


def test_overrides_are_lines_behind_the_end_of_the_file() -> None:
    settings = xlconfig.load(b'name="a"\nextra="ro"', "a.cfg", ['name="b"', 'extra+=" debug"'])
    assert settings.string("name") == "b"
    assert settings.string("extra") == "ro debug"


def test_an_override_obeys_the_grammar_and_its_error_counts_past_the_file() -> None:
    with pytest.raises(xlconfig.ParseFailure) as failure:
        xlconfig.load(b"memory=64\n", "a.cfg", ["name=foo"])
    assert failure.value.report == (
        "a.cfg:3: config parsing error near `foo': syntax error, unexpected IDENT, expecting STRING or NUMBER or '['\n"
    )


def test_what_was_stored_before_an_error_is_told() -> None:
    with pytest.raises(xlconfig.ParseFailure) as failure:
        xlconfig.load(b"a=1\nb\nc=2\n", "a.cfg")
    assert [setting.name for setting in failure.value.stored] == ["a"]


def test_bytes_that_are_not_utf8_survive() -> None:
    settings = xlconfig.load(b'kernel="/boot/\xff\xc3\xa9"\n', "a.cfg")
    assert settings.string("kernel") == "/boot/\udcffé"


def test_importing_the_package_does_not_import_lark() -> None:
    command = "import sys, xlconfig; sys.exit('lark' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], timeout=60).returncode == 0


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_fail_with_a_report(text: bytes) -> None:
    try:
        xlconfig.load(text, "a.cfg")
    except xlconfig.ParseFailure as failure:
        assert failure.report.startswith("a.cfg:")


pieces = st.sampled_from(
    [b"a", b"b.c", b"1", b"0x1f", b"'s'", b'"\\n"', b'"\\101"', b"[", b"]", b",", b"=", b"+=", b";", b"\n", b"# c\n",
     b" ", b"#", b"@", b"-", b"\\", b'"', b"\0", b"\xe9"]
)  # fmt: skip


@given(st.lists(pieces, max_size=40).map(b"".join))
def test_any_tokens_parse_or_fail_with_a_report(text: bytes) -> None:
    try:
        xlconfig.load(text, "a.cfg")
    except xlconfig.ParseFailure as failure:
        assert failure.report.startswith("a.cfg:")


@pytest.mark.parametrize(
    ("text", "value"), [("realm=true", "1"), ("realm = false\n", "0"), ("a=1; realm=true; b=2", "1")]
)
def test_realm_takes_a_bare_boolean_which_libxlu_has_for_no_key(text: str, value: str) -> None:
    assert xlconfig.load(text.encode(), "t.cfg").string("realm") == value


@pytest.mark.parametrize("text", ["b=true", "realm=yes", "realm+=true", "realm=[true]", "realm\n=true", "x=realm"])
def test_no_other_bare_word_becomes_a_value(text: str) -> None:
    assert "config parsing error near" in report_of(text.encode())
