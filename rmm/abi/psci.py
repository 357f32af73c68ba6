"""PSCI 1.1 and SMCCC identifiers as a Realm uses them (DEN0137 2.0-bet1, B6; Arm DEN0022)."""

from __future__ import annotations

from enum import IntEnum

PSCI_VERSION_1_1 = 0x1_0001
SMCCC_VERSION_1_2 = 0x1_0002

SMCCC_VERSION = 0x8000_0000
SMCCC_ARCH_FEATURES = 0x8000_0001


class PsciFunction(IntEnum):
    """Function ids, the 32-bit form; SMC64 forms set bit 30 where they exist."""

    VERSION = 0x8400_0000
    CPU_SUSPEND = 0x8400_0001
    CPU_OFF = 0x8400_0002
    CPU_ON = 0x8400_0003
    AFFINITY_INFO = 0x8400_0004
    SYSTEM_OFF = 0x8400_0008
    SYSTEM_RESET = 0x8400_0009
    FEATURES = 0x8400_000A


#: Bit that turns a 32-bit function id into its SMC64 form.
SMC64 = 1 << 30
#: Functions with an SMC64 form.
PSCI_64 = frozenset({PsciFunction.CPU_SUSPEND, PsciFunction.CPU_ON, PsciFunction.AFFINITY_INFO})


class PsciStatus(IntEnum):
    """Return values, sign-extended to 64 bits in x0."""

    SUCCESS = 0
    NOT_SUPPORTED = -1
    INVALID_PARAMETERS = -2
    DENIED = -3
    ALREADY_ON = -4
    ON_PENDING = -5
    INTERNAL_FAILURE = -6
    NOT_PRESENT = -7
    DISABLED = -8
    INVALID_ADDRESS = -9


class Affinity(IntEnum):
    """AFFINITY_INFO results."""

    ON = 0
    OFF = 1
    ON_PENDING = 2
