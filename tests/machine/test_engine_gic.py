"""EL1's GIC CPU interface in the engine: ICC_*_EL1 over the ICH registers, virtual interrupts, traps to EL2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import guest_asm as a
import pytest
from realm_box import CODE, HCR_REALM, VECTORS, RealmBox

from machine.cpu import HCR, ExitKind
from machine.ich import ICC_REGISTERS, ICH_HCR, ICH_VMCR, LR, make_lr

IRQ, FIQ, UNDEFINED = VECTORS + 0x280, VECTORS + 0x300, VECTORS + 0x200


def ec(esr: int) -> int:
    return esr >> 26


@pytest.fixture
def box() -> Iterator[RealmBox]:
    with RealmBox() as made:
        made.engine.ich.hcr = ICH_HCR.EN
        made.engine.ich.vmcr = ICH_VMCR.VENG1 | ICH_VMCR.VENG0 | ICH_VMCR.VFIQEN | 0xFF << ICH_VMCR.VPMR_SHIFT
        yield made


def test_an_interrupt_in_a_list_register_is_delivered_acknowledged_and_ended(box: RealmBox) -> None:
    ich = box.engine.ich
    ich.lr[0] = make_lr(40, 0x80)
    box.put(IRQ, a.mrs(1, "ICC_IAR1_EL1"), a.mrs(2, "ICC_RPR_EL1"), a.smc(1), a.msr("ICC_EOIR1_EL1", 1),
            a.mrs(3, "ICC_RPR_EL1"), a.ERET)
    box.put(CODE, a.UNMASK_IRQ, a.NOP, a.smc(2))
    assert box.run().esr & 0xFFFF == 1
    assert (box.engine.gpr(1), box.engine.gpr(2)) == (40, 0x80)
    assert ich.lr[0] >> LR.STATE_SHIFT == 2
    box.engine.pc += 4
    assert box.run().esr & 0xFFFF == 2
    assert box.engine.gpr(3) == 0xFF
    assert ich.lr[0] >> LR.STATE_SHIFT == 0


def test_a_group_0_interrupt_is_delivered_as_fiq(box: RealmBox) -> None:
    box.engine.ich.lr[0] = make_lr(41, 0x80, group=0)
    box.put(FIQ, a.mrs(1, "ICC_IAR0_EL1"), a.smc(3))
    box.put(CODE, a.UNMASK_FIQ, a.NOP, a.smc(2))
    assert box.run().esr & 0xFFFF == 3
    assert box.engine.gpr(1) == 41


def test_a_masked_interrupt_waits_for_pmr(box: RealmBox) -> None:
    box.engine.ich.vmcr &= 0xFF_FFFF
    box.engine.ich.lr[0] = make_lr(40, 0x80)
    box.put(IRQ, a.smc(1))
    box.put(CODE, a.UNMASK_IRQ, a.NOP, a.smc(2), a.mov(1, 0xF0), a.msr("ICC_PMR_EL1", 1), a.NOP, a.smc(3))
    assert box.run().esr & 0xFFFF == 2
    box.engine.pc += 4
    assert box.run().esr & 0xFFFF == 1
    assert box.engine.sysreg("ELR_EL1") == CODE + 0x14  # right after the write


def test_a_pending_interrupt_wakes_wfi_without_a_trap(box: RealmBox) -> None:
    box.engine.ich.lr[0] = make_lr(40, 0x80)
    box.put(CODE, a.WFI, a.smc(1))
    assert box.run().esr & 0xFFFF == 1


def test_control_registers_keep_what_is_written(box: RealmBox) -> None:
    box.put(CODE, a.mov(1, 0xA0), a.msr("ICC_PMR_EL1", 1), a.mov(1, 5), a.msr("ICC_BPR1_EL1", 1),
            a.msr("ICC_IGRPEN1_EL1", 31), a.mrs(2, "ICC_PMR_EL1"), a.mrs(3, "ICC_BPR1_EL1"),
            a.mrs(4, "ICC_IGRPEN1_EL1"), a.mrs(5, "ICC_CTLR_EL1"), a.mrs(6, "ICC_SRE_EL1"),
            a.mrs(7, "ICC_IAR1_EL1"), a.smc())
    box.run()
    assert box.engine.gprs(8)[2:5] == [0xA0, 5, 0]
    assert box.engine.gpr(5) >> 8 & 7 == 4  # 5 priority bits
    assert box.engine.gpr(6) == 7
    assert box.engine.gpr(7) == 1023
    assert box.engine.ich.vmcr >> ICH_VMCR.VPMR_SHIFT == 0xA0


def test_accesses_in_the_wrong_direction_are_undefined(box: RealmBox) -> None:
    box.put(UNDEFINED, a.mrs(9, "ESR_EL1"), a.smc(0xEE))
    for row in ICC_REGISTERS:
        wrong = a.msr(row.name, 1) if row.access == "ro" else a.mrs(1, row.name) if row.access == "wo" else None
        if wrong is not None:
            box.put(CODE, wrong)
            box.engine.invalidate_code(box.pa[CODE], 4)
            box.engine.pc = CODE
            assert box.run().esr & 0xFFFF == 0xEE, row.name
            assert box.engine.gpr(9) == 1 << 25


def test_el0_cannot_reach_the_interface(box: RealmBox) -> None:
    box.engine.set_sysreg("PSTATE", 0)
    box.put(VECTORS + 0x400, a.mrs(9, "ESR_EL1"), a.smc(0xEE))
    box.put(CODE, a.mrs(1, "ICC_IAR1_EL1"))
    assert box.run().esr & 0xFFFF == 0xEE
    assert box.engine.gpr(9) == 1 << 25


@pytest.mark.parametrize("name", ["ICC_SGI1R_EL1", "ICC_SGI0R_EL1", "ICC_ASGI1R_EL1"])
def test_generating_an_sgi_always_traps(box: RealmBox, name: str) -> None:
    row = next(row for row in ICC_REGISTERS if row.name == name)
    box.put(CODE, a.mov(3, 0x12345), a.msr(name, 3))
    taken = box.run()
    assert (ec(taken.esr), taken.esr & 0x3FFC1E, taken.esr >> 5 & 31, taken.esr & 1) == (0x18, row.iss, 3, 0)
    assert box.engine.pc == CODE + 8


def test_the_syndrome_of_sgi1r_is_the_measured_one(box: RealmBox) -> None:
    box.put(CODE, a.msr("ICC_SGI1R_EL1", 3))
    assert box.run().esr & 0x1FFFFFF == 0x3A3076 & ~0x3E0 | 3 << 5


@pytest.mark.parametrize(
    ("name", "word"),
    [("ICC_SRE_EL1", a.mrs(4, "ICC_SRE_EL1")), ("ICC_DIR_EL1", a.msr("ICC_DIR_EL1", 4)),
     ("ICC_PMR_EL1", a.msr("ICC_PMR_EL1", 4)), ("ACTLR_EL1", a.mrs(4, "ACTLR_EL1")),
     ("CNTVCT_EL0", a.mrs(4, "CNTVCT_EL0"))],
)
def test_accesses_that_the_regime_names_trap_and_only_while_it_does(box: RealmBox, name: str, word: int) -> None:
    plain = box.regime
    trapping = replace(plain, sysreg_traps=frozenset({name}))
    box.put(CODE, word, a.smc(1))
    assert ec(box.run().esr) == 0x17
    box.engine.pc = CODE
    taken = box.engine.run(trapping)
    assert (ec(taken.esr), taken.esr >> 5 & 31, taken.esr & 1) == (0x18, 4, word >> 21 & 1)
    assert box.engine.pc == CODE
    box.engine.pc = CODE
    assert ec(box.engine.run(plain).esr) == 0x17


def test_the_trap_bits_of_ich_hcr_trap(box: RealmBox) -> None:
    box.put(CODE, a.mrs(4, "ICC_IAR1_EL1"), a.smc(1))
    assert ec(box.run().esr) == 0x17
    box.engine.ich.hcr |= ICH_HCR.TALL1
    box.engine.pc = CODE
    assert ec(box.run().esr) == 0x18
    box.engine.ich.hcr &= ~ICH_HCR.TALL1
    assert ec(box.run().esr) == 0x17


def test_a_maintenance_condition_that_becomes_true_answers_irq_once(box: RealmBox) -> None:
    ich = box.engine.ich
    ich.hcr |= ICH_HCR.NPIE
    ich.lr[0] = make_lr(40, 0x80)
    box.put(CODE, a.mrs(1, "ICC_IAR1_EL1"), a.b(1), a.smc(1))
    assert box.run().kind is ExitKind.IRQ
    assert (box.engine.gpr(1), ich.maintenance_pending()) == (40, True)
    assert box.run().esr & 0xFFFF == 1


def test_a_maintenance_condition_that_rises_with_another_exit_is_told_at_the_next_entry(box: RealmBox) -> None:
    ich = box.engine.ich
    ich.hcr |= ICH_HCR.NPIE
    ich.lr[0] = make_lr(40, 0x80)
    box.put(CODE, a.mrs(1, "ICC_IAR1_EL1"), a.smc(1), a.smc(2))
    assert box.run().esr & 0xFFFF == 1
    box.engine.pc += 4
    assert box.run().kind is ExitKind.IRQ
    assert box.run().esr & 0xFFFF == 2


def test_a_maintenance_condition_that_held_at_entry_does_not_stop_the_run(box: RealmBox) -> None:
    box.engine.ich.hcr |= ICH_HCR.NPIE
    box.put(CODE, a.smc(1))
    assert box.run().esr & 0xFFFF == 1


def test_an_error_in_an_access_is_raised_by_the_run(box: RealmBox) -> None:
    ich = box.engine.ich
    box.put(CODE, a.mrs(1, "ICC_IAR1_EL1"), a.smc(1))

    def broken() -> int:
        raise RuntimeError("list registers are broken")

    ich._readers["ICC_IAR1_EL1"] = broken
    with pytest.raises(RuntimeError, match="list registers are broken"):
        box.run()


def test_the_regimes_own_vi_bit_is_ignored(box: RealmBox) -> None:
    box.regime = replace(box.regime, hcr_el2=HCR_REALM | 1 << 7 | HCR.RW)
    box.put(IRQ, a.smc(0xBAD))
    box.put(CODE, a.UNMASK_IRQ, a.NOP, a.smc(1))
    assert box.run().esr & 0xFFFF == 1
