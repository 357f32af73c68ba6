"""The measured vectors of the xl.cfg language: what libxlu and `xl -N create` made of given files.

They are ``tests/vectors/xlcfg``; XL_REALM_VECTORS names a directory with others of the same shape (uncompressed). All
text in them is latin-1: one character for each byte.
"""

from __future__ import annotations

import json
import lzma
import os
from functools import cache
from pathlib import Path
from typing import Any

KEPT = Path(__file__).parents[1] / "vectors"

#: libxlu aborts on an assertion for these (a NUL byte inside a quoted string); we report an error instead.
ABORTS = {"synth-nul-in-string-b", "synth-nul-in-string-ending-quote"}
FUZZ_ABORTS = {"f.04206"}


def _read(name: str) -> str:
    other = os.environ.get("XL_REALM_VECTORS")
    if other:
        return (Path(other) / "xlcfg" / name).read_text(encoding="utf-8")
    return lzma.decompress((KEPT / "xlcfg" / f"{name}.xz").read_bytes()).decode()


@cache
def cases() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(_read("cases.json"))
    return rows


@cache
def fuzz() -> list[dict[str, Any]]:
    return [json.loads(line) for line in _read("fuzz.jsonl").splitlines()]


def latin1(text: str) -> str:
    """Our text (UTF-8 with surrogate escapes) in the spelling of the vectors."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
