"""PSCI as a Realm sees it, and the host's PSCI_COMPLETE."""

from __future__ import annotations

import pytest
from realm_world import CODE, UNPROTECTED, RealmWorld

from rmm.abi import rmi
from rmm.abi.psci import PsciFunction, PsciStatus
from rmm.abi.registers import ExitReason
from rmm.abi.rmi import Status
from rmm.rec import rec_index

SMC64 = 1 << 30
CPU_ON = PsciFunction.CPU_ON | SMC64
AFFINITY_INFO = PsciFunction.AFFINITY_INFO | SMC64
MASK64 = (1 << 64) - 1
DENIED = PsciStatus.DENIED & MASK64
ENTRY = 0x3000


@pytest.fixture
def world() -> RealmWorld:
    return RealmWorld(recs=3)


def ask(world: RealmWorld, *registers: int) -> None:
    """REC 0 makes a call that waits for the host."""
    world.script.smc(registers)
    assert world.enter()["exit_reason"] == ExitReason.PSCI


def complete(world: RealmWorld, target: int, status: int = 0, caller: int = 0) -> int:
    return world.board.smc(rmi.PSCI_COMPLETE, world.recs[caller], world.recs[target], status)[0]


def answer(world: RealmWorld, index: int = 0) -> tuple[int, ...]:
    """X0..X3 that the caller finds when it runs again."""
    world.enter(index)
    return world.script.take_saw()[-1][:4]


def error(status: int) -> tuple[int, ...]:
    return (status & MASK64, 0, 0, 0)


# Answered by the RMM.


def test_versions(world: RealmWorld) -> None:
    assert world.call(PsciFunction.VERSION)[:4] == (0x1_0001, 0, 0, 0)
    assert world.call(0x8000_0000)[:4] == (0x1_0002, 0, 0, 0)


@pytest.mark.parametrize(
    "function",
    [0x8400_0001, 0xC400_0001, 0x8400_0002, 0x8400_0003, 0xC400_0003, 0x8400_0004, 0xC400_0004, 0x8400_0008,
     0x8400_0009, 0x8400_000A, 0x8000_0000],
)  # fmt: skip
def test_features_that_exist(world: RealmWorld, function: int) -> None:
    assert world.call(PsciFunction.FEATURES, function)[:4] == (0, 0, 0, 0)


@pytest.mark.parametrize("function", [0x8400_0000, 0xC400_0002, 0x8400_0005, 0x8400_0012, 0xC400_0190, 0])
def test_features_that_do_not(world: RealmWorld, function: int) -> None:
    assert world.call(PsciFunction.FEATURES, function)[:4] == error(-1)


@pytest.mark.parametrize("function", [0x8400_0005, 0x8400_0006, 0xC400_0008, 0x8400_0050, 0x8600_FF01, 0x8000_0001])
def test_functions_that_do_not_exist(world: RealmWorld, function: int) -> None:
    assert world.call(function)[:4] == error(-1)


# Passed to the host.


@pytest.mark.parametrize("function", [PsciFunction.CPU_SUSPEND, PsciFunction.CPU_SUSPEND | SMC64])
def test_cpu_suspend_is_an_exit_and_has_succeeded_afterwards(world: RealmWorld, function: int) -> None:
    world.script.smc([function, 1, 2, 3, 4])
    exit_ = world.enter()
    assert exit_["exit_reason"] == ExitReason.PSCI
    assert exit_["exit_gprs"] == (function,) + (0,) * 30
    assert answer(world) == (0, 0, 0, 0)
    assert world.cpu.pc == CODE + 4


def test_cpu_off_makes_the_rec_unrunnable(world: RealmWorld) -> None:
    world.script.smc([PsciFunction.CPU_OFF])
    assert world.enter()["exit_gprs"][0] == PsciFunction.CPU_OFF
    assert world.try_enter() == Status.ERROR_REC


@pytest.mark.parametrize("function", [PsciFunction.SYSTEM_OFF, PsciFunction.SYSTEM_RESET])
def test_system_off_and_reset_end_the_realm(world: RealmWorld, function: int) -> None:
    world.script.smc([function])
    exit_ = world.enter()
    assert (exit_["exit_reason"], exit_["exit_gprs"][0]) == (ExitReason.PSCI, function)
    assert world.try_enter() == Status.ERROR_REALM
    world.rec(1).runnable = 1
    assert world.try_enter(1) == Status.ERROR_REALM


# CPU_ON.


@pytest.mark.parametrize("function", [PsciFunction.CPU_ON, CPU_ON])
def test_cpu_on_starts_the_target_from_reset(world: RealmWorld, function: int) -> None:
    world.script.smc([function, 1, ENTRY, 0x1234])
    exit_ = world.enter()
    # Entry point and context id stay with the RMM.
    assert exit_["exit_gprs"] == (function, 1) + (0,) * 29
    assert world.try_enter() == Status.ERROR_REC
    assert complete(world, 1) == Status.SUCCESS
    assert answer(world) == (0, 0, 0, 0)
    world.enter(1)
    assert list(world.cpu.gprs()) == [0x1234] + [0] * 30
    assert world.cpu.pc == ENTRY


def test_a_target_gets_the_endianness_of_its_caller(world: RealmWorld) -> None:
    world.enter()
    world.cpu.set_sysreg("SCTLR_EL1", 1 << 25)
    ask(world, CPU_ON, 2, ENTRY, 0)
    complete(world, 2)
    world.enter(2)
    assert world.cpu.sysreg("SCTLR_EL1") & 1 << 25


