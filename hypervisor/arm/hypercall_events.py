"""The hypercall event_channel_op: opening, closing and using the ports of :mod:`hypervisor.arm.event_channels`.

Enter at :meth:`EventOperations.call`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.arm import hypercall_abi as abi
from hypervisor.arm.cca.ports import RealmGuest
from hypervisor.arm.event_channels import (
    NR_PORTS,
    STATUS_CLOSED,
    STATUS_IPI,
    STATUS_UNBOUND,
    STATUS_VIRQ,
    EventChannels,
    Port,
)
from hypervisor.arm.guest_memory import GuestMemory
from hypervisor.arm.hypercall_abi import Errno, EventOp
from hypervisor.arm.hypercall_error import HypercallError, check_domid, check_vcpu

#: Virtual interrupts that Xen has numbers for.
NR_VIRQS: Final = 24


class EventOperations:
    """The operations of one guest."""

    def __init__(self, guest: RealmGuest, memory: GuestMemory, events: EventChannels) -> None:
        self._guest = guest
        self._memory = memory
        self._events = events

    def call(self, operation: int, pointer: int) -> int | None:
        """The result of an operation on the structure at ``pointer``; None for one that is not here.

        :raises HypercallError: when the guest asks for what cannot be.
        :raises GuestFault: when the structure is not mapped.
        """
        handler = _OPERATIONS.get(operation)
        return None if handler is None else handler(self, pointer)

    def _port(self, number: int) -> Port:
        port = self._events.ports.get(number)
        if port is None:
            raise HypercallError(Errno.EINVAL)
        return port

    def _open(self, port: Port) -> int:
        number = self._events.open(port)
        if number is None:
            raise HypercallError(Errno.ENOSPC)
        return number

    def _alloc_unbound(self, pointer: int) -> int:
        domid, remote, _ = abi.ALLOC_UNBOUND.unpack(self._memory.read(pointer, abi.ALLOC_UNBOUND.size))
        check_domid(self._guest, domid)
        number = self._open(Port(STATUS_UNBOUND, detail=remote))
        self._memory.write(pointer, abi.ALLOC_UNBOUND.pack(domid, remote, number))
        return 0

    def _bind_virq(self, pointer: int) -> int:
        virq, vcpu, _ = abi.BIND_VIRQ.unpack(self._memory.read(pointer, abi.BIND_VIRQ.size))
        check_vcpu(self._guest, vcpu)
        if virq >= NR_VIRQS:
            raise HypercallError(Errno.EINVAL)
        number = self._open(Port(STATUS_VIRQ, vcpu, virq))
        self._memory.write(pointer, abi.BIND_VIRQ.pack(virq, vcpu, number))
        return 0

    def _bind_ipi(self, pointer: int) -> int:
        vcpu, _ = abi.BIND_IPI.unpack(self._memory.read(pointer, abi.BIND_IPI.size))
        number = self._open(Port(STATUS_IPI, check_vcpu(self._guest, vcpu)))
        self._memory.write(pointer, abi.BIND_IPI.pack(vcpu, number))
        return 0

    def _bind_vcpu(self, pointer: int) -> int:
        number, vcpu = abi.BIND_VCPU.unpack(self._memory.read(pointer, abi.BIND_VCPU.size))
        port = self._port(number)
        if port.status == STATUS_IPI:
            raise HypercallError(Errno.EINVAL)
        port.vcpu = check_vcpu(self._guest, vcpu)
        return 0

    def _close(self, pointer: int) -> int:
        (number,) = abi.U32.unpack(self._memory.read(pointer, 4))
        if not self._events.close(number):
            raise HypercallError(Errno.EINVAL)
        return 0

    def _send(self, pointer: int) -> int:
        """Only an IPI leads anywhere: nobody is at the other end of an unbound port."""
        (number,) = abi.U32.unpack(self._memory.read(pointer, 4))
        port = self._port(number)
        if port.status == STATUS_IPI:
            self._events.raise_port(number)
        elif port.status != STATUS_UNBOUND:
            raise HypercallError(Errno.EINVAL)
        return 0

    def _unmask(self, pointer: int) -> int:
        (number,) = abi.U32.unpack(self._memory.read(pointer, 4))
        self._port(number)
        self._events.unmask(number)
        return 0

    def _status(self, pointer: int) -> int:
        domid, number, *_ = abi.EVENT_STATUS.unpack(self._memory.read(pointer, abi.EVENT_STATUS.size))
        check_domid(self._guest, domid)
        if not 0 < number < NR_PORTS:
            raise HypercallError(Errno.EINVAL)
        port = self._events.ports.get(number, Port(STATUS_CLOSED))
        self._memory.write(pointer, abi.EVENT_STATUS.pack(domid, number, port.status, port.vcpu, port.detail, 0))
        return 0


_OPERATIONS: Final[dict[int, Callable[[EventOperations, int], int]]] = {
    EventOp.ALLOC_UNBOUND: EventOperations._alloc_unbound,
    EventOp.BIND_VIRQ: EventOperations._bind_virq,
    EventOp.BIND_IPI: EventOperations._bind_ipi,
    EventOp.BIND_VCPU: EventOperations._bind_vcpu,
    EventOp.CLOSE: EventOperations._close,
    EventOp.SEND: EventOperations._send,
    EventOp.UNMASK: EventOperations._unmask,
    EventOp.STATUS: EventOperations._status,
}
