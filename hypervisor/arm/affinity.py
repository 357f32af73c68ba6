"""vCPU number and affinity: 16 vCPUs share an Aff1, as Xen lays them out for GICv3 (SGI target lists have 16 bits)."""

from __future__ import annotations

from typing import Final

#: vCPUs under one Aff1.
VCPUS_PER_CLUSTER: Final = 16
#: Aff3 and Aff2, Aff1, Aff0 of an MPIDR or IROUTER value.
AFFINITY_MASK: Final = 0xFF_00FF_FFFF


def affinity_of(vcpu: int) -> int:
    """The affinity (Aff1 << 8 | Aff0) of a vCPU number: its ``reg`` in the device tree, and in MPIDR_EL1."""
    return vcpu % VCPUS_PER_CLUSTER | (vcpu // VCPUS_PER_CLUSTER % 256) << 8


def vcpu_number(affinity: int) -> int:
    """Aff0 | Aff1 << 4: the vCPU number as Xen takes it from an MPIDR, other fields ignored."""
    return affinity & 0xFF | (affinity >> 8 & 0xFF) << 4


def vcpu_at(affinity: int, max_vcpus: int) -> int | None:
    """The vCPU whose affinity this exactly is (bits outside the Aff fields ignored); None if there is none."""
    vcpu = vcpu_number(affinity)
    if vcpu < max_vcpus and affinity & AFFINITY_MASK == affinity_of(vcpu):
        return vcpu
    return None
