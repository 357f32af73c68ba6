"""The GIC's virtual CPU interface: the ICH_*_EL2 registers, and the ICV_* view that EL1 gets of them through ICC_*_EL1.

Enter at :class:`IchRegisters`, one per processing element. EL2 writes the list registers and the control registers as
plain attributes (``lr[n]``, ``hcr``, ``vmcr``, ``ap0r0``, ``ap1r0``); EL1's accesses go through :meth:`icv_read` and
:meth:`icv_write`; the element asks :meth:`virq_pending`, :meth:`vfiq_pending` and :meth:`maintenance_pending`.
:mod:`machine.ich_registers` has the field layouts and the table of the ICC_*_EL1 registers, importable from here too.

Architecture: GIC specification (Arm IHI 0069) chapters 5 and 6.2, registers of chapter 12.2 and 12.4. This
implementation: 16 list registers, 5 priority and 5 preemption bits (so one active priority register a group), 16-bit
INTIDs, Affinity 3 valid, no SEIs, no direct injection, system register access only (ICC_SRE_EL1.SRE is 1, so group 0
is always signalled as vFIQ).

The answers to "is anything pending" are kept beside a copy of the registers they were computed from: EL2 need not tell
when it wrote, and an unchanged register file costs one comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from machine.ich_registers import (
    ALWAYS_TRAPPED,
    FIRST_LPI,
    ICC_REGISTERS,
    ICH_HCR,
    ICH_MISR,
    ICH_VMCR,
    ICH_VTR,
    ICV_CTLR_FIXED,
    IDLE_PRIORITY,
    INTID_MASK,
    LR,
    MIN_BPR0,
    MIN_BPR1,
    NUM_LRS,
    PRIORITY_BITS,
    PRIORITY_MASK,
    SPURIOUS,
    IccRegister,
    make_lr,
)

__all__ = [
    "ALWAYS_TRAPPED",
    "FIRST_LPI",
    "ICC_REGISTERS",
    "ICH_HCR",
    "ICH_MISR",
    "ICH_VMCR",
    "ICH_VTR",
    "ICV_CTLR_FIXED",
    "IDLE_PRIORITY",
    "INTID_MASK",
    "LR",
    "MIN_BPR0",
    "MIN_BPR1",
    "NUM_LRS",
    "PRIORITY_BITS",
    "PRIORITY_MASK",
    "SPURIOUS",
    "IccRegister",
    "IchRegisters",
    "make_lr",
]

# Module constants for the loop over the list registers (a class attribute costs a second look-up).
_EOI: Final = LR.EOI
_EOI_OR_HW: Final = LR.EOI | LR.HW
_ALL_TRAP_BITS: Final = ICH_HCR.TC | ICH_HCR.TALL0 | ICH_HCR.TALL1 | ICH_HCR.TDIR


#: Bits of :meth:`IchRegisters.signals`.
VIRQ: Final = 1
VFIQ: Final = 2
MAINTENANCE: Final = 4


class IchRegisters:
    """The virtual interface control registers of one processing element, and the interface they describe.

    EL2 reads and writes these attributes at any time while EL1 does not run: ``lr`` (a list of 16, replaced item by
    item or whole), ``hcr``, ``vmcr``, ``ap0r0``, ``ap1r0``. The derived registers are properties.
    """

    __slots__ = ("_best", "_eisr", "_elrsr", "_misr", "_readers", "_seen_ap", "_seen_hcr", "_seen_lr", "_seen_vmcr",
                 "_signal", "_signals", "_traps", "_traps_hcr", "_writers", "ap0r0", "ap1r0", "hcr", "lr", "vmcr")

    def __init__(self) -> None:
        self._readers: dict[str, Callable[[], int]] = {
            "ICC_IAR1_EL1": lambda: self._acknowledge(1),
            "ICC_IAR0_EL1": lambda: self._acknowledge(0),
            "ICC_HPPIR1_EL1": lambda: self._highest_pending(1),
            "ICC_HPPIR0_EL1": lambda: self._highest_pending(0),
            "ICC_PMR_EL1": lambda: self.vmcr >> 24 & PRIORITY_MASK,
            "ICC_RPR_EL1": self._running_priority,
            "ICC_BPR0_EL1": lambda: max(self.vmcr >> 21 & 7, MIN_BPR0),
            "ICC_BPR1_EL1": self._read_bpr1,
            "ICC_CTLR_EL1": self._read_ctlr,
            "ICC_IGRPEN0_EL1": lambda: self.vmcr & 1,
            "ICC_IGRPEN1_EL1": lambda: self.vmcr >> 1 & 1,
            "ICC_AP0R0_EL1": lambda: self.ap0r0,
            "ICC_AP1R0_EL1": lambda: self.ap1r0,
        }
        self._writers: dict[str, Callable[[int], None]] = {
            "ICC_EOIR1_EL1": lambda value: self._end_of_interrupt(value, 1),
            "ICC_EOIR0_EL1": lambda value: self._end_of_interrupt(value, 0),
            "ICC_DIR_EL1": self._deactivate,
            "ICC_PMR_EL1": lambda value: self._insert(24, 0xFF, value & PRIORITY_MASK),
            "ICC_BPR0_EL1": lambda value: self._insert(21, 7, max(value & 7, MIN_BPR0)),
            "ICC_BPR1_EL1": self._write_bpr1,
            "ICC_CTLR_EL1": self._write_ctlr,
            "ICC_IGRPEN0_EL1": lambda value: self._insert(0, 1, value & 1),
            "ICC_IGRPEN1_EL1": lambda value: self._insert(1, 1, value & 1),
            "ICC_AP0R0_EL1": self._write_ap0r0,
            "ICC_AP1R0_EL1": self._write_ap1r0,
        }
        self.reset()

    def reset(self) -> None:
        """The state after a reset of the element: everything off, no interrupt in any list register."""
        self.lr: list[int] = [0] * NUM_LRS
        self.hcr = 0
        self.vmcr = ICH_VMCR.VFIQEN | MIN_BPR1 << 18 | MIN_BPR0 << 21
        self.ap0r0 = 0
        self.ap1r0 = 0
        self._seen_lr: list[int] = []
        self._seen_hcr = self._seen_vmcr = self._seen_ap = -1
        self._best = -1
        self._signal = -1
        self._signals = 0
        self._misr = self._eisr = self._elrsr = 0
        self._traps: frozenset[str] = frozenset()
        self._traps_hcr = 0

    # What the element and EL2 ask.

    def signals(self) -> int:
        """Everything that the interface asserts now: VIRQ 1, VFIQ 2, MAINTENANCE 4."""
        self._evaluate()
        return self._signals

    def virq_pending(self) -> bool:
        """True while the interface asserts a virtual IRQ (a group 1 interrupt that EL1 could acknowledge now)."""
        self._evaluate()
        return self._signal == 1

    def vfiq_pending(self) -> bool:
        """True while the interface asserts a virtual FIQ (a group 0 interrupt that EL1 could acknowledge now)."""
        self._evaluate()
        return self._signal == 0

    def maintenance_pending(self) -> bool:
        """True while the maintenance interrupt is asserted: ICH_HCR_EL2.En and any bit of ICH_MISR_EL2."""
        self._evaluate()
        return self._signals & MAINTENANCE != 0

    @property
    def vtr(self) -> int:
        """ICH_VTR_EL2."""
        return ICH_VTR

    @property
    def misr(self) -> int:
        """ICH_MISR_EL2 (not gated by ICH_HCR_EL2.En)."""
        self._evaluate()
        return self._misr

    @property
    def eisr(self) -> int:
        """ICH_EISR_EL2: list registers whose interrupt ended and that asked for a maintenance interrupt (LR.EOI)."""
        self._evaluate()
        return self._eisr

    @property
    def elrsr(self) -> int:
        """ICH_ELRSR_EL2: list registers that hold no interrupt and no EOI maintenance request."""
        self._evaluate()
        return self._elrsr

    def traps(self) -> frozenset[str]:
        """The ICC_*_EL1 registers whose access goes to EL2 (EC 0x18) because of ICH_HCR_EL2.{TC,TALL0,TALL1,TDIR}."""
        bits = self.hcr & _ALL_TRAP_BITS
        if bits != self._traps_hcr:
            self._traps = frozenset(row.name for row in ICC_REGISTERS if row.trap_bits & bits)
            self._traps_hcr = bits
        return self._traps

    # EL1's accesses.

    def icv_read(self, name: str) -> int:
        """EL1 reads an ICC_*_EL1 register that has an ICV view; IAR0 and IAR1 acknowledge.

        :raises KeyError: if the register cannot be read (undefined at EL1, or a trap: see :data:`ICC_REGISTERS`).
        """
        return self._readers[name]()

    def icv_write(self, name: str, value: int) -> None:
        """EL1 writes an ICC_*_EL1 register that has an ICV view.

        :raises KeyError: if the register cannot be written (undefined at EL1, or a trap).
        """
        self._writers[name](value)

    # Which interrupt is signalled.

    def _evaluate(self) -> None:
        """Recompute everything derived, unless no register changed since the last time."""
        active = self.ap0r0 << 32 | self.ap1r0
        if (self.lr == self._seen_lr and self.hcr == self._seen_hcr and self.vmcr == self._seen_vmcr
                and active == self._seen_ap):
            return
        lrs, hcr, vmcr = self.lr, self.hcr, self.vmcr
        self._seen_lr, self._seen_hcr, self._seen_vmcr, self._seen_ap = lrs[:], hcr, vmcr, active

        best, best_priority = -1, 0x100
        valid = eisr = 0
        elrsr = 0xFFFF
        any_pending = False
        n = -1
        for lr in lrs:
            n += 1
            if not lr:
                continue
            state = lr >> 62
            if not state:
                if lr & _EOI_OR_HW == _EOI:
                    eisr |= 1 << n
                    elrsr ^= 1 << n
                continue
            valid += 1
            elrsr ^= 1 << n
            if state == 1:
                any_pending = True
                priority = lr >> 48 & PRIORITY_MASK
                if priority < best_priority and vmcr >> (lr >> 60 & 1) & 1:
                    best, best_priority = n, priority
        if not hcr & 1:
            best = -1
        self._best = best
        self._eisr, self._elrsr = eisr, elrsr

        misr = 0
        if eisr:
            misr = ICH_MISR.EOI
        if hcr & 0xFE:
            if hcr & ICH_HCR.UIE and valid <= 1:
                misr |= ICH_MISR.U
            if hcr & ICH_HCR.LRENPIE and hcr & ICH_HCR.EOICOUNT_MASK:
                misr |= ICH_MISR.LRENP
            if hcr & ICH_HCR.NPIE and not any_pending:
                misr |= ICH_MISR.NP
            misr |= hcr & (ICH_MISR.VGRP0E if vmcr & ICH_VMCR.VENG0 else ICH_MISR.VGRP0D)
            misr |= hcr & (ICH_MISR.VGRP1E if vmcr & ICH_VMCR.VENG1 else ICH_MISR.VGRP1D)
        self._misr = misr

        self._signal = -1
        if best >= 0 and best_priority < vmcr >> 24 & PRIORITY_MASK:
            group = lrs[best] >> 60 & 1
            active = self.ap0r0 | self.ap1r0
            if not active or best_priority & self._group_mask(group) < ((active & -active).bit_length() - 1) << 3:
                self._signal = group
        self._signals = (MAINTENANCE if misr and hcr & 1 else 0) | (0 if self._signal < 0 else 2 - self._signal)

    def _group_mask(self, group: int) -> int:
        """The bits of a priority that decide preemption in ``group`` (the binary point registers)."""
        if group and not self.vmcr & ICH_VMCR.VCBPR:
            return 0xFF << max(self.vmcr >> 18 & 7, MIN_BPR1) & 0xFF
        return 0xFF << (max(self.vmcr >> 21 & 7, MIN_BPR0) + 1) & 0xFF

    def _running_priority(self) -> int:
        active = self.ap0r0 | self.ap1r0
        return ((active & -active).bit_length() - 1) << 3 if active else IDLE_PRIORITY

    # Acknowledge, end, deactivate.

    def _highest_pending(self, group: int) -> int:
        self._evaluate()
        if self._best < 0:
            return SPURIOUS
        lr = self.lr[self._best]
        return lr & INTID_MASK if lr >> 60 & 1 == group else SPURIOUS

    def _acknowledge(self, group: int) -> int:
        self._evaluate()
        if self._signal != group:
            return SPURIOUS
        n = self._best
        lr = self.lr[n]
        intid = lr & INTID_MASK
        if 1020 <= intid <= 1023:
            # A special INTID has no active state to keep.
            self.lr[n] = lr & ~LR.STATE_MASK
            return intid
        self.lr[n] = lr ^ LR.STATE_MASK
        bit = 1 << ((lr >> 48 & self._group_mask(group)) >> 3)
        if group:
            self.ap1r0 |= bit
        else:
            self.ap0r0 |= bit
        return intid

    def _end_of_interrupt(self, value: int, group: int) -> None:
        """Priority drop, and with EOImode 0 deactivation.

        With no active priority the write does nothing: whether it then still deactivates is CONSTRAINED UNPREDICTABLE.
        """
        intid = value & INTID_MASK
        if 1020 <= intid <= 1023:
            return
        active = self.ap0r0 | self.ap1r0
        if not active:
            return
        bit = active & -active
        if self.ap0r0 & bit:
            self.ap0r0 &= ~bit
        else:
            self.ap1r0 &= ~bit
        lpi = intid >= FIRST_LPI
        if self.vmcr & ICH_VMCR.VEOIM and not lpi:
            return
        n = self._find_active(intid)
        if n < 0:
            if not lpi:
                self._count_eoi()
            return
        lr = self.lr[n]
        if lr >> 60 & 1 == group and (lr >> 48 & self._group_mask(group)) >> 3 == bit.bit_length() - 1:
            self.lr[n] = lr & ~LR.ACTIVE

    def _deactivate(self, value: int) -> None:
        """ICV_DIR_EL1: with EOImode 0 the write is ignored (a permitted choice)."""
        intid = value & INTID_MASK
        if not self.vmcr & ICH_VMCR.VEOIM or 1020 <= intid <= 1023 or intid >= FIRST_LPI:
            return
        n = self._find_active(intid)
        if n < 0:
            self._count_eoi()
        else:
            self.lr[n] &= ~LR.ACTIVE

    def _find_active(self, intid: int) -> int:
        for n, lr in enumerate(self.lr):
            if lr & LR.ACTIVE and lr & LR.VINTID_MASK == intid:
                return n
        return -1

    def _count_eoi(self) -> None:
        count = (self.hcr >> 27) + 1 & 0x1F
        self.hcr = self.hcr & ~ICH_HCR.EOICOUNT_MASK | count << 27

    # Control registers.

    def _insert(self, shift: int, mask: int, field: int) -> None:
        self.vmcr = self.vmcr & ~(mask << shift) | field << shift

    def _read_bpr1(self) -> int:
        if self.vmcr & ICH_VMCR.VCBPR:
            return min(max(self.vmcr >> 21 & 7, MIN_BPR0) + 1, 7)
        return max(self.vmcr >> 18 & 7, MIN_BPR1)

    def _write_bpr1(self, value: int) -> None:
        if not self.vmcr & ICH_VMCR.VCBPR:
            self._insert(18, 7, max(value & 7, MIN_BPR1))

    def _read_ctlr(self) -> int:
        return ICV_CTLR_FIXED | self.vmcr >> 4 & 1 | (self.vmcr >> 9 & 1) << 1

    def _write_ctlr(self, value: int) -> None:
        self._insert(4, 1, value & 1)
        self._insert(9, 1, value >> 1 & 1)

    def _write_ap0r0(self, value: int) -> None:
        self.ap0r0 = value & 0xFFFF_FFFF

    def _write_ap1r0(self, value: int) -> None:
        self.ap1r0 = value & 0xFFFF_FFFF
