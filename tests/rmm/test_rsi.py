"""RSI: what a Realm asks of the RMM, and what it is told."""

from __future__ import annotations

import hashlib
import struct

import pytest
from realm_world import MAPPED_TOP, RAM_TOP, S2SZ, UNPROTECTED, RealmWorld

from machine.ich import ICH_VTR
from machine.memory import GRANULE_SIZE
from rmm.abi import rmi
from rmm.abi.registers import ExitReason, HashAlgorithm, RecEnterFlags, Ripas
from rmm.abi.rsi import RSI_BY_NAME, RsiStatus
from rmm.abi.structures import HostCall, RealmConfig

REJECT = RecEnterFlags.make(RIPAS_RESPONSE=1)
NOT_SUPPORTED = 0xFFFF_FFFF_FFFF_FFFF
CODE = 0x1000


def fid(name: str) -> int:
    return RSI_BY_NAME[name].fid


@pytest.fixture
def world() -> RealmWorld:
    return RealmWorld()


# Conventions.


def test_an_unknown_call_is_not_supported(world: RealmWorld) -> None:
    assert world.call(0xC400_01FF, 1, 2, 3, 4)[:5] == (NOT_SUPPORTED, 0, 0, 0, 4)
    assert world.cpu.pc == CODE + 4


def test_the_sve_hint_of_a_function_id_is_ignored(world: RealmWorld) -> None:
    assert world.call(fid("RSI_VERSION") | 1 << 16, 0x1_0000)[0] == RsiStatus.SUCCESS


# Version and features.


@pytest.mark.parametrize(
    ("requested", "answer"),
    [(0x1_0000, (0, 0x1_0000, 0x1_0001)), (0x1_0001, (0, 0x1_0001, 0x1_0001)), (0x2_0000, (1, 0x1_0001, 0x1_0001))],
)
def test_versions_1_0_and_1_1_are_offered(world: RealmWorld, requested: int, answer: tuple[int, ...]) -> None:
    assert world.call(fid("RSI_VERSION"), requested)[:4] == (*answer, 0)


@pytest.mark.parametrize("index", [0, 1, 99])
def test_no_optional_feature_is_offered(world: RealmWorld, index: int) -> None:
    assert world.call(fid("RSI_FEATURES"), index)[:2] == (RsiStatus.SUCCESS, 0)


