"""The start-up self-test: an unexpected platform, build or layout is one clear line, never a crash."""

from __future__ import annotations

import ctypes
from dataclasses import fields, replace
from pathlib import Path

import pytest

from machine.cpu import CpuError
from machine.cpu import unicorn_library as unicorn
from machine.cpu.unicorn_library import LAYOUT, Library, load


@pytest.fixture(scope="module")
def library() -> Library:
    return load()


def test_the_installed_library_is_the_expected_one(library: Library) -> None:
    assert unicorn.build_id(library.path) == unicorn.BUILD_ID
    assert load() is library


@pytest.mark.parametrize(
    ("system", "machine", "libc"),
    [("darwin", "x86_64", ""), ("linux", "aarch64", "glibc"), ("linux", "x86_64", ""), ("win32", "AMD64", "")],
)
def test_another_platform_is_refused_in_one_line(system: str, machine: str, libc: str) -> None:
    with pytest.raises(CpuError, match="needs x86-64 Linux with glibc") as caught:
        unicorn.check_platform(system, machine, libc)
    assert "\n" not in str(caught.value)


def test_another_version_is_refused_with_both_versions() -> None:
    with pytest.raises(CpuError, match=r"version 2\.1\.3, but .* 2\.1\.4"):
        unicorn.check_version(0x020103FF)


def test_another_build_is_refused_before_it_is_used(tmp_path: Path) -> None:
    libc = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line)
    with pytest.raises(CpuError, match="is another build"):
        unicorn.check_build(libc)


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "libunicorn.so.2"
    text.write_text("not an ELF file")
    with pytest.raises(CpuError, match="is not a little-endian ELF64 file"):
        unicorn.check_build(str(text))
    with pytest.raises(CpuError, match=r"cannot read .*missing"):
        unicorn.check_build(str(tmp_path / "missing"))


def test_a_missing_symbol_is_named(monkeypatch: pytest.MonkeyPatch, library: Library) -> None:
    monkeypatch.setitem(unicorn._FUNCTIONS, "tb_flush_of_tomorrow", (None, ()))
    with pytest.raises(CpuError, match="does not export tb_flush_of_tomorrow"):
        Library(library.path)


#: Fields through which the self-test reads on at another address.
POINTERS = ("uc_cpu", "cpu_env_ptr", "cpu_env", "cpu_cp_regs", "cpu_id_aa64pfr0", "cpu_id_aa64mmfr0", "env_uc")


@pytest.mark.parametrize(
    ("field", "shift"),
    [*((field.name, shift) for field in fields(LAYOUT) for shift in (8, -8)), *((name, 1 << 44) for name in POINTERS)],
)
def test_a_field_at_another_place_is_found_out_without_a_crash(library: Library, field: str, shift: int) -> None:
    wrong = replace(LAYOUT, **{field: getattr(LAYOUT, field) + shift})
    with pytest.raises(CpuError, match=r"^unicorn: "):
        unicorn.verify(library, wrong)


def test_memory_that_is_not_there_is_an_error_not_a_crash() -> None:
    with pytest.raises(CpuError, match="is not where it is expected"):
        unicorn.peek(8, 8)
    buffer = ctypes.create_string_buffer(b"12345678")
    assert unicorn.peek(ctypes.addressof(buffer), 8) == b"12345678"


def test_a_failing_call_is_an_error_with_the_librarys_words(library: Library) -> None:
    with pytest.raises(CpuError, match=r"unicorn: mapping: .*\(UC_ERR_"):
        library.check(11, "mapping")
