"""The ABI tables hold together, and refuse what does not fit."""

from __future__ import annotations

import pytest

from rmm.abi import psci, registers, rmi, rsi, structures
from rmm.abi.fields import FieldError, Structure, u8, u64
from rmm.abi.registers import AddrRangeDesc, DonateReq, FeatureRegister0, FeatureRegister1


def test_every_command_has_its_own_function_id_and_name() -> None:
    rows = list(rmi.COMMANDS.values())
    assert len({row.name for row in rows}) == len(rows) == len(rmi.BY_NAME)
    assert all(0xC400_0150 <= row.fid <= 0xC400_020F for row in rows)
    assert not set(rmi.COMMANDS) & set(rsi.RSI_COMMANDS)


def test_no_command_takes_more_arguments_than_there_are_registers() -> None:
    assert all(len(row.arguments) <= 6 and len(row.outputs) <= 4 for row in rmi.COMMANDS.values())


@pytest.mark.parametrize(
    ("desc", "value"),
    [
        (AddrRangeDesc.of(0x8800_0000), 0x8800_0004),
        (AddrRangeDesc.of(0x8800_0000, 16), 0x8800_0040),
        (AddrRangeDesc.of(0x8820_0000, 1, registers.BlockSize.L2), 0x8820_0005),
        (AddrRangeDesc.of(0x8830_0000, 1, state=registers.MemState.UNDELEGATED), 0x8000_0000_8830_0004),
        (DonateReq.make(COUNT=16), 0x40),
        (DonateReq.make(COUNT=1, CONTIGUOUS=1), 0x1_0004),
        (FeatureRegister0.make(S2SZ=48, NUM_BPS=5, NUM_WPS=3), 0x31_4030),
        (
            FeatureRegister1.make(RMI_GRAN_SZ_4KB=1, HASH_SHA_256=1, HASH_SHA_512=1, MAX_RECS_ORDER=10, PPS=5),
            0x1_42A9,
        ),
    ],
)
def test_registers_encode_as_the_references_examples(desc: int, value: int) -> None:
    assert desc == value


@pytest.mark.parametrize(
    ("x0", "text"),
    [
        (0, "SUCCESS"),
        (0x204, "ERROR_RTT(2)"),
        (0xFF04, "ERROR_RTT(-1)"),
        (0x10D, "INCOMPLETE(mem=DONATE,cancel=0)"),
        (0x60D, "INCOMPLETE(mem=RECLAIM,cancel=1)"),
        (rmi.SMC_NOT_SUPPORTED, "NOT_SUPPORTED(-1)"),
    ],
)
def test_results_are_described_in_words(x0: int, text: str) -> None:
    assert rmi.describe(x0) == text


def test_results_are_built_as_they_are_described() -> None:
    assert rmi.error_rtt(-1) == 0xFF04 and rmi.incomplete(registers.MemReq.DONATE, can_cancel=True) == 0x50D


def test_a_value_too_wide_for_its_field_is_refused_by_name() -> None:
    with pytest.raises(FieldError, match=r"S2SZ = 0x100 does not fit in bits \[7:0\]"):
        FeatureRegister0.make(S2SZ=256)
    with pytest.raises(FieldError, match="s2sz = 256 does not fit in 8 bits"):
        structures.RealmParams.encode(s2sz=256)


def test_printing_a_register_prints_its_fields() -> None:
    assert str(AddrRangeDesc.of(0x8000_0000)) == (
        "AddrRangeDesc(0x80000004: BLOCK_SIZE=L3, COUNT=0x1, PAGE=0x80000, STATE=DELEGATED)"
    )


def test_structures_have_their_fields_at_the_published_offsets() -> None:
    page = structures.RealmParams.encode(s2sz=48, rtt_base=0x8000_1000, rtt_level_start=-1, rpv=b"\x07" * 64)
    assert len(page) == 0x1000
    assert page[8] == 48 and page[0x808:0x810] == (0x8000_1000).to_bytes(8, "little")
    assert page[0x810:0x818] == b"\xff" * 8 and page[0x400:0x440] == b"\x07" * 64
    assert structures.RealmParams.parse(page)["rtt_level_start"] == -1
    assert (structures.RecRun.exit_reason.offset, structures.RecRun.imm.offset) == (0x800, 0xE00)


def test_overlapping_fields_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="first and second overlap"):

        class Wrong(Structure):
            SIZE = 16
            first = u64(0)
            second = u8(7)


def test_only_some_psci_functions_have_a_64_bit_form() -> None:
    assert {f.name for f in psci.PSCI_64} == {"CPU_SUSPEND", "CPU_ON", "AFFINITY_INFO"}
