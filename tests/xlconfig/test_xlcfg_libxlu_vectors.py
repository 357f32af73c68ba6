"""Every measured file gives libxlu's report, libxlu's settings, and libxlu's answers to its accessors."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from xlcfg_vectors import ABORTS, FUZZ_ABORTS, cases, fuzz, latin1

import xlconfig
from xlconfig.values import Atom, Value

CASES = [pytest.param(case, id=case["name"]) for case in cases()]
PARSED = [pytest.param(case, id=case["name"]) for case in cases() if case["libxlu"].get("rc") == 0]
CHUNK = 100
CHUNKS = [pytest.param(fuzz()[at : at + CHUNK], id=fuzz()[at]["id"]) for at in range(0, len(fuzz()), CHUNK)]


def value_of(value: Value) -> dict[str, Any]:
    if isinstance(value, Atom):
        return {"str": latin1(value.text), "line": value.line}
    return {"list": [value_of(item) for item in value.items], "line": value.line}


def outcome(text: str, source: str) -> dict[str, Any]:
    try:
        settings = xlconfig.load(text.encode("latin-1"), source)
        rc, report, stored = 0, "", settings.stored
    except xlconfig.ParseFailure as failure:
        rc, report, stored = errno.EINVAL, latin1(failure.report), failure.stored
    return {
        "rc": rc,
        "report": report,
        "settings": [
            {"name": item.name, "op": item.operator, "line": item.line, "value": value_of(item.value)}
            for item in stored
        ],
    }


@pytest.mark.parametrize("case", CASES)
def test_a_file_gives_the_report_and_the_settings_of_libxlu(case: dict[str, Any]) -> None:
    measured = case["libxlu"]
    ours = outcome(case["cfg_latin1"], measured["source"])
    if case["name"] in ABORTS:
        assert measured["crash"] == "ABRT"
        assert ours["rc"] == errno.EINVAL
        assert "NUL byte in quoted string" in ours["report"]
        return
    assert ours == {key: measured[key] for key in ("rc", "report", "settings")}


@pytest.mark.parametrize("chunk", CHUNKS)
def test_fuzzed_files_give_the_report_and_the_settings_of_libxlu(chunk: list[dict[str, Any]]) -> None:
    differing = [
        case["id"]
        for case in chunk
        if outcome(case["input_latin1"], "f.cfg") != {key: case[key] for key in ("rc", "report", "settings")}
    ]
    assert set(differing) <= FUZZ_ABORTS


@pytest.mark.parametrize("case", PARSED)
def test_the_accessors_answer_and_warn_as_those_of_libxlu(case: dict[str, Any]) -> None:
    settings = xlconfig.load(case["cfg_latin1"].encode("latin-1"), case["libxlu"]["source"])

    def answer(error: int) -> dict[str, Any]:
        report = latin1("".join(settings.messages))
        settings.messages.clear()
        return {"rc": errno.errorcode[error] if error else "0", "report": report}

    for name, measured in case["libxlu"]["effective"].items():
        error, number = settings.get_long(name)
        assert answer(error) | ({} if number is None else {"value": number}) == measured["long"]
        error, text = settings.get_string(name)
        assert answer(error) == measured["string"]
        if text is not None:
            assert latin1(text) == measured["value"]["str"]
        error, items = settings.get_list(name)
        walked = settings.get_string_list(name, warn=False).value
        assert (
            answer(error)
            | {
                "entries": len(items or []),
                "walk_until_nonstring": len(walked or []),
            }
            == measured["list"]
        )
