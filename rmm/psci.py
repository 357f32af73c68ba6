"""PSCI 1.1 as the RMM offers it to a Realm (DEN0137 2.0-bet1, B6; Arm DEN0022), and the two SMCCC functions beside it.

What concerns one vCPU is answered here or passed to the host; what concerns another (CPU_ON, AFFINITY_INFO) waits for
the host's PSCI_COMPLETE, because only the host knows which REC the MPIDR belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rmm import exits
from rmm.abi.psci import (
    PSCI_64,
    PSCI_VERSION_1_1,
    SMC64,
    SMCCC_VERSION,
    SMCCC_VERSION_1_2,
    Affinity,
    PsciFunction,
    PsciStatus,
)
from rmm.realm import RealmState
from rmm.rec import Pending, rec_index
from rmm.rsi import HANDLERS, Answer, Handler, done, leave

if TYPE_CHECKING:
    from rmm.session import Session

_LOW = 0xFFFF_FFFF
#: SCTLR_EL1.EE, the endianness that a CPU_ON passes on.
_SCTLR_EE = 1 << 25


def psci(function: PsciFunction) -> Callable[[Handler], Handler]:
    """Register the handler of a function, in its SMC64 form too where it has one."""

    def register(handler: Handler) -> Handler:
        HANDLERS[int(function)] = handler
        if function in PSCI_64:
            HANDLERS[int(function) | SMC64] = handler
        return handler

    return register


def _arguments(x: Sequence[int]) -> Sequence[int]:
    """X0..X3, as wide as the calling convention of the function id makes them."""
    return x[:4] if x[0] & SMC64 else [value & _LOW for value in x[:4]]


@psci(PsciFunction.VERSION)
def version(session: Session, x: Sequence[int]) -> Answer:
    """PSCI 1.1."""
    return done(PSCI_VERSION_1_1)


@psci(PsciFunction.CPU_SUSPEND)
def cpu_suspend(session: Session, x: Sequence[int]) -> Answer:
    """The host blocks the vCPU until an interrupt; the call has succeeded when it runs again."""
    return Answer((PsciStatus.SUCCESS, 0, 0, 0), exits.psci(x[0]))


@psci(PsciFunction.CPU_OFF)
def cpu_off(session: Session, x: Sequence[int]) -> Answer:
    """Not runnable until another vCPU's CPU_ON."""
    session.rec.runnable = 0
    return Answer((PsciStatus.SUCCESS, 0, 0, 0), exits.psci(x[0]))


@psci(PsciFunction.CPU_ON)
def cpu_on(session: Session, x: Sequence[int]) -> Answer:
    """X1: MPIDR, X2: entry point, X3: context id."""
    function, mpidr, entry, context = _arguments(x)
    if entry >= session.par_size:
        return done(PsciStatus.INVALID_ADDRESS)
    index = rec_index(mpidr)
    if index is None or index >= session.realm.rec_index_next:
        return done(PsciStatus.INVALID_PARAMETERS)
    if index == session.rec.index:
        return done(PsciStatus.ALREADY_ON)
    session.rec.psci_entry = entry
    session.rec.psci_context = context
    session.rec.psci_big_endian = int(bool(session.cpu.sysreg("SCTLR_EL1") & _SCTLR_EE))
    return _ask(session, function, mpidr)


@psci(PsciFunction.AFFINITY_INFO)
def affinity_info(session: Session, x: Sequence[int]) -> Answer:
    """X1: MPIDR, X2: lowest affinity level, which has to be 0."""
    function, mpidr, level, _ = _arguments(x)
    index = rec_index(mpidr)
    if level or index is None or index >= session.realm.rec_index_next:
        return done(PsciStatus.INVALID_PARAMETERS)
    if index == session.rec.index:
        return done(Affinity.ON)
    return _ask(session, function, mpidr)


def _ask(session: Session, function: int, mpidr: int) -> Answer:
    """Leave with the request; no entry until the host's PSCI_COMPLETE."""
    rec = session.rec
    rec.psci_function = function
    rec.psci_target = mpidr
    rec.pending |= Pending.PSCI
    return leave(exits.psci(function, mpidr))


@psci(PsciFunction.SYSTEM_OFF)
@psci(PsciFunction.SYSTEM_RESET)
def system_off(session: Session, x: Sequence[int]) -> Answer:
    """No REC of the realm runs again; the host decides between power off and reset by the function id."""
    with session.rmm.commit() as txn:
        txn.store_word(session.realm.state_word, RealmState.SYSTEM_OFF)
    return leave(exits.psci(x[0]))


@psci(PsciFunction.FEATURES)
def features(session: Session, x: Sequence[int]) -> Answer:
    """X1: function id. PSCI_VERSION itself is not in the list (TF-RMM)."""
    return done(PsciStatus.SUCCESS if x[1] & _LOW in _FEATURES else PsciStatus.NOT_SUPPORTED)


def _smccc_version(session: Session, x: Sequence[int]) -> Answer:
    return done(SMCCC_VERSION_1_2)


HANDLERS[SMCCC_VERSION] = _smccc_version
_FEATURES = frozenset(
    {int(function) for function in PsciFunction if function != PsciFunction.VERSION}
    | {function | SMC64 for function in PSCI_64}
    | {SMCCC_VERSION}
)
