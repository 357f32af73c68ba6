"""RMI calls as typed functions, with the results mapped to errno as Xen's wrappers do.

Enter at :class:`Rmi`. Three groups, by how a reply is completed:

* plain calls: X0 == 0 is the only success; BUSY is retried (the series takes BUSY for success there, and would dispatch
  a stale exit record after a busy REC_ENTER);
* calls that may take steps: BUSY is retried, INCOMPLETE driven by OP_CONTINUE to the final reply;
* calls that transfer memory: :meth:`Rmi.start` gives the raw reply to :mod:`hypervisor.arm.cca.sro`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, Protocol

from machine.board import SmcResult
from rmm.abi import rmi
from rmm.abi.registers import AddrType, DataFlags, MemReq
from rmm.abi.rmi import SMC_NOT_SUPPORTED, Status

#: How often a BUSY reply is retried after the first try.
BUSY_RETRIES: Final = 1_000_000

_BUSY: Final = int(Status.BUSY)
_INCOMPLETE: Final = int(Status.INCOMPLETE)
_RMI_ERRORS: Final = frozenset(
    int(status)
    for status in Status
    if status not in (Status.SUCCESS, Status.BUSY, Status.INCOMPLETE, Status.BLOCKED)
)
MEASURE: Final = int(DataFlags.make(MEASURE=1))
UNMAP_DISCARD: Final = int(AddrType.NONE)


def is_incomplete(x0: int) -> bool:
    """Whether a reply asks for more steps."""
    return x0 & 0xFF == _INCOMPLETE and x0 != SMC_NOT_SUPPORTED


def is_busy(x0: int) -> bool:
    """Whether a reply asks to try again."""
    return x0 & 0xFF == _BUSY


def is_pending(x0: int) -> bool:
    """Whether an operation goes on: INCOMPLETE or BUSY."""
    return x0 & 0xFF in (_BUSY, _INCOMPLETE) and x0 != SMC_NOT_SUPPORTED


def memory_request(x0: int) -> int:
    """The memory request of an INCOMPLETE reply (:class:`MemReq`, or 3)."""
    return x0 >> 8 & 3


def can_cancel(x0: int) -> bool:
    """Whether an INCOMPLETE reply allows OP_CANCEL."""
    return bool(x0 >> 10 & 1)


def is_rmi_error(x0: int) -> bool:
    """An error status of the RMI itself: not SUCCESS, BUSY, INCOMPLETE, BLOCKED or an unknown function."""
    return x0 != SMC_NOT_SUPPORTED and x0 & 0xFF in _RMI_ERRORS


def errno_of(x0: int) -> int:
    """The errno (positive, 0 for success) that a result maps to; BUSY and INCOMPLETE map to 0."""
    if x0 == SMC_NOT_SUPPORTED:
        return errno.EOPNOTSUPP
    status = x0 & 0xFF
    if x0 == 0 or status in (_BUSY, _INCOMPLETE):
        return 0
    return errno.EOPNOTSUPP if status == Status.ERROR_NOT_SUPPORTED else errno.EIO


class RmiFailure(Exception):
    """Raised when a command did not succeed: ``errno`` (positive), the last X0 and the command's name.

    Raised also for what the host refuses by itself (EBUSY after all retries, ENOMEM, a request it does not serve,
    EIO for a reply that breaks the protocol); ``detail`` then says so, and ``x0`` is the reply it stopped at.
    """

    def __init__(self, code: int, x0: int, command: str, detail: str = "") -> None:
        super().__init__(f"{command}: {detail or rmi.describe(x0)} ({errno.errorcode.get(code, code)})")
        self.errno = code
        self.x0 = x0
        self.command = command

    @property
    def status(self) -> int:
        """Bits [7:0] of X0."""
        return self.x0 & 0xFF

    @property
    def data(self) -> int:
        """X0 from bit 8 on."""
        return self.x0 >> 8

    @property
    def reportable(self) -> int:
        """X0 when it is what the toolstack is told (an RMI error, an unknown function), else 0."""
        return self.x0 if self.x0 == SMC_NOT_SUPPORTED or is_rmi_error(self.x0) else 0


class PendingOperation(Protocol):
    """Where an operation in flight is recorded, so that another process can find and end it."""

    def started(self, fid: int) -> None:
        """A memory-transferring command is about to be issued; its handle is not known yet."""

    def running(self, fid: int, handle: int, cancellable: bool) -> None:
        """The operation has a handle and is not over."""

    def ended(self) -> None:
        """The operation got its final status."""


class _Unrecorded:
    """For operations that need not survive their process."""

    def started(self, fid: int) -> None:
        pass

    def running(self, fid: int, handle: int, cancellable: bool) -> None:
        pass

    def ended(self) -> None:
        pass


UNRECORDED: Final[PendingOperation] = _Unrecorded()


def command_name(fid: int) -> str:
    """The command's name, for messages."""
    row = rmi.COMMANDS.get(fid)
    return row.name if row else f"{fid:#x}"


