"""The Unicorn engine runs a bare-metal guest under stage 2 and answers with the exceptions that EL2 would take."""

from __future__ import annotations

from collections.abc import Iterator

import guest_asm as a
import pytest
from realm_box import CODE, DATA, HCR_REALM, PAGE, VECTORS, VTCR_48, RealmBox

from machine.cpu import CONTEXT_SIZE, HCR, Cpu, CpuError, ExitKind
from machine.cpu.sysregs import ENCODINGS
from machine.memory import DRAM_BASE

EL1_SYNC, EL0_SYNC = VECTORS + 0x200, VECTORS + 0x400
MMIO = 0x9000_0000


@pytest.fixture
def box() -> Iterator[RealmBox]:
    with RealmBox() as made:
        yield made


def ec(esr: int) -> int:
    return esr >> 26


# Exceptions to EL2.


def test_it_implements_the_cpu_interface(box: RealmBox) -> None:
    cpu: Cpu = box.engine
    assert cpu.gpr(31) == 0


def test_an_smc_exits_with_its_immediate_and_pc_at_the_instruction(box: RealmBox) -> None:
    box.put(CODE, a.mov(0, 0xC400_0190), a.smc(7))
    taken = box.run()
    assert (taken.kind, taken.esr) == (ExitKind.SYNC, 0x17 << 26 | 1 << 25 | 7)
    assert box.engine.pc == CODE + 8
    assert box.engine.gpr(0) == 0xC400_0190


def test_an_smc_traps_even_if_the_regime_does_not_ask_for_it() -> None:
    with RealmBox(hcr=HCR.VM) as box:
        box.put(CODE, a.smc())
        assert ec(box.run().esr) == 0x17
        assert box.engine.pc == CODE


def test_hvc_is_undefined_at_el1_when_the_regime_says_so(box: RealmBox) -> None:
    box.put(EL1_SYNC, a.mrs(1, "ESR_EL1"), a.mrs(2, "ELR_EL1"), a.smc())
    box.put(CODE, a.hvc(3))
    assert ec(box.run().esr) == 0x17
    assert box.engine.gprs(3)[1:] == [1 << 25, CODE]


def test_hvc_exits_with_pc_after_it_when_the_regime_allows_it() -> None:
    with RealmBox(hvc=True) as box:
        box.put(CODE, a.hvc(3))
        assert box.run().esr == 0x16 << 26 | 1 << 25 | 3
        assert box.engine.pc == CODE + 4


@pytest.mark.parametrize(
    ("instruction", "syndrome"),
    [
        (a.ldr(2, 1), 3 << 22 | 2 << 16 | 1 << 15),
        (a.ldr_w(3, 1), 2 << 22 | 3 << 16),
        (a.ldrb(4, 1), 4 << 16),
        (a.ldrsb_w(5, 1), 1 << 21 | 5 << 16),
        (a.str_(31, 1), 3 << 22 | 31 << 16 | 1 << 15 | 1 << 6),
        (a.str_w(2, 1), 2 << 22 | 2 << 16 | 1 << 6),
    ],
)
def test_a_device_access_exits_with_its_size_register_and_direction(
    box: RealmBox, instruction: int, syndrome: int
) -> None:
    box.put(CODE, a.mov(1, MMIO + 0x18), instruction)
    taken = box.run()
    assert taken.kind is ExitKind.SYNC
    assert taken.esr & ~0x3F == 0x24 << 26 | 1 << 25 | 1 << 24 | syndrome
    assert taken.esr & 0x3C == 4  # a translation fault
    assert (taken.far, taken.hpfar) == (MMIO + 0x18, MMIO >> 8)


def test_a_device_loop_is_completed_by_writing_the_register_and_advancing_pc(box: RealmBox) -> None:
    box.put(CODE, a.mov(1, MMIO), a.ldr_w(2, 1), a.str_w(2, 1), a.smc())
    box.run()
    box.engine.set_gpr(2, 0x5A)
    box.engine.pc += 4
    assert box.run().esr & 1 << 6
    assert box.engine.gpr(2) == 0x5A
    box.engine.pc += 4
    assert ec(box.run().esr) == 0x17


