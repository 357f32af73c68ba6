"""vCPUs of plain guests, on the real engine: what each exit does to the guest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from plain_board import DATA, DEVICE, EL1_SYNC, POWER_OFF, RAM, SECOND_CPU, SYSTEM_OFF, VECTORS, PlainBoard, a

from hypervisor.arm.cca.ports import ShutdownReason, VcpuState
from machine import clock
from machine.cpu import CpuExit, ExitKind

UNDEFINED = 1 << 25
DATA_ABORT = 0x25 << 26 | 1 << 25 | 0x10
NOWHERE = 0x3000_0000


@pytest.fixture
def box() -> Iterator[PlainBoard]:
    made = PlainBoard()
    yield made
    made.close()


@pytest.fixture
def two() -> Iterator[PlainBoard]:
    made = PlainBoard(vcpus=2)
    yield made
    made.close()


def test_vcpu_0_starts_with_the_toolstacks_registers(box: PlainBoard) -> None:
    box.put(
        RAM, a.mrs(10, "SCTLR_EL1"), a.mrs(11, "MPIDR_EL1"), a.add(12, 0, 0), a.add(13, 3, 0), a.mrs(14, "TTBR0_EL1"),
        POWER_OFF,
    )  # fmt: skip
    box.run()
    assert box.cpu.gprs(15)[10:] == [0x00C5_0078, 0x8000_0000, DATA, 3, 0]
    assert box.cpu.sysreg("PSTATE") & 0x3CF == 0x3C5
    assert box.reasons == [ShutdownReason.POWEROFF]


def test_ram_and_magic_pages_are_the_guests(box: PlainBoard) -> None:
    box.program(a.mov(1, DATA), a.mov(2, 0x1234), a.str_(2, 1), a.mov(1, 0x3900_3000), a.str_(2, 1), a.ldr(3, 1))
    box.run()
    assert box.word(DATA) == 0x1234
    assert box.cpu.gpr(3) == 0x1234
    assert box.word(0x3900_3000) == 0x1234


def test_a_store_reaches_the_device_once_and_execution_goes_on(box: PlainBoard) -> None:
    box.program(a.mov(1, DEVICE + 8), a.mov(2, 0x1_2345_6789), a.str_w(2, 1), a.str_w(31, 1))
    box.run()
    assert box.device.accesses == [("w", 8, 4, 0x2345_6789), ("w", 8, 4, 0)]
    assert box.reasons == [ShutdownReason.POWEROFF]


def test_a_load_gets_the_devices_value_cut_to_its_size(box: PlainBoard) -> None:
    box.device.value = 0xFFFF_FFFF_FFFF_FF87
    box.program(a.mov(1, DEVICE), a.ldr(2, 1), a.ldr_w(3, 1), a.ldrb(4, 1), a.ldrb(31, 1))
    box.run()
    assert box.cpu.gprs(5)[2:] == [0xFFFF_FFFF_FFFF_FF87, 0xFFFF_FF87, 0x87]


def test_a_sign_extending_load_fills_the_register_that_it_names(box: PlainBoard) -> None:
    box.device.value = 0x87
    ldrsb_x = 0x39800000 | 1 << 5 | 3
    box.program(a.mov(1, DEVICE), a.ldrsb_w(2, 1), ldrsb_x)
    box.run()
    assert box.cpu.gprs(4)[2:] == [0xFFFF_FF87, 0xFFFF_FFFF_FFFF_FF87]


@pytest.mark.parametrize(
    ("address", "access", "written"),
    [
        (NOWHERE, a.ldr_w(2, 1), 0),
        (NOWHERE, a.str_w(2, 1), 1 << 6),
        (DEVICE + 0x100, a.ldr_w(2, 1), 0),
        (DEVICE, a.stp(2, 3, 1), 1 << 6),
        (DEVICE, a.ldr_post(2, 1, 8), 0),
    ],
    ids=["no device", "no device, store", "refused by the device", "pair", "write-back"],
)
def test_an_access_that_nobody_emulates_is_an_external_abort_for_the_guest(
    box: PlainBoard, address: int, access: int, written: int
) -> None:
    start = 4 * (len(a.mov(9, VECTORS)) + 2 + len(a.mov(1, address)))
    box.program(a.mov(1, address), access)
    box.run()
    assert box.cpu.gpr(20) == DATA_ABORT | written
    assert box.cpu.gpr(21) == RAM + start
    assert box.cpu.gpr(22) == address
    assert box.cpu.gpr(1) == address
    assert f"gpa={address:#x}" in box.texts[-1]


def test_without_trap_unmapped_accesses_an_empty_address_reads_all_ones(box: PlainBoard) -> None:
    box.guest.mmio.trap_unmapped_accesses = False
    box.program(a.mov(1, NOWHERE), a.str_w(1, 1), a.ldr_w(2, 1))
    box.run()
    assert box.cpu.gpr(2) == 0xFFFF_FFFF


def test_a_jump_to_nowhere_is_an_instruction_abort_for_the_guest(box: PlainBoard) -> None:
    box.program(a.mov(1, NOWHERE), a.blr(1))
    box.run()
    assert box.cpu.gprs(23)[20:] == [0x21 << 26 | 1 << 25 | 0x10, NOWHERE, NOWHERE]


@pytest.mark.parametrize("instruction", [a.hvc(1), a.smc(1)], ids=["hvc", "smc"])
def test_calls_with_another_immediate_are_undefined(box: PlainBoard, instruction: int) -> None:
    box.program(instruction)
    box.run()
    at = RAM + 4 * (len(a.mov(9, VECTORS)) + 2)
    assert box.cpu.gprs(22)[20:] == [UNDEFINED, at]


def test_psci_works_through_smc_as_through_hvc(box: PlainBoard) -> None:
    box.program(a.mov(0, 0x8400_0000), a.smc(), a.add(5, 0, 0), a.mov(0, 0x8400_0000), a.hvc(), a.add(6, 0, 0))
    box.run()
    assert box.cpu.gprs(7)[5:] == [0x1_0001, 0x1_0001]


@pytest.mark.parametrize("name", ["ICC_SGI0R_EL1", "ICC_ASGI1R_EL1"])
def test_interrupts_of_other_groups_cannot_be_sent(box: PlainBoard, name: str) -> None:
    box.program(a.msr(name, 31))
    box.run()
    assert box.cpu.gpr(20) == UNDEFINED


def test_wfi_waits_for_the_virtual_timer(box: PlainBoard) -> None:
    box.vgic.set_forwarding(True)
    timer = box.vgic.vcpus[0].irqs[27]
    timer.enabled = True
    timer.settle()
    ticks = clock.COUNTER_FREQUENCY // 50
    box.program(
        a.mov(1, 1), a.mrs(3, "CNTVCT_EL0"), a.mov(2, ticks), a.msr("CNTV_TVAL_EL0", 2), a.msr("CNTV_CTL_EL0", 1),
        a.WFI, a.mrs(4, "CNTVCT_EL0"), a.mrs(5, "CNTV_CTL_EL0"),
    )  # fmt: skip
    box.run()
    assert box.reasons == [ShutdownReason.POWEROFF]
    assert box.cpu.gpr(4) - box.cpu.gpr(3) >= ticks
    assert box.cpu.gpr(5) == 5


def test_wfi_without_anything_to_wait_for_blocks_until_an_interrupt_comes(box: PlainBoard) -> None:
    box.program(a.WFI)
    box.run()
    (vcpu,) = box.plain.vcpus
    assert vcpu.state is VcpuState.BLOCKED
    assert vcpu.deadline is None
    box.vgic.set_forwarding(True)
    spi = box.vgic.vcpus[0].irqs[32]
    spi.enabled = True
    box.vgic.set_irq_line(32, True)
    assert vcpu.poll()
    box.run()
    assert box.reasons == [ShutdownReason.POWEROFF]


def _cpu_on(entry: int, context: int) -> list[int]:
    return [*a.mov(0, 0xC400_0003), *a.mov(1, 1), *a.mov(2, entry), *a.mov(3, context), a.hvc()]


def test_a_second_vcpu_starts_where_cpu_on_says_with_registers_of_its_own(two: PlainBoard) -> None:
    two.put(
        SECOND_CPU, a.mov(1, DATA), a.str_(0, 1), a.mrs(2, "MPIDR_EL1"), a.str_(2, 1, 8), a.mrs(2, "SCTLR_EL1"),
        a.str_(2, 1, 16), a.mov(2, 1), a.str_(2, 1, 24), a.mov(0, 0x8400_0002), a.hvc(),
    )  # fmt: skip
    wait = [*a.mov(1, DATA), a.ldr(2, 1, 24), a.cbz(2, -1)]
    two.program(a.mov(7, 0x77), _cpu_on(SECOND_CPU, 0xC0DE), a.add(5, 0, 0), wait)
    two.run()
    assert [two.word(DATA + offset) for offset in (0, 8, 16)] == [0xC0DE, 0x8000_0001, 0x00C5_0078]
    assert two.cpu.gpr(5) == 0
    assert two.cpu.gpr(7) == 0x77


def test_a_vcpu_that_went_off_is_off_and_can_be_turned_on_again(two: PlainBoard) -> None:
    two.put(
        SECOND_CPU, a.mov(1, DATA), a.ldr(2, 1), a.add(2, 2, 1), a.str_(2, 1), a.mov(0, 0x8400_0002), a.hvc(),
    )  # fmt: skip
    wait_off = [*a.mov(0, 0xC400_0004), *a.mov(1, 1), *a.mov(2, 0), a.hvc(), a.sub(0, 0, 1)]
    wait_off.append(a.cbnz(0, -len(wait_off)))
    two.program(_cpu_on(SECOND_CPU, 0), wait_off, _cpu_on(SECOND_CPU, 0), a.add(5, 0, 0), wait_off)
    two.run()
    assert two.word(DATA) == 2
    assert two.cpu.gpr(5) == 0
    assert two.plain.vcpus[1].state is VcpuState.DOWN


def test_an_sgi_wakes_the_other_vcpu(two: PlainBoard) -> None:
    two.vgic.set_forwarding(True)
    for vcpu in two.vgic.vcpus:
        vcpu.irqs[3].enabled = True
    two.put(SECOND_CPU, a.WFI, a.mov(1, DATA), a.mov(2, 5), a.str_(2, 1), a.WFI, a.b(-1))
    two.program(
        _cpu_on(SECOND_CPU, 0), a.YIELD, a.mov(1, 3 << 24 | 1 << 1), a.msr("ICC_SGI1R_EL1", 1), a.mov(1, DATA),
        a.ldr(2, 1), a.cbz(2, -1),
    )  # fmt: skip
    two.run()
    assert two.word(DATA) == 5
    assert two.reasons == [ShutdownReason.POWEROFF]


def test_each_vcpu_keeps_its_registers_while_they_take_turns(two: PlainBoard) -> None:
    count = [*a.mov(3, 0), *a.mov(4, 400), a.add(3, 3, 1), a.msr("TPIDR_EL1", 3), *a.mov(0, 0x8400_0000), a.hvc()]
    loop = len(a.mov(3, 0)) + len(a.mov(4, 400))
    body = [*count, a.mrs(5, "TPIDR_EL1"), 0xEB05_007F, a.b(2), a.b(0)]
    body[-2] = 0x5400_0040  # b.eq +2: anything else spins for ever
    body += [a.sub(4, 4, 1)]
    body.append(a.cbnz(4, loop - len(body)))
    two.put(SECOND_CPU, body, a.mov(1, DATA), a.str_(3, 1), a.mov(0, 0x8400_0002), a.hvc())
    two.program(_cpu_on(SECOND_CPU, 0), body, a.mov(1, DATA), a.ldr(2, 1), a.cbz(2, -1))
    two.run(turns=5000)
    assert two.word(DATA) == 400
    assert two.cpu.gpr(3) == 400


def test_a_vcpu_of_a_domain_that_shuts_down_does_not_run(box: PlainBoard) -> None:
    box.program()
    box.guest.is_shutting_down = True
    assert box.plain.vcpus[0].run_once() is VcpuState.PARKED
    assert box.plain.vcpus[0].run_once() is VcpuState.PARKED


def test_an_exception_class_that_a_guest_cannot_cause_is_logged_and_undefined(
    box: PlainBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.program()
    monkeypatch.setattr(box.cpu, "run", lambda regime: CpuExit(ExitKind.SYNC, 0x3F << 26))
    assert box.plain.vcpus[0].run_once() is VcpuState.RUNNABLE
    assert box.texts == ["d1v0: Unknown Guest Trap. ESR=0xfc000000"]
    assert box.cpu.sysreg("ELR_EL1") == RAM


def test_an_serror_crashes_the_domain_with_a_reason(box: PlainBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    box.program()
    monkeypatch.setattr(box.cpu, "run", lambda regime: CpuExit(ExitKind.SERROR, 0x2F << 26))
    assert box.plain.vcpus[0].run_once() is VcpuState.PARKED
    assert box.reasons == [ShutdownReason.CRASH]
    assert box.texts[0].startswith("d1v0: SError while the guest ran")


def test_a_page_that_was_mapped_by_another_vcpu_is_simply_accessed_again(box: PlainBoard) -> None:
    box.program(a.mov(1, NOWHERE), a.ldr(2, 1))
    vcpu = box.plain.vcpus[0]
    (page,) = box.pages.alloc()
    box.board.ns.write(page, (77).to_bytes(8, "little"))
    run = box.cpu.run

    def mapped_meanwhile(regime):
        taken = run(regime)
        if taken.esr >> 26 == 0x24:
            box.plain.p2m.map(NOWHERE, page, 0x1000)
        return taken

    box.cpu.run = mapped_meanwhile
    box.run()
    assert vcpu.gpr(2) == 77
    assert box.texts == []


def test_the_end_of_the_program_is_a_power_off(box: PlainBoard) -> None:
    assert box.read(EL1_SYNC + 12, 4 * len(POWER_OFF)) == a.code(POWER_OFF)
    box.program(a.mov(0, SYSTEM_OFF + 1), a.hvc())
    box.run()
    assert box.reasons == [ShutdownReason.REBOOT]
