"""SMCCC and PSCI as a plain guest sees them, without a processing element."""

from __future__ import annotations

import struct
import uuid

import pytest

from hypervisor.arm import smccc
from hypervisor.arm.cca.ports import ShutdownReason, VcpuState

MINUS_ONE = (1 << 64) - 1


def negative(code: int) -> int:
    return code & MINUS_ONE


class Vcpu:
    """A vCPU with eight registers that records what PSCI does to it."""

    def __init__(self, number: int, siblings: list[Vcpu], state: VcpuState) -> None:
        self.vcpu_id = number
        self.domid = 7
        self.siblings = siblings
        self.state = state
        self.x = [0] * 8
        self.started: tuple[int, int] | None = None
        self.reasons: list[ShutdownReason] = []
        self.pending = False

    def gpr(self, number: int) -> int:
        return self.x[number]

    def set_gpr(self, number: int, value: int) -> None:
        assert 0 <= value <= MINUS_ONE
        self.x[number] = value

    def block(self) -> VcpuState:
        return VcpuState.RUNNABLE if self.pending else VcpuState.BLOCKED

    def turn_on(self, entry: int, context: int) -> None:
        self.started = (entry, context)
        self.state = VcpuState.RUNNABLE

    def turn_off(self) -> VcpuState:
        return VcpuState.DOWN

    def shut_down(self, reason: ShutdownReason) -> VcpuState:
        self.reasons.append(reason)
        return VcpuState.PARKED

    def call(self, fid: int, *arguments: int) -> int:
        """X0 after the call; it must have returned at once."""
        assert self.enter(fid, *arguments) is VcpuState.RUNNABLE
        return self.x[0]

    def enter(self, fid: int, *arguments: int) -> VcpuState:
        self.x[: 1 + len(arguments)] = [fid, *arguments]
        return smccc.call(self)


def domain(vcpus: int) -> list[Vcpu]:
    made: list[Vcpu] = []
    for number in range(vcpus):
        made.append(Vcpu(number, made, VcpuState.DOWN if number else VcpuState.RUNNABLE))
    return made


@pytest.fixture
def vcpu() -> Vcpu:
    return domain(20)[0]


# SMCCC.


def test_the_calling_convention_is_version_1_2(vcpu: Vcpu) -> None:
    assert vcpu.call(0x8000_0000) == 0x1_0002


@pytest.mark.parametrize("workaround", [0x8000_8000, 0x8000_7FFF, 0x8000_3FFF])
def test_workarounds_are_there_but_not_required(vcpu: Vcpu, workaround: int) -> None:
    assert vcpu.call(0x8000_0001, workaround) == 1
    assert vcpu.call(workaround) == 0


@pytest.mark.parametrize("feature", [0x8000_0000, 0x8000_0002, 0x8400_0050, 0])
def test_other_architecture_features_are_not_supported(vcpu: Vcpu, feature: int) -> None:
    assert vcpu.call(0x8000_0001, feature) == MINUS_ONE


def test_the_hypervisor_service_is_xens(vcpu: Vcpu) -> None:
    assert vcpu.call(0x8600_FF00) == 3
    vcpu.call(0x8600_FF01)
    assert uuid.UUID(bytes=struct.pack("<4I", *vcpu.x[:4])) == uuid.UUID("a71812dc-c698-4369-9acf-79d18ddee667")
    vcpu.call(0x8600_FF03)
    assert vcpu.x[:2] == [0, 1]


def test_the_standard_service_counts_its_psci_functions(vcpu: Vcpu) -> None:
    assert vcpu.call(0x8400_FF00) == 13
    vcpu.call(0x8400_FF03)
    assert vcpu.x[:2] == [0, 1]


@pytest.mark.parametrize(
    "fid", [0xC400_0190, 0x8400_0050, 0xC600_FF00, 0x8200_0000, 0xB200_0000, 0x0600_FF00, 0, 3, 0x8400_001F]
)
def test_any_other_call_answers_not_supported(vcpu: Vcpu, fid: int) -> None:
    assert vcpu.call(fid) == MINUS_ONE


def test_only_the_low_half_of_x0_is_the_function(vcpu: Vcpu) -> None:
    assert vcpu.call(0xFFFF_FFFF_8400_0000) == 0x1_0001


# PSCI.


def test_psci_is_version_1_1_and_needs_no_migration(vcpu: Vcpu) -> None:
    assert vcpu.call(0x8400_0000) == 0x1_0001
    assert vcpu.call(0x8400_0006) == 2


