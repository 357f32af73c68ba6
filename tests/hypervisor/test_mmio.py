"""The MMIO map: who emulates an address, and what becomes of an access."""

from __future__ import annotations

import pytest

from hypervisor.arm.mmio import IoState, MmioMap
from hypervisor.arm.vgic_dist import GICD_BASE, GICD_SIZE
from hypervisor.arm.vgic_redist import GICR_BASE, GICR_SIZE
from hypervisor.arm.vgic_v3 import VgicV3


class Recorder:
    """A device that remembers its accesses; it refuses offset 0xbad."""

    def __init__(self, answer: int = 0x1122_3344_5566_7788) -> None:
        self.answer = answer
        self.seen: list[tuple[object, ...]] = []

    def read(self, offset: int, size: int, vcpu: int) -> int | None:
        self.seen.append(("read", offset, size, vcpu))
        return None if offset == 0xBAD else self.answer

    def write(self, offset: int, size: int, value: int, vcpu: int) -> bool:
        self.seen.append(("write", offset, size, value, vcpu))
        return offset != 0xBAD


def test_the_numbers_of_the_states_are_xens() -> None:
    assert [(state.name, state.value) for state in IoState] == [
        ("ABORT", 0), ("HANDLED", 1), ("UNHANDLED", 2), ("RETRY", 3)]


def test_a_device_sees_offset_size_value_and_vcpu() -> None:
    device = Recorder()
    mmio = MmioMap()
    mmio.add(0x2200_0000, 0x1000, "vuart", device)
    assert mmio.read(0x2200_0018, 4, 2) == (IoState.HANDLED, 0x5566_7788)
    assert mmio.write(0x2200_0000, 1, 0x1FF, 3) is IoState.HANDLED
    assert device.seen == [("read", 0x18, 4, 2), ("write", 0, 1, 0xFF, 3)]


@pytest.mark.parametrize(("size", "value"), [(1, 0x88), (2, 0x7788), (4, 0x5566_7788), (8, 0x1122_3344_5566_7788)])
def test_a_load_is_cut_to_its_size(size: int, value: int) -> None:
    mmio = MmioMap()
    mmio.add(0x1000, 0x1000, "device", Recorder())
    assert mmio.read(0x1000, size, 0) == (IoState.HANDLED, value)


def test_a_refused_access_aborts() -> None:
    mmio = MmioMap()
    mmio.add(0x1000, 0x1000, "device", Recorder())
    assert mmio.read(0x1BAD, 1, 0) == (IoState.ABORT, 0)
    assert mmio.write(0x1BAD, 1, 0, 0) is IoState.ABORT


def test_an_address_without_device_is_unhandled_when_the_domain_traps_unmapped_accesses() -> None:
    mmio = MmioMap(trap_unmapped_accesses=True)
    mmio.add(0x1000, 0x1000, "device", Recorder())
    for address in (0, 0xFFF, 0x2000, 1 << 40):
        assert mmio.read(address, 4, 0) == (IoState.UNHANDLED, 0)
        assert mmio.write(address, 4, 0, 0) is IoState.UNHANDLED


def test_otherwise_it_reads_all_ones_and_ignores_writes() -> None:
    mmio = MmioMap(trap_unmapped_accesses=False)
    assert mmio.read(0x5000, 1, 0) == (IoState.HANDLED, 0xFF)
    assert mmio.read(0x5000, 8, 0) == (IoState.HANDLED, 0xFFFF_FFFF_FFFF_FFFF)
    assert mmio.write(0x5000, 8, 0, 0) is IoState.HANDLED


def test_neighbours_are_told_apart_in_any_order_of_access() -> None:
    mmio = MmioMap()
    devices = {base: Recorder(base) for base in (0x3000, 0x1000, 0x2000, 0x8000)}
    for base, device in devices.items():
        mmio.add(base, 0x1000, f"at {base:#x}", device)
    assert [region.base for region in mmio.regions] == [0x1000, 0x2000, 0x3000, 0x8000]
    for address in (0x1FFC, 0x2000, 0x1000, 0x3FFC, 0x8000, 0x2FFC):
        assert mmio.read(address, 4, 0) == (IoState.HANDLED, address & ~0xFFF)
    assert mmio.find(0x4000) is None
    assert mmio.find(0x0FFF) is None


@pytest.mark.parametrize(("base", "size"), [(0x1000, 0x1000), (0x0800, 0x801), (0x1FFF, 1), (0x0, 0x10000)])
def test_overlapping_regions_are_refused(base: int, size: int) -> None:
    mmio = MmioMap()
    mmio.add(0x1000, 0x1000, "first", Recorder())
    with pytest.raises(ValueError, match=r"MMIO region second .* overlaps first \[0x1000, 0x2000\)"):
        mmio.add(base, size, "second", Recorder())
    assert len(mmio.regions) == 1


def test_an_empty_region_is_refused() -> None:
    with pytest.raises(ValueError, match="MMIO region void at 0x1000: size 0 is not positive"):
        MmioMap().add(0x1000, 0, "void", Recorder())


def test_the_gic_frames_fit_the_guest_memory_map() -> None:
    vgic = VgicV3(1, 2, 1)
    mmio = MmioMap()
    mmio.add(GICD_BASE, GICD_SIZE, "vGICD", vgic.distributor)
    mmio.add(GICR_BASE, GICR_SIZE, "vGICR", vgic.redistributors)
    assert mmio.read(0x0300_1004, 4, 0) == (IoState.HANDLED, 0x0048_0021)
    assert mmio.read(0x0304_0008, 8, 0) == (IoState.HANDLED, 1 << 32 | 1 << 8 | 1 << 4)
    assert mmio.read(0x0300_1004, 8, 0) == (IoState.ABORT, 0)
    assert mmio.read(0x0306_0000, 4, 0) == (IoState.ABORT, 0)
