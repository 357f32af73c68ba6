"""The compiled part: what is said when it is missing or was built from other sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from machine.cpu import CpuError, native
from machine.cpu.native import NativeLibrary


def test_without_the_compiled_part_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    with pytest.raises(CpuError, match="is missing: install the package with pip, or run"):
        NativeLibrary()


def test_a_compiled_part_of_other_sources_is_refused_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "INTERFACE", 1)
    with pytest.raises(CpuError, match="was built from other sources: install the package again"):
        NativeLibrary()


def test_what_is_no_shared_object_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    suffix = native.sysconfig.get_config_var("EXT_SUFFIX")
    (tmp_path / f"_native{suffix}").write_bytes(b"not ELF")
    with pytest.raises(CpuError, match="cannot load"):
        NativeLibrary()
