"""REC_ENTER: which entries are refused, what an entry completes, which exits the host sees and what is in them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from realm_world import CODE, MAPPED_TOP, RAM_TOP, S2SZ, UNPROTECTED, RealmWorld

from machine.cpu import HCR, CpuError
from machine.ich import ALWAYS_TRAPPED, make_lr
from machine.memory import DRAM_BASE, GRANULE_SIZE
from rmm.abi import rmi
from rmm.abi.registers import ExitReason, RecEnterFlags
from rmm.abi.rmi import Status
from rmm.abi.structures import RecRun
from rmm.lock import RUNNERS_OFFSET

EMUL_MMIO = RecEnterFlags.make(EMUL_MMIO=1)
INJECT_SEA = RecEnterFlags.make(INJECT_SEA=1)
IL = 1 << 25
ISV = 1 << 24
WNR = 1 << 6
#: Data abort from a lower EL, translation fault at level 3.
DABT = 0x24 << 26 | IL | 0x07
IABT = 0x20 << 26 | IL | 0x07
MMIO = UNPROTECTED + 0x2200_0000
FAR = 0xFFFF_8000_0000_0018


def hpfar(ipa: int) -> int:
    return ipa >> 8 & ~0xF


def access(size: int, register: int, *, write: bool = False, signed: bool = False, wide: bool = False) -> int:
    """The syndrome of a load or store of ``1 << size`` bytes that the host can emulate."""
    return DABT | ISV | size << 22 | signed << 21 | register << 16 | wide << 15 | (WNR if write else 0)


def fields(exit_: dict[str, Any]) -> dict[str, Any]:
    """What an exit says, without the zeros, the enter half and the timers."""
    skipped = ("enter_flags", "enter_gprs", "exit_gprs", "cntp_cval", "cntv_cval")
    return {name: value for name, value in exit_.items() if value and name not in skipped}


@pytest.fixture
def world() -> RealmWorld:
    return RealmWorld()


# Entry checks.


@pytest.mark.parametrize("offset", [8, GRANULE_SIZE // 2])
def test_the_run_granule_has_to_be_aligned(world: RealmWorld, offset: int) -> None:
    assert world.board.smc(rmi.REC_ENTER, world.recs[0], world.run + offset)[0] == Status.ERROR_INPUT


def test_the_run_granule_has_to_be_the_hosts(world: RealmWorld) -> None:
    assert world.board.smc(rmi.REC_ENTER, world.recs[0], world.delegated())[0] == Status.ERROR_INPUT


def test_only_a_rec_can_be_entered(world: RealmWorld) -> None:
    assert world.board.smc(rmi.REC_ENTER, world.rd, world.run)[0] == Status.ERROR_INPUT
    assert world.board.smc(rmi.REC_ENTER, world.recs[0] + 8, world.run)[0] == Status.ERROR_INPUT


def test_a_terminated_realm_is_not_entered(world: RealmWorld) -> None:
    world.smc(rmi.REALM_TERMINATE, world.rd)
    assert world.try_enter() == Status.ERROR_REALM


def test_a_rec_that_was_not_turned_on_is_not_entered() -> None:
    assert RealmWorld(recs=2).try_enter(1) == Status.ERROR_REC


@pytest.mark.parametrize("flags", [EMUL_MMIO, INJECT_SEA, EMUL_MMIO | INJECT_SEA])
def test_there_is_nothing_to_emulate_before_the_first_abort(world: RealmWorld, flags: int) -> None:
    assert world.try_enter(flags=flags) == Status.ERROR_REC


@pytest.mark.parametrize("flags", [EMUL_MMIO, INJECT_SEA])
def test_an_interrupt_exit_ends_the_hosts_right_to_emulate(world: RealmWorld, flags: int) -> None:
    world.script.sync(access(2, 5), FAR, hpfar(MMIO))
    world.enter()
    world.enter()
    assert world.try_enter(flags=flags) == Status.ERROR_REC


@pytest.mark.parametrize("flags", [EMUL_MMIO, INJECT_SEA])
def test_an_abort_in_protected_memory_is_not_the_hosts_to_complete(world: RealmWorld, flags: int) -> None:
    world.script.sync(access(2, 5), FAR, hpfar(MAPPED_TOP))
    assert world.enter()["exit_reason"] == ExitReason.SYNC
    assert world.try_enter(flags=flags) == Status.ERROR_REC


def test_an_abort_without_a_syndrome_can_only_be_answered_with_an_external_abort(world: RealmWorld) -> None:
    world.script.sync(DABT, FAR, hpfar(MMIO))
    world.enter()
    assert world.try_enter(flags=EMUL_MMIO) == Status.ERROR_REC
    assert world.try_enter(flags=INJECT_SEA) == Status.SUCCESS


@pytest.mark.parametrize(
    "registers",
    [
        pytest.param([make_lr(27, 0xA0) | 1 << 61], id="hardware interrupt"),
        pytest.param([make_lr(27, 0xA0), make_lr(27, 0x80, pending=False, active=True)], id="twice"),
    ],
)
def test_list_registers_that_a_realm_may_not_run_with_are_refused(world: RealmWorld, registers: list[int]) -> None:
    world.cpu.ich.lr[: len(registers)] = registers
    assert world.try_enter() == Status.ERROR_REC
    world.cpu.ich.lr[: len(registers)] = [lr & ~(3 << 62) for lr in registers]
    assert world.try_enter() == Status.SUCCESS


def test_a_refused_entry_leaves_the_run_granule_alone(world: RealmWorld) -> None:
    world.board.ns.write(world.run, b"\xaa" * GRANULE_SIZE)
    world.board.ns.write_u64(world.run, EMUL_MMIO)
    assert world.board.smc(rmi.REC_ENTER, world.recs[0], world.run)[0] == Status.ERROR_REC
    assert world.board.ns.read(world.run + 8, GRANULE_SIZE - 8) == b"\xaa" * (GRANULE_SIZE - 8)


def test_a_process_without_an_element_cannot_enter(world: RealmWorld) -> None:
    world.board.cpu = None
    with pytest.raises(CpuError, match="without a processing element"):
        world.try_enter()


# The state that the realm runs in.


def test_a_rec_starts_with_the_registers_of_its_parameters() -> None:
    world = RealmWorld(gprs=(1, 2, 3, 4, 5, 6, 7, 8))
    world.enter()
    assert list(world.cpu.gprs()) == [1, 2, 3, 4, 5, 6, 7, 8] + [0] * 23
    assert world.cpu.pc == CODE


def test_the_regime_is_the_realms(world: RealmWorld) -> None:
    world.enter()
    regime = world.script.regime
    assert regime is not None
    assert not regime.hvc
    assert regime.sysreg_traps == ALWAYS_TRAPPED
    assert regime.vmpidr_el2 == 1 << 31
    assert regime.vtcr_el2 & 0x3F == 64 - S2SZ
    wanted = HCR.VM | HCR.TSC | HCR.FMO | HCR.IMO | HCR.AMO
    assert regime.hcr_el2 & (wanted | HCR.TWI | HCR.TWE | HCR.TID3) == wanted


@pytest.mark.parametrize(("flag", "bit"), [("TRAP_WFI", HCR.TWI), ("TRAP_WFE", HCR.TWE)])
def test_the_host_chooses_which_waits_are_trapped(world: RealmWorld, flag: str, bit: int) -> None:
    world.enter(flags=RecEnterFlags.make(**{flag: 1}))
    assert world.script.regime is not None
    assert world.script.regime.hcr_el2 & (HCR.TWI | HCR.TWE) == bit


def test_the_virtual_interface_is_disabled_on_exit_and_otherwise_kept(world: RealmWorld) -> None:
    world.cpu.ich.hcr = 1 | 1 << 14
    world.cpu.ich.lr[0] = make_lr(27, 0xA0)
    world.enter()
    assert world.cpu.ich.hcr == 1 << 14
    assert world.cpu.ich.lr[0] == make_lr(27, 0xA0)


# Aborts in the unprotected half.


@pytest.mark.parametrize(
    ("size", "value", "seen"),
    [(0, 0x1234_5678_9ABC_DEF0, 0xF0), (1, 0x1234_5678_9ABC_DEF0, 0xDEF0), (2, 0x1234_5678_9ABC_DEF0, 0x9ABC_DEF0),
     (3, 0x1234_5678_9ABC_DEF0, 0x1234_5678_9ABC_DEF0)],
)  # fmt: skip
def test_a_store_shows_the_host_only_what_it_stores(world: RealmWorld, size: int, value: int, seen: int) -> None:
    world.script.sync(access(size, 3, write=True, wide=True), FAR, hpfar(MMIO), [9, 9, 9, value])
    exit_ = world.enter()
    assert exit_["exit_gprs"] == (seen,) + (0,) * 30
    esr = 0x24 << 26 | ISV | size << 22 | 1 << 15 | WNR | 0x07
    assert fields(exit_) == {"esr": esr, "far": 0x018, "hpfar": hpfar(MMIO)}


def test_the_zero_register_stores_zero(world: RealmWorld) -> None:
    world.script.sync(access(3, 31, write=True), FAR, hpfar(MMIO), [1] * 31)
    assert world.enter()["exit_gprs"][0] == 0


def test_an_emulated_store_moves_the_pc_on_and_changes_no_register(world: RealmWorld) -> None:
    world.script.sync(access(2, 3, write=True), FAR, hpfar(MMIO), [1, 2, 3, 4])
    world.enter()
    world.enter(flags=EMUL_MMIO, gprs={0: 0x99})
    assert (list(world.cpu.gprs(4)), world.cpu.pc) == ([1, 2, 3, 4], CODE + 4)


@pytest.mark.parametrize(
    ("size", "signed", "wide", "data", "result"),
    [
        (0, False, False, 0xFFFF_FFFF_FFFF_FF80, 0x80),
        (0, True, False, 0x80, 0xFFFF_FF80),
        (0, True, True, 0x80, 0xFFFF_FFFF_FFFF_FF80),
        (0, True, True, 0x7F, 0x7F),
        (1, True, False, 0x8000, 0xFFFF_8000),
        (1, False, True, 0xABCD_8000, 0x8000),
        (2, False, False, 0x5566_7788_AABB_CCDD, 0xAABB_CCDD),
        (2, True, True, 0x8000_0000, 0xFFFF_FFFF_8000_0000),
        (3, False, True, 0x8877_6655_4433_2211, 0x8877_6655_4433_2211),
    ],
)
def test_an_emulated_load_is_cut_and_extended_as_the_instruction_asks(
    world: RealmWorld, size: int, signed: bool, wide: bool, data: int, result: int
) -> None:
    world.script.sync(access(size, 7, signed=signed, wide=wide), FAR, hpfar(MMIO), [0xFFFF_FFFF_FFFF_FFFF] * 31)
    exit_ = world.enter()
    # Which register it is, and whether it is sign-extended, is not the host's business.
    assert exit_["esr"] == 0x24 << 26 | ISV | size << 22 | wide << 15 | 0x07
    assert exit_["exit_gprs"] == (0,) * 31
    world.enter(flags=EMUL_MMIO, gprs={0: data})
    assert world.cpu.gpr(7) == result
    assert world.cpu.pc == CODE + 4


def test_a_load_into_the_zero_register_is_dropped(world: RealmWorld) -> None:
    world.script.sync(access(3, 31), FAR, hpfar(MMIO))
    world.enter()
    world.enter(flags=EMUL_MMIO, gprs={0: 5})
    assert set(world.cpu.gprs()) == {0}


def test_without_an_answer_the_access_is_made_again(world: RealmWorld) -> None:
    world.script.sync(access(3, 1), FAR, hpfar(MMIO))
    world.enter()
    world.enter(gprs={0: 5})
    assert (world.cpu.gpr(1), world.cpu.pc) == (0, CODE)


def test_an_abort_without_a_syndrome_shows_only_status_and_page(world: RealmWorld) -> None:
    world.script.sync(DABT | 1 << 20 | WNR, FAR, hpfar(MMIO))
    assert fields(world.enter()) == {"esr": DABT, "hpfar": hpfar(MMIO)}


def test_an_injected_external_abort_is_taken_with_the_faulting_address(world: RealmWorld) -> None:
    world.script.sync(access(3, 1), FAR, hpfar(MMIO))
    world.enter()
    world.cpu.set_sysreg("VBAR_EL1", 0x8000)
    world.enter()  # not answered: the same access again
    world.script.sync(access(3, 1), FAR, hpfar(MMIO))
    world.enter()
    world.cpu.set_sysreg("VBAR_EL1", 0x8000)
    world.enter(flags=INJECT_SEA | EMUL_MMIO, gprs={0: 5})
    assert world.cpu.sysreg("ESR_EL1") == 0x25 << 26 | IL | 0x10
    assert world.cpu.sysreg("FAR_EL1") == FAR
    assert world.cpu.sysreg("ELR_EL1") == CODE
    assert (world.cpu.gpr(1), world.cpu.pc) == (0, 0x8200)


def test_a_fetch_from_the_unprotected_half_is_the_realms_mistake(world: RealmWorld) -> None:
    world.script.sync(IABT, MMIO, hpfar(MMIO))
    assert fields(world.enter()) == {"exit_reason": ExitReason.FIQ}
    assert world.cpu.sysreg("ESR_EL1") == 0x21 << 26 | IL | 0x10


@pytest.mark.parametrize("esr", [access(2, 1), IABT])
def test_an_access_beyond_the_ipa_space_is_the_realms_mistake(world: RealmWorld, esr: int) -> None:
    world.script.sync(esr, FAR, hpfar(1 << S2SZ))
    assert fields(world.enter()) == {"exit_reason": ExitReason.FIQ}
    assert world.cpu.sysreg("ESR_EL1") & 0x3F == 0x10


# Aborts in the protected half.


@pytest.mark.parametrize("esr", [access(2, 1), access(2, 1, write=True), IABT])
def test_ram_that_the_host_has_not_mapped_is_an_exit_that_says_where(world: RealmWorld, esr: int) -> None:
    world.script.sync(esr, FAR, hpfar(MAPPED_TOP), [7, 7])
    exit_ = world.enter()
    assert fields(exit_) == {"esr": esr & 0xFC00_1E3F, "hpfar": hpfar(MAPPED_TOP)}
    assert exit_["exit_gprs"] == (0,) * 31


@pytest.mark.parametrize(("esr", "taken"), [(access(2, 1), 0x25), (IABT, 0x21)])
def test_memory_that_the_realm_gave_up_is_an_external_abort_in_the_realm(
    world: RealmWorld, esr: int, taken: int
) -> None:
    world.script.sync(esr, FAR, hpfar(RAM_TOP))
    assert fields(world.enter()) == {"exit_reason": ExitReason.FIQ}
    assert world.cpu.sysreg("ESR_EL1") == taken << 26 | IL | 0x10
    assert world.cpu.sysreg("FAR_EL1") == FAR


def test_destroyed_memory_is_an_exit(world: RealmWorld) -> None:
    world.smc(rmi.RTT_DATA_UNMAP, world.rd, 0x2000, 0x3000, 1, 0)
    world.script.sync(access(2, 1), FAR, hpfar(0x2000))
    assert fields(world.enter()) == {"esr": DABT & ~IL, "hpfar": hpfar(0x2000)}


def test_a_fault_of_a_stage_1_walk_is_described_by_the_tables_and_not_by_the_syndrome(world: RealmWorld) -> None:
    level_1 = 0x24 << 26 | IL | 1 << 7 | 0x05
    world.script.sync(level_1, FAR, hpfar(MAPPED_TOP))
    assert fields(world.enter()) == {"esr": DABT & ~IL, "hpfar": hpfar(MAPPED_TOP)}
    world.script.sync(level_1, FAR, hpfar(RAM_TOP))
    assert fields(world.enter()) == {"exit_reason": ExitReason.FIQ}


def test_an_external_abort_of_the_platform_says_nothing_of_the_realm(world: RealmWorld) -> None:
    world.script.sync(access(3, 1) & ~0x3F | 0x10, FAR, hpfar(MMIO))
    assert fields(world.enter()) == {"esr": 0x24 << 26 | 0x10}


# Other exits.


@pytest.mark.parametrize(("wfe", "esr"), [(0, 0x0600_0000), (1, 0x0600_0001)])
def test_a_wait_is_an_exit_with_the_pc_moved_on(world: RealmWorld, wfe: int, esr: int) -> None:
    world.script.sync(esr, registers=[0x77])
    exit_ = world.enter()
    assert fields(exit_) == {"esr": 0x0400_0000 | wfe}
    # A host may take a value in gprs[0] for a deadline.
    assert exit_["exit_gprs"] == (0,) * 31
    assert world.cpu.pc == CODE + 4


def test_a_timed_wait_tells_its_deadline(world: RealmWorld) -> None:
    world.script.sync(0x0600_0000 | 3 << 5 | 1 << 2 | 2, registers=[0, 0, 0, 0x1234_5678_9ABC])
    exit_ = world.enter()
    assert fields(exit_) == {"esr": 0x0400_0002}
    assert exit_["exit_gprs"][0] == 0x1234_5678_9ABC


SGI1R, SRE, DIR = 0x3A_3016, 0x3A_3018, 0x32_3016


def test_a_gic_register_write_shows_its_value_and_not_its_register(world: RealmWorld) -> None:
    world.script.sync(0x18 << 26 | IL | SGI1R | 3 << 5, registers=[0, 0, 0, 0xFEED])
    exit_ = world.enter()
    assert fields(exit_) == {"esr": 0x18 << 26 | IL | SGI1R}
    assert exit_["exit_gprs"] == (0xFEED,) + (0,) * 30
    assert world.cpu.pc == CODE + 4


def test_a_gic_register_read_gets_the_hosts_value_in_the_next_entry(world: RealmWorld) -> None:
    world.script.sync(0x18 << 26 | IL | SRE | 3 << 5 | 1, registers=[1, 2, 3, 4])
    exit_ = world.enter()
    assert fields(exit_) == {"esr": 0x18 << 26 | IL | SRE | 1}
    assert exit_["exit_gprs"] == (0,) * 31
    world.enter(gprs={0: 7})
    assert list(world.cpu.gprs(4)) == [1, 2, 3, 7]
    assert world.cpu.pc == CODE + 4
    world.enter(gprs={0: 9})
    assert world.cpu.gpr(3) == 7


def test_an_identification_register_reads_as_zero_and_is_no_exit(world: RealmWorld) -> None:
    # ID_AA64MMFR4_EL1: op0 3, op1 0, CRn 0, CRm 7, op2 4.
    world.script.sync(0x18 << 26 | IL | 3 << 20 | 4 << 17 | 3 << 5 | 7 << 1 | 1, registers=[5, 5, 5, 5])
    assert fields(world.enter()) == {"exit_reason": ExitReason.FIQ}
    assert (world.cpu.gpr(3), world.cpu.pc) == (0, CODE + 4)


def test_another_system_register_is_undefined(world: RealmWorld) -> None:
    # A performance counter: op0 3, op1 3, CRn 9, CRm 13.
    world.script.sync(0x18 << 26 | IL | 3 << 20 | 3 << 14 | 9 << 10 | 13 << 1 | 1)
    assert fields(world.enter()) == {"exit_reason": ExitReason.FIQ}
    assert (world.cpu.sysreg("ESR_EL1"), world.cpu.sysreg("ELR_EL1")) == (IL, CODE)


def test_hvc_is_undefined_at_the_instruction_itself(world: RealmWorld) -> None:
    world.enter()
    world.cpu.pc = CODE + 4  # where the exception leaves it
    world.script.sync(0x16 << 26 | IL | 1)
    assert fields(world.enter()) == {"exit_reason": ExitReason.FIQ}
    assert (world.cpu.sysreg("ESR_EL1"), world.cpu.sysreg("ELR_EL1")) == (IL, CODE)


def test_interrupts_are_exits_that_say_no_more(world: RealmWorld) -> None:
    world.script.irq()
    assert fields(world.enter()) == {"exit_reason": ExitReason.IRQ}
    world.script.fiq()
    assert fields(world.enter()) == {"exit_reason": ExitReason.FIQ}


def test_an_serror_exit_shows_its_status(world: RealmWorld) -> None:
    world.script.serror(0x2F << 26 | IL | ISV | 0xFFFF)
    assert fields(world.enter()) == {"exit_reason": ExitReason.SERROR, "esr": 0x2F << 26 | ISV | 0x1E3F}


def test_an_exception_without_a_meaning_is_an_exit_that_says_nothing(world: RealmWorld) -> None:
    world.script.sync(0x2F << 26 | IL)
    assert fields(world.enter()) == {}


def test_every_exit_reports_the_timers(world: RealmWorld) -> None:
    world.enter()
    world.cpu.set_sysreg("CNTV_CTL_EL0", 1)
    world.cpu.set_sysreg("CNTV_CVAL_EL0", 5)
    world.cpu.set_sysreg("CNTP_CTL_EL0", 3)
    world.cpu.set_sysreg("CNTP_CVAL_EL0", 1 << 60)
    exit_ = world.enter()
    assert (exit_["cntv_ctl"], exit_["cntv_cval"]) == (5, 5)  # ENABLE and ISTATUS
    assert (exit_["cntp_ctl"], exit_["cntp_cval"]) == (3, 1 << 60)


def test_what_an_exit_does_not_define_is_zero(world: RealmWorld) -> None:
    world.board.ns.write(world.run + 0x800, b"\xff" * 0x800)
    world.board.ns.write(world.run, bytes(0x800))
    assert world.board.smc(rmi.REC_ENTER, world.recs[0], world.run)[0] == Status.SUCCESS
    page = world.board.ns.read(world.run, GRANULE_SIZE)
    assert page[0x800:] == struct.pack("<Q", ExitReason.FIQ).ljust(0x800, b"\0")


# Several RECs, several processes.


@pytest.mark.parametrize("scattered", [False, True])
def test_recs_that_take_turns_keep_their_registers(scattered: bool) -> None:
    world = RealmWorld(recs=2, scattered=scattered)
    world.rec(1).runnable = 1
    for index, value in ((0, 0x11), (1, 0x22)):
        world.script.sync(access(3, 1), FAR, hpfar(MMIO), [value] * 31)
        world.enter(index)
    for index, value, answer in ((0, 0x11, 5), (1, 0x22, 6)):
        world.enter(index, flags=EMUL_MMIO, gprs={0: answer})
        assert list(world.cpu.gprs(3)) == [value, answer, value]
        assert world.cpu.pc == CODE + 4


def test_a_context_that_is_still_loaded_is_not_restored(world: RealmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.enter()
    restored: list[object] = []
    monkeypatch.setattr(type(world.script), "restore", lambda self, image: restored.append(image))
    world.enter()
    assert not restored


def test_a_rec_goes_on_where_another_process_left_it(world: RealmWorld) -> None:
    world.script.sync(access(3, 1), FAR, hpfar(MMIO), [0x33] * 31)
    world.enter()
    other = world.seen_by_another_process()
    other.enter(flags=EMUL_MMIO, gprs={0: 8})
    assert list(other.cpu.gprs(3)) == [0x33, 8, 0x33]
    # And back: what this process has loaded is out of date now.
    world.enter()
    assert list(world.cpu.gprs(3)) == [0x33, 8, 0x33]


def test_a_running_rec_cannot_be_entered_destroyed_or_terminated(world: RealmWorld) -> None:
    seen: list[int] = []
    run = world.script.run

    def meanwhile(regime: Any) -> Any:
        smc = world.board.smc
        seen.extend(
            (
                smc(rmi.REC_ENTER, world.recs[0], world.run)[0],
                smc(rmi.REC_DESTROY, world.recs[0])[0],
                smc(rmi.REALM_TERMINATE, world.rd)[0],
            )
        )
        return run(regime)

    world.script.run = meanwhile  # type: ignore[method-assign]
    world.enter()
    assert seen == [Status.ERROR_REC, Status.ERROR_REC, Status.ERROR_REALM]
    world.smc(rmi.REALM_TERMINATE, world.rd)


def test_a_rec_whose_runner_died_counts_as_stopped(world: RealmWorld) -> None:
    dead = 999  # a runner's number as a killed process leaves it: nobody holds its lock
    runner = world.rd - DRAM_BASE + RUNNERS_OFFSET
    world.board.memory.buf[runner : runner + 2] = dead.to_bytes(2, "little")
    assert world.try_enter() == Status.SUCCESS
    assert world.board.memory.buf[runner : runner + 2] == b"\0\0"


def test_a_run_granule_that_the_host_never_wrote_is_not_taken_for_zero_after_an_exit(world: RealmWorld) -> None:
    run = world.ns()
    assert world.board.ns.known_zero(run)
    world.smc(rmi.REC_ENTER, world.recs[0], run)
    assert any(world.board.ns.read(run, RecRun.SIZE))
    assert not world.board.ns.known_zero(run)


def test_a_failing_element_leaves_the_rec_stopped(world: RealmWorld) -> None:
    def fail(regime: Any) -> Any:
        raise CpuError("broken")

    run, world.script.run = world.script.run, fail  # type: ignore[method-assign]
    with pytest.raises(CpuError, match="broken"):
        world.try_enter()
    world.script.run = run  # type: ignore[method-assign]
    world.enter()


def test_a_changed_translation_makes_the_element_drop_what_it_holds(
    world: RealmWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(type(world.script), "flush_tlb", lambda self: flushed.append("TLB"))
    monkeypatch.setattr(type(world.script), "invalidate_code", lambda self, pa, size: flushed.append("code"))
    world.enter()
    flushed.clear()
    world.enter()
    assert not flushed
    world.smc(rmi.RTT_DATA_UNMAP, world.rd, 0x2000, 0x3000, 1, 0)
    flushed.clear()
    world.enter()
    assert sorted(flushed) == ["TLB", "code"]


def test_a_run_granule_given_away_while_the_realm_ran_is_not_written(world: RealmWorld) -> None:
    run = world.script.run

    def meanwhile(regime: Any) -> Any:
        world.smc(rmi.GRANULE_RANGE_DELEGATE, world.run, world.run + GRANULE_SIZE)
        return run(regime)

    world.script.run = meanwhile  # type: ignore[method-assign]
    assert world.try_enter() == Status.ERROR_INPUT
    assert world.memory.read(world.run + RecRun.exit_reason.offset, 1) == b"\0"
