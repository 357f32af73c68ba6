"""Stateful RMM operations that transfer memory: donating pages, reclaiming them, giving up.

Enter at :meth:`SroEngine.run`: it issues a command and drives it to its final status. Which pages the operation may
take, and which it took, is in a :class:`hypervisor.arm.cca.ledger.Ledger`; every page is written there before it is
delegated. :meth:`SroEngine.resume` ends an operation whose process has died.

Served, as in the series: 4 KiB blocks, not contiguous, delegated, one descriptor a page, at most one list page.
Different from it: an operation that cannot go on is ended also when it may not be cancelled (by a donation that it has
to refuse), BUSY is retried everywhere, and a BLOCKED reply to a step is not taken for the operation's end.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection
from typing import Final, NoReturn

from hypervisor.arm.cca import rmi as calls
from hypervisor.arm.cca.granules import delegate, reclaim, runs
from hypervisor.arm.cca.ledger import Entry, Ledger
from hypervisor.arm.cca.ports import HostPages
from hypervisor.arm.cca.rmi import Rmi, RmiFailure, command_name, errno_of, is_incomplete, is_pending
from machine.board import SmcResult
from machine.memory import GRANULE_SIZE, NonSecureView
from rmm.abi import rmi as abi
from rmm.abi.registers import MAX_LIST_COUNT, AddrRangeDesc, BlockSize, DonateReq, MemReq, MemState
from rmm.abi.rmi import Status

#: Pages that an operation other than a REC's may take (the series' cap).
DONATION_CAP: Final = 64
#: Handles looked at for an operation whose handle was never recorded.
PROBED_HANDLES: Final = 256


class _Refused(Exception):
    """A step cannot be carried out: ``code`` is the errno; the operation is to be given up.

    ``over`` is the X0 of a reply that ended the operation at the same time.
    """

    def __init__(self, code: int, why: str, over: int | None = None) -> None:
        super().__init__(why)
        self.code = code
        self.over = over


class SroEngine:
    """Drives operations one at a time. ``list_page`` is a Non-secure page for address lists."""

    def __init__(self, rmi: Rmi, ns: NonSecureView, pages: HostPages, list_page: int) -> None:
        self._rmi = rmi
        self._ns = ns
        self._pages = pages
        self._list = list_page

    def run(self, fid: int, args: tuple[int, ...], ledger: Ledger, capacity: int) -> SmcResult:
        """Issue the command and complete it; ``capacity`` is how many new pages it may take (0: none).

        Answers the final reply, X0 == 0. RmiFailure otherwise, with the last X0; pages that the RMM still holds are
        then HELD in the ledger, and those that could not be undelegated ABANDONED.
        """
        self._rmi.pending.started(fid)
        reply = self._rmi.start(fid, *args)
        if not is_incomplete(reply[0]):
            self._rmi.pending.ended()
            return self._final(fid, reply)
        return self._drive(fid, reply[1], reply, ledger, capacity)

    def _final(self, fid: int, reply: SmcResult) -> SmcResult:
        if reply[0]:
            raise RmiFailure(errno_of(reply[0]) or errno.EIO, reply[0], command_name(fid))
        return reply

    def _drive(self, fid: int, handle: int, reply: SmcResult, ledger: Ledger, capacity: int) -> SmcResult:
        cancellable = False
        while is_pending(reply[0]):
            if is_incomplete(reply[0]):
                cancellable = calls.can_cancel(reply[0])
                self._rmi.pending.running(fid, handle, cancellable)
            try:
                reply = self._step(handle, reply, ledger, capacity)
            except _Refused as refused:
                self._give_up(fid, handle, cancellable, refused, reply, ledger)
            if reply[0] & 0xFF == Status.BLOCKED:
                # The operation is still open, and nothing that this host has in flight blocks it.
                self._give_up(fid, handle, cancellable, _Refused(errno.EIO, "blocked"), reply, ledger)
        self._rmi.pending.ended()
        return self._final(fid, reply)

    def _step(self, handle: int, reply: SmcResult, ledger: Ledger, capacity: int) -> SmcResult:
        request = calls.memory_request(reply[0]) if is_incomplete(reply[0]) else MemReq.NONE
        if request == MemReq.DONATE:
            return self._donate(handle, DonateReq(reply[2]), ledger, capacity)
        if request == MemReq.RECLAIM:
            return self._reclaim(handle, ledger)
        if request == MemReq.NONE:
            return self._rmi.op_continue(handle)
        raise _Refused(errno.EOPNOTSUPP, f"memory request {request}")

    # Donating.

    def _donate(self, handle: int, request: DonateReq, ledger: Ledger, capacity: int) -> SmcResult:
        count = request.COUNT
        if capacity == 0:
            raise _Refused(errno.EOPNOTSUPP, "no donation is allowed here")
        if request.BLOCK_SIZE != BlockSize.L3 or request.CONTIGUOUS or request.STATE != MemState.DELEGATED:
            raise _Refused(errno.EOPNOTSUPP, f"unsupported {request!r}")
        if count == 0:
            raise _Refused(errno.EINVAL, "a donation of no pages")
        if count > min(capacity, ledger.capacity) - len(ledger) or count > MAX_LIST_COUNT:
            raise _Refused(errno.E2BIG, f"a donation of {count} pages")
        try:
            fresh = sorted(self._pages.alloc(count))
        except MemoryError as error:
            raise _Refused(errno.ENOMEM, str(error)) from None
        for pa in fresh:
            ledger.offer(pa)
        try:
            for base, top in runs(fresh):
                delegate(self._rmi, base, top)
        except RmiFailure as failure:
            self._withdraw(fresh, ledger)
            raise _Refused(failure.errno, str(failure)) from None
        self._ns.write(self._list, struct.pack(f"<{count}Q", *(AddrRangeDesc.of(pa) for pa in fresh)))
        reply = self._rmi.start(abi.OP_MEM_DONATE, handle, self._list, count)
        # The count is valid whatever the status.
        consumed = min(reply[1], count)
        for pa in fresh[:consumed]:
            ledger.mark(pa, Entry.HELD)
        withdrawn = self._withdraw(fresh[consumed:], ledger)
        over = 0 if reply[0] == 0 else None
        if reply[1] > count:
            raise _Refused(errno.EIO, f"{reply[1]} of {count} pages consumed", over)
        if not withdrawn:
            raise _Refused(errno.EIO, "a refused page cannot be undelegated", over)
        # A failed donation is kept in the operation; its next step reports it.
        return self._rmi.op_continue(handle) if calls.is_rmi_error(reply[0]) else reply

    def _withdraw(self, pages: list[int], ledger: Ledger) -> bool:
        """Take offered pages back; False when one of them had to be abandoned."""
        free: list[int] = []
        clean = True
        for pa in pages:
            if reclaim(self._rmi, self._ns, pa):
                ledger.drop(pa)
                free.append(pa)
            else:
                ledger.mark(pa, Entry.ABANDONED)
                clean = False
        self._pages.free(free)
        return clean

    # Reclaiming.

    def _reclaim(self, handle: int, ledger: Ledger) -> SmcResult:
        held = ledger.pages(Entry.HELD)
        if not held:
            raise _Refused(errno.EIO, "asks to reclaim, but holds nothing")
        self._ns.zero(self._list, GRANULE_SIZE)
        reply = self._rmi.start(abi.OP_MEM_RECLAIM, handle, self._list, min(len(held), MAX_LIST_COUNT))
        if not is_incomplete(reply[0]):
            return reply
        written = min(reply[1], len(held))
        refused: _Refused | None = None
        for word in struct.unpack(f"<{written}Q", self._ns.read(self._list, written * 8)):
            descriptor = AddrRangeDesc(word)
            if descriptor.BLOCK_SIZE != BlockSize.L3 or descriptor.STATE != MemState.DELEGATED or not descriptor.COUNT:
                refused = _Refused(errno.EIO, f"bad {descriptor!r}")
                break
            for index in range(descriptor.COUNT):
                pa = descriptor.address + index * GRANULE_SIZE
                if pa not in held:
                    refused = _Refused(errno.ENOENT, f"page {pa:#x} was never donated")
                    break
                self._withdraw([pa], ledger)
            if refused:
                break
        if refused is None and reply[1] > len(held):
            refused = _Refused(errno.EIO, f"{reply[1]} descriptors for {len(held)} pages")
        if refused:
            raise refused
        return reply

    # Giving up.

    def _give_up(
        self, fid: int, handle: int, cancellable: bool, refused: _Refused, reply: SmcResult, ledger: Ledger
    ) -> NoReturn:
        """End the operation if there is a way, and raise; one that cannot be ended stays recorded as in flight."""
        final = refused.over
        if final is None:
            if cancellable:
                final = self._cancel(handle, ledger)
            elif is_incomplete(reply[0]) and calls.memory_request(reply[0]) == MemReq.DONATE:
                final = self._drain(handle, self._offer_nothing(handle), ledger)
        if final is None:
            raise RmiFailure(refused.code, reply[0], command_name(fid), str(refused))
        self._rmi.pending.ended()
        code = refused.code if not cancellable else errno_of(final) or refused.code
        raise RmiFailure(code, final or reply[0], command_name(fid), str(refused))

    def _cancel(self, handle: int, ledger: Ledger) -> int | None:
        """OP_CANCEL and what follows; the final X0, None when the operation could not be ended."""
        reply = self._rmi.start(abi.OP_CANCEL, handle)
        return None if errno_of(reply[0]) else self._drain(handle, reply, ledger)

    def _offer_nothing(self, handle: int) -> SmcResult:
        """Make an operation that wants memory, and may not be cancelled, fail.

        A donation that cannot be accepted (the list page itself, which is not delegated) is recorded as the operation's
        failure, and the next step reports it.
        """
        self._ns.write(self._list, struct.pack("<Q", AddrRangeDesc.of(self._list)))
        reply = self._rmi.start(abi.OP_MEM_DONATE, handle, self._list, 1)
        return self._rmi.op_continue(handle) if calls.is_rmi_error(reply[0]) else reply

    def _drain(self, handle: int, reply: SmcResult, ledger: Ledger) -> int | None:
        """Take back what a failing operation holds; its final X0, None when it could not be ended."""
        while is_pending(reply[0]):
            request = calls.memory_request(reply[0]) if is_incomplete(reply[0]) else MemReq.NONE
            try:
                if request == MemReq.RECLAIM:
                    reply = self._reclaim(handle, ledger)
                elif request == MemReq.NONE:
                    reply = self._rmi.op_continue(handle)
                else:
                    return None
            except _Refused:
                return None
        return None if reply[0] & 0xFF == Status.BLOCKED else reply[0]

    # After a crash.

    def adopt(self, fid: int, reply: SmcResult, ledger: Ledger) -> SmcResult:
        """Complete an operation that takes no memory from its first, INCOMPLETE reply, as :meth:`run` does."""
        self._suspect(ledger)
        return self._drive(fid, reply[1], reply, ledger, 0)

    def resume(self, fid: int, handle: int, cancellable: bool, ledger: Ledger) -> bool:
        """End an operation that its process left in flight; False when the RMM still has it open.

        What step it waits for is not known: the process may have died on either side of an SMC. A step that the
        operation does not wait for is refused with ERROR_INPUT and changes nothing, so they are tried in turn. All
        refused: the handle is dead, the operation was over.
        """
        self._suspect(ledger)
        if cancellable:
            final = self._cancel(handle, ledger)
            if final is not None:
                return self._ended(final)
        reply = self._rmi.op_continue(handle)
        if reply[0] == Status.ERROR_INPUT and ledger.pages(Entry.HELD):
            try:
                reply = self._reclaim(handle, ledger)
            except _Refused:
                return False
        if reply[0] == Status.ERROR_INPUT:
            reply = self._offer_nothing(handle)
        return self._ended(self._drain(handle, reply, ledger))

    def find(self, fid: int, in_use: Collection[int]) -> int | None:
        """The handle of an operation that is open, when its process died before it could record it.

        Asked of each handle is something that changes nothing: to reclaim into an empty list, or to donate an empty
        one. Only for an RMM whose handles are small numbers; ``in_use`` are those that others have recorded. None when
        there is no such operation, or more than one.
        """
        wants = MemReq.DONATE if fid == abi.REC_CREATE else MemReq.RECLAIM
        step = abi.OP_MEM_DONATE if wants == MemReq.DONATE else abi.OP_MEM_RECLAIM
        found = []
        for handle in range(PROBED_HANDLES):
            if handle not in in_use:
                x0 = self._rmi.start(step, handle, self._list, 0)[0]
                if is_incomplete(x0) and calls.memory_request(x0) == wants:
                    found.append(handle)
        return found[0] if len(found) == 1 else None

    @staticmethod
    def _suspect(ledger: Ledger) -> None:
        """Pages on offer when the process died may have been taken; what was not comes back by undelegating it."""
        for pa in ledger.pages(Entry.OFFERED):
            ledger.mark(pa, Entry.HELD)

    def _ended(self, final: int | None) -> bool:
        if final is None:
            return False
        self._rmi.pending.ended()
        return True
