"""The ICV_* view: acknowledge, priorities, preemption, end of interrupt, deactivation."""

from __future__ import annotations

import pytest

from machine.ich import ALWAYS_TRAPPED, ICC_REGISTERS, ICH_HCR, ICH_VMCR, LR, SPURIOUS, IchRegisters, make_lr


def enabled_interface() -> IchRegisters:
    """Interface on, both groups enabled, PMR open, EOImode 0."""
    ich = IchRegisters()
    ich.hcr = ICH_HCR.EN
    for name, value in (("ICC_PMR_EL1", 0xFF), ("ICC_IGRPEN1_EL1", 1), ("ICC_IGRPEN0_EL1", 1)):
        ich.icv_write(name, value)
    return ich


def state(ich: IchRegisters, n: int) -> int:
    return ich.lr[n] >> LR.STATE_SHIFT


def test_an_idle_interface_answers_the_spurious_intid() -> None:
    ich = enabled_interface()
    assert not ich.virq_pending()
    assert ich.icv_read("ICC_IAR1_EL1") == SPURIOUS
    assert ich.icv_read("ICC_IAR0_EL1") == SPURIOUS
    assert ich.icv_read("ICC_HPPIR1_EL1") == SPURIOUS
    assert ich.icv_read("ICC_RPR_EL1") == 0xFF


def test_acknowledge_and_eoi_take_a_list_register_from_pending_through_active_to_invalid() -> None:
    ich = enabled_interface()
    ich.lr[3] = make_lr(27, 0xA0)
    assert ich.virq_pending()
    assert ich.icv_read("ICC_IAR1_EL1") == 27
    assert state(ich, 3) == 2
    assert not ich.virq_pending()
    assert ich.icv_read("ICC_RPR_EL1") == 0xA0
    assert ich.ap1r0 == 1 << (0xA0 >> 3)
    ich.icv_write("ICC_EOIR1_EL1", 27)
    assert state(ich, 3) == 0
    assert ich.ap1r0 == 0
    assert ich.icv_read("ICC_RPR_EL1") == 0xFF


def test_the_host_may_write_list_registers_without_telling() -> None:
    ich = enabled_interface()
    assert not ich.virq_pending()
    ich.lr[0] = make_lr(40, 0x80)
    assert ich.virq_pending()
    ich.lr = [0] * 16
    assert not ich.virq_pending()


def test_nothing_is_signalled_while_the_interface_is_off() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(27, 0x20)
    ich.hcr = 0
    assert not ich.virq_pending()
    assert ich.icv_read("ICC_IAR1_EL1") == SPURIOUS
    assert ich.icv_read("ICC_HPPIR1_EL1") == SPURIOUS
    assert state(ich, 0) == 1


def test_a_disabled_group_is_neither_signalled_nor_acknowledged() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(27, 0x20)
    ich.icv_write("ICC_IGRPEN1_EL1", 0)
    assert not ich.virq_pending()
    assert ich.icv_read("ICC_IAR1_EL1") == SPURIOUS
    ich.icv_write("ICC_IGRPEN1_EL1", 1)
    assert ich.icv_read("ICC_IAR1_EL1") == 27


def test_a_disabled_group_does_not_hide_the_other_group() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(5, 0x00, group=0)
    ich.lr[1] = make_lr(27, 0x20)
    ich.icv_write("ICC_IGRPEN0_EL1", 0)
    assert ich.virq_pending()
    assert ich.icv_read("ICC_IAR1_EL1") == 27


def test_the_priority_mask_holds_back_equal_and_lower_priorities() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(27, 0xA0)
    ich.icv_write("ICC_PMR_EL1", 0xA0)
    assert not ich.virq_pending()
    assert ich.icv_read("ICC_IAR1_EL1") == SPURIOUS
    assert ich.icv_read("ICC_HPPIR1_EL1") == 27
    ich.icv_write("ICC_PMR_EL1", 0xA8)
    assert ich.virq_pending()


def test_priorities_have_five_bits() -> None:
    ich = enabled_interface()
    ich.icv_write("ICC_PMR_EL1", 0xFF)
    assert ich.icv_read("ICC_PMR_EL1") == 0xF8
    ich.lr[0] = make_lr(27, 0xFF)
    assert not ich.virq_pending(), "0xff is implemented as 0xf8, which PMR 0xf8 masks"
    ich.lr[0] = make_lr(27, 0xF7)
    ich.icv_read("ICC_IAR1_EL1")
    assert ich.icv_read("ICC_RPR_EL1") == 0xF0


