"""A whole guest from files: segments, vCPU 0, and the same bytes every time."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from test_image import arm64_image

from toolstack.build_error import BuildError
from toolstack.builder import GuestImage, GuestSpec, build
from toolstack.dtb.blob import Blob
from toolstack.layout import MIB, Range


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    path = tmp_path / "Image"
    path.write_bytes(arm64_image(300_000))
    return str(path)


@pytest.fixture
def ramdisk(tmp_path: Path) -> str:
    path = tmp_path / "initrd"
    path.write_bytes(b"r" * 5_000_001)
    return str(path)


def segments(guest: GuestImage) -> dict[str, tuple[int, int]]:
    return {segment.name: (segment.gpa, len(segment.data)) for segment in guest.segments}


def test_a_realm_is_kernel_ramdisk_and_device_tree_in_this_order(kernel: str, ramdisk: str) -> None:
    guest = build(GuestSpec(kernel=kernel, ramdisk=ramdisk, realm=True, max_memkb=512 << 10, vuart=True))
    assert list(segments(guest)) == ["kernel", "ramdisk", "dtb"]
    assert segments(guest) == {
        "kernel": (0x4008_0000, 300_000),
        "ramdisk": (0x4800_0000, 5_000_001),
        "dtb": (0x484C_5000, len(guest.dtb)),
    }
    assert guest.banks == (Range(0x4000_0000, 512 * MIB),)


def test_vcpu_0_enters_the_kernel_with_the_device_tree_in_x0(kernel: str) -> None:
    context = build(GuestSpec(kernel=kernel, realm=True)).context
    assert (context.pc, context.x0) == (0x4008_0000, 0x47FF_F000)
    assert (context.x1, context.x2, context.x3) == (0, 0, 0)
    assert (context.pstate, context.sctlr) == (0x3C5, 0xC50078)


def test_the_device_tree_tells_where_the_ramdisk_is_with_its_end_rounded_up(kernel: str, ramdisk: str) -> None:
    guest = build(GuestSpec(kernel=kernel, ramdisk=ramdisk, realm=True, max_memkb=512 << 10))
    tree = Blob(guest.dtb)
    assert tree.find("/chosen", "linux,initrd-start").value.hex() == "0000000048000000"
    assert tree.find("/chosen", "linux,initrd-end").value.hex() == "00000000484c5000"


def test_the_same_realm_is_built_of_the_same_bytes(kernel: str, ramdisk: str) -> None:
    spec = GuestSpec(kernel=kernel, ramdisk=ramdisk, realm=True, vcpus=4, cmdline="console=ttyAMA0")
    assert build(spec) == build(spec)


def test_a_packed_kernel_makes_the_same_guest(kernel: str, tmp_path: Path) -> None:
    packed = tmp_path / "Image.gz"
    packed.write_bytes(gzip.compress(Path(kernel).read_bytes()))
    assert build(GuestSpec(kernel=str(packed), realm=True)) == build(GuestSpec(kernel=kernel, realm=True))


def test_a_realm_beyond_the_first_bank_is_refused(kernel: str) -> None:
    assert build(GuestSpec(kernel=kernel, realm=True, max_memkb=3 << 20)).banks[0].size == 3072 * MIB
    with pytest.raises(BuildError, match="Realm guests must fit entirely within the first RAM bank"):
        build(GuestSpec(kernel=kernel, realm=True, max_memkb=(3 << 20) + 1024))
    assert len(build(GuestSpec(kernel=kernel, max_memkb=4 << 20)).banks) == 2


def test_a_kernel_larger_than_memory_is_refused(kernel: str, tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(arm64_image(3 * MIB))
    with pytest.raises(BuildError, match="Not enough memory for the kernel"):
        build(GuestSpec(kernel=str(path), realm=True, max_memkb=2 << 10))


def test_a_missing_ramdisk_is_refused(kernel: str) -> None:
    with pytest.raises(BuildError, match="failed to open file '/none': No such file or directory"):
        build(GuestSpec(kernel=kernel, ramdisk="/none"))


def test_the_magic_pages_are_four_zero_pages_outside_ram(kernel: str) -> None:
    guest = build(GuestSpec(kernel=kernel))
    assert [page.base for page in guest.magic_pages] == [0x3900_0000, 0x3900_1000, 0x3900_2000, 0x3900_3000]
    assert not any(page.overlaps(bank) for page in guest.magic_pages for bank in guest.banks)
