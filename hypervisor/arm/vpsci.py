"""PSCI as tables: function ids, return codes, and what a host does with each function (Arm DEN0022, version 1.1).

:data:`FUNCTIONS` has one row a function; :func:`lookup` finds it by id. Two users share it: the emulation for plain
guests, where the host computes the result, and the REC exit handling, where the RMM does and the host completes or
schedules (:class:`RecAction`). Affinities map to vCPU numbers as in :mod:`hypervisor.arm.affinity`.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final, NamedTuple

from rmm.abi import psci

#: PSCI_VERSION: 1.1.
VERSION: Final = psci.PSCI_VERSION_1_1
#: Bit 30 of a function id: the SMC64 calling convention.
SMC64: Final = psci.SMC64
#: SMCCC_VERSION, for which PSCI_FEATURES answers 0 as well.
SMCCC_VERSION: Final = psci.SMCCC_VERSION
#: Return codes (signed) and AFFINITY_INFO results: a Realm's, from the RMM, and a plain guest's are the same.
PsciError = psci.PsciStatus
AffinityState = psci.Affinity
#: MIGRATE_INFO_TYPE: no trusted OS that needs migration.
TOS_MIGRATION_NOT_REQUIRED: Final = 2
#: Highest affinity level of AFFINITY_INFO.
MAX_AFFINITY_LEVEL: Final = 3


class ShutdownReason(IntEnum):
    """Xen's shutdown codes that PSCI calls lead to."""

    POWEROFF = 0
    REBOOT = 1
    SUSPEND = 2


class RecAction(Enum):
    """What the host does when a REC exits for the function."""

    #: Not a function that a REC exits for: the domain crashes.
    UNSUPPORTED = "unsupported"
    #: Block unless an event is pending.
    STANDBY = "standby"
    #: Take the vCPU off the run queue until some CPU_ON.
    OFFLINE = "offline"
    #: PSCI_COMPLETE, then wake the target.
    COMPLETE_AND_WAKE = "complete and wake"
    #: PSCI_COMPLETE only.
    COMPLETE = "complete"
    #: Shut the domain down with the row's reason.
    SHUTDOWN = "shutdown"


class PsciFunction(NamedTuple):
    """A function: its SMC32 id, whether it has an SMC64 form (bit 30 set), and the host's part in a Realm."""

    name: str
    fid: int
    has_smc64: bool
    rec_action: RecAction
    reason: ShutdownReason | None = None


FUNCTIONS: Final[tuple[PsciFunction, ...]] = (
    PsciFunction("PSCI_VERSION", 0x8400_0000, False, RecAction.UNSUPPORTED),
    PsciFunction("CPU_SUSPEND", 0x8400_0001, True, RecAction.STANDBY),
    PsciFunction("CPU_OFF", 0x8400_0002, False, RecAction.OFFLINE),
    PsciFunction("CPU_ON", 0x8400_0003, True, RecAction.COMPLETE_AND_WAKE),
    PsciFunction("AFFINITY_INFO", 0x8400_0004, True, RecAction.COMPLETE),
    PsciFunction("MIGRATE_INFO_TYPE", 0x8400_0006, False, RecAction.UNSUPPORTED),
    PsciFunction("SYSTEM_OFF", 0x8400_0008, False, RecAction.SHUTDOWN, ShutdownReason.POWEROFF),
    PsciFunction("SYSTEM_RESET", 0x8400_0009, False, RecAction.SHUTDOWN, ShutdownReason.REBOOT),
    PsciFunction("PSCI_FEATURES", 0x8400_000A, False, RecAction.UNSUPPORTED),
    PsciFunction("SYSTEM_SUSPEND", 0x8400_000E, True, RecAction.UNSUPPORTED, ShutdownReason.SUSPEND),
)

#: Every function id, SMC32 and SMC64, to its row.
BY_ID: Final[dict[int, PsciFunction]] = {
    fid: row for row in FUNCTIONS for fid in ((row.fid, row.fid | SMC64) if row.has_smc64 else (row.fid,))
}

#: PSCI 0.1 numbers of Xen's device trees, before the ids were fixed.
PSCI_0_1_CPU_OFF: Final = 1
PSCI_0_1_CPU_ON: Final = 2


def lookup(fid: int) -> PsciFunction | None:
    """The function with this id (SMC32 or SMC64 form); None if there is none."""
    return BY_ID.get(fid)


def rec_action(fid: int) -> RecAction:
    """What the host does for a REC exit with this function id; UNSUPPORTED for any other id."""
    row = BY_ID.get(fid)
    return RecAction.UNSUPPORTED if row is None else row.rec_action


def features(fid: int) -> PsciError:
    """PSCI_FEATURES: SUCCESS for the functions of the table and SMCCC_VERSION, else NOT_SUPPORTED."""
    return PsciError.SUCCESS if fid in BY_ID or fid == SMCCC_VERSION else PsciError.NOT_SUPPORTED


def psci_0_1_error(code: PsciError) -> PsciError:
    """A CPU_ON error as PSCI 0.1 knows it: ALREADY_ON and INVALID_ADDRESS were INVALID_PARAMETERS."""
    if code in (PsciError.ALREADY_ON, PsciError.INVALID_ADDRESS):
        return PsciError.INVALID_PARAMETERS
    return code


def as_register(code: int) -> int:
    """A (negative) return code as X0 holds it: 64-bit two's complement."""
    return code & (1 << 64) - 1
