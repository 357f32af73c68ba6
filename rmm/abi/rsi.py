"""RSI: what a Realm asks of the RMM (DEN0137 2.0-bet1, B5): status codes and the command table."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

RSI_BASE = 0xC400_0190
#: RSI versions offered, lowest first: 1.0 and 1.1.
RSI_VERSIONS = (0x1_0000, 0x1_0001)


class RsiStatus(IntEnum):
    """RsiCommandReturnCode."""

    SUCCESS = 0
    ERROR_INPUT = 1
    ERROR_STATE = 2
    INCOMPLETE = 3
    ERROR_UNKNOWN = 4
    ERROR_DEVICE = 5


class RsiCommand(NamedTuple):
    """A row: function id, name, argument and output names (in register order from X1)."""

    fid: int
    name: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]


def _row(offset: int, name: str, arguments: str, outputs: str) -> RsiCommand:
    return RsiCommand(RSI_BASE + offset, name, tuple(arguments.split()), tuple(outputs.split()))


_TABLE = (
    _row(0x00, "RSI_VERSION", "req", "lower higher"),
    _row(0x01, "RSI_FEATURES", "index", "value"),
    _row(0x02, "RSI_MEASUREMENT_READ", "index", "v0 v1 v2 v3 v4 v5 v6 v7"),
    _row(0x03, "RSI_MEASUREMENT_EXTEND", "index size v0 v1 v2 v3 v4 v5 v6 v7", ""),
    _row(0x06, "RSI_REALM_CONFIG", "ipa", ""),
    _row(0x07, "RSI_IPA_STATE_SET", "base top ripas flags", "new_base response"),
    _row(0x08, "RSI_IPA_STATE_GET", "base top", "out_top ripas"),
    _row(0x09, "RSI_HOST_CALL", "ipa", ""),
)

#: Commands by function id.
RSI_COMMANDS: dict[int, RsiCommand] = {row.fid: row for row in _TABLE}
#: Commands by name.
RSI_BY_NAME: dict[str, RsiCommand] = {row.name: row for row in _TABLE}
