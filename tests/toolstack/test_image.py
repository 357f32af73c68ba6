"""Kernel and ramdisk files: what is loaded, and what is refused with which words."""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolstack.build_error import BuildError
from toolstack.image import KERNEL_LIMIT, load_kernel, load_ramdisk


def arm64_image(
    size: int = 8192, *, text_offset: int = 0x80000, image_size: int = 0x20000, code: int = 0, magic: int = 0x644D5241
) -> bytes:
    header = struct.pack("<IIQQQ24xII", code, 0, text_offset, image_size, 0xA, magic, 0)
    return header + bytes(index * 7 % 251 for index in range(size - len(header)))


def write(directory: Path, data: bytes) -> str:
    path = directory / "Image"
    path.write_bytes(data)
    return str(path)


def refusal(path: str) -> BuildError:
    with pytest.raises(BuildError) as caught:
        load_kernel(path)
    return caught.value


def test_a_raw_image_is_loaded_as_it_is(tmp_path: Path) -> None:
    data = arm64_image()
    kernel = load_kernel(write(tmp_path, data))
    assert (kernel.data, kernel.text_offset, kernel.image_size, kernel.packed) == (data, 0x80000, 0x20000, False)
    assert kernel.memory_size == 0x20000


def test_a_gzip_image_is_unpacked(tmp_path: Path) -> None:
    data = arm64_image(100_000)
    kernel = load_kernel(write(tmp_path, gzip.compress(data)))
    assert (kernel.data, kernel.packed) == (data, True)
    assert kernel.memory_size == 0x20000


def test_the_oldest_format_is_known_by_its_first_word(tmp_path: Path) -> None:
    kernel = load_kernel(write(tmp_path, arm64_image(code=0x14000008, magic=0)))
    assert (kernel.text_offset, kernel.image_size, kernel.memory_size) == (0x80000, 0, 8192)


@pytest.mark.parametrize("size", [64, 65])
def test_an_image_of_little_more_than_the_header_is_one(tmp_path: Path, size: int) -> None:
    assert len(load_kernel(write(tmp_path, arm64_image(size))).data) == size


def test_an_image_that_is_too_small_is_refused(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, arm64_image()[:63]))
    assert "no loader found" in error.message
    assert "kernel image too small (63 bytes" in error.message
    assert error.step == "xc_dom_parse_image"


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, b"\x7fELF" + bytes(200)))
    assert "kernel is not an arm64 Image" in error.message
    assert error.kind == "Invalid kernel"


def test_gzip_of_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    assert "kernel is not an arm64 Image" in refusal(write(tmp_path, gzip.compress(b"hello" * 100))).message


def test_a_missing_file_is_named_with_the_systems_reason(tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    error = refusal(path)
    assert error.lines() == (
        f"xc: error: panic: failed to open file '{path}': No such file or directory: Internal error",
        "libxl: error: xc_dom_kernel_file failed",
    )


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Without the rights of root, which can read every file."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_file_that_may_not_be_read_is_refused() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = write(Path(directory), arm64_image())
        os.chmod(path, 0)
        with nobody():
            assert refusal(path).message == f"failed to open file '{path}': Permission denied"


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, b"")
    assert refusal(path).message == f"failed to map file '{path}': the kernel file is empty"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "the kernel must be a regular file" in refusal(str(tmp_path)).message


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "the kernel must be a regular file" in refusal(str(tmp_path / "fifo")).message


@pytest.mark.parametrize("path", ["", "nul\0inside"])
def test_a_path_that_cannot_be_one_is_refused(path: str) -> None:
    assert f"failed to open file '{path}'" in refusal(path).message


@pytest.mark.parametrize("keep", [2, 9, 12, 500, -9, -8, -4, -1])
def test_gzip_that_was_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    packed = gzip.compress(arm64_image(100_000), mtime=0)
    error = refusal(write(tmp_path, packed[:keep]))
    assert "inflate failed: truncated" in error.message


def test_every_single_damaged_byte_of_gzip_data_is_noticed(tmp_path: Path) -> None:
    packed = gzip.compress(arm64_image(3000), mtime=0)
    for position in range(10, len(packed), 37):
        damaged = bytearray(packed)
        damaged[position] ^= 0x55
        assert "inflate failed" in refusal(write(tmp_path, bytes(damaged))).message


def test_data_after_the_gzip_stream_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(arm64_image())
    assert "inflate failed" in refusal(write(tmp_path, packed + b"signature")).message
    assert "inflate failed" in refusal(write(tmp_path, packed + packed)).message


def test_a_kernel_above_the_limit_is_refused(tmp_path: Path) -> None:
    data = arm64_image(100_000)
    for content in (data, gzip.compress(data)):
        path = write(tmp_path, content)
        assert load_kernel(path, limit=100_000).data == data
        with pytest.raises(BuildError, match="more than the limit of 99999 bytes"):
            load_kernel(path, limit=99_999)


def test_a_file_of_more_than_a_gibibyte_is_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path, b"")
    os.truncate(path, KERNEL_LIMIT + 1)
    assert f"is {KERNEL_LIMIT + 1} bytes, more than the limit" in refusal(path).message


def test_a_ramdisk_is_not_unpacked(tmp_path: Path) -> None:
    packed = gzip.compress(b"cpio")
    assert load_ramdisk(write(tmp_path, packed)) == packed


def test_a_missing_or_empty_ramdisk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="failed to open file '/none/ramdisk': No such file or directory") as caught:
        load_ramdisk("/none/ramdisk")
    assert caught.value.step == "xc_dom_ramdisk_file"
    with pytest.raises(BuildError, match="the ramdisk file is empty"):
        load_ramdisk(write(tmp_path, b""))