def test_an_instruction_fetch_from_an_unmapped_page_is_an_instruction_abort(box: RealmBox) -> None:
    box.engine.pc = 0x5000
    taken = box.run()
    assert (ec(taken.esr), taken.esr & 0x3F) == (0x20, 7)
    assert (taken.far, taken.hpfar) == (0x5000, 0x50)


@pytest.mark.parametrize(
    ("attributes", "instruction", "status"),
    [
        (PAGE & ~(1 << 10), a.ldr(2, 1), 0x0B),
        (PAGE & ~(1 << 7), a.str_(2, 1), 0x0F),
        (PAGE & ~(3 << 6), a.ldr(2, 1), 0x0F),
    ],
    ids=["no access flag", "read only", "no access"],
)
def test_a_page_that_stage_2_restricts_faults_with_its_status(
    box: RealmBox, attributes: int, instruction: int, status: int
) -> None:
    box.map(DATA, box.pa[DATA], attributes)
    box.put(CODE, a.mov(1, DATA), instruction)
    assert box.run().esr & 0x3F == status


def test_software_bits_of_a_leaf_are_ignored(box: RealmBox) -> None:
    box.map(DATA, box.pa[DATA], PAGE | 0xF << 55)
    box.memory.write_u64(box.pa[DATA], 77)
    box.put(CODE, a.mov(1, DATA), a.ldr(2, 1), a.smc())
    assert ec(box.run().esr) == 0x17
    assert box.engine.gpr(2) == 77


def test_a_block_mapping_translates(box: RealmBox) -> None:
    box.memory.write_u64(box.entry(0x4000_0000, 2), DRAM_BASE + (2 << 20) | PAGE & ~2)
    box.memory.write_u64(DRAM_BASE + (2 << 20) + 0x12_3458, 99)
    box.put(CODE, a.mov(1, 0x4012_3458), a.ldr(2, 1), a.smc())
    assert ec(box.run().esr) == 0x17
    assert box.engine.gpr(2) == 99


@pytest.mark.parametrize(
    ("t0sz", "sl0"), [(16, 2), (20, 2), (24, 2), (24, 1), (21, 1), (32, 1), (31, 0), (30, 0)],
    ids=["48/0", "44/0", "40/0", "40/1x2", "43/1x16", "32/1", "33/2x8", "34/2x16"],
)
def test_stage_2_widths_and_start_levels(t0sz: int, sl0: int) -> None:
    with RealmBox(vtcr=VTCR_48 & ~0xFF | t0sz | sl0 << 6) as box:
        top = (1 << 64 - t0sz) - 0x1000
        box.map(top, box.pa[DATA])
        box.memory.write_u64(box.pa[DATA], 5)
        box.put(CODE, a.mov(1, top), a.ldr(2, 1), a.smc())
        assert ec(box.run().esr) == 0x17
        assert box.engine.gpr(2) == 5


def test_an_address_beyond_a_narrow_stage_2_is_an_abort_at_level_0() -> None:
    with RealmBox(vtcr=VTCR_48 & ~0xFF | 24 | 1 << 6) as box:
        box.put(CODE, a.mov(1, 1 << 40), a.ldr(2, 1))
        taken = box.run()
        assert (ec(taken.esr), taken.esr & 0x3F, taken.hpfar) == (0x24, 4, 1 << 32)


def test_an_address_beyond_48_bits_is_an_address_size_fault_at_el1(box: RealmBox) -> None:
    box.put(EL1_SYNC, a.mrs(3, "ESR_EL1"), a.smc())
    box.put(CODE, a.mov(1, 1 << 48), a.ldr(2, 1))
    assert ec(box.run().esr) == 0x17
    assert (ec(box.engine.gpr(3)), box.engine.gpr(3) & 0x3F) == (0x25, 0)


def test_a_physical_address_without_memory_answers_serror(box: RealmBox) -> None:
    box.map(DATA, 0x10_0000_0000)
    box.put(CODE, a.mov(1, DATA), a.ldr(2, 1))
    assert box.run().kind is ExitKind.SERROR