def test_the_highest_priority_wins_and_ties_go_to_the_lowest_list_register() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(32, 0xA0)
    ich.lr[1] = make_lr(33, 0x40)
    ich.lr[2] = make_lr(31, 0x40)
    assert ich.icv_read("ICC_IAR1_EL1") == 33


def test_group_0_is_signalled_as_fiq_and_acknowledged_through_iar0() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(9, 0x40, group=0)
    assert ich.vfiq_pending()
    assert not ich.virq_pending()
    assert ich.icv_read("ICC_IAR1_EL1") == SPURIOUS
    assert ich.icv_read("ICC_HPPIR1_EL1") == SPURIOUS
    assert ich.icv_read("ICC_HPPIR0_EL1") == 9
    assert ich.icv_read("ICC_IAR0_EL1") == 9
    assert (ich.ap0r0, ich.ap1r0) == (1 << 8, 0)
    ich.icv_write("ICC_EOIR0_EL1", 9)
    assert ich.lr[0] >> 62 == 0
    assert (ich.ap0r0, ich.ap1r0) == (0, 0)


def test_a_higher_priority_preempts_and_an_equal_one_does_not() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(40, 0xA0)
    ich.icv_read("ICC_IAR1_EL1")
    ich.lr[1] = make_lr(41, 0xA0)
    assert not ich.virq_pending()
    ich.lr[2] = make_lr(42, 0x98)
    assert ich.virq_pending()
    assert ich.icv_read("ICC_IAR1_EL1") == 42
    assert ich.icv_read("ICC_RPR_EL1") == 0x98
    assert ich.ap1r0 == 1 << 20 | 1 << 19

    ich.icv_write("ICC_EOIR1_EL1", 42)
    assert ich.icv_read("ICC_RPR_EL1") == 0xA0
    assert not ich.virq_pending()
    ich.icv_write("ICC_EOIR1_EL1", 40)
    assert ich.icv_read("ICC_IAR1_EL1") == 41


def test_clearing_the_active_priorities_lets_a_held_back_interrupt_through() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(41, 0xA0)
    ich.ap1r0 = 1 << (0x80 >> 3)
    assert not ich.virq_pending()
    ich.icv_write("ICC_AP1R0_EL1", 0)
    assert ich.virq_pending()


def test_group_0_preempts_group_1_and_priorities_drop_in_turn() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(40, 0xA0)
    ich.icv_read("ICC_IAR1_EL1")
    ich.lr[1] = make_lr(9, 0x40, group=0)
    assert ich.vfiq_pending()
    assert ich.icv_read("ICC_IAR0_EL1") == 9
    ich.icv_write("ICC_EOIR0_EL1", 9)
    assert ich.icv_read("ICC_RPR_EL1") == 0xA0
    ich.icv_write("ICC_EOIR1_EL1", 40)
    assert ich.icv_read("ICC_RPR_EL1") == 0xFF


def test_the_binary_point_groups_priorities_for_preemption_but_not_for_order() -> None:
    ich = enabled_interface()
    ich.icv_write("ICC_BPR1_EL1", 5)  # group priority is bits [7:5]
    ich.lr[0] = make_lr(40, 0xB8)
    assert ich.icv_read("ICC_IAR1_EL1") == 40
    assert ich.icv_read("ICC_RPR_EL1") == 0xA0
    ich.lr[1] = make_lr(41, 0xB0)
    ich.lr[2] = make_lr(42, 0xA8)
    assert not ich.virq_pending(), "same group priority"
    ich.icv_write("ICC_EOIR1_EL1", 40)
    assert ich.icv_read("ICC_IAR1_EL1") == 42, "the subpriority still orders pending interrupts"


def test_binary_points_saturate_at_what_five_bits_allow() -> None:
    ich = enabled_interface()
    ich.icv_write("ICC_BPR0_EL1", 0)
    ich.icv_write("ICC_BPR1_EL1", 0)
    assert ich.icv_read("ICC_BPR0_EL1") == 2
    assert ich.icv_read("ICC_BPR1_EL1") == 3


def test_with_cbpr_group_1_uses_group_0s_binary_point() -> None:
    ich = enabled_interface()
    ich.icv_write("ICC_BPR1_EL1", 3)
    ich.icv_write("ICC_BPR0_EL1", 6)
    ich.icv_write("ICC_CTLR_EL1", 1)
    assert ich.icv_read("ICC_BPR1_EL1") == 7
    ich.icv_write("ICC_BPR1_EL1", 4)
    ich.lr[0] = make_lr(40, 0xF0)
    ich.icv_read("ICC_IAR1_EL1")
    assert ich.icv_read("ICC_RPR_EL1") == 0x80, "only bit 7 is group priority"
    ich.icv_write("ICC_BPR0_EL1", 7)
    assert ich.icv_read("ICC_BPR1_EL1") == 7
    ich.icv_write("ICC_CTLR_EL1", 0)
    assert ich.icv_read("ICC_BPR1_EL1") == 3, "writes to BPR1 are ignored while CBPR is set"