class Rmi:
    """RMI over one SMC conduit. Methods raise :class:`RmiFailure` unless they say otherwise."""

    def __init__(
        self,
        smc: Callable[..., SmcResult],
        pending: PendingOperation = UNRECORDED,
        busy_retries: int = BUSY_RETRIES,
    ) -> None:
        self.smc = smc
        self.pending = pending
        self.busy_retries = busy_retries

    # How a reply is completed.

    def start(self, fid: int, *args: int) -> SmcResult:
        """Issue a command, retrying BUSY; any other reply is answered as it is. EBUSY when it never stops."""
        reply = self.smc(fid, *args)
        if reply[0] & 0xFF == _BUSY:
            reply = self._retry(reply, fid, *args)
        return reply

    def _retry(self, reply: SmcResult, fid: int, *args: int) -> SmcResult:
        for _ in range(self.busy_retries):
            reply = self.smc(fid, *args)
            if reply[0] & 0xFF != _BUSY:
                return reply
        raise RmiFailure(errno.EBUSY, reply[0], command_name(fid))

    def plain(self, fid: int, *args: int) -> SmcResult:
        """A call that completes at once; anything but X0 == 0 is a failure."""
        reply = self.start(fid, *args)
        if reply[0]:
            raise RmiFailure(errno_of(reply[0]) or errno.EIO, reply[0], command_name(fid))
        return reply

    def steps(self, fid: int, *args: int) -> SmcResult:
        """A call that may need OP_CONTINUE; the final reply. One that asks for memory is cancelled: EOPNOTSUPP."""
        reply = self.smc(fid, *args)
        return self.finish(reply, fid, *args) if reply[0] else reply

    def finish(self, reply: SmcResult, fid: int, *args: int) -> SmcResult:
        """Complete a call that may need OP_CONTINUE from its first reply, as :meth:`steps` does."""
        if reply[0] & 0xFF == _BUSY:
            reply = self._retry(reply, fid, *args)
        if is_incomplete(reply[0]):
            reply = self._continue(fid, reply)
        if reply[0]:
            raise RmiFailure(errno_of(reply[0]) or errno.EIO, reply[0], command_name(fid))
        return reply

    def _continue(self, fid: int, reply: SmcResult) -> SmcResult:
        handle = reply[1]
        self.pending.running(fid, handle, can_cancel(reply[0]))
        while is_pending(reply[0]):
            if is_incomplete(reply[0]) and memory_request(reply[0]) != MemReq.NONE:
                asked = reply[0]
                if can_cancel(asked):
                    reply = self.start(rmi.OP_CANCEL, handle)
                    while is_incomplete(reply[0]) and memory_request(reply[0]) == MemReq.NONE:
                        reply = self.op_continue(handle)
                    if not is_pending(reply[0]):
                        self.pending.ended()
                raise RmiFailure(errno.EOPNOTSUPP, asked, command_name(fid), "asks for memory")
            reply = self.op_continue(handle)
        self.pending.ended()
        return reply

    def op_continue(self, handle: int) -> SmcResult:
        """OP_CONTINUE(keep going), retrying BUSY; EBUSY when it never stops."""
        return self.start(rmi.OP_CONTINUE, handle, 0)

    # Management.

    def version(self, requested: int) -> SmcResult:
        """VERSION, raw: X0, lower, higher."""
        return self.start(rmi.RMI_VERSION_FID, requested)

    def features(self, index: int) -> int:
        """A feature register; 0 (no features) on any error."""
        reply = self.start(rmi.FEATURES, index)
        return 0 if reply[0] else reply[1]

    def config_set(self, page: int) -> None:
        """RMM_CONFIG_SET from a Non-secure page."""
        self.plain(rmi.RMM_CONFIG_SET, page)

    def config_get(self, page: int) -> None:
        """RMM_CONFIG_GET into a Non-secure page."""
        self.plain(rmi.RMM_CONFIG_GET, page)

    def tracking_get(self, start: int, end: int) -> tuple[int, int, int]:
        """Memory category, tracking state and end of the run that starts at ``start``."""
        reply = self.plain(rmi.GRANULE_TRACKING_GET, start, end)
        return reply[1], reply[2], reply[3]

    # Realm, REC.

    def realm_activate(self, rd: int) -> None:
        """NEW -> ACTIVE."""
        self.plain(rmi.REALM_ACTIVATE, rd)

    def realm_terminate(self, rd: int) -> None:
        """No REC of the realm can be entered any more."""
        self.steps(rmi.REALM_TERMINATE, rd)

    def psci_complete(self, calling: int, target: int, status: int) -> None:
        """Answer the calling REC's pending PSCI request."""
        self.plain(rmi.PSCI_COMPLETE, calling, target, status & 0xFFFF_FFFF_FFFF_FFFF)

    # RTT.

    def rtt_create(self, rd: int, rtt: int, ipa: int, level: int) -> None:
        """A table whose entries are of ``level``."""
        self.steps(rmi.RTT_CREATE, rd, rtt, ipa, level)

    def rtt_destroy(self, rd: int, ipa: int, level: int) -> int:
        """The freed table's granule."""
        return self.steps(rmi.RTT_DESTROY, rd, ipa, level)[1]

    def set_ripas(self, rd: int, rec: int, base: int, top: int) -> int:
        """Carry the REC's pending change out on [base, top); how far it came."""
        return self.steps(rmi.RTT_SET_RIPAS, rd, rec, base, top)[1]

    def data_unmap(self, rd: int, base: int, top: int) -> int:
        """Unmap what is mapped in [base, top), discarding the addresses (the host knows them); how far it came."""
        return self.steps(rmi.RTT_DATA_UNMAP, rd, base, top, UNMAP_DISCARD, 0)[1]
