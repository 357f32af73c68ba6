"""Accessors: the warnings that no measured file shows."""

from __future__ import annotations

import errno

import xlconfig
from xlconfig.c_text import strtol, strtoul


def test_a_number_out_of_its_bounds_names_the_bound() -> None:
    settings = xlconfig.load(b'a=5\nb="-5"\n', "a.cfg")
    assert settings.get_long("a", maximum=4) == (errno.EINVAL, None)
    assert settings.get_long("b", minimum=0) == (errno.EINVAL, None)
    assert settings.messages == [
        "a.cfg:1: warning: value `5' is greater than maximum bound '4'\n",
        "a.cfg:2: warning: value `-5' is smaller than minimum bound '0'\n",
    ]


def test_an_absent_name_is_never_warned_about() -> None:
    settings = xlconfig.load(b"", "a.cfg")
    assert settings.get_string("a").error == errno.ESRCH
    assert settings.get_long("a").error == errno.ESRCH
    assert settings.get_list("a").error == errno.ESRCH
    assert settings.messages == []


def test_a_silent_read_fails_without_a_word() -> None:
    settings = xlconfig.load(b'a=["x"]\nb="x"\n', "a.cfg")
    assert settings.get_string("a", warn=False).value is None
    assert settings.get_long("b", warn=False).value is None
    assert settings.get_list("b", warn=False).value is None
    assert settings.messages == []


def test_an_item_of_the_wrong_kind_is_warned_about_with_column_zero() -> None:
    settings = xlconfig.load(b'a=["x",["y"]]\n', "a.cfg")
    atom, nested = settings.get_list("a").value or []
    assert settings.item_list(atom).error == errno.EINVAL
    assert settings.item_string(nested).error == errno.EINVAL
    assert settings.item_string(atom) == (0, "x")
    assert settings.messages == [
        "a.cfg:1:0: warning: value is not a list\n",
        "a.cfg:1:0: warning: value is not a string\n",
    ]


def test_numbers_are_read_as_c_reads_them() -> None:
    assert strtol("0x1F") == (31, 4)
    assert strtol("0x") == (0, 1)
    assert strtol("010") == (8, 3)
    assert strtol("08") == (0, 1)
    assert strtol(" -7x") == (-7, 3)
    assert strtol("") == (0, 0)
    assert strtoul("-1", 10) == (2**64 - 1, 2)
    assert strtoul("99999999999999999999", 10) == (2**64 - 1, 20)
