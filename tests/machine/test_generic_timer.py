"""The EL1 timers: condition, line, deadline, down-count, offset."""

from __future__ import annotations

import pytest

from machine.generic_timer import ENABLE, IMASK, ISTATUS, GenericTimer, asserted, deadline, istatus, level


def test_a_disabled_timer_neither_has_status_nor_a_line() -> None:
    assert istatus(0, 10, 1000) == 0
    assert istatus(ISTATUS | IMASK, 10, 1000) == IMASK, "a stale ISTATUS is dropped"
    assert not level(0, 10, 1000)
    assert deadline(0, 2000, 1000) is None


def test_the_condition_is_met_from_the_compare_value_on() -> None:
    assert istatus(ENABLE, 1000, 999) == ENABLE
    assert istatus(ENABLE, 1000, 1000) == ENABLE | ISTATUS
    assert not level(ENABLE, 1000, 999)
    assert level(ENABLE, 1000, 1000)
    assert deadline(ENABLE, 1000, 999) == 1000
    assert deadline(ENABLE, 1000, 1000) is None, "the line is up already"


def test_a_masked_timer_has_status_but_no_line_and_no_deadline() -> None:
    assert istatus(ENABLE | IMASK, 5, 6) == ENABLE | IMASK | ISTATUS
    assert not level(ENABLE | IMASK, 5, 6)
    assert deadline(ENABLE | IMASK, 500, 6) is None


@pytest.mark.parametrize("ctl", range(8))
def test_the_line_needs_enable_and_status_and_no_mask(ctl: int) -> None:
    assert asserted(ctl) == (ctl == 5)


def test_the_comparison_is_unsigned() -> None:
    assert not level(ENABLE, 0xFFFF_FFFF_FFFF_FFFF, 0)
    assert level(ENABLE, 1, 1 << 63)


def test_status_cannot_be_written() -> None:
    timer = GenericTimer()
    timer.write_cval(100)
    timer.write_ctl(7)
    assert timer.read_ctl(50) == ENABLE | IMASK
    assert timer.read_ctl(100) == ENABLE | IMASK | ISTATUS


def test_tval_counts_down_and_goes_negative() -> None:
    timer = GenericTimer()
    timer.write_tval(100, physical=1000)
    assert timer.cval == 1100
    assert timer.read_tval(1000) == 100
    assert timer.read_tval(1101) == 0xFFFF_FFFF


def test_tval_is_a_signed_32_bit_value() -> None:
    timer = GenericTimer()
    timer.write_tval(0xFFFF_FFFF, physical=1000)
    assert timer.cval == 999
    timer.write_tval(0x1_8000_0000, physical=0)
    assert timer.cval == (1 << 64) - (1 << 31)


def test_the_virtual_timer_lies_behind_by_its_offset() -> None:
    timer = GenericTimer(offset=1000)
    timer.write_ctl(ENABLE)
    timer.write_tval(50, physical=1200)
    assert timer.cval == 250
    assert not timer.level(1249)
    assert timer.level(1250)
    assert timer.deadline(1200) == 1250
    assert timer.deadline(1250) is None
    assert timer.read_tval(1240) == 10


def test_a_deadline_beyond_the_end_of_the_counter_is_none() -> None:
    timer = GenericTimer(offset=1000)
    timer.write_ctl(ENABLE)
    timer.write_cval((1 << 64) - 1)
    assert timer.deadline(2000) is None
    timer.offset = 0
    assert timer.deadline(2000) == (1 << 64) - 1