def test_wfi_traps_when_asked_to(box: RealmBox) -> None:
    box.put(CODE, a.NOP, a.WFI)
    taken = box.run()
    assert ec(taken.esr) == 0x01
    assert box.engine.pc == CODE + 4


def test_wfi_waits_when_it_does_not_trap() -> None:
    with RealmBox(hcr=HCR.VM) as box:
        box.put(CODE, a.WFI, a.smc())
        box.engine.kick()
        assert box.run().kind is ExitKind.IRQ
        assert box.engine.pc == CODE
        box.engine.set_deadline(0)
        assert box.run().kind is ExitKind.IRQ


def test_id_register_reads_trap_with_tid3() -> None:
    with RealmBox(hcr=HCR_REALM | HCR.TID3) as box:
        box.put(CODE, a.mrs(3, "ID_AA64ISAR0_EL1"))
        taken = box.run()
        assert ec(taken.esr) == 0x18
        assert taken.esr & 0x1FFFFFF == 3 << 20 | 0 << 17 | 0 << 14 | 0 << 10 | 3 << 5 | 6 << 1 | 1
        assert box.engine.pc == CODE


# EL1 and EL0 by themselves.


def test_the_guest_starts_in_non_secure_el1_with_everything_masked(box: RealmBox) -> None:
    box.put(CODE, 0xD5384241, 0xD53B4222, a.mrs(3, "SCTLR_EL1"), a.smc())  # mrs x1, CurrentEL; mrs x2, DAIF
    box.run()
    assert box.engine.gprs(4)[1:3] == [4, 0x3C0]
    assert box.engine.gpr(3) & 0x1005 == 0  # M, C, I


def test_identification_is_consistent_with_what_is_implemented(box: RealmBox) -> None:
    box.put(CODE, a.mrs(1, "ID_AA64MMFR0_EL1"), a.mrs(2, "ID_AA64PFR0_EL1"), a.mrs(3, "MPIDR_EL1"),
            a.mrs(4, "MIDR_EL1"), a.mrs(5, "ID_AA64ISAR0_EL1"), a.mrs(6, "CNTFRQ_EL0"), a.smc())
    box.run()
    _, mmfr0, pfr0, mpidr, midr, isar0, frequency, *_ = box.engine.gprs()
    assert mmfr0 & 0xF == 5  # 48-bit physical addresses
    assert pfr0 & 0xFF == 0x11  # AArch64 only at EL0 and EL1
    assert pfr0 >> 24 & 0xF == 1  # GIC system registers
    assert mpidr == 0x8000_0000
    assert midr >> 4 & 0xFFF == 0xD08  # Cortex-A72
    assert isar0 >> 60 == 0  # no RNDR
    assert frequency == 62_500_000


def test_mpidr_is_the_regimes(box: RealmBox) -> None:
    from dataclasses import replace

    box.regime = replace(box.regime, vmpidr_el2=0x8000_0102)
    box.put(CODE, a.mrs(1, "MPIDR_EL1"), a.smc())
    box.run()
    assert box.engine.gpr(1) == 0x8000_0102


@pytest.mark.parametrize(
    ("instruction", "esr", "elr"),
    [
        (a.svc(0x42), 0x15 << 26 | 1 << 25 | 0x42, CODE + 4),
        (a.brk(0x77), 0x3C << 26 | 1 << 25 | 0x77, CODE),
        (0, 1 << 25, CODE),
    ],
    ids=["svc", "brk", "undefined"],
)
@pytest.mark.parametrize("from_el0", [False, True])
def test_an_exception_to_el1_is_entered_without_an_exit(
    box: RealmBox, instruction: int, esr: int, elr: int, from_el0: bool
) -> None:
    vector = EL0_SYNC if from_el0 else EL1_SYNC
    box.put(vector, a.mrs(1, "ESR_EL1"), a.mrs(2, "ELR_EL1"), a.mrs(3, "SPSR_EL1"), a.smc())
    box.put(CODE, instruction)
    pstate = 0x6000_0000 if from_el0 else 0x6000_03C5
    box.engine.set_sysreg("PSTATE", pstate)
    assert ec(box.run().esr) == 0x17
    assert box.engine.gprs(4)[1:] == [esr, elr, pstate]
    assert box.engine.pc == vector + 12
    assert box.engine.sysreg("PSTATE") & 0x3CF == 0x3C5


