"""How a hypercall fails, and the two mistakes that many can make."""

from __future__ import annotations

from hypervisor.arm.cca.ports import RealmGuest
from hypervisor.arm.hypercall_abi import DOMID_SELF, Errno


class HypercallError(Exception):
    """Raised by a handler: the hypercall returns ``-errno``."""

    def __init__(self, errno: Errno) -> None:
        super().__init__(errno.name)
        self.errno = errno


def check_domid(guest: RealmGuest, domid: int) -> None:
    """HypercallError (ESRCH) for any domain but the guest's own."""
    if domid not in (DOMID_SELF, guest.domid):
        raise HypercallError(Errno.ESRCH)


def check_vcpu(guest: RealmGuest, number: int) -> int:
    """The vCPU's number; HypercallError (EINVAL) when the guest does not have it."""
    if number >= guest.max_vcpus:
        raise HypercallError(Errno.EINVAL)
    return number
