"""Maintenance interrupts, the registers derived from the list registers, and the traps that ICH_HCR_EL2 asks for."""

from __future__ import annotations

import pytest

from machine.ich import ICH_HCR, ICH_MISR, ICH_VMCR, LR, IchRegisters, make_lr


@pytest.fixture
def ich() -> IchRegisters:
    registers = IchRegisters()
    registers.hcr = ICH_HCR.EN
    registers.vmcr = 0xF8 << 24 | 3 << 18 | 2 << 21 | ICH_VMCR.VFIQEN | ICH_VMCR.VENG1
    return registers


def test_vtr_states_sixteen_list_registers_and_five_priority_bits(ich: IchRegisters) -> None:
    assert ich.vtr & 0x1F == 15
    assert ich.vtr >> 29 == 4
    assert ich.vtr >> 26 & 7 == 4
    assert ich.vtr >> 23 & 7 == 0


def test_an_empty_register_file_is_all_free_and_quiet(ich: IchRegisters) -> None:
    assert ich.elrsr == 0xFFFF
    assert ich.eisr == 0
    assert ich.misr == 0
    assert not ich.maintenance_pending()


def test_an_eoi_request_raises_maintenance_once_the_interrupt_is_deactivated(ich: IchRegisters) -> None:
    ich.lr[2] = make_lr(40, 0xA0, eoi=True)
    assert not ich.maintenance_pending()
    ich.icv_read("ICC_IAR1_EL1")
    assert not ich.maintenance_pending()
    ich.icv_write("ICC_EOIR1_EL1", 40)
    assert ich.maintenance_pending()
    assert ich.misr == ICH_MISR.EOI
    assert ich.eisr == 1 << 2
    assert ich.elrsr == 0xFFFF & ~(1 << 2), "not free until EL2 has seen it"
    ich.lr[2] = 0
    assert not ich.maintenance_pending()
    assert ich.elrsr == 0xFFFF


def test_an_ended_interrupt_without_request_leaves_a_free_list_register(ich: IchRegisters) -> None:
    ich.lr[2] = make_lr(40, 0xA0)
    assert ich.elrsr == 0xFFFF & ~(1 << 2)
    ich.icv_read("ICC_IAR1_EL1")
    ich.icv_write("ICC_EOIR1_EL1", 40)
    assert ich.elrsr == 0xFFFF
    assert not ich.maintenance_pending()


def test_underflow_is_raised_with_none_or_one_valid_list_register(ich: IchRegisters) -> None:
    ich.hcr |= ICH_HCR.UIE
    for n in range(3):
        ich.lr[n] = make_lr(40 + n, 0xA0)
    assert not ich.maintenance_pending()
    ich.lr[0] = 0
    assert not ich.maintenance_pending()
    ich.lr[1] = 0
    assert ich.misr == ICH_MISR.U
    assert ich.maintenance_pending()


def test_no_pending_is_raised_when_every_valid_list_register_is_active(ich: IchRegisters) -> None:
    ich.hcr |= ICH_HCR.NPIE
    ich.lr[0] = make_lr(40, 0xA0)
    assert not ich.maintenance_pending()
    ich.icv_read("ICC_IAR1_EL1")
    assert ich.misr == ICH_MISR.NP


def test_eoi_of_an_absent_interrupt_raises_lrenp_when_enabled(ich: IchRegisters) -> None:
    ich.hcr |= ICH_HCR.LRENPIE
    ich.ap1r0 = 1
    assert not ich.maintenance_pending()
    ich.icv_write("ICC_EOIR1_EL1", 50)
    assert ich.misr == ICH_MISR.LRENP
    ich.hcr &= ~ICH_HCR.EOICOUNT_MASK
    assert not ich.maintenance_pending()


@pytest.mark.parametrize(
    ("enable", "vmcr_bits", "status"),
    [
        (ICH_HCR.VGRP0EIE, ICH_VMCR.VENG0, ICH_MISR.VGRP0E),
        (ICH_HCR.VGRP0DIE, 0, ICH_MISR.VGRP0D),
        (ICH_HCR.VGRP1EIE, ICH_VMCR.VENG1, ICH_MISR.VGRP1E),
        (ICH_HCR.VGRP1DIE, 0, ICH_MISR.VGRP1D),
    ],
)
def test_group_enable_changes_raise_maintenance(ich: IchRegisters, enable: int, vmcr_bits: int, status: int) -> None:
    ich.hcr |= enable
    ich.vmcr = ich.vmcr & ~(ICH_VMCR.VENG0 | ICH_VMCR.VENG1) | vmcr_bits
    assert ich.misr == status
    ich.vmcr ^= ICH_VMCR.VENG0 | ICH_VMCR.VENG1
    assert ich.misr == 0


def test_status_is_visible_but_not_signalled_while_the_interface_is_off(ich: IchRegisters) -> None:
    ich.hcr = ICH_HCR.UIE
    assert ich.misr == ICH_MISR.U
    assert not ich.maintenance_pending()


def test_tdir_traps_only_dir(ich: IchRegisters) -> None:
    assert ich.traps() == frozenset()
    ich.hcr |= ICH_HCR.TDIR
    assert ich.traps() == {"ICC_DIR_EL1"}
    ich.hcr &= ~ICH_HCR.TDIR
    assert ich.traps() == frozenset()


def test_group_and_common_traps_cover_their_registers(ich: IchRegisters) -> None:
    ich.hcr = ICH_HCR.EN | ICH_HCR.TALL1
    assert ich.traps() == {"ICC_IAR1_EL1", "ICC_EOIR1_EL1", "ICC_HPPIR1_EL1", "ICC_BPR1_EL1", "ICC_AP1R0_EL1",
                           "ICC_IGRPEN1_EL1"}
    ich.hcr = ICH_HCR.EN | ICH_HCR.TC
    assert ich.traps() == {"ICC_PMR_EL1", "ICC_DIR_EL1", "ICC_RPR_EL1", "ICC_CTLR_EL1", "ICC_SGI1R_EL1",
                           "ICC_SGI0R_EL1", "ICC_ASGI1R_EL1"}


def test_reset_forgets_everything(ich: IchRegisters) -> None:
    ich.lr[0] = make_lr(40, 0xA0) | LR.EOI
    ich.ap1r0 = 5
    assert ich.virq_pending() is False
    ich.reset()
    assert (ich.lr, ich.hcr, ich.ap1r0, ich.ap0r0) == ([0] * 16, 0, 0, 0)
    assert not ich.virq_pending()
    assert not ich.maintenance_pending()
