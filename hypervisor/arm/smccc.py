"""The calls of a plain guest by the SMC calling convention, through HVC #0 or SMC #0 (Arm DEN0028, DEN0022).

Enter at :func:`call`, for a vCPU whose trapping instruction has been passed already: the function id is in W0, results
go to X0 and on. Services are told apart by the owner field, as in Xen: Arm architecture, standard (PSCI, in
:mod:`hypervisor.arm.vpsci_calls`), hypervisor. Any other answers NOT_SUPPORTED.
"""

from __future__ import annotations

import logging
import struct
import uuid
from collections.abc import Sequence
from typing import Final

from hypervisor.arm import vpsci_calls
from hypervisor.arm.cca.ports import VcpuState
from hypervisor.arm.vpsci import FUNCTIONS, PSCI_0_1_CPU_OFF, PSCI_0_1_CPU_ON, SMC64, SMCCC_VERSION

log = logging.getLogger(__name__)

#: SMCCC 1.2.
VERSION: Final = 0x0001_0002
NOT_SUPPORTED: Final = (1 << 64) - 1
FAST_CALL: Final = 1 << 31

ARCH_FEATURES: Final = 0x8000_0001
#: ARCH_WORKAROUND_1 (branch predictor), _2 (speculative store bypass), _3 (branch history).
WORKAROUNDS: Final = frozenset((0x8000_8000, 0x8000_7FFF, 0x8000_3FFF))
#: ARCH_FEATURES of a workaround: this processing element, which does not speculate, has no need of it.
NOT_REQUIRED: Final = 1

_OWNER_ARCHITECTURE, _OWNER_STANDARD, _OWNER_HYPERVISOR = 0, 4, 6
_CALL_COUNT, _CALL_UID, _CALL_REVISION = 0xFF00, 0xFF01, 0xFF03
#: Calls of the hypervisor service: count, UID, revision. The standard service has the PSCI functions besides.
_HYPERVISOR_CALLS: Final = 3
_STANDARD_CALLS: Final = 3 + len(FUNCTIONS)
_HYPERVISOR_UID: Final = uuid.UUID("a71812dc-c698-4369-9acf-79d18ddee667")
_STANDARD_UID: Final = uuid.UUID("f863386f-4b39-4cbd-9220-ce1641e59f6f")
#: Revision of either service: major, minor.
_REVISION: Final = (0, 1)


def call(vcpu: vpsci_calls.PsciVcpu) -> VcpuState:
    """Carry out the call of ``vcpu``; how it goes on."""
    fid = vcpu.gpr(0) & 0xFFFF_FFFF
    if fid in (PSCI_0_1_CPU_OFF, PSCI_0_1_CPU_ON):
        return vpsci_calls.call_0_1(vcpu, fid)
    owner = fid >> 24 & 0x3F
    if fid & FAST_CALL and owner == _OWNER_STANDARD and fid & 0xFFFF <= 0x1F:
        return vpsci_calls.call(vcpu, fid)
    results = _answer(vcpu, fid, owner) if fid & FAST_CALL else None
    if results is None:
        log.debug("d%dv%d: Unhandled SMC/HVC: %#x", vcpu.domid, vcpu.vcpu_id, fid)
        results = (NOT_SUPPORTED,)
    for number, value in enumerate(results):
        vcpu.set_gpr(number, value)
    return VcpuState.RUNNABLE


def _answer(vcpu: vpsci_calls.PsciVcpu, fid: int, owner: int) -> Sequence[int] | None:
    """The results of a fast call that returns at once; None when there is no such call."""
    if owner == _OWNER_ARCHITECTURE:
        if fid == SMCCC_VERSION:
            return (VERSION,)
        if fid == ARCH_FEATURES and vcpu.gpr(1) & 0xFFFF_FFFF in WORKAROUNDS:
            return (NOT_REQUIRED,)
        return (0,) if fid in WORKAROUNDS else None
    if fid & SMC64 or owner not in (_OWNER_STANDARD, _OWNER_HYPERVISOR):
        return None
    hypervisor = owner == _OWNER_HYPERVISOR
    number = fid & 0xFFFF
    if number == _CALL_COUNT:
        return (_HYPERVISOR_CALLS if hypervisor else _STANDARD_CALLS,)
    if number == _CALL_UID:
        return struct.unpack("<4I", (_HYPERVISOR_UID if hypervisor else _STANDARD_UID).bytes)
    return _REVISION if number == _CALL_REVISION else None
