"""The scripted processing element plays what it is told and shows what the realm would have seen."""

from __future__ import annotations

import threading

import pytest

from machine import clock
from machine.cpu import CONTEXT_SIZE, Cpu, CpuError, ExitKind, Regime
from machine.cpu.scripted import ScriptedCpu

REGIME = Regime(0, 0, 0, 0)


def test_an_empty_script_answers_fiq() -> None:
    cpu: Cpu = ScriptedCpu()
    assert cpu.run(REGIME).kind is ExitKind.FIQ
    assert cpu.run(REGIME).kind is ExitKind.FIQ


def test_an_smc_step_loads_its_registers_and_traps_with_ec_0x17() -> None:
    cpu = ScriptedCpu()
    cpu.smc([0xC400_0190, 0x1_0000])
    taken = cpu.run(REGIME)
    assert (taken.kind, taken.esr) == (ExitKind.SYNC, 0x5E00_0000)
    assert cpu.gprs(3) == [0xC400_0190, 0x1_0000, 0]


def test_registers_that_a_step_does_not_name_keep_their_values() -> None:
    cpu = ScriptedCpu()
    cpu.play([("sync", 0x9385_0047, 0x123, 0x8000_0000, [0, 0, 0, 0, 0, 0xDEAD]), ("smc", [1, 2])])
    taken = cpu.run(REGIME)
    assert (taken.esr, taken.far, taken.hpfar) == (0x9385_0047, 0x123, 0x8000_0000)
    cpu.run(REGIME)
    assert cpu.gprs(6) == [1, 2, 0, 0, 0, 0xDEAD]


def test_the_realm_sees_the_results_of_an_smc_at_its_next_instruction_and_only_once() -> None:
    cpu = ScriptedCpu()
    cpu.smc([0xC400_0190, 0x1_0000])
    cpu.run(REGIME)
    assert cpu.take_saw() == []
    cpu.set_gprs([0, 0x1_0000, 0x1_0001])
    cpu.run(REGIME)
    assert cpu.take_saw() == [(0, 0x1_0000, 0x1_0001, *[0] * 15)]
    cpu.run(REGIME)
    assert cpu.take_saw() == []


def test_a_synchronous_exception_that_is_no_smc_shows_nothing() -> None:
    cpu = ScriptedCpu()
    cpu.sync(0x0600_0000)
    cpu.run(REGIME)
    cpu.run(REGIME)
    assert cpu.take_saw() == []


def test_steps_are_played_in_order_one_a_run() -> None:
    cpu = ScriptedCpu()
    cpu.play([("irq",), ("fiq",), ("serror", 0xBE00_0000)])
    kinds = [cpu.run(REGIME).kind for _ in range(2)]
    assert kinds == [ExitKind.IRQ, ExitKind.FIQ]
    assert cpu.pending == 1
    last = cpu.run(REGIME)
    assert (last.kind, last.esr) == (ExitKind.SERROR, 0xBE00_0000)


def test_an_unknown_step_is_refused_by_name() -> None:
    with pytest.raises(CpuError, match="no scripted step 'dance'"):
        ScriptedCpu().play([("dance",)])


def test_a_kick_is_answered_before_the_script_and_once() -> None:
    cpu = ScriptedCpu()
    cpu.smc([1])
    cpu.kick()
    assert cpu.run(REGIME).kind is ExitKind.IRQ
    assert cpu.run(REGIME).kind is ExitKind.SYNC


def test_a_context_carries_registers_and_an_unseen_smc_result() -> None:
    cpu = ScriptedCpu()
    cpu.smc([1, 2])
    cpu.run(REGIME)
    cpu.pc = 0x4000
    cpu.set_sysreg("VBAR_EL1", 0xFFFF_8000_0000_0000)
    image = bytearray(CONTEXT_SIZE)
    cpu.save(memoryview(image))
    other = ScriptedCpu()
    other.restore(memoryview(image))
    assert (other.pc, other.gpr(1), other.sysreg("VBAR_EL1")) == (0x4000, 2, 0xFFFF_8000_0000_0000)
    other.run(REGIME)
    assert len(other.take_saw()) == 1


def test_a_foreign_context_is_refused() -> None:
    with pytest.raises(CpuError, match="not a context"):
        ScriptedCpu().restore(memoryview(bytes(CONTEXT_SIZE)))


def test_an_injected_exception_enters_the_vector_of_the_level_it_comes_from() -> None:
    cpu = ScriptedCpu()
    cpu.set_sysreg("VBAR_EL1", 0x8000)
    cpu.pc = 0x1234
    cpu.take_exception_el1(0x9600_0010, far=0x77)
    assert cpu.pc == 0x8200
    assert [cpu.sysreg(n) for n in ("ELR_EL1", "SPSR_EL1", "ESR_EL1", "FAR_EL1")] == [0x1234, 0x3C5, 0x9600_0010, 0x77]
    cpu.set_sysreg("PSTATE", 0)
    cpu.take_exception_el1(0x9600_0010)
    assert cpu.pc == 0x8400
    assert cpu.sysreg("ESR_EL1") == 0x9200_0010


def test_timers_show_istatus_of_now() -> None:
    cpu = ScriptedCpu()
    cpu.set_sysreg("CNTV_CTL_EL0", 1)
    cpu.set_sysreg("CNTV_CVAL_EL0", clock.now() - 1)
    assert cpu.timers().cntv_ctl == 5
    cpu.set_sysreg("CNTV_CVAL_EL0", clock.now() + 10**12)
    assert cpu.timers().cntv_ctl == 1


def test_wait_ends_with_a_kick_or_at_the_deadline() -> None:
    cpu = ScriptedCpu()
    cpu.wait(clock.now() + 1000)
    thread = threading.Thread(target=cpu.kick)
    thread.start()
    cpu.wait(None)
    thread.join()
    assert cpu.run(REGIME).kind is ExitKind.FIQ
