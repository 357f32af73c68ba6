"""PSCI tables, and vCPU numbers as affinities."""

from __future__ import annotations

import pytest

from hypervisor.arm.affinity import affinity_of, vcpu_at, vcpu_number
from hypervisor.arm.vpsci import (
    BY_ID,
    FUNCTIONS,
    VERSION,
    PsciError,
    RecAction,
    ShutdownReason,
    as_register,
    features,
    lookup,
    psci_0_1_error,
    rec_action,
)


@pytest.mark.parametrize(
    ("fid", "name", "action"),
    [
        (0x8400_0001, "CPU_SUSPEND", RecAction.STANDBY),
        (0xC400_0001, "CPU_SUSPEND", RecAction.STANDBY),
        (0x8400_0002, "CPU_OFF", RecAction.OFFLINE),
        (0x8400_0003, "CPU_ON", RecAction.COMPLETE_AND_WAKE),
        (0xC400_0003, "CPU_ON", RecAction.COMPLETE_AND_WAKE),
        (0x8400_0004, "AFFINITY_INFO", RecAction.COMPLETE),
        (0xC400_0004, "AFFINITY_INFO", RecAction.COMPLETE),
        (0x8400_0008, "SYSTEM_OFF", RecAction.SHUTDOWN),
        (0x8400_0009, "SYSTEM_RESET", RecAction.SHUTDOWN),
    ],
)
def test_what_the_host_does_for_a_recs_psci_exit(fid: int, name: str, action: RecAction) -> None:
    row = lookup(fid)
    assert row is not None
    assert row.name == name
    assert rec_action(fid) is action


@pytest.mark.parametrize("fid", [0x8400_0000, 0x8400_0006, 0x8400_000A, 0x8400_000E, 0xC400_0002, 0xC400_0008, 0, 1])
def test_a_rec_exit_for_anything_else_is_unsupported(fid: int) -> None:
    assert rec_action(fid) is RecAction.UNSUPPORTED


def test_shutdown_functions_carry_xens_reason() -> None:
    assert {row.name: row.reason for row in FUNCTIONS if row.reason is not None} == {
        "SYSTEM_OFF": ShutdownReason.POWEROFF,
        "SYSTEM_RESET": ShutdownReason.REBOOT,
        "SYSTEM_SUSPEND": ShutdownReason.SUSPEND,
    }
    assert [int(reason) for reason in ShutdownReason] == [0, 1, 2]


def test_the_smc64_form_exists_only_where_psci_has_one() -> None:
    assert {row.name for fid, row in BY_ID.items() if fid >> 30 & 1} == {
        "CPU_SUSPEND", "CPU_ON", "AFFINITY_INFO", "SYSTEM_SUSPEND"}
    assert len(BY_ID) == len(FUNCTIONS) + 4


def test_features_knows_the_functions_of_the_table_and_smccc_version() -> None:
    assert VERSION == 0x10001
    for fid in (0x8400_0000, 0xC400_0003, 0x8400_000A, 0x8000_0000):
        assert features(fid) == PsciError.SUCCESS
    for fid in (0x8400_0005, 0xC400_0002, 0x8400_0050, 0):
        assert features(fid) == PsciError.NOT_SUPPORTED


def test_old_psci_knows_fewer_errors() -> None:
    assert psci_0_1_error(PsciError.ALREADY_ON) is PsciError.INVALID_PARAMETERS
    assert psci_0_1_error(PsciError.INVALID_ADDRESS) is PsciError.INVALID_PARAMETERS
    assert psci_0_1_error(PsciError.DENIED) is PsciError.DENIED
    assert psci_0_1_error(PsciError.SUCCESS) is PsciError.SUCCESS


def test_return_codes_are_twos_complement_in_x0() -> None:
    assert as_register(PsciError.SUCCESS) == 0
    assert as_register(PsciError.ALREADY_ON) == 0xFFFF_FFFF_FFFF_FFFC


@pytest.mark.parametrize(("vcpu", "affinity"), [(0, 0), (15, 0xF), (16, 0x100), (37, 0x205), (127, 0x70F)])
def test_sixteen_vcpus_share_a_cluster(vcpu: int, affinity: int) -> None:
    assert affinity_of(vcpu) == affinity
    assert vcpu_number(affinity) == vcpu
    assert vcpu_at(affinity, 128) == vcpu


def test_the_number_of_an_mpidr_ignores_everything_but_aff0_and_aff1() -> None:
    assert vcpu_number(0xFF_8100_0203) == 0x23


@pytest.mark.parametrize("affinity", [4, 0x10, 0x100, 0x1_0000, 1 << 32])
def test_no_vcpu_is_at_an_affinity_that_none_has(affinity: int) -> None:
    assert vcpu_at(affinity, 4) is None


def test_an_mpidr_with_its_fixed_bits_finds_its_vcpu() -> None:
    assert vcpu_at(0x8000_0003, 4) == 3