# Measurements.


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [(HashAlgorithm.SHA_256, "sha256"), (HashAlgorithm.SHA_384, "sha384"), (HashAlgorithm.SHA_512, "sha512")],
)
def test_an_extended_measurement_is_the_hash_of_the_old_one_and_the_value(algorithm: int, name: str) -> None:
    world = RealmWorld(hash_algo=algorithm)
    value = [0x0706_0504_0302_0100 + 0x0808_0808_0808_0808 * n for n in range(8)]
    assert world.call(fid("RSI_MEASUREMENT_EXTEND"), 2, 13, *value)[0] == RsiStatus.SUCCESS
    size = hashlib.new(name).digest_size
    expected = hashlib.new(name, bytes(size) + bytes(range(13))).digest()
    seen = world.call(fid("RSI_MEASUREMENT_READ"), 2)
    assert seen[0] == RsiStatus.SUCCESS
    assert struct.pack(f"<{size // 8}Q", *seen[1 : 1 + size // 8]) == expected
    assert world.call(fid("RSI_MEASUREMENT_EXTEND"), 2, 0)[0] == RsiStatus.SUCCESS
    expected = hashlib.new(name, expected).digest()
    seen = world.call(fid("RSI_MEASUREMENT_READ"), 2)
    assert struct.pack(f"<{size // 8}Q", *seen[1 : 1 + size // 8]) == expected


def test_the_reference_value_of_a_first_extension(world: RealmWorld) -> None:
    value = struct.unpack("<4Q", bytes(range(32)))
    world.call(fid("RSI_MEASUREMENT_EXTEND"), 1, 32, *value)
    seen = struct.pack("<4Q", *world.call(fid("RSI_MEASUREMENT_READ"), 1)[1:5])
    assert seen.hex() == "bb2275c49f28ad52cae6d55e34a974a58c7a3ba26f976e8ecbbe7a536918dc73"


def test_measurement_slots_do_not_touch_each_other(world: RealmWorld) -> None:
    before = [world.call(fid("RSI_MEASUREMENT_READ"), slot)[1:5] for slot in range(5)]
    world.call(fid("RSI_MEASUREMENT_EXTEND"), 4, 8, 1)
    after = [world.call(fid("RSI_MEASUREMENT_READ"), slot)[1:5] for slot in range(5)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True] * 4 + [False]


@pytest.mark.parametrize(("slot", "size"), [(0, 8), (5, 8), (1, 65), (NOT_SUPPORTED, 8)])
def test_a_bad_extension_changes_nothing(world: RealmWorld, slot: int, size: int) -> None:
    before = [world.call(fid("RSI_MEASUREMENT_READ"), n)[1:5] for n in range(5)]
    assert world.call(fid("RSI_MEASUREMENT_EXTEND"), slot, size)[0] == RsiStatus.ERROR_INPUT
    assert [world.call(fid("RSI_MEASUREMENT_READ"), n)[1:5] for n in range(5)] == before


def test_there_are_five_measurements(world: RealmWorld) -> None:
    assert world.call(fid("RSI_MEASUREMENT_READ"), 4)[0] == RsiStatus.SUCCESS
    assert world.call(fid("RSI_MEASUREMENT_READ"), 5)[0] == RsiStatus.ERROR_INPUT


# The realm's configuration.


def test_the_configuration_page_describes_the_realm() -> None:
    rpv = bytes(range(64))
    world = RealmWorld(hash_algo=HashAlgorithm.SHA_512, rpv=rpv)
    world.memory.write(world.pa[0x2000], b"\xff" * GRANULE_SIZE)
    assert world.call(fid("RSI_REALM_CONFIG"), 0x2000)[:2] == (RsiStatus.SUCCESS, 0)
    page = world.memory.read(world.pa[0x2000], GRANULE_SIZE)
    assert page == RealmConfig.encode(ipa_width=S2SZ, hash_algo=1, gicv3_vtr=ICH_VTR, rpv=rpv)


@pytest.mark.parametrize("ipa", [0x2008, UNPROTECTED, UNPROTECTED + 0x2000, RAM_TOP, 1 << 60])
def test_the_configuration_goes_into_a_whole_protected_granule(world: RealmWorld, ipa: int) -> None:
    assert world.call(fid("RSI_REALM_CONFIG"), ipa)[0] == RsiStatus.ERROR_INPUT


@pytest.mark.parametrize("call", ["RSI_REALM_CONFIG", "RSI_HOST_CALL"])
def test_an_unmapped_buffer_is_mapped_by_the_host_and_the_call_made_again(world: RealmWorld, call: str) -> None:
    ipa = MAPPED_TOP
    world.script.smc([fid(call), ipa])
    exit_ = world.enter()
    assert exit_["exit_reason"] == ExitReason.SYNC
    assert exit_["esr"] == 0x24 << 26 | 0x07
    assert (exit_["far"], exit_["hpfar"]) == (0, ipa >> 8)
    assert world.cpu.pc == CODE
    page = world.delegated()
    world.smc(rmi.RTT_DATA_MAP, world.rd, ipa, ipa + GRANULE_SIZE, 1, page | 4)
    world.script.smc([fid(call), ipa])
    assert world.enter()["exit_reason"] != ExitReason.SYNC
    assert world.cpu.pc == CODE + 4


# RIPAS.


def test_a_ripas_change_asks_the_host(world: RealmWorld) -> None:
    world.script.smc([fid("RSI_IPA_STATE_SET"), 0x1000, 0x3000, Ripas.EMPTY, 0])
    exit_ = world.enter()
    assert exit_["exit_reason"] == ExitReason.RIPAS_CHANGE
    assert (exit_["ripas_base"], exit_["ripas_top"], exit_["ripas_value"]) == (0x1000, 0x3000, Ripas.EMPTY)
    assert exit_["exit_gprs"] == (0,) * 31


@pytest.mark.parametrize(
    ("value", "reached", "flags", "response"),
    [
        pytest.param(Ripas.RAM, 0x6000, 0, 0, id="all of it accepted"),
        pytest.param(Ripas.RAM, 0x6000, REJECT, 0, id="nothing left to reject"),
        pytest.param(Ripas.RAM, 0x3000, 0, 0, id="a part accepted"),
        pytest.param(Ripas.RAM, 0x3000, REJECT, 1, id="the rest rejected"),
        pytest.param(Ripas.RAM, 0x1000, REJECT, 1, id="all of it rejected"),
        pytest.param(Ripas.EMPTY, 0x3000, REJECT, 0, id="EMPTY cannot be rejected"),
    ],
)
def test_the_realm_learns_how_far_its_change_came(
    world: RealmWorld, value: int, reached: int, flags: int, response: int
) -> None:
    world.script.smc([fid("RSI_IPA_STATE_SET"), 0x1000, 0x6000, value, 7])
    world.enter(flags=REJECT)  # a response to nothing
    if reached > 0x1000:
        world.smc(rmi.RTT_SET_RIPAS, world.rd, world.recs[0], 0x1000, reached)
    world.enter(flags=flags)
    assert world.script.take_saw()[0][:5] == (RsiStatus.SUCCESS, reached, response, 0, 7)
    assert world.cpu.pc == CODE + 4
    # The request is over.
    assert world.board.smc(rmi.RTT_SET_RIPAS, world.rd, world.recs[0], reached, 0x6000)[0] == rmi.Status.ERROR_INPUT


@pytest.mark.parametrize(
    ("base", "top", "value"),
    [
        (0x1000, 0x3000, Ripas.DESTROYED),
        (0x1000, 0x3000, 3),
        (0x1800, 0x3000, Ripas.RAM),
        (0x1000, 0x2800, Ripas.RAM),
        (0x1000, 0x1000, Ripas.RAM),
        (0x3000, 0x1000, Ripas.RAM),
        (0x1000, UNPROTECTED + 0x1000, Ripas.RAM),
        (UNPROTECTED, UNPROTECTED + 0x1000, Ripas.RAM),
    ],
)
def test_a_bad_ripas_change_is_no_exit(world: RealmWorld, base: int, top: int, value: int) -> None:
    assert world.call(fid("RSI_IPA_STATE_SET"), base, top, value)[:2] == (RsiStatus.ERROR_INPUT, 0)


@pytest.mark.parametrize(("flags", "status"), [(0, rmi.error_rtt(3)), (1, 0), (2, rmi.error_rtt(3))])
def test_destroyed_memory_becomes_ram_only_if_the_realm_says_so(world: RealmWorld, flags: int, status: int) -> None:
    world.smc(rmi.RTT_DATA_UNMAP, world.rd, 0x2000, 0x3000, 1, 0)
    world.script.smc([fid("RSI_IPA_STATE_SET"), 0x2000, 0x3000, Ripas.RAM, flags])
    world.enter()
    assert world.board.smc(rmi.RTT_SET_RIPAS, world.rd, world.recs[0], 0x2000, 0x3000)[0] == status


@pytest.mark.parametrize(
    ("base", "top", "answer"),
    [
        pytest.param(0x1000, 0x2000, (0x2000, Ripas.RAM), id="one granule"),
        pytest.param(0x0000, 0x10000, (RAM_TOP, Ripas.RAM), id="mapped or not, it is RAM"),
        pytest.param(RAM_TOP, 0x10000, (0x10000, Ripas.EMPTY), id="up to top"),
        pytest.param(RAM_TOP, 0x40_0000, (0x20_0000, Ripas.EMPTY), id="up to the end of the table"),
        pytest.param(0x20_0000, 0x4000_0000, (0x4000_0000, Ripas.EMPTY), id="larger entries"),
        pytest.param(0x20_0000, 0x20_3000, (0x20_3000, Ripas.EMPTY), id="a part of a larger entry"),
        pytest.param(0x20_3000, 0x60_0000, (0x60_0000, Ripas.EMPTY), id="from inside a larger entry"),
        pytest.param(UNPROTECTED - 0x1000, UNPROTECTED, (UNPROTECTED, Ripas.EMPTY), id="to the protected top"),
    ],
)
def test_the_ripas_of_a_range(world: RealmWorld, base: int, top: int, answer: tuple[int, int]) -> None:
    assert world.call(fid("RSI_IPA_STATE_GET"), base, top)[:3] == (RsiStatus.SUCCESS, *answer)


def test_the_run_ends_before_a_table_that_may_say_otherwise(world: RealmWorld) -> None:
    # At level 2, [2 MiB, 4 MiB) becomes a table.
    world.smc(rmi.RTT_CREATE, world.rd, world.delegated(), 0x60_0000, 3)
    assert world.call(fid("RSI_IPA_STATE_GET"), 0x20_0000, 0x4000_0000)[1] == 0x60_0000


@pytest.mark.parametrize(
    ("base", "top"),
    [(0x1008, 0x2000), (0x1000, 0x2008), (0x2000, 0x2000), (0x2000, 0x1000), (0x1000, UNPROTECTED + 0x1000),
     (UNPROTECTED, UNPROTECTED + 0x1000)],
)  # fmt: skip
def test_only_a_protected_range_of_granules_has_a_ripas(world: RealmWorld, base: int, top: int) -> None:
    assert world.call(fid("RSI_IPA_STATE_GET"), base, top)[:3] == (RsiStatus.ERROR_INPUT, 0, 0)


# Host calls.

MESSAGE = 0x2100


def write_message(world: RealmWorld, imm: int) -> None:
    content = HostCall.encode(imm=imm, gprs=tuple(0x100 + n for n in range(31)))
    world.memory.write(world.pa[0x2000] + (MESSAGE & 0xFFF), content)


def test_a_host_call_carries_the_realms_structure_out_and_the_hosts_registers_back(world: RealmWorld) -> None:
    write_message(world, 0xBEEF)
    world.script.smc([fid("RSI_HOST_CALL"), MESSAGE])
    exit_ = world.enter()
    assert exit_["exit_reason"] == ExitReason.HOST_CALL
    assert (exit_["imm"], exit_["plane"]) == (0xBEEF, 0)
    assert exit_["exit_gprs"] == tuple(0x100 + n for n in range(31))
    world.enter(gprs={n: 0x900 + n for n in range(31)})
    assert world.script.take_saw()[0][:4] == (RsiStatus.SUCCESS, 0, 0, 0)
    message = world.memory.read(world.pa[0x2000] + (MESSAGE & 0xFFF), HostCall.SIZE)
    assert HostCall.parse(message) == {"imm": 0xBEEF, "gprs": tuple(0x900 + n for n in range(31))}
    assert world.cpu.pc == CODE + 4


@pytest.mark.parametrize("ipa", [MESSAGE + 8, MESSAGE + 0x80, UNPROTECTED + MESSAGE, RAM_TOP])
def test_a_host_call_structure_is_aligned_and_in_protected_ram(world: RealmWorld, ipa: int) -> None:
    assert world.call(fid("RSI_HOST_CALL"), ipa)[0] == RsiStatus.ERROR_INPUT


def test_a_host_call_whose_structure_the_host_took_away_stays_open(world: RealmWorld) -> None:
    write_message(world, 1)
    world.script.smc([fid("RSI_HOST_CALL"), MESSAGE])
    world.enter()
    world.smc(rmi.RTT_DATA_UNMAP, world.rd, 0x2000, 0x3000, 1, 0)
    runs = world.script.runs
    exit_ = world.enter(gprs={0: 1})
    assert exit_["exit_reason"] == ExitReason.SYNC
    assert (exit_["esr"], exit_["far"], exit_["hpfar"]) == (0x24 << 26 | 0x07, 0, MESSAGE >> 8 & ~0xF)
    assert world.script.runs == runs
    assert world.enter()["exit_reason"] == ExitReason.SYNC
