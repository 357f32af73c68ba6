"""The start-up self-test: an unexpected platform, build or layout is one clear line, never a crash."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import fields, replace
from pathlib import Path

import guest_asm as a
import pytest
from realm_box import CODE, DATA, RealmBox

from machine.cpu import CpuError
from machine.cpu import unicorn_library as unicorn
from machine.cpu.unicorn_library import LAYOUT, TLB, Library, load, peek

#: Distance of pages with the same index: the TLB begins with 256 entries.
SAME_INDEX = 256 << TLB.page_bits


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


def _tlb(env: int) -> list[bytes]:
    """Every mode's table and victim buffer."""
    tables = []
    for mode in range(TLB.modes):
        mask, table = struct.unpack("<QQ", peek(env + TLB.env_fast + 16 * mode, 16))
        tables.append(peek(table, mask + (1 << TLB.entry_size_log2)))
        tables.append(peek(env + TLB.env_victims + TLB.victim_stride * mode, TLB.victims << TLB.entry_size_log2))
    return tables


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (DATA, 8),
        (DATA, 0x1000),
        (DATA, 0x1800),
        (CODE, 0x24),
        (DATA + 2 * SAME_INDEX, 0x1000),  # in the victim buffer
        (DATA + 3 * SAME_INDEX, 0x1000),
        (1 << 40, 64),
    ],
)
def test_marking_translated_pages_changes_what_the_librarys_own_function_changes(start: int, length: int) -> None:
    """The replacement in native.c looks at one entry of each mode, the library's function at all of them."""

    def marked(ours: bool) -> tuple[list[bytes], list[bytes]]:
        with RealmBox() as box:
            # Written pages: in the table, and, having the same index as others, in the victim buffer.
            pages = [DATA + n * 0x1000 for n in range(1, 4)] + [DATA + n * SAME_INDEX for n in range(1, 5)]
            for page in pages:
                box.map(page, box.take())
            words = [word for page in (*pages, DATA) for word in (*a.mov(2, page), a.str_w(3, 2), a.str_w(3, 2))]
            box.put(CODE, words, a.smc())
            box.run()
            env = box.engine._env
            _open_for_writes(env)
            before = _tlb(env)
            library = load()
            own = ctypes.PyDLL(library.path).tlb_reset_dirty_by_vaddr_aarch64
            own.argtypes, own.restype = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64), None
            (library.native.reset_dirty if ours else own)(box.engine._cpu, start, length)
            # Entries of different engines differ in host addresses: what counts is which write addresses changed.
            return [_writes(table) for table in before], [_writes(table) for table in _tlb(env)]

    before, after = marked(ours=True)
    assert (before, after) == marked(ours=False)
    assert (before != after) is (start < 1 << 40)


def _open_for_writes(env: int) -> None:
    """Clear the mark of every entry that has it and nothing else: as the library does once a page has no code."""
    for mode in range(TLB.modes):
        mask, table = struct.unpack("<QQ", peek(env + TLB.env_fast + 16 * mode, 16))
        victims = env + TLB.env_victims + TLB.victim_stride * mode
        size = 1 << TLB.entry_size_log2
        entries = [table + at for at in range(0, mask + size, size)]
        for entry in [*entries, *(victims + size * n for n in range(TLB.victims))]:
            write = ctypes.c_uint64.from_address(entry + TLB.addr_write)
            if write.value & TLB.clean_flags == TLB.not_dirty:
                write.value &= ~TLB.not_dirty


def _writes(table: bytes) -> bytes:
    """The write addresses of a table's entries."""
    size = 1 << TLB.entry_size_log2
    return b"".join(table[at + TLB.addr_write : at + TLB.addr_write + 8] for at in range(0, len(table), size))
