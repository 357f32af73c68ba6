"""Guest memory: banks, and the places of kernel, ramdisk and device tree."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from toolstack.build_error import BuildError
from toolstack.layout import GIB, KIB, MIB, RAM0, RAM1, Placement, Range, memory_banks, place

KERNEL_BASE = RAM0.base


def placed(
    memory: int,
    kernel: int,
    ramdisk: int | None = None,
    *,
    text_offset: int = 0,
    dtb: int = 2000,
    kernel_memory: int = 0,
) -> Placement:
    return place(
        max_memkb=memory // KIB,
        text_offset=text_offset,
        kernel_size=kernel,
        kernel_memory_size=kernel_memory,
        ramdisk_size=ramdisk,
        dtb_size=dtb,
    )


def test_ram_fills_the_first_bank_and_then_the_second() -> None:
    assert memory_banks(512 * KIB) == (Range(RAM0.base, 512 * MIB), Range(RAM1.base, 0))
    assert memory_banks(3 << 20) == (RAM0, Range(RAM1.base, 0))
    assert memory_banks(5 << 20) == (RAM0, Range(RAM1.base, 2 * GIB))
    assert memory_banks(1019 << 20) == (RAM0, RAM1)


def test_ram_is_built_in_whole_mebibytes() -> None:
    assert memory_banks(1_000_001)[0].size == 976 * MIB


@pytest.mark.parametrize("kib", [0, 1023, -1])
def test_less_than_a_mebibyte_is_refused(kib: int) -> None:
    with pytest.raises(BuildError, match="less than 1 MiB"):
        memory_banks(kib)


def test_more_than_both_banks_is_refused() -> None:
    with pytest.raises(BuildError, match=r"larger than the two banks of a guest hold together \(1043456 MiB\)"):
        memory_banks((1019 << 20) + 1024)


def test_modules_go_128_mebibytes_up_when_they_fit_there() -> None:
    found = placed(512 * MIB, 40 * MIB, 20_000_001)
    assert found.ramdisk == Range(0x4800_0000, 0x131_3000)
    assert found.dtb == Range(0x4931_3000, 0x1000)
    assert found.entry == KERNEL_BASE


def test_modules_that_just_fit_at_128_mebibytes_go_there() -> None:
    assert placed(129 * MIB, 30 * MIB, MIB - 4096, dtb=4096).dtb.end == RAM0.base + 129 * MIB
    assert placed(129 * MIB, 30 * MIB, MIB - 4096, dtb=4096).ramdisk == Range(0x4800_0000, MIB - 4096)


def test_modules_go_to_the_top_of_ram_when_it_is_small() -> None:
    found = placed(64 * MIB, 10 * MIB, 5 * MIB)
    assert found.dtb.end == RAM0.base + 64 * MIB
    assert found.ramdisk == Range(found.dtb.base - 5 * MIB, 5 * MIB)


def test_modules_go_to_the_top_of_ram_when_the_kernel_reaches_128_mebibytes() -> None:
    assert placed(256 * MIB, 127 * MIB).dtb.end == RAM0.base + 256 * MIB
    assert placed(256 * MIB, 125 * MIB).dtb.base == 0x4800_0000


def test_modules_go_below_a_kernel_that_lies_at_the_top() -> None:
    found = placed(64 * MIB, 8 * MIB, 5 * MIB, text_offset=56 * MIB)
    assert found.dtb.end == found.kernel.base == RAM0.base + 56 * MIB


def test_without_a_ramdisk_there_is_only_the_device_tree() -> None:
    found = placed(512 * MIB, MIB)
    assert found.ramdisk is None
    assert found.dtb == Range(0x4800_0000, 0x1000)


def test_modules_are_never_put_into_the_second_bank() -> None:
    assert placed(8 * GIB, MIB, 500 * MIB).dtb.end < RAM0.end


@pytest.mark.parametrize(("memory", "kernel", "ramdisk"), [(16, 20, 1), (64, 30, 40), (8, 6, 2), (128, 60, 68)])
def test_what_does_not_fit_is_refused_with_the_sizes(memory: int, kernel: int, ramdisk: int) -> None:
    with pytest.raises(BuildError, match=rf"Not enough memory for the .* of {memory} MiB") as caught:
        placed(memory * MIB, kernel * MIB, ramdisk * MIB)
    assert caught.value.step == "xc_dom_boot_mem_init"


def test_modules_need_a_gap_after_the_kernel_at_the_top_of_ram() -> None:
    with pytest.raises(BuildError, match="Not enough memory"):
        placed(16 * MIB, 8 * MIB, 8 * MIB - 4096, dtb=4096)
    assert placed(16 * MIB, 8 * MIB, 8 * MIB - 8192, dtb=4096).dtb.end == RAM0.base + 16 * MIB


def test_a_text_offset_outside_of_ram_is_refused() -> None:
    for offset in (512 * MIB, 1 << 40, (1 << 64) - 4096):
        with pytest.raises(BuildError, match="kernel of 8192 bytes"):
            placed(512 * MIB, 8192, text_offset=offset)


def test_a_kernel_whose_bss_does_not_fit_is_refused() -> None:
    with pytest.raises(BuildError, match=r"kernel needs 73400320 bytes .* BSS included .* raise memory="):
        placed(64 * MIB, 10 * MIB, kernel_memory=70 * MIB)


def test_a_kernel_whose_bss_reaches_a_module_is_refused() -> None:
    with pytest.raises(BuildError, match=r"ramdisk at 0x48000000.* lies in the memory of the running kernel"):
        placed(512 * MIB, 40 * MIB, MIB, kernel_memory=140 * MIB)
    with pytest.raises(BuildError, match="device tree at 0x48000000"):
        placed(512 * MIB, 40 * MIB, kernel_memory=140 * MIB)


def test_a_bss_that_harms_nothing_changes_no_place() -> None:
    assert placed(512 * MIB, 40 * MIB, MIB, kernel_memory=100 * MIB) == placed(512 * MIB, 40 * MIB, MIB)


@given(
    memory=st.integers(1, 4096),
    kernel=st.integers(64, 300 * MIB),
    ramdisk=st.none() | st.integers(1, 300 * MIB),
    offset=st.sampled_from([0, 0x80000, 2 * MIB, 100 * MIB, 128 * MIB]),
    dtb=st.integers(1000, 1 << 20),
)
def test_nothing_overlaps_and_all_is_in_the_first_bank(
    memory: int, kernel: int, ramdisk: int | None, offset: int, dtb: int
) -> None:
    try:
        found = placed(memory * MIB, kernel, ramdisk, text_offset=offset, dtb=dtb)
    except BuildError:
        assume(False)
        return
    parts = [part for part in (found.kernel, found.ramdisk, found.dtb) if part is not None]
    assert all(found.banks[0].contains(part) for part in parts)
    assert not any(one.overlaps(two) for index, one in enumerate(parts) for two in parts[:index])
    assert found.dtb.size >= dtb
    if found.ramdisk is not None and ramdisk is not None:
        assert found.ramdisk.size - ramdisk in range(4096)
        assert found.dtb.base == found.ramdisk.end
