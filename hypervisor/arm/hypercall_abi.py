"""The part of Xen's public interface that hypercalls of a plain Arm guest use, as tables.

Numbers are Xen's; structures are those of a 64-bit guest, as :class:`struct.Struct` with the members named beside.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

DOMID_SELF: Final = 0x7FF0


class Hypercall(IntEnum):
    """Hypercall numbers (X16); not all of them are implemented, but these have a name in the log."""

    MEMORY_OP = 12
    MULTICALL = 13
    XEN_VERSION = 17
    CONSOLE_IO = 18
    GRANT_TABLE_OP = 20
    VM_ASSIST = 21
    VCPU_OP = 24
    SCHED_OP = 29
    EVENT_CHANNEL_OP = 32
    PHYSDEV_OP = 33
    HVM_OP = 34
    SYSCTL = 35
    DOMCTL = 36


class Errno(IntEnum):
    """Xen's error numbers, returned negated."""

    EPERM = 1
    ESRCH = 3
    ENOMEM = 12
    EFAULT = 14
    EINVAL = 22
    ENOSPC = 28
    ENOSYS = 38


class MemoryOp(IntEnum):
    """XENMEM_*; bits above 5 of the command are the extent to resume at."""

    MAXIMUM_RAM_PAGE = 2
    CURRENT_RESERVATION = 3
    MAXIMUM_RESERVATION = 4
    ADD_TO_PHYSMAP = 7
    REMOVE_FROM_PHYSMAP = 15


class MapSpace(IntEnum):
    """XENMAPSPACE_*."""

    SHARED_INFO = 0
    GRANT_TABLE = 1


class VersionOp(IntEnum):
    """XENVER_*."""

    VERSION = 0
    EXTRAVERSION = 1
    COMPILE_INFO = 2
    CAPABILITIES = 3
    CHANGESET = 4
    PLATFORM_PARAMETERS = 5
    GET_FEATURES = 6
    PAGESIZE = 7
    GUEST_HANDLE = 8
    COMMANDLINE = 9


class Feature(IntEnum):
    """XENFEAT_* bits of submap 0."""

    WRITABLE_PAGE_TABLES = 0
    AUTO_TRANSLATED_PHYSMAP = 2
    MEMORY_OP_VNODE_SUPPORTED = 13
    ARM_SMCCC_SUPPORTED = 14
    NOT_DIRECT_MAPPED = 16


class EventOp(IntEnum):
    """EVTCHNOP_*."""

    BIND_VIRQ = 1
    CLOSE = 3
    SEND = 4
    STATUS = 5
    ALLOC_UNBOUND = 6
    BIND_IPI = 7
    BIND_VCPU = 8
    UNMASK = 9


class VcpuOp(IntEnum):
    """VCPUOP_*."""

    IS_UP = 3
    REGISTER_RUNSTATE_MEMORY_AREA = 5
    REGISTER_VCPU_INFO = 10


class SchedOp(IntEnum):
    """SCHEDOP_*."""

    YIELD = 0
    BLOCK = 1
    SHUTDOWN = 2
    POLL = 3


class GrantOp(IntEnum):
    """GNTTABOP_*."""

    SETUP_TABLE = 2
    QUERY_SIZE = 6
    SET_VERSION = 8
    GET_VERSION = 10


class HvmOp(IntEnum):
    """HVMOP_*."""

    SET_PARAM = 0
    GET_PARAM = 1


class HvmParam(IntEnum):
    """HVM_PARAM_* that an Arm guest may read; it may set none of them."""

    CALLBACK_IRQ = 0
    STORE_PFN = 1
    STORE_EVTCHN = 2
    CONSOLE_PFN = 17
    CONSOLE_EVTCHN = 18


#: HVM_PARAM_CALLBACK_IRQ: a PPI (2), level low (2), number 31.
CALLBACK_IRQ: Final = 2 << 56 | 2 << 8 | 31

CONSOLEIO_WRITE: Final = 0

#: domid, size, space, idx, gpfn.
ADD_TO_PHYSMAP: Final = struct.Struct("<HHIQQ")
#: domid, gpfn.
REMOVE_FROM_PHYSMAP: Final = struct.Struct("<H6xQ")
#: submap index, submap.
FEATURE_INFO: Final = struct.Struct("<II")
#: domid, index, value.
HVM_PARAM: Final = struct.Struct("<HHIQ")
#: mfn, offset, reserved.
REGISTER_VCPU_INFO: Final = struct.Struct("<QII")
#: state, state entry time (ns), time in running, runnable, blocked, offline (ns).
RUNSTATE: Final = struct.Struct("<i4xQ4Q")
#: ports handle, number of ports, timeout (ns of system time; 0 for none).
SCHED_POLL: Final = struct.Struct("<QI4xQ")
#: domid, number of frames, status, handle of the frame list.
SETUP_TABLE: Final = struct.Struct("<H2xIh6xQ")
#: domid, frames, most frames, status.
QUERY_SIZE: Final = struct.Struct("<H2xIIh2x")
#: domid, remote domid, port.
ALLOC_UNBOUND: Final = struct.Struct("<HHI")
#: virq, vCPU, port.
BIND_VIRQ: Final = struct.Struct("<III")
#: vCPU, port.
BIND_IPI: Final = struct.Struct("<II")
#: port, vCPU.
BIND_VCPU: Final = struct.Struct("<II")
#: domid, port, status, vCPU, detail (virq or remote domain).
EVENT_STATUS: Final = struct.Struct("<H2xIIIII")
U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")
