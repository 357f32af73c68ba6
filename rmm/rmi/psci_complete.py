"""PSCI_COMPLETE: the host names the target of a Realm's CPU_ON or AFFINITY_INFO (DEN0137 2.0-bet1, A4.3.7).

This is bet1's form, with the target REC as an argument; later betas let the RMM find it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmm.abi.psci import SMC64, Affinity, PsciFunction, PsciStatus
from rmm.abi.rmi import Status
from rmm.granules import GranuleState
from rmm.rec import Pending, Rec, RecGranule, is_running
from rmm.rmi import command

if TYPE_CHECKING:
    from rmm.monitor import Monitor

_MASK64 = (1 << 64) - 1
_DENIED = PsciStatus.DENIED & _MASK64


@command("RMI_PSCI_COMPLETE")
def psci_complete(rmm: Monitor, calling: int, target: int, status: int) -> int:
    """Answer the request of the REC ``calling`` about the REC ``target``; ``status`` is 0, or -3 to refuse a CPU_ON."""
    refused = rmm.granules.refusal(calling, GranuleState.REC) or rmm.granules.refusal(target, GranuleState.REC)
    if refused:
        return refused
    if calling == target:
        return Status.ERROR_INPUT
    caller, other = Rec(rmm.memory, calling), Rec(rmm.memory, target)
    if is_running(rmm, calling) or not caller.pending & Pending.PSCI:
        return Status.ERROR_INPUT
    if caller.rd != other.rd or caller.psci_target != other.mpidr:
        return Status.ERROR_INPUT
    turn_on = caller.psci_function & ~SMC64 == PsciFunction.CPU_ON
    if status != PsciStatus.SUCCESS and not (turn_on and status == _DENIED):
        return Status.ERROR_INPUT

    answer = Status.SUCCESS
    on = bool(other.runnable) or is_running(rmm, target)
    with rmm.commit() as txn:
        if not turn_on:
            result = int(Affinity.ON if on else Affinity.OFF)
        elif on:
            # A host that refuses what has happened already is wrong, but the Realm gets its answer all the same.
            answer = Status.ERROR_INPUT if status else Status.SUCCESS
            result = PsciStatus.ALREADY_ON & _MASK64
        elif status:
            result = _DENIED
        else:
            other.start_at(txn, caller.psci_entry, caller.psci_context, bool(caller.psci_big_endian))
            result = PsciStatus.SUCCESS
        place = caller.address(RecGranule.result)
        for n, value in enumerate((result, 0, 0, 0)):
            txn.store_u64(place + 8 * n, value)
        txn.store_u64(caller.address(RecGranule.pending), Pending.RESULT)
    return answer
