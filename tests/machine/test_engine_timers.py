"""The generic timers in the engine: ISTATUS, level changes as IRQ exits, EL2's own deadline, waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import guest_asm as a
import pytest
from realm_box import CODE, RealmBox

from machine import clock
from machine.cpu import CONTEXT_SIZE, ExitKind

MILLISECOND = clock.COUNTER_FREQUENCY // 1000
TIMERS = ("CNTP", "CNTV")


@pytest.fixture
def box() -> Iterator[RealmBox]:
    with RealmBox() as made:
        yield made


def arm(timer: str, ticks: int) -> list[int]:
    """Program a timer to fire in ``ticks`` (relative)."""
    return [*a.mov(1, ticks & 0xFFFF_FFFF), a.msr(f"{timer}_TVAL_EL0", 1), *a.mov(1, 1), a.msr(f"{timer}_CTL_EL0", 1)]


def test_the_counters_are_those_of_the_machine(box: RealmBox) -> None:
    box.put(CODE, a.mrs(1, "CNTVCT_EL0"), a.mrs(2, "CNTPCT_EL0"), a.smc())
    before = clock.now()
    box.run()
    assert before <= box.engine.gpr(1) <= box.engine.gpr(2) <= clock.now()


@pytest.mark.parametrize("timer", TIMERS)
def test_a_timer_that_expires_during_a_run_answers_irq(box: RealmBox, timer: str) -> None:
    box.put(CODE, arm(timer, 2 * MILLISECOND), a.b())
    assert box.run().kind is ExitKind.IRQ
    state = box.engine.timers()
    ctl, cval = (state.cntp_ctl, state.cntp_cval) if timer == "CNTP" else (state.cntv_ctl, state.cntv_cval)
    assert ctl == 5
    assert 0 <= clock.now() - cval < 500 * MILLISECOND
    other = state.cntv_ctl if timer == "CNTP" else state.cntp_ctl
    assert other == 0


@pytest.mark.parametrize("timer", TIMERS)
def test_the_guest_sees_istatus_and_may_poll_it(box: RealmBox, timer: str) -> None:
    # IMASK keeps the line down, so nothing exits: the guest polls until ISTATUS.
    poll = [a.mrs(2, f"{timer}_CTL_EL0"), 0xD3420842, a.cbz(2, -2)]  # ubfx x2, x2, #2, #1
    box.put(CODE, a.mov(1, MILLISECOND), a.msr(f"{timer}_TVAL_EL0", 1), a.mov(1, 3), a.msr(f"{timer}_CTL_EL0", 1),
            poll, a.smc(1))
    assert box.run().esr & 0xFFFF == 1
    assert box.engine.sysreg(f"{timer}_CTL_EL0") == 7


def test_masking_an_asserted_timer_is_a_level_change_and_answers_irq(box: RealmBox) -> None:
    box.put(CODE, arm("CNTV", -1), a.b(1), a.mov(1, 3), a.msr("CNTV_CTL_EL0", 1), a.b(1), a.smc(1))
    assert box.run().kind is ExitKind.IRQ
    assert box.engine.timers().cntv_ctl == 5
    assert box.run().kind is ExitKind.IRQ
    assert box.engine.timers().cntv_ctl == 7
    assert box.run().esr & 0xFFFF == 1


def test_an_asserted_timer_that_is_known_does_not_stop_the_next_run(box: RealmBox) -> None:
    box.put(CODE, arm("CNTV", -1), a.b(1), a.smc(1))
    assert box.run().kind is ExitKind.IRQ
    assert box.run().esr & 0xFFFF == 1


def test_a_level_that_changes_between_two_runs_is_not_lost(box: RealmBox) -> None:
    box.put(CODE, arm("CNTV", MILLISECOND), a.smc(1), a.smc(2))
    assert box.run().esr & 0xFFFF == 1
    assert box.engine.timers().cntv_ctl == 1
    time.sleep(0.003)
    assert box.run().kind is ExitKind.IRQ
    box.engine.pc += 4
    assert box.run().esr & 0xFFFF == 2


def test_a_level_that_changes_while_a_context_is_out_is_not_lost(box: RealmBox) -> None:
    box.put(CODE, arm("CNTV", MILLISECOND), a.smc(1), a.smc(2))
    box.run()
    box.engine.timers()
    image = bytearray(CONTEXT_SIZE)
    box.engine.save(memoryview(image))
    box.engine.reset()
    assert box.engine.timers().cntv_ctl == 0
    time.sleep(0.003)
    box.engine.restore(memoryview(image))
    assert box.run().kind is ExitKind.IRQ
    assert box.engine.timers().cntv_ctl == 5


def test_what_timers_told_stops_no_run(box: RealmBox) -> None:
    box.put(CODE, arm("CNTV", MILLISECOND), a.smc(1), a.smc(2))
    box.run()
    time.sleep(0.003)
    assert box.engine.timers().cntv_ctl == 5
    box.engine.pc += 4
    assert box.run().esr & 0xFFFF == 2


def test_a_timer_reprogrammed_to_be_earlier_fires_earlier(box: RealmBox) -> None:
    box.put(CODE, arm("CNTV", 10_000 * MILLISECOND), arm("CNTV", 2 * MILLISECOND), a.b())
    before = time.monotonic()
    assert box.run().kind is ExitKind.IRQ
    assert time.monotonic() - before < 5


def test_a_tval_is_signed_32_bits(box: RealmBox) -> None:
    box.put(CODE, a.mov(1, 0x8000_0000), a.msr("CNTP_TVAL_EL0", 1), a.mrs(2, "CNTP_TVAL_EL0"), a.smc())
    now = clock.now()
    box.run()
    cval = box.engine.timers().cntp_cval
    assert abs(cval - (now - (1 << 31))) < 1000 * MILLISECOND
    assert box.engine.gpr(2) >> 30 & 3 in (1, 2)


def test_a_compare_value_at_the_end_of_time_never_fires(box: RealmBox) -> None:
    box.put(CODE, a.mov(1, (1 << 64) - 1), a.msr("CNTV_CVAL_EL0", 1), a.mov(1, 1), a.msr("CNTV_CTL_EL0", 1), a.smc(1))
    assert box.run().esr & 0xFFFF == 1


def test_timers_written_from_outside_are_what_the_guest_reads(box: RealmBox) -> None:
    box.engine.set_sysreg("CNTV_CVAL_EL0", 0x1234)
    box.engine.set_sysreg("CNTV_CTL_EL0", 0xFF)
    box.put(CODE, a.mrs(1, "CNTV_CVAL_EL0"), a.mrs(2, "CNTV_CTL_EL0"), a.smc())
    box.run()
    assert (box.engine.gpr(1), box.engine.gpr(2)) == (0x1234, 7)


def test_the_deadline_of_el2_answers_irq(box: RealmBox) -> None:
    box.put(CODE, a.b())
    deadline = clock.now() + 2 * MILLISECOND
    box.engine.set_deadline(deadline)
    assert box.run().kind is ExitKind.IRQ
    assert clock.now() >= deadline
    assert box.run().kind is ExitKind.IRQ  # still in the past
    box.engine.set_deadline(None)
    box.engine.kick()
    assert box.run().kind is ExitKind.IRQ


def test_a_later_deadline_after_an_early_one_is_kept(box: RealmBox) -> None:
    box.put(CODE, a.b())
    for _ in range(5):
        deadline = clock.now() + MILLISECOND
        box.engine.set_deadline(deadline)
        assert box.run().kind is ExitKind.IRQ
        assert clock.now() >= deadline


def test_an_untrapped_wfi_sleeps_until_the_timer() -> None:
    with RealmBox(hcr=1) as box:
        box.put(CODE, arm("CNTV", 20 * MILLISECOND), a.WFI, a.smc(1))
        cpu_time = time.process_time()
        assert box.run().kind is ExitKind.IRQ
        assert box.engine.timers().cntv_ctl == 5
        assert time.process_time() - cpu_time < 0.015
        assert box.run().esr & 0xFFFF == 1


def test_wait_blocks_until_the_counter_or_a_kick(box: RealmBox) -> None:
    deadline = clock.now() + 2 * MILLISECOND
    box.engine.wait(deadline)
    assert clock.now() >= deadline
    threading.Timer(0.002, box.engine.kick).start()
    box.engine.wait(None)
    box.put(CODE, a.smc(1))
    assert box.run().esr & 0xFFFF == 1  # the kick was consumed
