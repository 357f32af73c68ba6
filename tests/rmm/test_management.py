"""What a host asks of the RMM before there are realms."""

from __future__ import annotations

import pytest
from rmi_host import PAGE, Host

from machine.board import Board
from machine.memory import DRAM_BASE
from rmm.abi.registers import FeatureRegister0, FeatureRegister1
from rmm.abi.rmi import SMC_NOT_SUPPORTED


@pytest.fixture
def fresh() -> Host:
    return Host(activate=False)


def test_a_host_that_asks_for_2_0_gets_it(fresh: Host) -> None:
    assert fresh.call("VERSION", 0x2_0000) == (0, 0x2_0000, 0x2_0000, 0, 0)


@pytest.mark.parametrize("version", [0, 0x1_0000, 0x1_0001, 0x2_0001, 0x3_0000, 2**64 - 1])
def test_any_other_version_is_refused_and_told_of_2_0(fresh: Host, version: int) -> None:
    assert fresh.call("VERSION", version) == (1, 0x2_0000, 0x2_0000, 0, 0)


def test_feature_registers_describe_the_cortex_a72_and_4k_granules(fresh: Host) -> None:
    register0 = FeatureRegister0(fresh.ok("FEATURES", 0)[1])
    assert register0.decode() | {"PMU_NUM_CTRS": 0} == {
        "S2SZ": 48,
        "LPA2": 0,
        "SVE": 0,
        "SVE_VL": 0,
        "NUM_BPS": 5,
        "NUM_WPS": 3,
        "PMU": 0,
        "PMU_NUM_CTRS": 0,
    }
    assert fresh.ok("FEATURES", 1)[1] == 0x142B9
    assert FeatureRegister1(0x142B9).MAX_RECS_ORDER == 10
    assert [fresh.ok("FEATURES", index)[1] for index in (2, 3, 4, 5, 2**63)] == [0] * 5


def test_an_unknown_function_answers_minus_one_and_nothing_else(fresh: Host) -> None:
    for fid in (0xC400_0151, 0xC400_0152, 0xC400_01E3, 0x8400_0150, 0):
        assert fresh.board.smc(fid, 1, 2, 3) == (SMC_NOT_SUPPORTED, 0, 0, 0, 0)


def test_the_sve_hint_in_a_function_id_is_ignored(fresh: Host) -> None:
    assert fresh.board.smc(0xC401_0150, 0x2_0000)[0] == 0


def test_commands_wait_for_activation_but_questions_do_not(fresh: Host) -> None:
    for name in ("GRANULE_RANGE_DELEGATE", "REALM_CREATE", "RTT_CREATE", "REC_ENTER", "OP_CONTINUE", "GPT_L1_CREATE"):
        assert fresh.call(name, DRAM_BASE, DRAM_BASE + PAGE) == (11, 0, 0, 0, 0), name
    fresh.ok("GRANULE_TRACKING_GET", DRAM_BASE, DRAM_BASE + PAGE)
    fresh.ok("RMM_CONFIG_GET", fresh.ns())


def test_activation_and_configuration_are_only_for_a_monitor_in_init(fresh: Host) -> None:
    config = fresh.ns()
    fresh.ok("RMM_CONFIG_SET", config)
    fresh.ok("RMM_ACTIVATE")
    assert fresh.status("RMM_ACTIVATE") == "ERROR_GLOBAL"
    assert fresh.status("RMM_CONFIG_SET", config) == "ERROR_GLOBAL"


@pytest.mark.parametrize("offset", [0, 8])
def test_only_4k_granules_with_1g_tracking_regions_can_be_configured(fresh: Host, offset: int) -> None:
    config = fresh.ns()
    fresh.board.ns.write_u64(config + offset, 1)
    assert fresh.status("RMM_CONFIG_SET", config) == "ERROR_INPUT"


def test_a_configuration_page_must_be_a_whole_host_granule(fresh: Host) -> None:
    for page in (0, DRAM_BASE + 8, fresh.memory.firmware_base, 1 << 47):
        assert fresh.status("RMM_CONFIG_SET", page) == "ERROR_INPUT"
        assert fresh.status("RMM_CONFIG_GET", page) == "ERROR_INPUT"


def test_the_configuration_is_read_back_over_the_whole_page(fresh: Host) -> None:
    page = fresh.source(b"\xff" * PAGE)
    fresh.ok("RMM_CONFIG_GET", page)
    assert fresh.board.ns.read(page, PAGE) == bytes(PAGE)


def test_another_process_of_the_machine_finds_the_monitor_as_it_is() -> None:
    host = Host()
    rd = host.realm()
    other = Board(host.memory)
    other.load_firmware("rmm.monitor")
    assert other.smc(0xC400_0157, rd)[0] == 0
    assert host.status("REALM_ACTIVATE", rd) == "ERROR_REALM"


def test_a_process_that_boots_with_another_number_of_contexts_is_told() -> None:
    host = Host(sro_contexts=4)
    with pytest.raises(ValueError, match="the RMM of this machine has 4 SRO contexts, not 160"):
        Board(host.memory).load_firmware("rmm.monitor")


def test_an_unknown_boot_option_is_refused() -> None:
    with pytest.raises(TypeError, match="granules_per_call"):
        Host(granules_per_call=1)


@pytest.mark.parametrize("options", [{"rec_aux_granules": 3}, {"rec_aux_granules": 17}, {"range_granules": 0}])
def test_boot_options_that_no_command_could_work_with_are_refused(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=name):
        Host(**options)