def test_with_no_group_priority_bits_nothing_preempts() -> None:
    ich = enabled_interface()
    ich.icv_write("ICC_BPR0_EL1", 7)
    ich.lr[0] = make_lr(8, 0xE0, group=0)
    assert ich.icv_read("ICC_IAR0_EL1") == 8
    assert ich.ap0r0 == 1
    ich.lr[1] = make_lr(9, 0x00, group=0)
    assert not ich.vfiq_pending()


def test_with_eoimode_1_eoir_drops_the_priority_and_dir_deactivates() -> None:
    ich = enabled_interface()
    ich.icv_write("ICC_CTLR_EL1", 2)
    ich.lr[0] = make_lr(40, 0xA0)
    ich.icv_read("ICC_IAR1_EL1")
    ich.icv_write("ICC_EOIR1_EL1", 40)
    assert ich.icv_read("ICC_RPR_EL1") == 0xFF
    assert ich.lr[0] >> 62 == 2
    ich.lr[1] = make_lr(41, 0xA0)
    assert ich.virq_pending(), "the priority is dropped although 40 is still active"
    ich.icv_write("ICC_DIR_EL1", 40)
    assert ich.lr[0] >> 62 == 0


def test_with_eoimode_0_dir_is_ignored() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(40, 0xA0)
    ich.icv_read("ICC_IAR1_EL1")
    ich.icv_write("ICC_DIR_EL1", 40)
    assert ich.lr[0] >> 62 == 2


def test_pending_and_active_is_not_signalled_until_deactivated() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(40, 0xA0)
    ich.icv_read("ICC_IAR1_EL1")
    ich.lr[0] |= LR.PENDING
    ich.icv_write("ICC_CTLR_EL1", 2)
    ich.icv_write("ICC_EOIR1_EL1", 40)
    assert not ich.virq_pending()
    ich.icv_write("ICC_DIR_EL1", 40)
    assert ich.lr[0] >> 62 == 1
    assert ich.icv_read("ICC_IAR1_EL1") == 40


def test_eoi_of_an_interrupt_that_is_in_no_list_register_is_counted() -> None:
    ich = enabled_interface()
    ich.ap1r0 = 1 << 20
    ich.icv_write("ICC_EOIR1_EL1", 77)
    assert ich.hcr >> 27 == 1
    assert ich.ap1r0 == 0
    assert ich.hcr & ICH_HCR.EN


def test_eoi_without_an_active_priority_changes_nothing() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(40, 0xA0, pending=False, active=True)
    ich.icv_write("ICC_EOIR1_EL1", 40)
    assert ich.lr[0] >> 62 == 2
    assert ich.hcr >> 27 == 0


def test_dir_of_an_interrupt_that_is_in_no_list_register_is_counted_and_the_count_wraps() -> None:
    ich = enabled_interface()
    ich.icv_write("ICC_CTLR_EL1", 2)
    for _ in range(31):
        ich.icv_write("ICC_DIR_EL1", 77)
    assert ich.hcr >> 27 == 31
    ich.icv_write("ICC_DIR_EL1", 77)
    assert ich.hcr >> 27 == 0


def test_eoi_with_eoimode_1_is_not_counted() -> None:
    ich = enabled_interface()
    ich.icv_write("ICC_CTLR_EL1", 2)
    ich.ap1r0 = 1 << 20
    ich.icv_write("ICC_EOIR1_EL1", 77)
    assert ich.hcr >> 27 == 0
    assert ich.ap1r0 == 0


@pytest.mark.parametrize("intid", [1020, 1021, 1022, 1023])
def test_eoi_of_a_special_intid_is_ignored(intid: int) -> None:
    ich = enabled_interface()
    ich.ap1r0 = 1 << 20
    ich.icv_write("ICC_EOIR1_EL1", intid)
    assert ich.ap1r0 == 1 << 20
    assert ich.hcr >> 27 == 0


def test_eoi_of_the_wrong_interrupt_drops_the_priority_but_leaves_the_other_active() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(40, 0xA0)
    ich.icv_read("ICC_IAR1_EL1")
    ich.lr[1] = make_lr(41, 0x80)
    ich.icv_read("ICC_IAR1_EL1")
    ich.icv_write("ICC_EOIR1_EL1", 40)
    assert ich.icv_read("ICC_RPR_EL1") == 0xA0
    assert [lr >> 62 for lr in ich.lr[:2]] == [2, 2]


