"""Hypercalls of a plain guest (HVC #0xEA1): the number in X16, arguments in X0 to X4, the result in X0.

Enter at :class:`Hypercalls`. It is what Linux asks for when it boots as a PVH guest, and no more: a hypercall or a
sub-operation without a row here answers -ENOSYS and is logged once a domain. Structures are read and written at guest
virtual addresses; one that is not mapped is -EFAULT.

There is no XenStore and no PV console: their parameters read as zero, by which Linux knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hypervisor.arm import hypercall_abi as abi
from hypervisor.arm.cca.ports import Level, Log, RealmGuest, ShutdownReason, VcpuState
from hypervisor.arm.event_channels import NR_PORTS, VCPU_INFO_SIZE, EventChannels
from hypervisor.arm.guest_memory import GuestFault, GuestMemory
from hypervisor.arm.hypercall_abi import (
    Errno,
    Feature,
    GrantOp,
    HvmOp,
    HvmParam,
    Hypercall,
    MapSpace,
    MemoryOp,
    SchedOp,
    VcpuOp,
    VersionOp,
)
from hypervisor.arm.hypercall_error import HypercallError, check_domid, check_vcpu
from hypervisor.arm.hypercall_events import EventOperations
from hypervisor.arm.physmap import MAX_GRANT_FRAMES, Physmap
from machine.clock import NS_PER_TICK
from machine.memory import GRANULE_SIZE

if TYPE_CHECKING:
    from hypervisor.arm.guest_vcpu import GuestVcpu

#: The version of Xen that the device tree names too.
XEN_VERSION: Final = (4, 23)
FEATURES: Final = sum(1 << feature for feature in Feature)
#: Longest text of one CONSOLEIO_write that is logged, and longest line.
CONSOLE_LIMIT: Final = 4096
LINE_LIMIT: Final = 160
#: Most ports that a SCHEDOP_poll may name.
POLL_LIMIT: Final = 128
_MEMORY_OP_MASK: Final = 0x3F
_RUNNING: Final = 0
_SHUTDOWN_REASONS: Final = {int(reason): reason for reason in ShutdownReason}

Arguments = tuple[int, int, int, int, int]


class Hypercalls:
    """The hypercalls of one domain. ``handle`` is its UUID; ``memory`` is the guest's, as the loaded vCPU sees it."""

    def __init__(
        self,
        guest: RealmGuest,
        handle: bytes,
        memory: GuestMemory,
        physmap: Physmap,
        events: EventChannels,
        log: Log,
    ) -> None:
        self._guest = guest
        self._handle = handle
        self._memory = memory
        self._physmap = physmap
        self._events = events
        self._event_operations = EventOperations(guest, memory, events)
        self._log = log
        self._said: set[tuple[int, int]] = set()
        self._line = b""
        self._handlers: dict[int, Callable[[GuestVcpu, Arguments], int]] = {
            Hypercall.MEMORY_OP: self._memory_op,
            Hypercall.XEN_VERSION: self._xen_version,
            Hypercall.CONSOLE_IO: self._console_io,
            Hypercall.GRANT_TABLE_OP: self._grant_table_op,
            Hypercall.VCPU_OP: self._vcpu_op,
            Hypercall.EVENT_CHANNEL_OP: self._event_channel_op,
            Hypercall.HVM_OP: self._hvm_op,
        }

    def call(self, vcpu: GuestVcpu) -> VcpuState:
        """Carry out the hypercall of ``vcpu``, which is past the HVC; how the vCPU goes on."""
        number = vcpu.gpr(16) & 0xFFFF_FFFF
        arguments: Arguments = (vcpu.gpr(0), vcpu.gpr(1), vcpu.gpr(2), vcpu.gpr(3), vcpu.gpr(4))
        try:
            if number == Hypercall.SCHED_OP:
                return self._sched_op(vcpu, arguments)
            handler = self._handlers.get(number)
            result = self._unknown(number, arguments[0]) if handler is None else handler(vcpu, arguments)
        except HypercallError as error:
            result = -error.errno
        except GuestFault:
            result = -Errno.EFAULT
        except MemoryError:
            result = -Errno.ENOMEM
        vcpu.set_gpr(0, result & (1 << 64) - 1)
        return VcpuState.RUNNABLE

    def _unknown(self, number: int, operation: int) -> int:
        """-ENOSYS, and a line in the log the first time."""
        operation &= 0xFFFF_FFFF
        if (number, operation) not in self._said and len(self._said) < 64:
            self._said.add((number, operation))
            name = Hypercall(number).name.lower() if number in set(Hypercall) else "hypercall"
            text = f"d{self._guest.domid}: {name} ({number}) operation {operation} is not implemented"
            self._log(Level.GUEST_INFO, text)
        return -Errno.ENOSYS

    # memory_op

    def _memory_op(self, vcpu: GuestVcpu, arguments: Arguments) -> int:
        operation, pointer = arguments[0] & _MEMORY_OP_MASK, arguments[1]
        ram = sum(extent.size for extent in self._guest.ram) // GRANULE_SIZE
        if operation in (MemoryOp.CURRENT_RESERVATION, MemoryOp.MAXIMUM_RESERVATION):
            check_domid(self._guest, int.from_bytes(self._memory.read(pointer, 2), "little"))
            return ram
        if operation == MemoryOp.MAXIMUM_RAM_PAGE:
            last = self._guest.ram[-1]
            return (last.gpa + last.size) // GRANULE_SIZE - 1
        if operation == MemoryOp.ADD_TO_PHYSMAP:
            domid, _, space, index, gpfn = abi.ADD_TO_PHYSMAP.unpack(
                self._memory.read(pointer, abi.ADD_TO_PHYSMAP.size)
            )
            check_domid(self._guest, domid)
            return self._add_to_physmap(space, index, gpfn)
        if operation == MemoryOp.REMOVE_FROM_PHYSMAP:
            domid, gpfn = abi.REMOVE_FROM_PHYSMAP.unpack(self._memory.read(pointer, abi.REMOVE_FROM_PHYSMAP.size))
            check_domid(self._guest, domid)
            if not self._physmap.remove(gpfn * GRANULE_SIZE):
                raise HypercallError(Errno.EINVAL)
            return 0
        return self._unknown(Hypercall.MEMORY_OP, operation)

    def _add_to_physmap(self, space: int, index: int, gpfn: int) -> int:
        physmap = self._physmap
        try:
            if space == MapSpace.SHARED_INFO and index == 0:
                physmap.place(physmap.shared_info, gpfn * GRANULE_SIZE)
            elif space == MapSpace.GRANT_TABLE:
                physmap.grow_grant_table(index + 1)
                physmap.place(physmap.grant_frames[index], gpfn * GRANULE_SIZE)
            else:
                raise HypercallError(Errno.EINVAL if space == MapSpace.SHARED_INFO else Errno.ENOSYS)
        except ValueError:
            raise HypercallError(Errno.EINVAL) from None
        return 0

    # xen_version

    def _xen_version(self, vcpu: GuestVcpu, arguments: Arguments) -> int:
        operation, pointer = arguments[0] & 0xFFFF_FFFF, arguments[1]
        texts = {
            VersionOp.EXTRAVERSION: (b".0", 16),
            VersionOp.COMPILE_INFO: (b"", 64 + 16 + 32 + 32),
            VersionOp.CAPABILITIES: (b"xen-3.0-aarch64 ", 1024),
            VersionOp.CHANGESET: (b"unavailable", 64),
            VersionOp.PLATFORM_PARAMETERS: ((0x20_0000).to_bytes(8, "little"), 8),
            VersionOp.COMMANDLINE: (b"", 1024),
            VersionOp.GUEST_HANDLE: (self._handle, 16),
        }
        if operation == VersionOp.VERSION:
            return XEN_VERSION[0] << 16 | XEN_VERSION[1]
        if operation == VersionOp.PAGESIZE:
            return GRANULE_SIZE
        if operation == VersionOp.GET_FEATURES:
            index, _ = abi.FEATURE_INFO.unpack(self._memory.read(pointer, abi.FEATURE_INFO.size))
            if index:
                raise HypercallError(Errno.EINVAL)
            self._memory.write(pointer, abi.FEATURE_INFO.pack(0, FEATURES))
            return 0
        if operation in texts:
            text, size = texts[VersionOp(operation)]
            self._memory.write(pointer, text.ljust(size, b"\0"))
            return 0
        return self._unknown(Hypercall.XEN_VERSION, operation)

    # console_io

    def _console_io(self, vcpu: GuestVcpu, arguments: Arguments) -> int:
        """Output goes to the hypervisor's log, line by line; input is not for guests."""
        operation, count, pointer = arguments[0] & 0xFFFF_FFFF, arguments[1] & 0xFFFF_FFFF, arguments[2]
        if operation != abi.CONSOLEIO_WRITE:
            raise HypercallError(Errno.EPERM)
        *lines, self._line = (self._line + self._memory.read(pointer, min(count, CONSOLE_LIMIT))).split(b"\n")
        if len(self._line) > LINE_LIMIT:
            lines.append(self._line)
            self._line = b""
        for line in lines:
            text = "".join(c if c.isprintable() else "?" for c in line.rstrip(b"\r").decode("ascii", "replace"))
            self._log(Level.GUEST_INFO, f"(d{self._guest.domid}) {text}")
        return 0

    # grant_table_op

    def _grant_table_op(self, vcpu: GuestVcpu, arguments: Arguments) -> int:
        """The table exists, for the guest to grant pages; no other domain maps them. Version 1 only."""
        operation, pointer = arguments[0] & 0xFFFF_FFFF, arguments[1]
        memory, physmap = self._memory, self._physmap
        if operation == GrantOp.SET_VERSION:
            (version,) = abi.U32.unpack(memory.read(pointer, 4))
            memory.write(pointer, abi.U32.pack(1))
            if version != 1:
                raise HypercallError(Errno.ENOSYS if version == 2 else Errno.EINVAL)
            return 0
        if operation == GrantOp.GET_VERSION:
            memory.write(pointer + 4, abi.U32.pack(1))
            return 0
        if operation == GrantOp.QUERY_SIZE:
            domid, *_ = abi.QUERY_SIZE.unpack(memory.read(pointer, abi.QUERY_SIZE.size))
            check_domid(self._guest, domid)
            memory.write(pointer, abi.QUERY_SIZE.pack(domid, len(physmap.grant_frames), MAX_GRANT_FRAMES, 0))
            return 0
        if operation == GrantOp.SETUP_TABLE:
            domid, frames, _, list_ = abi.SETUP_TABLE.unpack(memory.read(pointer, abi.SETUP_TABLE.size))
            check_domid(self._guest, domid)
            try:
                physmap.grow_grant_table(frames)
            except ValueError:
                raise HypercallError(Errno.EINVAL) from None
            for number in range(frames):
                gpa = physmap.where(physmap.grant_frames[number])
                gfn = (1 << 64) - 1 if gpa is None else gpa // GRANULE_SIZE
                memory.write(list_ + 8 * number, abi.U64.pack(gfn))
            memory.write(pointer, abi.SETUP_TABLE.pack(domid, frames, 0, list_))
            return 0
        return self._unknown(Hypercall.GRANT_TABLE_OP, operation)

    # hvm_op

    def _hvm_op(self, vcpu: GuestVcpu, arguments: Arguments) -> int:
        operation, pointer = arguments[0] & 0xFFFF_FFFF, arguments[1]
        if operation not in (HvmOp.SET_PARAM, HvmOp.GET_PARAM):
            return self._unknown(Hypercall.HVM_OP, operation)
        domid, pad, index, _ = abi.HVM_PARAM.unpack(self._memory.read(pointer, abi.HVM_PARAM.size))
        check_domid(self._guest, domid)
        if index not in set(HvmParam):
            raise HypercallError(Errno.EINVAL)
        if operation == HvmOp.SET_PARAM:
            raise HypercallError(Errno.EPERM)
        value = abi.CALLBACK_IRQ if index == HvmParam.CALLBACK_IRQ else 0
        self._memory.write(pointer, abi.HVM_PARAM.pack(domid, pad, index, value))
        return 0

    # vcpu_op

    def _vcpu_op(self, vcpu: GuestVcpu, arguments: Arguments) -> int:
        operation, number, pointer = arguments[0] & 0xFFFF_FFFF, arguments[1] & 0xFFFF_FFFF, arguments[2]
        if operation == VcpuOp.IS_UP:
            return int(vcpu.siblings[check_vcpu(self._guest, number)].state is not VcpuState.DOWN)
        if operation == VcpuOp.REGISTER_VCPU_INFO:
            check_vcpu(self._guest, number)
            gfn, offset, _ = abi.REGISTER_VCPU_INFO.unpack(self._memory.read(pointer, abi.REGISTER_VCPU_INFO.size))
            if offset % 8 or offset + VCPU_INFO_SIZE > GRANULE_SIZE:
                raise HypercallError(Errno.EINVAL)
            pa = self._memory.physical(gfn * GRANULE_SIZE) + offset
            if not self._events.register_vcpu_info(number, pa):
                raise HypercallError(Errno.EINVAL)
            return 0
        if operation == VcpuOp.REGISTER_RUNSTATE_MEMORY_AREA:
            # Written once: the guest always runs, no time is stolen from it.
            check_vcpu(self._guest, number)
            (area,) = abi.U64.unpack(self._memory.read(pointer, 8))
            self._memory.write(area, abi.RUNSTATE.pack(_RUNNING, vcpu.clock() * NS_PER_TICK, 0, 0, 0, 0))
            return 0
        return self._unknown(Hypercall.VCPU_OP, operation)

    # sched_op

    def _sched_op(self, vcpu: GuestVcpu, arguments: Arguments) -> VcpuState:
        operation, pointer = arguments[0] & 0xFFFF_FFFF, arguments[1]
        if operation == SchedOp.SHUTDOWN:
            (code,) = abi.U32.unpack(self._memory.read(pointer, 4))
            reason = _SHUTDOWN_REASONS.get(code)
            if reason is None:
                # Suspend and its like: nothing here could resume the domain.
                raise HypercallError(Errno.EINVAL)
            if reason is ShutdownReason.CRASH:
                self._log(Level.GUEST_ERR, f"{vcpu.name}: the guest reports that it crashed")
            vcpu.set_gpr(0, 0)
            return vcpu.shut_down(reason)
        if operation == SchedOp.POLL:
            return self._poll(vcpu, pointer)
        result = 0 if operation in (SchedOp.YIELD, SchedOp.BLOCK) else self._unknown(Hypercall.SCHED_OP, operation)
        vcpu.set_gpr(0, result & (1 << 64) - 1)
        if operation == SchedOp.YIELD:
            return VcpuState.YIELDED
        return vcpu.block() if operation == SchedOp.BLOCK else VcpuState.RUNNABLE

    def _poll(self, vcpu: GuestVcpu, pointer: int) -> VcpuState:
        """Wait until one of the ports is pending (also a masked one), an interrupt is, or the time has come."""
        handle, count, timeout = abi.SCHED_POLL.unpack(self._memory.read(pointer, abi.SCHED_POLL.size))
        if count > POLL_LIMIT:
            raise HypercallError(Errno.EINVAL)
        ports = [abi.U32.unpack(self._memory.read(handle + 4 * number, 4))[0] for number in range(count)]
        if any(port >= NR_PORTS for port in ports):
            raise HypercallError(Errno.EINVAL)
        vcpu.set_gpr(0, 0)
        if self._events.any_pending(ports):
            return VcpuState.RUNNABLE
        if timeout and not vcpu.timers.start_wait(-(-timeout // NS_PER_TICK), vcpu.clock()):
            return VcpuState.RUNNABLE
        vcpu.polled = ports
        state = vcpu.block()
        if state is not VcpuState.BLOCKED:
            vcpu.polled = ()
            vcpu.timers.stop_wait()
        return state

    # event_channel_op

    def _event_channel_op(self, vcpu: GuestVcpu, arguments: Arguments) -> int:
        operation, pointer = arguments[0] & 0xFFFF_FFFF, arguments[1]
        result = self._event_operations.call(operation, pointer)
        return self._unknown(Hypercall.EVENT_CHANNEL_OP, operation) if result is None else result
