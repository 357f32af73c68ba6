"""REC_CREATE and REC_DESTROY (B3.2): both stateful, one asks for memory, the other gives it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmm import sro
from rmm.abi.registers import MemReq, RecCreateFlags
from rmm.abi.rmi import REC_CREATE, REC_DESTROY, Status, incomplete
from rmm.abi.structures import RecParams
from rmm.granules import GranuleState
from rmm.options import MAX_RECS_ORDER
from rmm.realm import RealmState
from rmm.rec import Rec, initialise, is_running, rec_index
from rmm.rmi import command
from rmm.rmi.sro import abandon, close, donate_request
from rmm.sro import Operation, Phase, SroContext

if TYPE_CHECKING:
    from rmm.monitor import Monitor

_MAX_RECS = (1 << MAX_RECS_ORDER) - 1


def _refusal(rmm: Monitor, rd: int, flags: int, mpidr: int) -> int:
    """x0 of a REC_CREATE that the realm does not allow now; 0 when it does."""
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    if realm.state != RealmState.NEW or realm.rec_index_next >= _MAX_RECS:
        return Status.ERROR_REALM
    if rec_index(mpidr) != realm.rec_index_next:
        return Status.ERROR_INPUT
    return Status.ERROR_INPUT if flags & ~RecCreateFlags.defined_mask() else Status.SUCCESS


@command("RMI_REC_CREATE")
def rec_create(rmm: Monitor, rd: int, rec: int, params_pa: int) -> int | tuple[int, int, int]:
    """Start to make a REC: its granule becomes PARTIAL, and the host is asked for auxiliary granules."""
    late = rmm.options.late_rec_checks
    page = None if late else rmm.read_ns(params_pa, RecParams.SIZE)
    if not late and page is None:
        return Status.ERROR_INPUT
    refused = rmm.granules.refusal(rec, GranuleState.DELEGATED)
    if refused:
        return refused
    arguments: dict[str, int | tuple[int, ...]] = {"rd": rd, "rec": rec, "params": params_pa}
    if page is not None:
        values = RecParams.parse(page)
        refused = _refusal(rmm, rd, values["flags"], values["mpidr"])
        if refused:
            return refused
        # What was checked is what is used: the host may reuse its page from here on.
        arguments |= values
    operation = sro.find_free(rmm)
    if operation is None:
        return Status.BLOCKED
    wanted = rmm.options.rec_aux_granules
    realm = None if late else rmm.realm(rd)
    with rmm.commit() as txn:
        operation.start(
            txn,
            Phase.DONATE,
            REC_CREATE,
            wanted=wanted,
            counted=int(realm is not None),
            cancellable=int(rmm.options.cancellable),
            **arguments,
        )
        txn.set_state(rec, GranuleState.PARTIAL)
        if realm is not None:
            txn.store_word(realm.word("operations"), realm.operations + 1)
    return incomplete(MemReq.DONATE, rmm.options.cancellable), operation.handle, donate_request(wanted)


@sro.completion(REC_CREATE)
def _rec_create_continue(rmm: Monitor, operation: Operation) -> int:
    """The memory is there: make the REC, or start to give the memory back."""
    recorded = operation.load(SroContext.status)
    if operation.load(SroContext.ending):
        with rmm.commit() as txn:
            txn.set_state(operation.load(SroContext.rec), GranuleState.DELEGATED)
            close(rmm, operation, txn)
        return recorded
    if recorded:
        return abandon(rmm, operation, recorded)
    rd = operation.load(SroContext.rd)
    if rmm.options.late_rec_checks:
        page = rmm.read_ns(operation.load(SroContext.params), RecParams.SIZE)
        if page is None:
            return abandon(rmm, operation, Status.ERROR_INPUT)
        values = RecParams.parse(page)
        flags, mpidr, pc, gprs = values["flags"], values["mpidr"], values["pc"], values["gprs"]
    else:
        flags, mpidr, pc = (operation.load(item) for item in (SroContext.flags, SroContext.mpidr, SroContext.pc))
        gprs = operation.load_all(SroContext.gprs)
    # The realm may have changed since the operation began.
    refused = _refusal(rmm, rd, flags, mpidr)
    realm = rmm.realm(rd)
    if refused or realm is None:
        return abandon(rmm, operation, refused)
    rec = operation.load(SroContext.rec)
    index = realm.rec_index_next
    runnable = bool(flags & 1)
    # A PARTIAL granule is no one else's: it is filled in place, like a DELEGATED one.
    initialise(
        rmm.memory,
        rec,
        rd=rd,
        index=index,
        mpidr=mpidr,
        runnable=runnable,
        pc=pc,
        gprs=gprs,
        aux=operation.held(),
    )
    with rmm.commit() as txn:
        txn.set_state(rec, GranuleState.REC)
        txn.store_word(realm.word("rec_index_next"), index + 1)
        txn.store_word(realm.word("rec_count"), realm.rec_count + 1)
        if runnable:
            digest = realm.hash.extend_rec(realm.measurement(0), flags, pc, gprs)
            txn.store(rmm.base + (realm.measurement_word(0) << 3), digest)
        close(rmm, operation, txn)
    return Status.SUCCESS


@command("RMI_REC_DESTROY")
def rec_destroy(rmm: Monitor, rec_pa: int) -> int | tuple[int, int, int]:
    """Start to destroy a REC that does not run: its auxiliary granules are to be reclaimed."""
    refused = rmm.granules.refusal(rec_pa, GranuleState.REC)
    if refused:
        return refused
    if is_running(rmm, rec_pa):
        return Status.ERROR_REC
    operation = sro.find_free(rmm)
    if operation is None:
        return Status.BLOCKED
    rec = Rec(rmm.memory, rec_pa)
    realm = rmm.realm(rec.rd)
    aux = rec.aux
    with rmm.commit() as txn:
        operation.start(txn, Phase.RECLAIM, REC_DESTROY, rd=rec.rd, rec=rec_pa, counted=1)
        operation.hold(txn, aux)
        txn.set_state(rec_pa, GranuleState.PARTIAL)
        if realm is not None:
            txn.store_word(realm.word("operations"), realm.operations + 1)
            txn.store_word(realm.word("rec_count"), realm.rec_count - 1)
    return incomplete(MemReq.RECLAIM), operation.handle, 0


@sro.completion(REC_DESTROY)
def _rec_destroy_continue(rmm: Monitor, operation: Operation) -> int:
    """The memory is back with the host: free the REC granule."""
    with rmm.commit() as txn:
        txn.set_state(operation.load(SroContext.rec), GranuleState.DELEGATED)
        close(rmm, operation, txn)
    return Status.SUCCESS
