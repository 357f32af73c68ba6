"""OP_CONTINUE, OP_MEM_DONATE, OP_MEM_RECLAIM and OP_CANCEL (B3.1): how the host drives a stateful operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmm import sro
from rmm.abi.registers import AddrRangeDesc, BlockSize, ContinueFlags, DonateReq, MemReq
from rmm.abi.rmi import Status, incomplete
from rmm.granules import GranuleState
from rmm.rmi import command
from rmm.rmi.address_list import expand, read_list
from rmm.sro import Operation, Phase, SroContext

if TYPE_CHECKING:
    from rmm.commit import Transaction
    from rmm.monitor import Monitor


def donate_request(count: int) -> int:
    """RmiOpMemDonateReq for ``count`` delegated pages, anywhere."""
    return int(DonateReq.make(BLOCK_SIZE=BlockSize.L3, COUNT=count))


@command("RMI_OP_CONTINUE")
def op_continue(rmm: Monitor, handle: int, flags: int) -> int | tuple[int, ...]:
    """The next step of an operation that waits for one; with the last, the command's own answer.

    An operation whose donation failed may be continued too: it then gives back what it holds, and fails.
    """
    operation = sro.find(rmm, handle)
    if operation is None:
        return Status.ERROR_INPUT
    phase = operation.load(SroContext.phase)
    failed = phase == Phase.DONATE and operation.load(SroContext.status)
    if phase != Phase.CONTINUE and not failed:
        return Status.ERROR_INPUT
    if flags & ~ContinueFlags.defined_mask():
        return Status.ERROR_INPUT
    return sro.COMPLETIONS[operation.load(SroContext.command)](rmm, operation)


@command("RMI_OP_MEM_DONATE")
def op_mem_donate(rmm: Monitor, handle: int, list_pa: int, count: int) -> int | tuple[int, int, int]:
    """Take granules from the host; out: how many were taken (on failure too), and the request for the rest.

    A failure is recorded: the host may offer another list, or continue, which ends the operation.
    """
    operation = sro.find(rmm, handle)
    if operation is None or operation.load(SroContext.phase) != Phase.DONATE:
        return Status.ERROR_INPUT
    held = operation.held()
    missing = operation.load(SroContext.wanted) - len(held)
    offered = _offer(rmm, list_pa, count, missing)
    taken: list[int] = []
    if offered is not None:
        for pa in offered:
            if not rmm.granules.has_state(pa, GranuleState.DELEGATED) or pa in taken:
                break
            taken.append(pa)
    complete = offered is not None and len(taken) == len(offered)
    with rmm.commit() as txn:
        operation.hold(txn, held + taken)
        for pa in taken:
            txn.set_state(pa, GranuleState.REC_AUX)
        operation.store(txn, SroContext.status, 0 if complete else Status.ERROR_INPUT)
        if complete and len(taken) == missing:
            operation.store(txn, SroContext.phase, Phase.CONTINUE)
    if not complete:
        return Status.ERROR_INPUT, len(taken), 0
    if len(taken) == missing:
        return incomplete(MemReq.NONE), len(taken), 0
    cancellable = bool(operation.load(SroContext.cancellable))
    return incomplete(MemReq.DONATE, cancellable), len(taken), donate_request(missing - len(taken))


def _offer(rmm: Monitor, list_pa: int, count: int, missing: int) -> list[int] | None:
    """The granules that a list names, in order; None when list or descriptors are malformed or name too many."""
    descriptors = read_list(rmm, list_pa, count)
    if descriptors is None:
        return None
    granules: list[int] = []
    for block in expand(descriptors):
        size = 1 << (27 - 9 * block.level)
        if block.state or block.pa & ((size << 12) - 1) or len(granules) + size > missing:
            return None
        granules += range(block.pa, block.pa + (size << 12), 4096)
    return granules


@command("RMI_OP_MEM_RECLAIM")
def op_mem_reclaim(rmm: Monitor, handle: int, list_pa: int, capacity: int) -> int | tuple[int, int]:
    """Give granules back to the host, DELEGATED, up to ``capacity`` of them; out: list entries written.

    Adjacent ascending granules share an entry.
    """
    operation = sro.find(rmm, handle)
    if operation is None or list_pa & 7 or operation.load(SroContext.phase) != Phase.RECLAIM:
        return Status.ERROR_INPUT
    if not capacity:
        return incomplete(MemReq.RECLAIM), 0
    held = operation.held()
    count = min(len(held), capacity)
    runs: list[list[int]] = []
    for pa in held[:count]:
        if runs and runs[-1][0] + (runs[-1][1] << 12) == pa:
            runs[-1][1] += 1
        else:
            runs.append([pa, 1])
    # The list may end at the end of its granule: what does not fit is offered again.
    room = (4096 - (list_pa & 0xFFF)) >> 3
    runs = runs[:room]
    count = sum(length for _, length in runs)
    data = b"".join(int(AddrRangeDesc.of(pa, length)).to_bytes(8, "little") for pa, length in runs)
    if data and not rmm.write_ns(list_pa, data):
        return Status.ERROR_INPUT
    drained = count == len(held)
    with rmm.commit() as txn:
        for pa in held[:count]:
            txn.set_state(pa, GranuleState.DELEGATED)
        operation.hold(txn, held[count:])
        if drained:
            operation.store(txn, SroContext.phase, Phase.CONTINUE)
    return incomplete(MemReq.NONE if drained else MemReq.RECLAIM), len(runs)


@command("RMI_OP_CANCEL")
def op_cancel(rmm: Monitor, handle: int) -> int | tuple[int, ...]:
    """Give an operation up that said it can be cancelled; memory it holds is to be reclaimed first."""
    operation = sro.find(rmm, handle)
    if operation is None or operation.load(SroContext.phase) != Phase.DONATE:
        return Status.ERROR_INPUT
    if not operation.load(SroContext.cancellable):
        return Status.ERROR_INPUT
    return abandon(rmm, operation, Status.SUCCESS)


def abandon(rmm: Monitor, operation: Operation, status: int) -> int:
    """End an operation that has not come about with ``status``, after its memory was reclaimed."""
    holds = bool(operation.load(SroContext.held))
    with rmm.commit() as txn:
        if holds:
            operation.store(txn, SroContext.status, status)
            operation.store(txn, SroContext.ending, 1)
            operation.store(txn, SroContext.phase, Phase.RECLAIM)
        else:
            txn.set_state(operation.load(SroContext.rec), GranuleState.DELEGATED)
            close(rmm, operation, txn)
    return incomplete(MemReq.RECLAIM) if holds else int(status)


def close(rmm: Monitor, operation: Operation, txn: Transaction) -> None:
    """Free the context, and let the realm be without this operation."""
    if operation.load(SroContext.counted):
        realm = rmm.realm(operation.load(SroContext.rd))
        if realm is not None:
            txn.store_word(realm.word("operations"), realm.operations - 1)
    operation.free(txn)
