"""The vGICv3 register tables, row by row: values, what can be written, and which widths abort."""

from __future__ import annotations

import logging

import pytest

from hypervisor.arm.vgic_frame import RegisterFrame, Row
from hypervisor.arm.vgic_v3 import VgicV3

STRIDE = 0x20000
SGI = 0x10000


@pytest.fixture
def vgic() -> VgicV3:
    return VgicV3(domid=3, max_vcpus=4, nr_spis=1)


def test_gicd_ctlr_resets_to_affinity_routing_and_only_enable_grp1a_can_be_written(vgic: VgicV3) -> None:
    gicd = vgic.distributor
    assert gicd.read(0, 4, 0) == 0x10
    assert gicd.write(0, 4, 0xFFFF_FFFF, 0)
    assert gicd.read(0, 4, 0) == 0x12
    assert gicd.write(0, 4, 0, 0)
    assert gicd.read(0, 4, 0) == 0x10


@pytest.mark.parametrize(
    ("vcpus", "spis", "typer"),
    [(1, 1, 0x0048_0001), (4, 1, 0x0048_0061), (8, 32, 0x0048_00E1), (128, 33, 0x0048_00E2), (1, 0, 0x0048_0000),
     (2, 988, 0x0048_003F)],
)
def test_gicd_typer_tells_vcpus_spis_and_intid_width(vcpus: int, spis: int, typer: int) -> None:
    assert VgicV3(1, vcpus, spis).distributor.read(4, 4, 0) == typer


def test_identification_registers(vgic: VgicV3) -> None:
    assert vgic.distributor.read(0x008, 4, 0) == 0x34C
    assert vgic.distributor.read(0xFFE8, 4, 0) == 0x30
    assert vgic.redistributors.read(STRIDE + 0x004, 4, 0) == 0x34C
    assert vgic.redistributors.read(STRIDE + 0xFFE8, 4, 0) == 0x30


@pytest.mark.parametrize("offset", [0x084, 0xD04, 0xE08], ids=["IGROUPR1", "IGRPMODR1", "NSACR2"])
def test_group_registers_read_zero_and_ignore_writes(vgic: VgicV3, offset: int) -> None:
    assert vgic.distributor.write(offset, 4, 0xFFFF_FFFF, 0)
    assert vgic.distributor.read(offset, 4, 0) == 0


def test_set_and_clear_enable_both_read_the_enable_bits(vgic: VgicV3) -> None:
    gicd = vgic.distributor
    gicd.write(0x104, 4, 0b1011, 0)
    assert gicd.read(0x104, 4, 0) == gicd.read(0x184, 4, 0) == 0b1011
    gicd.write(0x184, 4, 0b0010, 0)
    assert gicd.read(0x104, 4, 0) == gicd.read(0x184, 4, 0) == 0b1001


def test_enable_bits_beyond_the_domains_spis_stay_zero(vgic: VgicV3) -> None:
    assert vgic.distributor.write(0x108, 4, 0xFFFF_FFFF, 0)
    assert vgic.distributor.read(0x108, 4, 0) == 0


def test_private_interrupts_are_banked_per_vcpu(vgic: VgicV3) -> None:
    gicr = vgic.redistributors
    gicr.write(2 * STRIDE + SGI + 0x100, 4, 1 << 27, 0)
    assert gicr.read(2 * STRIDE + SGI + 0x180, 4, 0) == 1 << 27
    assert gicr.read(SGI + 0x100, 4, 0) == 0
    assert vgic.distributor.read(0x100, 4, 2) == 1 << 27, "the distributor shows the accessing vCPU's"
    assert vgic.distributor.read(0x100, 4, 0) == 0


def test_pending_can_be_set_but_neither_read_nor_cleared(vgic: VgicV3) -> None:
    gicd = vgic.distributor
    gicd.write(0, 4, 2, 0)
    gicd.write(0x104, 4, 1, 0)
    gicd.write(0x204, 4, 1, 0)
    assert gicd.read(0x204, 4, 0) == gicd.read(0x284, 4, 0) == 0
    assert vgic.has_pending(0)
    gicd.write(0x284, 4, 1, 0)
    assert vgic.has_pending(0)


@pytest.mark.parametrize("offset", [0x304, 0x384])
def test_active_registers_read_zero_and_ignore_writes(vgic: VgicV3, offset: int) -> None:
    vgic.spis[0].active = True
    assert vgic.distributor.read(offset, 4, 0) == 0
    assert vgic.distributor.write(offset, 4, 1, 0)
    assert vgic.spis[0].active
    assert not vgic.spis[1].active