def test_a_stage_1_fault_is_taken_at_el1_with_its_address(box: RealmBox) -> None:
    # An unaligned exclusive access faults whatever the MMU does.
    box.put(EL1_SYNC, a.mrs(2, "FAR_EL1"), a.mrs(3, "ESR_EL1"), a.smc())
    box.put(CODE, a.mov(1, DATA + 1), a.ldxr(4, 1))
    assert ec(box.run().esr) == 0x17
    assert box.engine.gpr(2) == DATA + 1
    assert (ec(box.engine.gpr(3)), box.engine.gpr(3) & 0x3F) == (0x25, 0x21)


def test_eret_returns_to_el0_and_its_svc_comes_back(box: RealmBox) -> None:
    box.put(EL0_SYNC, a.smc(1))
    box.put(CODE + 0x100, a.add(5, 31, 0), a.svc())
    box.put(CODE, a.mov(1, CODE + 0x100), a.msr("ELR_EL1", 1), a.mov(2, 0), a.msr("SPSR_EL1", 2), a.ERET)
    assert box.run().esr & 0xFFFF == 1
    assert box.engine.sysreg("ELR_EL1") == CODE + 0x108


def test_wfe_and_yield_do_not_exit(box: RealmBox) -> None:
    box.put(CODE, a.WFE, a.YIELD, a.WFE, a.smc())
    assert ec(box.run().esr) == 0x17
    assert box.engine.pc == CODE + 12


# Injected exceptions.


@pytest.mark.parametrize(("pstate", "offset", "esr"), [(0x3C5, 0x200, 0x9600_0010), (0, 0x400, 0x9200_0010)])
def test_an_injected_abort_enters_the_vector_of_the_level_it_comes_from(
    box: RealmBox, pstate: int, offset: int, esr: int
) -> None:
    box.engine.set_sysreg("VBAR_EL1", 0x8000)
    box.engine.set_sysreg("PSTATE", pstate)
    box.engine.take_exception_el1(0x9600_0010, far=0x77)
    assert box.engine.pc == 0x8000 + offset
    names = ("ESR_EL1", "FAR_EL1", "ELR_EL1", "SPSR_EL1", "PSTATE")
    assert [box.engine.sysreg(name) for name in names] == [esr, 0x77, CODE, pstate, 0x3C5]


def test_an_injected_undefined_instruction_leaves_far_alone(box: RealmBox) -> None:
    box.engine.set_sysreg("FAR_EL1", 0x1234)
    box.engine.take_exception_el1(1 << 25)
    assert (box.engine.sysreg("ESR_EL1"), box.engine.sysreg("FAR_EL1")) == (1 << 25, 0x1234)


# Registers.


def test_registers_written_in_a_batch_are_what_the_guest_sees(box: RealmBox) -> None:
    box.engine.set_gprs([1, 2, (1 << 64) - 1], first=4)
    box.put(CODE, a.add_reg(0, 4, 5), a.smc())
    box.run()
    assert box.engine.gpr(0) == 3
    assert box.engine.gprs(7)[4:] == [1, 2, (1 << 64) - 1]
    assert len(box.engine.gprs()) == 31


def test_register_31_reads_as_zero_and_ignores_writes(box: RealmBox) -> None:
    box.engine.set_gpr(31, 5)
    assert box.engine.gpr(31) == 0
    with pytest.raises(CpuError, match="X31 does not exist"):
        box.engine.set_gprs([1, 2], first=30)


def test_stack_pointers_are_found_wherever_the_current_one_is(box: RealmBox) -> None:
    cpu = box.engine
    cpu.set_sysreg("SP_EL0", 0x100)
    cpu.set_sysreg("SP_EL1", 0x200)
    box.put(CODE, a.add(1, 31, 0), a.smc())
    box.run()
    assert cpu.gpr(1) == 0x200
    cpu.set_sysreg("PSTATE", 0x3C4)  # EL1t: SP is SP_EL0
    cpu.pc = CODE
    box.run()
    assert cpu.gpr(1) == 0x100
    assert (cpu.sysreg("SP_EL0"), cpu.sysreg("SP_EL1")) == (0x100, 0x200)


