"""The measured vectors of the xl.cfg language: what libxlu and `xl -N create` made of given files.

They stand beside the repository (`../shared/vectors/xlcfg`), or where XL_REALM_VECTORS says. Without them the tests
that need them are skipped, except in CI, where their absence is a failure. All text in them is latin-1: one character
for each byte.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

BESIDE = Path(__file__).parents[2].parent / "shared" / "vectors"

#: libxlu aborts on an assertion for these (a NUL byte inside a quoted string); we report an error instead.
ABORTS = {"synth-nul-in-string-b", "synth-nul-in-string-ending-quote"}
FUZZ_ABORTS = {"f.04206"}


def _read(name: str) -> str | None:
    path = Path(os.environ.get("XL_REALM_VECTORS", BESIDE)) / "xlcfg" / name
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if os.environ.get("CI") == "true":
        raise FileNotFoundError(f"{path}: the tests of the xl.cfg language need it")
    return None


@cache
def cases() -> list[dict[str, Any]]:
    text = _read("cases.json")
    return [] if text is None else json.loads(text)


@cache
def fuzz() -> list[dict[str, Any]]:
    text = _read("fuzz.jsonl")
    return [] if text is None else [json.loads(line) for line in text.splitlines()]


def latin1(text: str) -> str:
    """Our text (UTF-8 with surrogate escapes) in the spelling of the vectors."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
