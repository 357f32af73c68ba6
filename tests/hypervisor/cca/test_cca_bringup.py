"""Bringing the RMM up: what is asked of it, and what each failure leaves in the log."""

from __future__ import annotations

import pytest
from rmm_double import CONTINUE, DONATE, DONATE_CANCELLABLE

from hypervisor.arm.cca.ports import Level
from machine.memory import DRAM_BASE
from rmm.abi import rmi
from rmm.abi.registers import DonateReq
from rmm.abi.rmi import SMC_NOT_SUPPORTED, Status

START = f"{DRAM_BASE:#016x}"
END = f"{DRAM_BASE + (16 << 20):#016x}"


def _write_config(host, granule: int, region: int):
    def reply(page: int):
        host.ns.write(page + 8, bytes([granule]))
        host.ns.write(page, bytes([region]))
        return (0,)

    return reply


def test_a_machine_without_an_rmm_has_no_cca_and_says_nothing(bare):
    bare.smc = lambda fid, *args: (SMC_NOT_SUPPORTED, 0, 0, 0, 0)
    assert not bare.bring_up().available
    assert bare.log == []


@pytest.mark.parametrize("reply", [(Status.ERROR_INPUT, 0x2_0000), (0, 0x1_0001)])
def test_an_rmm_of_another_version_is_not_used(bare, reply):
    bare.smc.will(rmi.RMI_VERSION_FID, reply)
    assert not bare.bring_up().available
    assert bare.log == []


def test_the_calls_come_in_order_and_the_log_says_so_once(bare):
    host = bare.bring_up()
    assert host.available
    assert (host.features0, host.features1) == (0x314030, 0x142A9)
    assert bare.smc.names() == [
        "VERSION", "FEATURES", "FEATURES", "RMM_CONFIG_SET", "RMM_ACTIVATE", "RMM_CONFIG_GET", "GRANULE_TRACKING_GET",
        "GPT_L1_CREATE",
    ]
    assert bare.log == [(Level.INFO, "ARM CCA: RMI configured")]
    assert bare.pages.free_pages == bare.pages.total_pages


@pytest.mark.parametrize(("fid", "reply", "message"), [
    (rmi.RMM_CONFIG_SET, (Status.ERROR_GLOBAL,), "ARM CCA: RMM activate failed: -5"),
    (rmi.RMM_ACTIVATE, (Status.ERROR_GLOBAL,), "ARM CCA: RMM activate failed: -5"),
    (rmi.RMM_ACTIVATE, (SMC_NOT_SUPPORTED,), "ARM CCA: RMM activate failed: -95"),
    (rmi.RMM_CONFIG_GET, (0x1234_0B,), "ARM CCA: RMI_RMM_CONFIG_GET failed status=0xb data=0x1234"),
])
def test_a_refused_call_is_reported_word_for_word(bare, fid, reply, message):
    bare.smc.will(fid, reply)
    assert not bare.bring_up().available
    assert bare.log == [(Level.ERR, message)]
    assert bare.pages.free_pages == bare.pages.total_pages


@pytest.mark.parametrize(("granule", "region", "message"), [
    (2, 0, "ARM CCA: requires 4KB RMI granules, but current RMM granule size encoding is 2"),
    (0, 1, "ARM CCA: requires 1GB tracking regions for 4KB RMI granules, but current RMM tracking-region encoding "
           "is 1"),
])
def test_an_rmm_configured_otherwise_is_not_used(bare, granule, region, message):
    bare.smc.will(rmi.RMM_CONFIG_GET, _write_config(bare, granule, region))
    assert not bare.bring_up().available
    assert bare.log.texts == [message]


@pytest.mark.parametrize("reply", [
    (0, 1, 2, DRAM_BASE + (16 << 20)),
    (0, 0, 3, DRAM_BASE + (16 << 20)),
    (0, 0, 2, DRAM_BASE),
    (0, 0, 2, DRAM_BASE + (32 << 20)),
])
def test_memory_that_is_not_fine_tracked_conventional_memory_is_named(bare, reply):
    bare.smc.will(rmi.GRANULE_TRACKING_GET, reply)
    assert not bare.bring_up().available
    assert bare.log.texts == [
        f"ARM CCA: memory [{START}, {END}) is not fine-tracked conventional memory",
        "ARM CCA: host memory metadata check failed: -95",
    ]


def test_a_tracking_error_is_reported_by_its_errno_alone(bare):
    bare.smc.will(rmi.GRANULE_TRACKING_GET, (Status.ERROR_INPUT,))
    bare.bring_up()
    assert bare.log.texts == ["ARM CCA: host memory metadata check failed: -5"]


def test_a_bank_in_several_runs_is_walked_to_its_end(bare):
    middle = DRAM_BASE + (4 << 20)
    bare.smc.will(rmi.GRANULE_TRACKING_GET, (0, 0, 2, middle))
    assert bare.bring_up().available
    walked = [args for name, args in bare.smc.calls if name == "RMI_GRANULE_TRACKING_GET"]
    assert walked == [(DRAM_BASE, DRAM_BASE + (16 << 20)), (middle, DRAM_BASE + (16 << 20))]


def test_a_gpt_that_cannot_be_made_is_named(bare):
    bare.smc.will(rmi.GPT_L1_CREATE, (Status.ERROR_GLOBAL,))
    bare.bring_up()
    assert bare.log.texts == [
        f"ARM CCA: failed to create GPT L1 for {START}", "ARM CCA: host memory metadata check failed: -5",
    ]


def test_a_gpt_that_wants_memory_gets_some(bare):
    bare.smc.will(rmi.GPT_L1_CREATE, (DONATE, 5, DonateReq.make(COUNT=2)))
    bare.smc.will(rmi.OP_MEM_DONATE, (CONTINUE, 2))
    assert bare.bring_up().available
    assert bare.delegated() == 2


def test_pages_donated_to_activation_stay_with_the_rmm(bare):
    bare.smc.will(rmi.RMM_ACTIVATE, (DONATE, 1, DonateReq.make(COUNT=3)))
    bare.smc.will(rmi.OP_MEM_DONATE, (CONTINUE, 3))
    host = bare.bring_up()
    assert host.available
    assert len(host.donated) == bare.delegated() == 3
    assert bare.pages.free_pages == bare.pages.total_pages - 3


def test_an_activation_that_asks_for_more_than_64_pages_is_cancelled(bare):
    bare.smc.will(rmi.RMM_ACTIVATE, (DONATE_CANCELLABLE, 1, DonateReq.make(COUNT=65)))
    assert not bare.bring_up().available
    assert bare.smc.names()[-1] == "OP_CANCEL"
    assert bare.log.texts == ["ARM CCA: RMM activate failed: -7"]
    assert bare.delegated() == 0


def test_an_activation_that_fails_with_pages_still_held_is_an_io_error(bare):
    bare.smc.will(rmi.RMM_ACTIVATE, (DONATE, 1, DonateReq.make(COUNT=2)))
    bare.smc.will(rmi.OP_MEM_DONATE, (CONTINUE, 2))
    bare.smc.will(rmi.OP_CONTINUE, (Status.ERROR_NOT_SUPPORTED,))
    host = bare.bring_up()
    assert not host.available
    assert bare.log.texts == ["ARM CCA: RMM activate failed: -5"]
    assert len(host.donated) == 2