@pytest.mark.parametrize("fid", [0x8400_0000, 0x8400_0003, 0xC400_0003, 0xC400_0001, 0x8400_0008, 0x8000_0000])
def test_features_names_what_there_is(vcpu: Vcpu, fid: int) -> None:
    assert vcpu.call(0x8400_000A, fid) == 0


@pytest.mark.parametrize("fid", [0x8400_000E, 0xC400_000E, 0x8400_0007, 0xC400_0002, 0x8400_0012])
def test_features_names_nothing_else_and_those_calls_do_not_exist(vcpu: Vcpu, fid: int) -> None:
    assert vcpu.call(0x8400_000A, fid) == MINUS_ONE
    assert vcpu.call(fid) == MINUS_ONE


def test_cpu_on_starts_a_vcpu_by_its_affinity(vcpu: Vcpu) -> None:
    assert vcpu.call(0xC400_0003, 0x103, 0x4000_0000, 0x1_2345_6789) == 0
    assert vcpu.siblings[19].started == (0x4000_0000, 0x1_2345_6789)
    assert vcpu.call(0xC400_0003, 0x103, 0x4000_0000, 0) == negative(-4)


def test_a_32_bit_cpu_on_takes_32_bit_arguments(vcpu: Vcpu) -> None:
    assert vcpu.call(0x8400_0003, 0xF_0000_0001, 0xF_4000_0000, 0xF_0000_0002) == 0
    assert vcpu.siblings[1].started == (0x4000_0000, 2)


@pytest.mark.parametrize(
    ("target", "entry", "code"),
    [(0x104, 0, -2), (0x1_0000, 0, -2), (0x1_0000_0000, 0, -2), (1, 0x4000_0001, -9), (0, 0, -4)],
    ids=["no such vCPU", "Aff2", "Aff3", "entry bit 0", "itself"],
)
def test_cpu_on_refuses(vcpu: Vcpu, target: int, entry: int, code: int) -> None:
    assert vcpu.call(0xC400_0003, target, entry, 0) == negative(code)
    assert all(other.started is None for other in vcpu.siblings)


def test_cpu_off_stops_the_caller(vcpu: Vcpu) -> None:
    assert vcpu.enter(0x8400_0002) is VcpuState.DOWN


def test_affinity_info_follows_cpu_on(vcpu: Vcpu) -> None:
    assert vcpu.call(0xC400_0004, 1, 0) == 1
    vcpu.call(0xC400_0003, 1, 0x4000_0000, 0)
    assert vcpu.call(0xC400_0004, 1, 0) == 0
    assert vcpu.call(0x8400_0004, 0, 0) == 0


def test_affinity_info_of_a_cluster_is_on_if_any_vcpu_of_it_is(vcpu: Vcpu) -> None:
    assert vcpu.call(0xC400_0004, 0x100, 1) == 1
    vcpu.call(0xC400_0003, 0x102, 0x4000_0000, 0)
    assert vcpu.call(0xC400_0004, 0x100, 0) == 1
    assert vcpu.call(0xC400_0004, 0x100, 1) == 0
    assert vcpu.call(0xC400_0004, 0xFF_FFFF, 3) == 0


def test_affinity_info_has_levels_up_to_3(vcpu: Vcpu) -> None:
    assert vcpu.call(0xC400_0004, 0, 4) == negative(-2)


def test_cpu_suspend_is_standby_and_succeeds_when_something_wakes_the_vcpu(vcpu: Vcpu) -> None:
    assert vcpu.enter(0xC400_0001, 0x1_0000) is VcpuState.BLOCKED
    assert vcpu.x[0] == 0
    vcpu.pending = True
    assert vcpu.enter(0x8400_0001) is VcpuState.RUNNABLE


@pytest.mark.parametrize(
    ("fid", "reason"), [(0x8400_0008, ShutdownReason.POWEROFF), (0x8400_0009, ShutdownReason.REBOOT)]
)
def test_system_off_and_reset_shut_the_domain_down(vcpu: Vcpu, fid: int, reason: ShutdownReason) -> None:
    assert vcpu.enter(fid) is VcpuState.PARKED
    assert vcpu.reasons == [reason]
    assert vcpu.x[0] == negative(-6)


def test_the_numbers_of_psci_0_1_work_with_its_errors(vcpu: Vcpu) -> None:
    assert vcpu.call(2, 1, 0x4000_0000) == 0
    assert vcpu.siblings[1].started == (0x4000_0000, 0)
    assert vcpu.call(2, 1, 0x4000_0000) == negative(-2)
    assert vcpu.call(2, 2, 0x4000_0001) == negative(-2)
    assert vcpu.enter(1) is VcpuState.DOWN