def test_every_named_register_can_be_read_or_does_not_exist(box: RealmBox) -> None:
    missing = []
    for name in ENCODINGS:
        try:
            box.engine.sysreg(name)
        except CpuError:
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("name", ["VBAR_EL1", "TTBR0_EL1", "TPIDR_EL0", "CONTEXTIDR_EL1", "MAIR_EL1"])
def test_a_system_register_written_from_outside_is_what_the_guest_reads(box: RealmBox, name: str) -> None:
    box.engine.set_sysreg(name, 0x5000_4000)
    box.put(CODE, a.mrs(1, name), a.smc())
    box.run()
    assert box.engine.gpr(1) == box.engine.sysreg(name) == 0x5000_4000


def test_unknown_and_read_only_registers_are_refused_by_name(box: RealmBox) -> None:
    with pytest.raises(CpuError, match="no system register 'NOPE_EL1'"):
        box.engine.sysreg("NOPE_EL1")
    with pytest.raises(CpuError, match="ID_AA64MMFR0_EL1 is read-only"):
        box.engine.set_sysreg("ID_AA64MMFR0_EL1", 0)


# Contexts.


def test_a_context_comes_back_as_it_was_saved(box: RealmBox) -> None:
    cpu = box.engine
    cpu.set_gprs(range(31))
    cpu.set_sysreg("VBAR_EL1", 0x8000)
    cpu.set_sysreg("PSTATE", 0x8000_0000)
    image = bytearray(CONTEXT_SIZE)
    cpu.save(memoryview(image))
    cpu.reset()
    assert (cpu.gpr(5), cpu.pc, cpu.sysreg("VBAR_EL1"), cpu.sysreg("PSTATE")) == (0, 0, 0, 0x3C5)
    cpu.restore(memoryview(image))
    assert (list(cpu.gprs()), cpu.pc) == (list(range(31)), CODE)
    assert (cpu.sysreg("VBAR_EL1"), cpu.sysreg("PSTATE")) == (0x8000, 0x8000_0000)


def test_a_context_can_be_loaded_by_another_engine(box: RealmBox) -> None:
    box.put(CODE, a.mov(1, 5), a.smc(), a.add(1, 1, 1), a.smc())
    box.run()
    image = bytearray(CONTEXT_SIZE)
    box.engine.save(memoryview(image))
    from machine.cpu.engine import Engine

    other = Engine(box.memory)
    try:
        other.restore(memoryview(image))
        other.pc += 4
        other.run(box.regime)
        assert other.gpr(1) == 6
    finally:
        other.close()


def test_floating_point_registers_are_part_of_a_context(box: RealmBox) -> None:
    box.engine.set_sysreg("CPACR_EL1", 3 << 20)
    fmov_in, fmov_out = 0x9E670020, 0x9E660002  # fmov d0, x1; fmov x2, d0
    box.put(CODE, a.mov(1, 0x4142), fmov_in, a.smc(), fmov_out, a.smc())
    box.run()
    image = bytearray(CONTEXT_SIZE)
    box.engine.save(memoryview(image))
    box.engine.reset()
    box.engine.restore(memoryview(image))
    box.engine.pc += 4
    box.run()
    assert box.engine.gpr(2) == 0x4142


@pytest.mark.parametrize("image", [bytes(CONTEXT_SIZE), b"A72-PE\0\1" + bytes(CONTEXT_SIZE), b""])
def test_a_foreign_context_is_refused(box: RealmBox, image: bytes) -> None:
    with pytest.raises(CpuError, match="not a context of this processing element"):
        box.engine.restore(memoryview(image))


def test_closing_twice_is_harmless_and_using_a_closed_engine_is_an_error() -> None:
    with RealmBox() as box:
        box.engine.close()
        with pytest.raises(ValueError, match="released"):
            box.engine.gpr(0)