def test_a_vcpu_that_was_off_starts_afresh(world: RealmWorld) -> None:
    ask(world, CPU_ON, 1, ENTRY, 1)
    complete(world, 1)
    world.script.smc([PsciFunction.CPU_OFF, *[5] * 17])
    world.enter(1)
    world.script.smc([CPU_ON, 1, ENTRY + 0x100, 2])
    world.enter()
    assert complete(world, 1) == Status.SUCCESS
    world.enter(1)
    assert (list(world.cpu.gprs()), world.cpu.pc) == ([2] + [0] * 30, ENTRY + 0x100)


@pytest.mark.parametrize(
    ("mpidr", "entry", "status"),
    [
        pytest.param(1, UNPROTECTED, PsciStatus.INVALID_ADDRESS, id="entry outside the protected half"),
        pytest.param(7, UNPROTECTED, PsciStatus.INVALID_ADDRESS, id="the entry is checked first"),
        pytest.param(3, ENTRY, PsciStatus.INVALID_PARAMETERS, id="no such vCPU"),
        pytest.param(0x100, ENTRY, PsciStatus.INVALID_PARAMETERS, id="no such affinity"),
        pytest.param(0x10, ENTRY, PsciStatus.INVALID_PARAMETERS, id="an affinity that no vCPU can have"),
        pytest.param(1 << 32, ENTRY, PsciStatus.INVALID_PARAMETERS, id="affinity 3 is too high"),
        pytest.param(0, ENTRY, PsciStatus.ALREADY_ON, id="itself"),
    ],
)
def test_a_bad_cpu_on_is_no_exit(world: RealmWorld, mpidr: int, entry: int, status: int) -> None:
    assert world.call(CPU_ON, mpidr, entry)[:4] == error(status)


def test_the_32_bit_call_has_32_bit_arguments(world: RealmWorld) -> None:
    ask(world, PsciFunction.CPU_ON, 1 << 32 | 1, 1 << 40 | ENTRY, 1 << 32 | 5)
    assert complete(world, 1) == Status.SUCCESS
    world.enter(1)
    assert (world.cpu.gpr(0), world.cpu.pc) == (5, ENTRY)


def test_a_host_may_deny(world: RealmWorld) -> None:
    ask(world, CPU_ON, 1, ENTRY)
    assert complete(world, 1, DENIED) == Status.SUCCESS
    assert answer(world) == error(PsciStatus.DENIED)
    assert world.try_enter(1) == Status.ERROR_REC


@pytest.mark.parametrize(("status", "x0"), [(0, Status.SUCCESS), (DENIED, Status.ERROR_INPUT)])
def test_a_target_that_is_on_already_is_no_matter_of_the_hosts(world: RealmWorld, status: int, x0: int) -> None:
    world.rec(1).runnable = 1
    ask(world, CPU_ON, 1, ENTRY, 9)
    assert complete(world, 1, status) == x0
    assert answer(world) == error(PsciStatus.ALREADY_ON)
    world.enter(1)
    assert world.cpu.pc == CODE


# AFFINITY_INFO.


@pytest.mark.parametrize(("runnable", "state"), [(1, 0), (0, 1)])
def test_affinity_info_tells_whether_a_vcpu_is_on(world: RealmWorld, runnable: int, state: int) -> None:
    world.rec(2).runnable = runnable
    world.script.smc([AFFINITY_INFO, 2, 0])
    assert world.enter()["exit_gprs"] == (AFFINITY_INFO, 2) + (0,) * 29
    assert complete(world, 2, DENIED) == Status.ERROR_INPUT
    assert complete(world, 2) == Status.SUCCESS
    assert answer(world) == (state, 0, 0, 0)


@pytest.mark.parametrize(("mpidr", "level", "x0"), [(0, 0, 0), (1, 1, -2), (3, 0, -2), (0x10, 0, -2)])
def test_affinity_info_that_needs_no_host(world: RealmWorld, mpidr: int, level: int, x0: int) -> None:
    assert world.call(AFFINITY_INFO, mpidr, level)[:4] == error(x0)


# PSCI_COMPLETE.


def test_a_completion_has_to_name_the_right_recs(world: RealmWorld) -> None:
    ask(world, CPU_ON, 1, ENTRY)
    refused = [
        complete(world, 2),
        complete(world, 0),
        complete(world, 0, caller=1),
        complete(world, 1, PsciStatus.ALREADY_ON & MASK64),
        complete(world, 1, 1),
        world.board.smc(rmi.PSCI_COMPLETE, world.recs[0] + 8, world.recs[1], 0)[0],
        world.board.smc(rmi.PSCI_COMPLETE, world.recs[0], world.recs[1] + 8, 0)[0],
        world.board.smc(rmi.PSCI_COMPLETE, world.recs[0], world.rd, 0)[0],
        world.board.smc(rmi.PSCI_COMPLETE, world.rd, world.recs[1], 0)[0],
    ]
    assert refused == [Status.ERROR_INPUT] * len(refused)
    assert complete(world, 1) == Status.SUCCESS
    assert complete(world, 1) == Status.ERROR_INPUT


def test_a_rec_of_another_realm_is_no_target(world: RealmWorld) -> None:
    ask(world, CPU_ON, 1, ENTRY)
    world.rec(1).rd = world.rd + 0x1000
    assert complete(world, 1) == Status.ERROR_INPUT


@pytest.mark.parametrize(
    ("mpidr", "index"),
    [(0, 0), (0xF, 15), (0x100, 16), (0x101, 17), (0x1_0000, 4096), (0x100_0000, 1 << 20), (0x10, None), (0xF0, None),
     (1 << 32, None), (1 << 63, None)],
)  # fmt: skip
def test_the_index_of_an_mpidr(mpidr: int, index: int | None) -> None:
    assert rec_index(mpidr) == index