def test_eoi_through_the_other_groups_register_does_not_deactivate() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(40, 0xA0)
    ich.icv_read("ICC_IAR1_EL1")
    ich.icv_write("ICC_EOIR0_EL1", 40)
    assert ich.lr[0] >> 62 == 2


def test_an_lpi_is_deactivated_by_eoir_in_both_modes_and_never_counted() -> None:
    ich = enabled_interface()
    ich.icv_write("ICC_CTLR_EL1", 2)
    ich.lr[0] = make_lr(8192, 0xA0)
    assert ich.icv_read("ICC_IAR1_EL1") == 8192
    ich.icv_write("ICC_EOIR1_EL1", 8192)
    assert ich.lr[0] >> 62 == 0
    ich.ap1r0 = 1 << 20
    ich.icv_write("ICC_EOIR1_EL1", 8193)
    assert ich.hcr >> 27 == 0


def test_a_list_register_with_a_special_intid_is_consumed_without_becoming_active() -> None:
    ich = enabled_interface()
    ich.lr[0] = make_lr(1023, 0x10)
    assert ich.icv_read("ICC_IAR1_EL1") == 1023
    assert ich.lr[0] >> 62 == 0
    assert ich.ap1r0 == 0


def test_control_register_states_the_implemented_widths() -> None:
    ich = enabled_interface()
    assert ich.icv_read("ICC_CTLR_EL1") >> 8 & 7 == 4, "PRIbits: five"
    assert ich.icv_read("ICC_CTLR_EL1") >> 11 & 7 == 0, "IDbits: sixteen"
    ich.icv_write("ICC_CTLR_EL1", 0xFFFF_FFFF)
    assert ich.icv_read("ICC_CTLR_EL1") & 3 == 3
    assert ich.vmcr & (ICH_VMCR.VCBPR | ICH_VMCR.VEOIM) == ICH_VMCR.VCBPR | ICH_VMCR.VEOIM


def test_el1_and_el2_see_the_same_control_fields() -> None:
    ich = IchRegisters()
    ich.icv_write("ICC_PMR_EL1", 0xF0)
    ich.icv_write("ICC_IGRPEN1_EL1", 1)
    ich.icv_write("ICC_BPR0_EL1", 4)
    ich.icv_write("ICC_BPR1_EL1", 6)
    assert ich.vmcr == 0xF0 << 24 | 4 << 21 | 6 << 18 | ICH_VMCR.VFIQEN | ICH_VMCR.VENG1
    ich.icv_write("ICC_AP1R0_EL1", 0x1_0000_0010)
    ich.icv_write("ICC_AP0R0_EL1", 0x20)
    assert (ich.ap1r0, ich.ap0r0) == (0x10, 0x20)
    assert (ich.icv_read("ICC_AP1R0_EL1"), ich.icv_read("ICC_AP0R0_EL1")) == (0x10, 0x20)
    assert (ich.icv_read("ICC_IGRPEN1_EL1"), ich.icv_read("ICC_IGRPEN0_EL1")) == (1, 0)


def test_every_virtual_register_of_the_table_works_in_the_directions_it_declares_and_no_other() -> None:
    for row in ICC_REGISTERS:
        ich = enabled_interface()
        readable = row.virtual and "r" in row.access
        writable = row.virtual and "w" in row.access
        if readable:
            assert isinstance(ich.icv_read(row.name), int)
        else:
            with pytest.raises(KeyError):
                ich.icv_read(row.name)
        if writable:
            ich.icv_write(row.name, 0)
        else:
            with pytest.raises(KeyError):
                ich.icv_write(row.name, 0)


def test_table_encodings_match_the_syndromes_that_el2_sees() -> None:
    iss = {row.name: row.iss for row in ICC_REGISTERS}
    assert iss["ICC_SRE_EL1"] == 0x3A3018
    assert iss["ICC_DIR_EL1"] == 0x323016
    assert iss["ICC_SGI1R_EL1"] == 0x3A3016
    assert len(set(iss.values())) == len(ICC_REGISTERS)
    assert {"ICC_SGI1R_EL1", "ICC_SGI0R_EL1", "ICC_ASGI1R_EL1", "ICC_SRE_EL1"} == ALWAYS_TRAPPED


def test_make_lr_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="vINTID 0x10000 does not fit the implemented 16 bits"):
        make_lr(0x10000, 0)
    with pytest.raises(ValueError, match="priority 0x100 of vINTID 27 does not fit 8 bits"):
        make_lr(27, 0x100)
