"""REC_ENTER with instructions executed: guests of a few words on the real engine, under real stage 2 tables."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from realm_world import CODE, MAPPED_TOP, RAM_TOP, UNPROTECTED, RealmWorld

from machine import clock
from machine.cpu.engine import Engine
from machine.ich import make_lr
from machine.memory import GRANULE_SIZE, PhysicalMemory
from rmm.abi import rmi
from rmm.abi.registers import AddrRangeDesc, ExitReason, RecEnterFlags, Ripas, UnprotMapFlags
from rmm.abi.rsi import RSI_BY_NAME

EMUL_MMIO = RecEnterFlags.make(EMUL_MMIO=1)
INJECT_SEA = RecEnterFlags.make(INJECT_SEA=1)
TRAP_WFI = RecEnterFlags.make(TRAP_WFI=1)
DEVICE = UNPROTECTED + 0x2200_0000

# A64 words (Arm ARM C6.2), X1 and X2 being the registers that the guests keep addresses in.
LDR_W0_X1, LDR_X0_X1, STR_W0_X1, STR_X0_X1 = 0xB9400020, 0xF9400020, 0xB9000020, 0xF9000020
LDRSB_W0_X1, LDR_X0_X1_POST_8 = 0x39C00020, 0xF8408420
LDR_X0_X2, STR_X5_X1, BLR_X2 = 0xF9400040, 0xF9000025, 0xD63F0040
SMC, HVC, WFI, STAY = 0xD4000003, 0xD4000002, 0xD503207F, 0x14000000
MSR_VBAR_X3, MRS_X5_ESR, MRS_X5_FAR = 0xD518C003, 0xD5385205, 0xD5386005
MSR_SGI1R_X0, MRS_X0_SRE = 0xD518CBA0, 0xD538CCA0
#: Where a guest with an exception vector has it: an exception of EL1 arrives at VBAR + 0x200.
VBAR = CODE + 0x800
VECTOR_WORD = 0x200 // 4 + 0x800 // 4


def code(*words: int, vector: tuple[int, ...] = ()) -> bytes:
    page = [0] * (GRANULE_SIZE // 4)
    page[: len(words)] = words
    page[VECTOR_WORD : VECTOR_WORD + len(vector)] = vector
    return struct.pack(f"<{len(page)}I", *page)


@pytest.fixture
def memory() -> PhysicalMemory:
    return PhysicalMemory.create(32 << 20)


@pytest.fixture
def engine(memory: PhysicalMemory) -> Iterator[Engine]:
    element = Engine(memory)
    yield element
    element.close()


def realm(engine: Engine, memory: PhysicalMemory, program: bytes, *gprs: int, recs: int = 1) -> RealmWorld:
    """A realm whose REC 0 starts at the program with X0.. as given."""
    return RealmWorld(recs, engine, program, memory, (*gprs, *(0,) * (8 - len(gprs))))


def test_a_load_and_a_store_reach_the_host_and_come_back(engine: Engine, memory: PhysicalMemory) -> None:
    world = realm(engine, memory, code(LDR_W0_X1, STR_W0_X1, WFI), 0, DEVICE + 0x18)
    read = world.enter()
    assert (read["exit_reason"], read["hpfar"], read["far"]) == (ExitReason.SYNC, DEVICE >> 8, 0x18)
    assert read["esr"] >> 26 == 0x24
    assert not read["esr"] & 1 << 6
    write = world.enter(flags=EMUL_MMIO, gprs={0: 0xFFFF_FFFF_1234_5678})
    assert write["esr"] & 1 << 6
    assert write["exit_gprs"][0] == 0x1234_5678
    wait = world.enter(flags=EMUL_MMIO | TRAP_WFI)
    assert wait["esr"] == 0x01 << 26
    assert engine.pc == CODE + 12


def test_a_sign_extending_load(engine: Engine, memory: PhysicalMemory) -> None:
    world = realm(engine, memory, code(LDRSB_W0_X1, STR_X0_X1), 0, DEVICE)
    world.enter()
    assert world.enter(flags=EMUL_MMIO, gprs={0: 0x80})["exit_gprs"][0] == 0xFFFF_FF80


def test_a_load_with_write_back_cannot_be_emulated(engine: Engine, memory: PhysicalMemory) -> None:
    world = realm(engine, memory, code(LDR_X0_X1_POST_8), 0, DEVICE)
    assert not world.enter()["esr"] & 1 << 24
    assert world.try_enter(flags=EMUL_MMIO) == rmi.Status.ERROR_REC


def test_ram_is_mapped_on_demand(engine: Engine, memory: PhysicalMemory) -> None:
    world = realm(engine, memory, code(LDR_X0_X2, STR_X0_X1), 5, DEVICE, MAPPED_TOP + 8)
    fault = world.enter()
    assert (fault["esr"], fault["hpfar"]) == (0x24 << 26 | 0x07, MAPPED_TOP >> 8)
    again = world.enter()
    assert again["hpfar"] == fault["hpfar"]
    page = world.delegated()
    world.smc(rmi.RTT_DATA_MAP, world.rd, MAPPED_TOP, MAPPED_TOP + GRANULE_SIZE, 1, page | 4)
    store = world.enter()
    assert (store["hpfar"], store["exit_gprs"][0]) == (DEVICE >> 8, 0)


@pytest.mark.parametrize(
    ("program", "status"),
    [
        pytest.param((MSR_VBAR_X3, LDR_X0_X2), 0x9600_0010, id="data"),
        pytest.param((MSR_VBAR_X3, BLR_X2), 0x8600_0010, id="fetch"),
    ],
)
def test_memory_that_is_empty_is_an_external_abort_at_el1(
    engine: Engine, memory: PhysicalMemory, program: tuple[int, ...], status: int
) -> None:
    vector = (MRS_X5_ESR, STR_X5_X1, MRS_X5_FAR, STR_X5_X1)
    world = realm(engine, memory, code(*program, vector=vector), 0, DEVICE, RAM_TOP + 0x10, VBAR)
    assert world.enter()["exit_gprs"][0] == status
    assert world.enter(flags=EMUL_MMIO)["exit_gprs"][0] == RAM_TOP + 0x10


def test_the_host_may_answer_an_access_with_an_external_abort(engine: Engine, memory: PhysicalMemory) -> None:
    vector = (MRS_X5_ESR, STR_X5_X1)
    world = realm(engine, memory, code(MSR_VBAR_X3, LDR_X0_X2, vector=vector), 0, DEVICE, DEVICE + 0x5008, VBAR)
    assert world.enter()["far"] == 0x008
    assert world.enter(flags=INJECT_SEA)["exit_gprs"][0] == 0x9600_0010


def test_hvc_is_undefined(engine: Engine, memory: PhysicalMemory) -> None:
    vector = (MRS_X5_ESR, STR_X5_X1)
    world = realm(engine, memory, code(MSR_VBAR_X3, HVC, vector=vector), 0, DEVICE, 0, VBAR)
    assert world.enter()["exit_gprs"][0] >> 26 == 0


def test_a_call_returns_to_the_next_instruction(engine: Engine, memory: PhysicalMemory) -> None:
    version = RSI_BY_NAME["RSI_VERSION"].fid
    world = realm(engine, memory, code(SMC, WFI), version, 0x1_0000)
    world.enter(flags=TRAP_WFI)
    assert list(engine.gprs(3)) == [0, 0x1_0000, 0x1_0001]


def test_a_ripas_change_takes_effect_on_the_running_realm(engine: Engine, memory: PhysicalMemory) -> None:
    """The guest gives a page up that it has just read: the next read must not find it in the TLB."""
    set_state = RSI_BY_NAME["RSI_IPA_STATE_SET"].fid
    msr_vbar_x5, ldr_x8_x7, str_x5_x6 = 0xD518C005, 0xF94000E8, 0xF90000C5
    program = code(msr_vbar_x5, ldr_x8_x7, SMC, ldr_x8_x7, vector=(MRS_X5_ESR, str_x5_x6))
    world = realm(engine, memory, program, set_state, 0x3000, 0x4000, Ripas.EMPTY, 0, VBAR, DEVICE, 0x3000)
    assert world.enter()["exit_reason"] == ExitReason.RIPAS_CHANGE
    world.smc(rmi.RTT_SET_RIPAS, world.rd, world.recs[0], 0x3000, 0x4000)
    assert world.enter()["exit_gprs"][0] == 0x9600_0010


def test_an_sgi_is_the_hosts_to_send(engine: Engine, memory: PhysicalMemory) -> None:
    world = realm(engine, memory, code(MSR_SGI1R_X0, WFI), 0x0300_0002)
    exit_ = world.enter()
    assert (exit_["esr"] >> 26, exit_["esr"] & 0x3F_FFFF) == (0x18, 0x3A_3016)
    assert exit_["exit_gprs"][0] == 0x0300_0002
    assert world.enter(flags=TRAP_WFI)["esr"] == 0x01 << 26


def test_a_gic_register_that_the_host_emulates(engine: Engine, memory: PhysicalMemory) -> None:
    world = realm(engine, memory, code(MRS_X0_SRE, STR_X0_X1), 0, DEVICE)
    assert world.enter()["esr"] & 0x3F_FFFF == 0x3A_3019
    assert world.enter(gprs={0: 7})["exit_gprs"][0] == 7


def test_a_second_vcpu_is_turned_on_and_both_keep_their_registers(engine: Engine, memory: PhysicalMemory) -> None:
    cpu_on = 0xC400_0003
    world = realm(engine, memory, code(SMC, STR_X0_X1, STAY), cpu_on, 1, CODE + 4, DEVICE, 0, 0, 0, 0x77, recs=2)
    exit_ = world.enter()
    assert (exit_["exit_reason"], exit_["exit_gprs"][:2]) == (ExitReason.PSCI, (cpu_on, 1))
    world.smc(rmi.PSCI_COMPLETE, world.recs[0], world.recs[1], 0)
    # The second one starts at the store with its context id in X0 and X1 zero: not mapped, but protected RAM.
    second = world.enter(1)
    assert (second["exit_reason"], second["hpfar"]) == (ExitReason.SYNC, 0)
    assert engine.gpr(0) == DEVICE
    assert engine.gpr(7) == 0
    first = world.enter(0)
    assert (first["exit_reason"], first["hpfar"]) == (ExitReason.SYNC, 0)
    assert (engine.gpr(0), engine.gpr(7)) == (0, 0x77)


def test_a_kick_is_an_interrupt_exit(engine: Engine, memory: PhysicalMemory) -> None:
    world = realm(engine, memory, code(STAY))
    engine.kick()
    assert world.enter()["exit_reason"] == ExitReason.IRQ
    assert engine.pc == CODE


def test_a_timer_that_fires_is_an_interrupt_exit_with_its_state(engine: Engine, memory: PhysicalMemory) -> None:
    msr_cntv_ctl_x0, msr_cntv_cval_x1 = 0xD51BE320, 0xD51BE341
    world = realm(engine, memory, code(msr_cntv_cval_x1, msr_cntv_ctl_x0, STAY), 1, 5)
    exit_ = world.enter()
    assert exit_["exit_reason"] == ExitReason.IRQ
    assert (exit_["cntv_ctl"], exit_["cntv_cval"]) == (5, 5)


def test_a_pending_list_register_interrupts_the_realm(engine: Engine, memory: PhysicalMemory) -> None:
    unmask, mrs_x0_iar1 = 0xD50342FF, 0xD538CC00
    msr_pmr_x0, msr_igrpen1_x3 = 0xD5184600, 0xD518CCE3
    isr = (mrs_x0_iar1, STR_X0_X1)
    page = bytearray(code(MSR_VBAR_X3, 0xD2801FE0, msr_pmr_x0, 0xD2800023, msr_igrpen1_x3, unmask, STAY))
    struct.pack_into("<2I", page, 0x800 + 0x280, *isr)  # IRQ from EL1 with SP_EL1
    world = realm(engine, memory, bytes(page), 0, DEVICE, 0, VBAR)
    engine.ich.lr[0] = make_lr(27, 0xA0)
    engine.ich.hcr = 1
    assert world.enter()["exit_gprs"][0] == 27
    assert engine.ich.lr[0] == make_lr(27, 0xA0, pending=False, active=True)
    assert not engine.ich.hcr & 1


def test_a_fetch_from_host_memory_is_an_external_abort_at_el1(engine: Engine, memory: PhysicalMemory) -> None:
    vector = (MRS_X5_ESR, STR_X5_X1)
    shared = UNPROTECTED + 0x1000
    world = realm(engine, memory, code(MSR_VBAR_X3, LDR_X0_X2, BLR_X2, vector=vector), 0, DEVICE, shared, VBAR)
    for level in (1, 2, 3):
        ipa = UNPROTECTED >> 48 - 9 * level << 48 - 9 * level
        world.smc(rmi.RTT_CREATE, world.rd, world.delegated(), ipa, level)
    page = world.ns()
    world.board.ns.write(page, struct.pack("<I", STAY))
    flags = UnprotMapFlags.make(OADDR_TYPE=1, MEMATTR=6, S2AP=3)
    world.smc(rmi.RTT_UNPROT_MAP, world.rd, shared, shared + GRANULE_SIZE, flags, AddrRangeDesc.of(page, state=1))
    engine.set_deadline(clock.now() + 5 * clock.COUNTER_FREQUENCY)
    assert world.enter()["exit_gprs"][0] == 0x8600_0010
    assert engine.gpr(0) & 0xFFFF_FFFF == STAY, "a load is allowed"


def test_a_granule_that_held_code_and_comes_back_as_other_memory_is_not_run_as_before(
    engine: Engine, memory: PhysicalMemory
) -> None:
    """The guest runs a page, which then goes to the host and back, and becomes zeros (undefined) at the same IPA."""
    set_state, page = RSI_BY_NAME["RSI_IPA_STATE_SET"].fid, 0x2000
    msr_vbar_x5, str_x5_x6, blr_x7, ret = 0xD518C005, 0xF90000C5, 0xD63F00E0, 0xD65F03C0
    program = code(msr_vbar_x5, blr_x7, SMC, blr_x7, str_x5_x6, vector=(MRS_X5_ESR, str_x5_x6))
    may_change_destroyed = 1
    gprs = (set_state, page, page + GRANULE_SIZE, Ripas.RAM, may_change_destroyed, VBAR, DEVICE, page)
    world = realm(engine, memory, program, *gprs)
    pa = world.pa[page]
    memory.write(pa, struct.pack("<I", ret))
    assert world.enter()["exit_reason"] == ExitReason.RIPAS_CHANGE
    world.smc(rmi.RTT_DATA_UNMAP, world.rd, page, page + GRANULE_SIZE, 1, 0)
    world.smc(rmi.GRANULE_RANGE_UNDELEGATE, pa, pa + GRANULE_SIZE)
    world.board.ns.write(pa, struct.pack("<I", STAY))
    world.smc(rmi.GRANULE_RANGE_DELEGATE, pa, pa + GRANULE_SIZE)
    world.smc(rmi.RTT_SET_RIPAS, world.rd, world.recs[0], page, page + GRANULE_SIZE)
    world.smc(rmi.RTT_DATA_MAP, world.rd, page, page + GRANULE_SIZE, 1, pa | 4)
    engine.set_deadline(clock.now() + 5 * clock.COUNTER_FREQUENCY)
    assert world.enter()["exit_gprs"][0] == 1 << 25, "an undefined instruction"
