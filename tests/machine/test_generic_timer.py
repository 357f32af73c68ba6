"""The EL1 timers: condition and line."""

from __future__ import annotations

from machine.generic_timer import ENABLE, IMASK, ISTATUS, istatus, level


def test_a_disabled_timer_neither_has_status_nor_a_line() -> None:
    assert istatus(0, 10, 1000) == 0
    assert istatus(ISTATUS | IMASK, 10, 1000) == IMASK, "a stale ISTATUS is dropped"
    assert not level(0, 10, 1000)


def test_the_condition_is_met_from_the_compare_value_on() -> None:
    assert istatus(ENABLE, 1000, 999) == ENABLE
    assert istatus(ENABLE, 1000, 1000) == ENABLE | ISTATUS
    assert not level(ENABLE, 1000, 999)
    assert level(ENABLE, 1000, 1000)


    assert istatus(ENABLE | IMASK, 5, 6) == ENABLE | IMASK | ISTATUS
    assert not level(ENABLE | IMASK, 5, 6)


def test_the_comparison_is_unsigned() -> None:
    assert not level(ENABLE, 0xFFFF_FFFF_FFFF_FFFF, 0)
    assert level(ENABLE, 1, 1 << 63)