def test_priorities_are_accessed_as_bytes_and_words(vgic: VgicV3) -> None:
    gicd = vgic.distributor
    assert gicd.write(0x420, 4, 0x4433_2211, 0)
    assert gicd.write(0x421, 1, 0xA0, 0)
    assert gicd.read(0x420, 4, 0) == 0x4433_A011
    assert gicd.read(0x423, 1, 0) == 0x44
    assert gicd.read(0x420, 2, 0) is None
    assert not gicd.write(0x420, 2, 0, 0)
    assert gicd.read(0x440, 4, 0) == 0, "no such SPI"


def test_the_last_priority_registers_exist_and_the_special_intids_have_none() -> None:
    gicd = VgicV3(1, 1, 988).distributor
    assert gicd.write(0x7F8, 4, 0x0403_0201, 0)
    assert gicd.read(0x7F8, 4, 0) == 0x0403_0201
    assert gicd.write(0x7FC, 4, 0x0403_0201, 0)
    assert gicd.read(0x7FC, 4, 0) == 0


def test_sgis_are_edge_triggered_for_ever_and_ppis_and_spis_level_until_configured(vgic: VgicV3) -> None:
    gicr = vgic.redistributors
    gicr.write(SGI + 0xC00, 4, 0, 0)
    assert gicr.read(SGI + 0xC00, 4, 0) == 0xAAAA_AAAA
    assert gicr.read(SGI + 0xC04, 4, 0) == 0
    gicr.write(SGI + 0xC04, 4, 0xFFFF_FFFF, 0)
    assert gicr.read(SGI + 0xC04, 4, 0) == 0xAAAA_AAAA, "the low bit of each field is reserved"
    vgic.distributor.write(0xC08, 4, 0b10, 0)
    assert vgic.distributor.read(0xC08, 4, 0) == 0b10


def test_software_generated_interrupt_registers_of_the_distributor(vgic: VgicV3) -> None:
    gicd = vgic.distributor
    assert gicd.read(0xF00, 4, 0) == 0
    assert gicd.write(0xF00, 4, 1 << 16, 0), "SGIR is ignored under affinity routing"
    assert not any(vgic.vcpus[0].irqs[n].latch for n in range(16))
    for offset in (0xF10, 0xF1C, 0xF20, 0xF2C):
        assert gicd.read(offset, 4, 0) == 0
        assert not gicd.write(offset, 4, 1, 0), "writes to the pending SGI registers abort"


def test_irouter_reads_back_the_affinity() -> None:
    gicd = VgicV3(1, 40, 32).distributor
    router = 0x6100 + 8 * 3
    assert gicd.read(router, 8, 0) == 0
    assert gicd.write(router, 8, 0x203, 0)
    assert gicd.read(router, 8, 0) == 0x203
    assert (gicd.read(router, 4, 0), gicd.read(router + 4, 4, 0)) == (0x203, 0)
    gicd.write(router, 8, 0x30F, 0)
    assert gicd.read(router, 8, 0) == 0x203, "vCPU 63 does not exist"
    gicd.write(router, 8, 0x1_0000_0000, 0)
    assert gicd.read(router, 8, 0) == 0x203, "no vCPU has an Aff3"
    gicd.write(router, 4, 0x101, 0)
    assert gicd.read(router, 8, 0) == 0x101
    gicd.write(router, 8, 1 << 31 | 0x105, 0)
    assert gicd.read(router, 8, 0) == 0, "any vCPU is vCPU 0"


def test_irouter_of_an_absent_spi_ignores_writes(vgic: VgicV3) -> None:
    assert vgic.distributor.write(0x6100 + 8 * 32, 8, 1, 0)
    assert vgic.distributor.read(0x6100 + 8 * 32, 8, 0) == 0


@pytest.mark.parametrize("offset", [0x00C, 0x014, 0x020, 0x800, 0x1000, 0x3000, 0x60F8, 0x9FFC, 0xC000, 0xFFD0, 0xFFFC])
def test_reserved_distributor_registers_read_zero_and_ignore_writes(vgic: VgicV3, offset: int) -> None:
    assert vgic.distributor.read(offset, 4, 0) == 0
    assert vgic.distributor.write(offset, 4, 0xFFFF_FFFF, 0)


