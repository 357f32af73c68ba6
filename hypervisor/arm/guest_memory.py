"""A guest's memory by its own virtual addresses, as hypercalls name their arguments.

Enter at :class:`GuestMemory`: reads and writes through stage 1 (walked here, VMSAv8-64 with any granule, Arm ARM D8.2)
and the guest's :class:`~hypervisor.arm.p2m.P2m`. Permissions are those of EL1 data accesses: a read-only page refuses a
write; PAN and hierarchical permissions are not looked at.
"""

from __future__ import annotations

from typing import Final

from hypervisor.arm.p2m import P2m
from machine.cpu import Cpu
from machine.memory import NonSecureView

_ADDRESS: Final = 0x0000_FFFF_FFFF_F000
_SCTLR_M: Final = 1
_READ_ONLY: Final = 1 << 7
#: TCR_EL1.TG0 and TG1: log2 of the granule.
_TG0: Final = {0: 12, 1: 16, 2: 14}
_TG1: Final = {1: 14, 2: 12, 3: 16}


class GuestFault(Exception):
    """Raised for a guest address that is not mapped, or not for this kind of access; the guest gets -EFAULT."""


class GuestMemory:
    """The memory of the guest whose vCPU is loaded in ``cpu``."""

    def __init__(self, ns: NonSecureView, cpu: Cpu, p2m: P2m) -> None:
        self._ns = ns
        self._cpu = cpu
        self._p2m = p2m

    def read(self, va: int, size: int) -> bytes:
        """``size`` bytes at the virtual address ``va``; GuestFault."""
        return b"".join(self._ns.read(pa, length) for pa, length in self._pieces(va, size, write=False))

    def write(self, va: int, data: bytes) -> None:
        """Store ``data`` at ``va``; GuestFault, before anything is written."""
        done = 0
        for pa, length in self._pieces(va, len(data), write=True):
            self._ns.write(pa, data[done : done + length])
            # The guest may execute what it had written there.
            self._cpu.invalidate_code(pa, length)
            done += length

    def physical(self, gpa: int) -> int:
        """The physical address of a guest physical one; GuestFault when nothing is mapped there."""
        found = self._p2m.translate(gpa)
        if found is None:
            raise GuestFault(f"nothing at guest address {gpa:#x}")
        return found.pa

    def _pieces(self, va: int, size: int, *, write: bool) -> list[tuple[int, int]]:
        pieces = []
        while size > 0:
            length = min(size, 0x1000 - va % 0x1000)
            pieces.append((self.physical(self._stage1(va, write)), length))
            va += length
            size -= length
        return pieces

    def _stage1(self, va: int, write: bool) -> int:
        """The guest physical address of ``va``."""
        cpu = self._cpu
        if not cpu.sysreg("SCTLR_EL1") & _SCTLR_M:
            return va
        tcr = cpu.sysreg("TCR_EL1")
        upper = va >> 55 & 1
        granule = (_TG1 if upper else _TG0).get(tcr >> (30 if upper else 14) & 3)
        width = 64 - (tcr >> (16 if upper else 0) & 0x3F)
        ignored = 8 if tcr >> (38 if upper else 37) & 1 else 0
        if granule is None or tcr >> (23 if upper else 7) & 1 or width > 48:
            raise GuestFault(f"no translation for {va:#x}")
        above = (va & (1 << 64 - ignored) - 1) >> width
        if above != ((1 << 64 - ignored - width) - 1 if upper else 0):
            raise GuestFault(f"{va:#x} is beyond the translated range")
        table = cpu.sysreg("TTBR1_EL1" if upper else "TTBR0_EL1") & 0x0000_FFFF_FFFF_FFFE
        stride = granule - 3
        level = 4 - -(-(width - granule) // stride)
        index_bits = width - (granule + stride * (3 - level))
        while True:
            shift = granule + stride * (3 - level)
            index = (va & (1 << width) - 1) >> shift & (1 << index_bits) - 1
            entry = self._ns.read_u64(self.physical(table + 8 * index))
            if not entry & 1 or (level == 3 and not entry & 2):
                raise GuestFault(f"{va:#x} is not mapped (level {level})")
            if level == 3 or not entry & 2:
                if write and entry & _READ_ONLY:
                    raise GuestFault(f"{va:#x} is read-only")
                return entry & _ADDRESS & -(1 << shift) | va & (1 << shift) - 1
            table = entry & _ADDRESS & -(1 << granule)
            level += 1
            index_bits = stride
