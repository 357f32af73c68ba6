"""How RMI replies become results."""

from __future__ import annotations

import errno

import pytest
from rmm_double import CONTINUE, DONATE, DONATE_CANCELLABLE

from hypervisor.arm.cca.rmi import Rmi, RmiFailure, errno_of, is_rmi_error
from rmm.abi import rmi
from rmm.abi.rmi import SMC_NOT_SUPPORTED, Status

BUSY = (Status.BUSY,)


@pytest.mark.parametrize(("x0", "code"), [
    (0, 0),
    (CONTINUE, 0),
    (Status.BUSY, 0),
    (SMC_NOT_SUPPORTED, errno.EOPNOTSUPP),
    (Status.ERROR_NOT_SUPPORTED, errno.EOPNOTSUPP),
    (Status.BLOCKED, errno.EIO),
    (Status.ERROR_INPUT, errno.EIO),
    (rmi.error_rtt(3), errno.EIO),
    (Status.ERROR_GRANULE, errno.EIO),
])
def test_a_result_maps_to_its_errno(x0, code):
    assert errno_of(x0) == code


def test_only_statuses_of_the_rmi_are_rmi_errors():
    errors = {status for status in Status if is_rmi_error(status)}
    assert errors == set(Status) - {Status.SUCCESS, Status.BUSY, Status.INCOMPLETE, Status.BLOCKED}
    assert not is_rmi_error(SMC_NOT_SUPPORTED)


def test_busy_is_retried_and_then_given_up_with_ebusy(bare):
    bare.smc.default[rmi.REALM_TERMINATE] = BUSY
    with pytest.raises(RmiFailure) as failure:
        Rmi(bare.smc, busy_retries=7).realm_terminate(0x8000_0000)
    assert failure.value.errno == errno.EBUSY
    assert len(bare.smc.calls) == 8


@pytest.mark.parametrize(("fid", "call"), [
    (rmi.REALM_ACTIVATE, lambda host: host.realm_activate(0x8000_0000)),
    (rmi.PSCI_COMPLETE, lambda host: host.psci_complete(0x8000_0000, 0x8000_1000, 0)),
    (rmi.RMM_CONFIG_SET, lambda host: host.config_set(0x8000_0000)),
])
def test_busy_is_not_taken_for_success_by_plain_calls(bare, fid, call):
    bare.smc.will(fid, BUSY, BUSY, (0,))
    call(Rmi(bare.smc))
    assert len(bare.smc.calls) == 3


def test_incomplete_is_not_taken_for_success_by_plain_calls(bare):
    bare.smc.will(rmi.REALM_ACTIVATE, (CONTINUE, 4))
    with pytest.raises(RmiFailure):
        Rmi(bare.smc).realm_activate(0x8000_0000)


def test_an_operation_in_steps_is_continued_with_the_first_replys_handle(bare):
    bare.smc.will(rmi.RTT_DATA_UNMAP, (CONTINUE, 9))
    bare.smc.will(rmi.OP_CONTINUE, (CONTINUE, 77), BUSY, (0, 0x4000_2000))
    assert Rmi(bare.smc).data_unmap(0x8000_0000, 0x4000_0000, 0x4000_2000) == 0x4000_2000
    assert [args for name, args in bare.smc.calls if name == "RMI_OP_CONTINUE"] == [(9, 0)] * 3


@pytest.mark.parametrize("x0", [DONATE, DONATE_CANCELLABLE])
def test_an_operation_in_steps_that_asks_for_memory_is_cancelled_where_it_may_be(bare, x0):
    bare.smc.will(rmi.RTT_CREATE, (x0, 3))
    with pytest.raises(RmiFailure) as failure:
        Rmi(bare.smc).rtt_create(0x8000_0000, 0x8000_1000, 0, 1)
    assert failure.value.errno == errno.EOPNOTSUPP
    assert ("OP_CANCEL" in bare.smc.names()) == (x0 == DONATE_CANCELLABLE)


def test_a_missing_feature_register_reads_as_no_features(bare):
    bare.smc.will(rmi.FEATURES, (SMC_NOT_SUPPORTED, 5))
    assert Rmi(bare.smc).features(0) == 0


def test_what_the_toolstack_is_told_is_an_rmi_error_or_an_unknown_function():
    for x0, told in ((0x304, 0x304), (SMC_NOT_SUPPORTED, SMC_NOT_SUPPORTED), (Status.BLOCKED, 0), (DONATE, 0)):
        assert RmiFailure(errno.EIO, x0, "RMI_RTT_CREATE").reportable == told