def test_unknown_registers_read_zero_and_are_reported(vgic: VgicV3, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert vgic.distributor.read(0x800, 4, 1) == 0
        assert vgic.distributor.write(0x800, 4, 5, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "d3v1: vGICD: unhandled read of 4 bytes at 0x0800",
        "d3v1: vGICD: unhandled write of 0x5 at 0x0800",
    ]


@pytest.mark.parametrize("offset", [0x000, 0x004, 0x008, 0x080, 0x104, 0x184, 0x204, 0x284, 0x304, 0x384, 0xC08, 0xD00,
                                    0xE00, 0xF00, 0xF10, 0xFFE8])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_word_registers_of_the_distributor_abort_other_widths(vgic: VgicV3, offset: int, size: int) -> None:
    assert vgic.distributor.read(offset, size, 0) is None
    assert vgic.distributor.write(offset, size, 0, 0) is False


@pytest.mark.parametrize("size", [1, 2])
def test_irouter_aborts_narrow_accesses(vgic: VgicV3, size: int) -> None:
    assert vgic.distributor.read(0x6100, size, 0) is None
    assert vgic.distributor.write(0x6100, size, 0, 0) is False


def test_a_misaligned_access_aborts(vgic: VgicV3) -> None:
    assert vgic.distributor.read(0x422, 4, 0) is None
    assert vgic.distributor.read(0x6104, 8, 0) is None


def test_gicr_typer_holds_affinity_number_and_last() -> None:
    gicr = VgicV3(1, 18, 1).redistributors
    assert gicr.read(0x8, 8, 0) == 0
    assert gicr.read(15 * STRIDE + 0x8, 8, 0) == 0xF << 32 | 15 << 8
    assert gicr.read(17 * STRIDE + 0x8, 8, 0) == 0x101 << 32 | 17 << 8 | 1 << 4
    assert gicr.read(17 * STRIDE + 0x8, 4, 0) == 17 << 8 | 1 << 4
    assert gicr.read(17 * STRIDE + 0xC, 4, 0) == 0x101


@pytest.mark.parametrize(("offset", "size"), [(0x00, 4), (0x10, 4), (0x14, 4), (0x70, 8), (0x78, 8), (0x70, 4)],
                         ids=["CTLR", "STATUSR", "WAKER", "PROPBASER", "PENDBASER", "PROPBASER low"])
def test_lpi_and_power_registers_of_the_redistributor_read_zero_and_ignore_writes(
    vgic: VgicV3, offset: int, size: int
) -> None:
    assert vgic.redistributors.write(offset, size, 0xFFFF_FFFF, 0)
    assert vgic.redistributors.read(offset, size, 0) == 0


def test_gicr_syncr_is_one(vgic: VgicV3) -> None:
    assert vgic.redistributors.read(0xC0, 4, 0) == 1


@pytest.mark.parametrize("offset", [0x80, 0x200, 0x280, 0x300, 0x380, 0xD00, 0xE00])
def test_sgi_frame_registers_that_read_zero(vgic: VgicV3, offset: int) -> None:
    assert vgic.redistributors.write(SGI + offset, 4, 0xFFFF_0000, 0)
    assert vgic.redistributors.read(SGI + offset, 4, 0) == 0


def test_the_sgi_frame_has_32_priorities(vgic: VgicV3) -> None:
    gicr = vgic.redistributors
    assert gicr.write(SGI + 0x41C, 4, 0x4030_2010, 0)
    assert gicr.read(SGI + 0x41F, 1, 0) == 0x40
    assert gicr.read(SGI + 0x420, 4, 0) == 0


@pytest.mark.parametrize("offset", [0x00, 0x04, 0x14, 0xC0, 0xFFE8, SGI + 0x100, SGI + 0x180, SGI + 0xC04])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_word_registers_of_the_redistributor_abort_other_widths(vgic: VgicV3, offset: int, size: int) -> None:
    assert vgic.redistributors.read(offset, size, 0) is None
    assert vgic.redistributors.write(offset, size, 0, 0) is False


def test_a_redistributor_that_no_vcpu_has_aborts(vgic: VgicV3) -> None:
    assert vgic.redistributors.read(4 * STRIDE, 4, 0) is None
    assert vgic.redistributors.write(4 * STRIDE, 4, 0, 0) is False


def test_a_domain_beyond_the_architectures_limits_is_refused() -> None:
    with pytest.raises(ValueError, match="d7: 129 vCPUs: the redistributor region has room for 1 to 128"):
        VgicV3(7, 129, 32)
    with pytest.raises(ValueError, match="d7: 989 SPIs: a GICv3 has 0 to 988"):
        VgicV3(7, 1, 989)


def test_a_frame_refuses_overlapping_rows() -> None:
    with pytest.raises(ValueError, match="test: B at 0x4 begins inside A"):
        RegisterFrame("test", (Row("A", 0, 8, (4,)), Row("B", 4, 8, (4,))))
