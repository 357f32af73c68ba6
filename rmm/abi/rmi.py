"""RMI: result codes and the command table (DEN0137 2.0-bet1, B3).

A row of :data:`COMMANDS` is all there is to know about a command from outside: id, name, arguments, outputs, whether
the specification makes it a stateful operation. Argument kinds drive the tracer's formatting and the fuzz strategies:
``pa`` a granule, ``ns`` a Non-secure granule, ``rd``, ``rec``, ``rtt`` granules in that state, ``ipa``, ``level``,
``flags``, ``handle``, ``int``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from rmm.abi.registers import MemReq

#: RmiInterfaceVersion that this ABI describes: 2.0.
RMI_VERSION = 0x2_0000
RMI_BASE = 0xC400_0150
#: x0 of an unknown function.
SMC_NOT_SUPPORTED = 0xFFFF_FFFF_FFFF_FFFF


class Status(IntEnum):
    """RmiStatusCode: bits [7:0] of x0."""

    SUCCESS = 0
    ERROR_INPUT = 1
    ERROR_REALM = 2
    ERROR_REC = 3
    ERROR_RTT = 4
    ERROR_NOT_SUPPORTED = 5
    ERROR_DEVICE = 6
    ERROR_RTT_AUX = 7
    ERROR_PSMMU_ST = 8
    ERROR_DPT = 9
    BUSY = 10
    ERROR_GLOBAL = 11
    ERROR_TRACKING = 12
    INCOMPLETE = 13
    BLOCKED = 14
    ERROR_GPT = 15
    ERROR_GRANULE = 16


def result(status: int, data: int = 0) -> int:
    """x0 from a status and its data (level, memory request)."""
    return status | (data & 0xFF_FFFF_FFFF_FFFF) << 8


def error_rtt(level: int) -> int:
    """x0 of ERROR_RTT with the level where the walk stopped (-1..3)."""
    return Status.ERROR_RTT | (level & 0xFF) << 8


def incomplete(request: int, can_cancel: bool = False) -> int:
    """x0 of INCOMPLETE with the memory request and whether OP_CANCEL is allowed."""
    return Status.INCOMPLETE | request << 8 | can_cancel << 10


def describe(x0: int) -> str:
    """x0 in words, for logs and traces: ``ERROR_RTT(3)``, ``INCOMPLETE(mem=DONATE,cancel=0)``."""
    if x0 == SMC_NOT_SUPPORTED:
        return "NOT_SUPPORTED(-1)"
    status = x0 & 0xFF
    if status not in Status._value2member_map_:
        return f"status {x0:#x}"
    name = Status(status).name
    if status in (Status.ERROR_RTT, Status.ERROR_RTT_AUX):
        level = (x0 >> 8) & 0xFF
        return f"{name}({level - 256 if level > 127 else level})"
    if status == Status.INCOMPLETE:
        request = (x0 >> 8) & 3
        word = MemReq(request).name if request in MemReq._value2member_map_ else str(request)
        return f"{name}(mem={word},cancel={(x0 >> 10) & 1})"
    return name if x0 == status else f"{name}({x0 >> 8:#x})"


class Argument(NamedTuple):
    """An input register: its name and kind."""

    name: str
    kind: str


class Command(NamedTuple):
    """A row of the table. ``stateful``: "" (plain call), "steps" (may need OP_CONTINUE), "memory" (DONATE, RECLAIM)."""

    fid: int
    name: str
    arguments: tuple[Argument, ...]
    outputs: tuple[str, ...]
    stateful: str
    section: str


def _row(offset: int, name: str, arguments: str, outputs: str, stateful: str, section: str) -> Command:
    pairs = (item.partition(":") for item in arguments.split())
    return Command(
        RMI_BASE + offset,
        name,
        tuple(Argument(word, kind or word) for word, _, kind in pairs),
        tuple(outputs.split()),
        stateful,
        section,
    )


# fmt: off
_TABLE = (
    #    offset  name                         arguments                                          outputs               stateful  section
    _row(0x00, "RMI_VERSION",                 "req:int",                                         "lower higher",       "",       "B3.1"),
    _row(0x03, "RMI_RTT_DATA_MAP_INIT",       "rd data:pa ipa src:ns flags",                     "",                   "steps",  "B3.2"),
    _row(0x07, "RMI_REALM_ACTIVATE",          "rd",                                              "",                   "",       "B3.2"),
    _row(0x08, "RMI_REALM_CREATE",            "rd:pa params:ns",                                 "handle request",     "memory", "B3.2"),
    _row(0x09, "RMI_REALM_DESTROY",           "rd",                                              "handle",             "memory", "B3.2"),
    _row(0x0A, "RMI_REC_CREATE",              "rd rec:pa params:ns",                             "handle request",     "memory", "B3.2"),
    _row(0x0B, "RMI_REC_DESTROY",             "rec",                                             "handle",             "memory", "B3.2"),
    _row(0x0C, "RMI_REC_ENTER",               "rec run:ns",                                      "",                   "",       "B3.2"),
    _row(0x0D, "RMI_RTT_CREATE",              "rd rtt:pa ipa level",                             "",                   "steps",  "B3.2"),
    _row(0x0E, "RMI_RTT_DESTROY",             "rd ipa level",                                    "rtt top",            "steps",  "B3.2"),
    _row(0x11, "RMI_RTT_READ_ENTRY",          "rd ipa level",                                    "level state desc ripas", "",   "B3.2"),
    _row(0x14, "RMI_PSCI_COMPLETE",           "calling:rec target:rec status:int",               "",                   "",       "B3.2"),
    _row(0x15, "RMI_FEATURES",                "index:int",                                       "value",              "",       "B3.1"),
    _row(0x16, "RMI_RTT_FOLD",                "rd ipa level",                                    "rtt",                "steps",  "B3.2"),
    _row(0x18, "RMI_RTT_INIT_RIPAS",          "rd base:ipa top:ipa",                             "out_top",            "steps",  "B3.2"),
    _row(0x19, "RMI_RTT_SET_RIPAS",           "rd rec base:ipa top:ipa",                         "out_top",            "steps",  "B3.2"),
    _row(0x1E, "RMI_RMM_CONFIG_SET",          "config:ns",                                       "",                   "",       "B3.1"),
    _row(0x91, "RMI_GRANULE_TRACKING_GET",    "start:pa end:pa",                                 "category state out_top", "",   "B3.1"),
    _row(0x9C, "RMI_RMM_CONFIG_GET",          "config:ns",                                       "",                   "",       "B3.1"),
    _row(0xA1, "RMI_GRANULE_RANGE_DELEGATE",  "base:pa top:pa",                                  "out_top",            "steps",  "B3.1"),
    _row(0xA2, "RMI_GRANULE_RANGE_UNDELEGATE", "base:pa top:pa",                                 "out_top",            "steps",  "B3.1"),
    _row(0xA3, "RMI_GPT_L1_CREATE",           "base:pa",                                         "handle request",     "memory", "B3.1"),
    _row(0xA5, "RMI_RTT_DATA_MAP",            "rd base:ipa top:ipa flags oaddr:pa",              "out_top",            "steps",  "B3.2"),
    _row(0xA6, "RMI_RTT_DATA_UNMAP",          "rd base:ipa top:ipa flags oaddr:ns",              "out_top range count", "steps", "B3.2"),
    _row(0xAB, "RMI_RTT_UNPROT_MAP",          "rd base:ipa top:ipa flags oaddr:pa",              "out_top",            "steps",  "B3.2"),
    _row(0xAC, "RMI_RTT_UNPROT_UNMAP",        "rd base:ipa top:ipa flags oaddr:ns",              "out_top range count", "steps", "B3.2"),
    _row(0xB1, "RMI_REALM_TERMINATE",         "rd",                                              "",                   "steps",  "B3.2"),
    _row(0xB2, "RMI_RMM_ACTIVATE",            "",                                                "handle request",     "memory", "B3.1"),
    _row(0xB3, "RMI_OP_CONTINUE",             "handle flags",                                    "x1 request x3",      "",       "B3.1"),
    _row(0xB8, "RMI_OP_MEM_DONATE",           "handle list:ns count:int",                        "count request",      "",       "B3.1"),
    _row(0xB9, "RMI_OP_MEM_RECLAIM",          "handle list:ns capacity:int",                     "count",              "",       "B3.1"),
    _row(0xBA, "RMI_OP_CANCEL",               "handle",                                          "",                   "",       "B3.1"),
)
# fmt: on

#: Commands by function id.
COMMANDS: dict[int, Command] = {row.fid: row for row in _TABLE}
#: Commands by name.
BY_NAME: dict[str, Command] = {row.name: row for row in _TABLE}

RMI_VERSION_FID = BY_NAME["RMI_VERSION"].fid
RTT_DATA_MAP_INIT = BY_NAME["RMI_RTT_DATA_MAP_INIT"].fid
REALM_ACTIVATE = BY_NAME["RMI_REALM_ACTIVATE"].fid
REALM_CREATE = BY_NAME["RMI_REALM_CREATE"].fid
REALM_DESTROY = BY_NAME["RMI_REALM_DESTROY"].fid
REC_CREATE = BY_NAME["RMI_REC_CREATE"].fid
REC_DESTROY = BY_NAME["RMI_REC_DESTROY"].fid
REC_ENTER = BY_NAME["RMI_REC_ENTER"].fid
RTT_CREATE = BY_NAME["RMI_RTT_CREATE"].fid
RTT_DESTROY = BY_NAME["RMI_RTT_DESTROY"].fid
RTT_READ_ENTRY = BY_NAME["RMI_RTT_READ_ENTRY"].fid
PSCI_COMPLETE = BY_NAME["RMI_PSCI_COMPLETE"].fid
FEATURES = BY_NAME["RMI_FEATURES"].fid
RTT_FOLD = BY_NAME["RMI_RTT_FOLD"].fid
RTT_INIT_RIPAS = BY_NAME["RMI_RTT_INIT_RIPAS"].fid
RTT_SET_RIPAS = BY_NAME["RMI_RTT_SET_RIPAS"].fid
RMM_CONFIG_SET = BY_NAME["RMI_RMM_CONFIG_SET"].fid
RMM_CONFIG_GET = BY_NAME["RMI_RMM_CONFIG_GET"].fid
GRANULE_TRACKING_GET = BY_NAME["RMI_GRANULE_TRACKING_GET"].fid
GRANULE_RANGE_DELEGATE = BY_NAME["RMI_GRANULE_RANGE_DELEGATE"].fid
GRANULE_RANGE_UNDELEGATE = BY_NAME["RMI_GRANULE_RANGE_UNDELEGATE"].fid
GPT_L1_CREATE = BY_NAME["RMI_GPT_L1_CREATE"].fid
RTT_DATA_MAP = BY_NAME["RMI_RTT_DATA_MAP"].fid
RTT_DATA_UNMAP = BY_NAME["RMI_RTT_DATA_UNMAP"].fid
RTT_UNPROT_MAP = BY_NAME["RMI_RTT_UNPROT_MAP"].fid
RTT_UNPROT_UNMAP = BY_NAME["RMI_RTT_UNPROT_UNMAP"].fid
REALM_TERMINATE = BY_NAME["RMI_REALM_TERMINATE"].fid
RMM_ACTIVATE = BY_NAME["RMI_RMM_ACTIVATE"].fid
OP_CONTINUE = BY_NAME["RMI_OP_CONTINUE"].fid
OP_MEM_DONATE = BY_NAME["RMI_OP_MEM_DONATE"].fid
OP_MEM_RECLAIM = BY_NAME["RMI_OP_MEM_RECLAIM"].fid
OP_CANCEL = BY_NAME["RMI_OP_CANCEL"].fid
