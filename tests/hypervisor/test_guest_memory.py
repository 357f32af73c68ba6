"""Guest virtual addresses, translated as the processing element does it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from plain_board import DATA, RAM, PlainBoard, a

from hypervisor.arm.guest_memory import GuestFault, GuestMemory

#: Tables for stage 1.
TABLES = RAM + 0x30_0000
#: Table descriptor, page and block: AF, inner shareable, attribute index 0; read-only.
TABLE, PAGE, BLOCK, READ_ONLY = 3, 1 << 10 | 3 << 8 | 3, 1 << 10 | 3 << 8 | 1, 1 << 7


class Mapped(PlainBoard):
    """A guest with its MMU on; :meth:`map` builds its tables, which end up in TTBR0 and TTBR1 alike."""

    def __init__(self) -> None:
        super().__init__()
        vcpu = self.plain.vcpus[0]
        vcpu.element.load(vcpu)
        self.memory = GuestMemory(self.board.ns, self.cpu, self.plain.p2m)
        self._next = TABLES

    def switch_on(self, width: int, granule: int) -> None:
        self.width, self.granule = width, granule
        tg0, tg1 = {12: (0, 2), 14: (2, 1), 16: (1, 3)}[granule]
        self.root = self.take()
        self.cpu.set_sysreg("MAIR_EL1", 0xFF)
        size = 64 - width
        cacheable = 3 << 12 | 1 << 10 | 1 << 8
        tcr = size | size << 16 | tg0 << 14 | tg1 << 30 | 5 << 32 | cacheable | cacheable << 16
        self.cpu.set_sysreg("TCR_EL1", tcr)
        self.cpu.set_sysreg("TTBR0_EL1", self.root)
        self.cpu.set_sysreg("TTBR1_EL1", self.root | 0x55 << 48)
        self.cpu.set_sysreg("SCTLR_EL1", 0x00C5_0078 | 1)

    def take(self) -> int:
        size = 1 << self.granule
        self._next = -(-self._next // size) * size + size
        return self._next - size

    def map(self, va: int, gpa: int, level: int = 3, attributes: int = PAGE) -> None:
        stride = self.granule - 3
        at = 4 - -(-(self.width - self.granule) // stride)
        table = self.root
        offset = va & (1 << self.width) - 1
        while True:
            slot = table + 8 * (offset >> self.granule + stride * (3 - at) & (1 << stride) - 1)
            if at == level:
                self.write(slot, (gpa | attributes).to_bytes(8, "little"))
                return
            entry = self.word(slot)
            if not entry:
                entry = self.take() | TABLE
                self.write(slot, entry.to_bytes(8, "little"))
            table, at = entry & ~0xFFF, at + 1

    def guest_reads(self, va: int) -> int:
        """What the guest itself loads from there."""
        self.map(RAM, RAM, attributes=PAGE)
        self.put(RAM, a.ldr(2, 1), a.hvc(1))
        self.cpu.set_gpr(1, va)
        self.cpu.pc = RAM
        taken = self.cpu.run(self.plain.vcpus[0].regime)
        assert taken.esr >> 26 == 0x16, hex(taken.esr)
        return self.cpu.gpr(2)


@pytest.fixture
def box() -> Iterator[Mapped]:
    made = Mapped()
    yield made
    made.close()


@pytest.mark.parametrize(("width", "granule"), [(48, 12), (39, 12), (36, 12), (47, 14), (48, 14), (48, 16), (42, 16)])
@pytest.mark.parametrize("upper", [False, True])
def test_it_finds_what_the_element_finds(box: Mapped, width: int, granule: int, upper: bool) -> None:
    box.switch_on(width, granule)
    va = 0x8_1234_0000 | ((1 << 64) - (1 << width) if upper else 0)
    box.map(va, DATA)
    box.write(DATA + 0x678, b"Abcdefgh")
    assert box.memory.read(va + 0x678, 8) == b"Abcdefgh"
    assert box.guest_reads(va + 0x678) == int.from_bytes(b"Abcdefgh", "little")


def test_blocks_are_followed(box: Mapped) -> None:
    box.switch_on(48, 12)
    box.map(0x1_0000_0000, RAM + 0x20_0000, level=2, attributes=BLOCK)
    box.write(RAM + 0x21_2340, b"block 12")
    assert box.memory.read(0x1_0001_2340, 8) == b"block 12"
    assert box.guest_reads(0x1_0001_2340) == int.from_bytes(b"block 12", "little")


def test_ranges_over_pages_are_read_and_written_page_by_page(box: Mapped) -> None:
    box.switch_on(48, 12)
    box.map(0x10_0000, DATA + 0x3000)
    box.map(0x10_1000, DATA + 0x1000)
    box.memory.write(0x10_0FFC, b"12345678")
    assert box.read(DATA + 0x3FFC, 4) == b"1234"
    assert box.read(DATA + 0x1000, 4) == b"5678"
    assert box.memory.read(0x10_0FFC, 8) == b"12345678"


def test_a_read_only_page_refuses_a_write_and_nothing_is_written(box: Mapped) -> None:
    box.switch_on(48, 12)
    box.map(0x10_0000, DATA)
    box.map(0x10_1000, DATA + 0x1000, attributes=PAGE | READ_ONLY)
    with pytest.raises(GuestFault, match="0x101000 is read-only"):
        box.memory.write(0x10_0FFC, b"12345678")
    assert box.read(DATA + 0xFFC, 4) == bytes(4)
    assert box.memory.read(0x10_1000, 4) == bytes(4)


@pytest.mark.parametrize(
    "va", [0x20_0000, 1 << 48, 0x7F << 48, (1 << 64) - (1 << 50), 0xFFFF_0000_0020_0000],
    ids=["not mapped", "above the lower range", "far above", "below the upper range", "upper, not mapped"],
)  # fmt: skip
def test_what_is_not_mapped_is_a_fault(box: Mapped, va: int) -> None:
    box.switch_on(48, 12)
    with pytest.raises(GuestFault):
        box.memory.read(va, 1)


def test_a_page_table_or_page_without_memory_is_a_fault(box: Mapped) -> None:
    box.switch_on(48, 12)
    box.map(0x10_0000, 0x3000_0000)
    with pytest.raises(GuestFault, match="nothing at guest address 0x30000000"):
        box.memory.read(0x10_0000, 1)
    box.cpu.set_sysreg("TTBR0_EL1", 0x3000_0000)
    with pytest.raises(GuestFault):
        box.memory.read(0x10_0000, 1)


def test_the_top_byte_is_ignored_when_the_guest_says_so(box: Mapped) -> None:
    box.switch_on(48, 12)
    box.map(0x10_0000, DATA)
    with pytest.raises(GuestFault):
        box.memory.read(0x5A << 56 | 0x10_0000, 1)
    box.cpu.set_sysreg("TCR_EL1", box.cpu.sysreg("TCR_EL1") | 1 << 37)
    assert box.memory.read(0x5A << 56 | 0x10_0000, 1) == b"\0"


def test_code_that_the_hypervisor_overwrites_is_executed_as_it_is_now(box: Mapped) -> None:
    regime = box.plain.vcpus[0].regime
    box.put(DATA, a.mov(1, 1), a.hvc(1))
    box.cpu.pc = DATA
    box.cpu.run(regime)
    box.memory.write(DATA, a.code(a.mov(1, 2)))
    box.cpu.pc = DATA
    box.cpu.run(regime)
    assert box.cpu.gpr(1) == 2


def test_with_the_mmu_off_addresses_are_physical(box: Mapped) -> None:
    box.write(DATA, b"x")
    assert box.memory.read(DATA, 1) == b"x"
