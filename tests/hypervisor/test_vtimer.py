"""The timers of a vCPU as the host follows them."""

from __future__ import annotations

import pytest

from hypervisor.arm.vgic_v3 import VgicV3
from hypervisor.arm.vtimer import VcpuTimers, nearest_deadline, reached

OFF, ON, MASKED, FIRED, FIRED_MASKED = 0, 1, 3, 5, 7


class Lines:
    """Remembers every change of a line."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, bool, int]] = []

    def set_irq_line(self, intid: int, level: bool, vcpu: int = 0) -> None:
        self.changes.append((intid, level, vcpu))


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def timers(lines: Lines) -> VcpuTimers:
    return VcpuTimers(lines, vcpu=2)


@pytest.mark.parametrize("ctl", range(8))
def test_a_line_is_up_exactly_with_enable_and_status_and_no_mask(timers: VcpuTimers, lines: Lines, ctl: int) -> None:
    timers.update(OFF, 0, ctl, 100)
    assert lines.changes == ([(27, True, 2)] if ctl == 5 else [])


def test_both_timers_drive_their_own_ppi_physical_first(timers: VcpuTimers, lines: Lines) -> None:
    timers.update(FIRED, 10, FIRED, 20)
    assert lines.changes == [(30, True, 2), (27, True, 2)]
    timers.update(FIRED_MASKED, 10, ON, 200)
    assert lines.changes[2:] == [(30, False, 2), (27, False, 2)]


def test_unchanged_levels_are_not_driven_again(timers: VcpuTimers, lines: Lines) -> None:
    for cval in range(5):
        timers.update(ON, cval, FIRED, cval)
    assert lines.changes == [(27, True, 2)]


def test_the_deadline_is_the_nearest_timer_that_can_fire(timers: VcpuTimers) -> None:
    assert timers.deadline() is None
    timers.update(ON, 500, ON, 300)
    assert timers.deadline() == 300
    timers.update(ON, 200, ON, 300)
    assert timers.deadline() == 200
    timers.update(OFF, 200, MASKED, 300)
    assert timers.deadline() is None
    timers.update(FIRED, 200, ON, 300)
    assert timers.deadline() == 300, "a timer whose line is up wakes through its interrupt, not through a deadline"


def test_expiry_sets_the_status_and_raises_the_line(timers: VcpuTimers, lines: Lines) -> None:
    timers.update(ON, 500, ON, 300)
    timers.expire(299)
    assert lines.changes == []
    timers.expire(300)
    assert lines.changes == [(27, True, 2)]
    assert timers.cntv_ctl == FIRED
    assert timers.cntp_ctl == ON
    assert timers.deadline() == 500
    timers.expire(600)
    assert lines.changes == [(27, True, 2), (30, True, 2)]
    assert timers.deadline() is None


def test_expiry_of_a_masked_timer_leaves_the_line_down(timers: VcpuTimers, lines: Lines) -> None:
    timers.update(MASKED, 100, MASKED, 100)
    timers.expire(100)
    assert (timers.cntp_ctl, timers.cntv_ctl) == (FIRED_MASKED, FIRED_MASKED)
    assert lines.changes == []


def test_a_compare_value_in_the_past_is_due_at_once(timers: VcpuTimers, lines: Lines) -> None:
    timers.update(OFF, 0, ON, 100)
    assert timers.deadline() == 100
    timers.expire(5000)
    assert lines.changes == [(27, True, 2)]


def test_a_plain_guests_virtual_timer_lies_behind_by_its_offset(lines: Lines) -> None:
    timers = VcpuTimers(lines, 0, virtual_offset=1000)
    timers.update(ON, 5000, ON, 300)
    assert timers.deadline() == 1300
    timers.expire(1299)
    assert lines.changes == []
    timers.expire(1300)
    assert lines.changes == [(27, True, 0)]


def test_a_timed_wait_ends_at_its_counter_value(timers: VcpuTimers) -> None:
    assert timers.start_wait(400, count=100)
    timers.update(OFF, 0, ON, 500)
    assert timers.deadline() == 400
    assert not timers.expire(399)
    assert timers.expire(400)
    assert timers.deadline() == 500
    assert not timers.expire(401), "it ends once"


def test_a_timed_wait_in_the_past_is_not_started(timers: VcpuTimers) -> None:
    assert not timers.start_wait(100, count=100)
    assert not timers.start_wait(0, count=100)
    assert timers.deadline() is None


def test_a_vcpu_that_goes_on_forgets_its_timed_wait(timers: VcpuTimers) -> None:
    timers.start_wait(400, count=100)
    timers.stop_wait()
    assert timers.deadline() is None
    assert not timers.expire(1000)


def test_reaching_a_timeout_is_a_signed_comparison() -> None:
    assert reached(10, 10)
    assert not reached(9, 10)
    assert reached(5, (1 << 64) - 5), "just wrapped"
    assert not reached((1 << 64) - 5, 5)


def test_the_nearest_deadline_of_several_vcpus(lines: Lines) -> None:
    waiting = [VcpuTimers(lines, vcpu) for vcpu in range(3)]
    assert nearest_deadline(waiting) is None
    waiting[1].update(OFF, 0, ON, 700)
    waiting[2].start_wait(600, count=0)
    assert nearest_deadline(waiting) == 600


def test_an_expired_timer_makes_its_vcpu_runnable() -> None:
    vgic = VgicV3(1, 2, 1)
    vgic.distributor.write(0, 4, 2, 0)
    vgic.redistributors.write(0x30100, 4, 1 << 27, 1)
    timers = VcpuTimers(vgic, 1)
    timers.update(OFF, 0, ON, 100)
    assert not vgic.has_pending(1)
    timers.expire(100)
    assert vgic.has_pending(1)
    assert not vgic.has_pending(0)
    timers.update(OFF, 0, ON, 200)
    assert not vgic.has_pending(1)
