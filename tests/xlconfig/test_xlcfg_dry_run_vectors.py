"""Every measured file gives the exit status, the messages and the JSON of the real `xl -N create`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from xlcfg_vectors import ABORTS, cases, latin1

import xlconfig

UUID = "00112233-4455-6677-8899-aabbccddeeff"

CASES = [pytest.param(case, id=case["name"]) for case in cases() if case["name"] not in ABORTS]


def dry_run(text: str, source: str) -> tuple[int, str, str]:
    """Exit status, stderr and stdout of a dry run, made of this package's pieces."""
    said = f"Parsing config from {source}\n"
    try:
        settings = xlconfig.load(text.encode("latin-1"), source)
    except xlconfig.ParseFailure as failure:
        return 1, said + latin1(failure.report) + "Failed to parse config: Invalid argument\n", ""
    try:
        config = xlconfig.parse_domain_config(settings, new_uuid=lambda: UUID)
    except xlconfig.ConfigError as refused:
        last = f"{refused.message}\n" if refused.message else ""
        return refused.exit_status, said + latin1("".join(settings.messages) + last), ""
    printed = xlconfig.format_json(xlconfig.to_libxl_json(config))
    return 0, said + latin1("".join(settings.messages)), latin1(printed)


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_says_and_prints_what_xl_does(case: dict[str, Any]) -> None:
    measured = case["xl_dry_run"]
    status, stderr, stdout = dry_run(case["cfg_latin1"], f"{case['name']}.cfg")
    assert (status, stderr) == (measured["rc"], measured["stderr"])
    if measured["stdout"]:
        assert json.loads(stdout) == json.loads(measured["stdout"])
    assert stdout == measured["stdout"].rstrip("\n")
