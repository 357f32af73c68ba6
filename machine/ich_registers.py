"""Layouts of the GIC's virtual interface registers, and the table of the ICC_*_EL1 registers: data, no behaviour.

:class:`LR`, :class:`ICH_HCR`, :class:`ICH_MISR` and :class:`ICH_VMCR` hold the fields of the ICH_*_EL2 registers,
:data:`ICC_REGISTERS` the registers that EL1 uses, with their encodings. What they do is in :mod:`machine.ich`. GIC
specification (Arm IHI 0069) chapters 12.2 and 12.4.
"""

from __future__ import annotations

from typing import Final, NamedTuple

NUM_LRS: Final = 16
PRIORITY_BITS: Final = 5
#: Priorities, INTIDs as implemented: the low bits of a priority read as zero.
PRIORITY_MASK: Final = 0xF8
INTID_MASK: Final = 0xFFFF
#: The answer of IAR and HPPIR when there is nothing to acknowledge.
SPURIOUS: Final = 1023
#: The running priority when no interrupt is active.
IDLE_PRIORITY: Final = 0xFF
FIRST_LPI: Final = 8192


class LR:
    """ICH_LR<n>_EL2 fields."""

    VINTID_MASK: Final = 0xFFFF_FFFF
    #: HW = 0: a maintenance interrupt when the interrupt is deactivated.
    EOI: Final = 1 << 41
    PRIORITY_SHIFT: Final = 48
    GROUP1: Final = 1 << 60
    HW: Final = 1 << 61
    PENDING: Final = 1 << 62
    ACTIVE: Final = 1 << 63
    STATE_SHIFT: Final = 62
    STATE_MASK: Final = 3 << 62


class ICH_HCR:
    """ICH_HCR_EL2 bits."""

    EN: Final = 1 << 0
    UIE: Final = 1 << 1
    LRENPIE: Final = 1 << 2
    NPIE: Final = 1 << 3
    VGRP0EIE: Final = 1 << 4
    VGRP0DIE: Final = 1 << 5
    VGRP1EIE: Final = 1 << 6
    VGRP1DIE: Final = 1 << 7
    TC: Final = 1 << 10
    TALL0: Final = 1 << 11
    TALL1: Final = 1 << 12
    TDIR: Final = 1 << 14
    EOICOUNT_SHIFT: Final = 27
    EOICOUNT_MASK: Final = 0x1F << 27


class ICH_MISR:
    """ICH_MISR_EL2 bits."""

    EOI: Final = 1 << 0
    U: Final = 1 << 1
    LRENP: Final = 1 << 2
    NP: Final = 1 << 3
    VGRP0E: Final = 1 << 4
    VGRP0D: Final = 1 << 5
    VGRP1E: Final = 1 << 6
    VGRP1D: Final = 1 << 7


class ICH_VMCR:
    """ICH_VMCR_EL2 fields."""

    VENG0: Final = 1 << 0
    VENG1: Final = 1 << 1
    VFIQEN: Final = 1 << 3
    VCBPR: Final = 1 << 4
    VEOIM: Final = 1 << 9
    VBPR1_SHIFT: Final = 18
    VBPR0_SHIFT: Final = 21
    VPMR_SHIFT: Final = 24


#: ICH_VTR_EL2: PRIbits and PREbits (each minus one), IDbits 0 (16 bits), A3V, nV4, TDS, ListRegs minus one.
ICH_VTR: Final = (
    (PRIORITY_BITS - 1) << 29 | (PRIORITY_BITS - 1) << 26 | 0 << 23 | 1 << 21 | 1 << 20 | 1 << 19 | (NUM_LRS - 1)
)
#: ICV_CTLR_EL1 without CBPR and EOImode: PRIbits, IDbits, A3V.
ICV_CTLR_FIXED: Final = (PRIORITY_BITS - 1) << 8 | 0 << 11 | 1 << 15
MIN_BPR0: Final = 7 - PRIORITY_BITS
MIN_BPR1: Final = MIN_BPR0 + 1


class IccRegister(NamedTuple):
    """One ICC_*_EL1 register: its name, its MRS/MSR encoding, and how EL1 may use it.

    ``access`` is ``rw``, ``ro`` or ``wo`` (the other direction is undefined). ``virtual``: the register has an ICV_*
    view (:meth:`IchRegisters.icv_read`); the others exist for EL1 only as traps to EL2. ``trap_bits`` are the
    ICH_HCR_EL2 bits of which any makes EL1's access take EC 0x18 to EL2.
    """

    name: str
    op0: int
    op1: int
    crn: int
    crm: int
    op2: int
    access: str
    virtual: bool
    trap_bits: int

    @property
    def iss(self) -> int:
        """The register's part of an EC 0x18 ISS (mask 0x3FFC1E)."""
        return self.op0 << 20 | self.op2 << 17 | self.op1 << 14 | self.crn << 10 | self.crm << 1


_TC, _T0, _T1, _TDIR = ICH_HCR.TC, ICH_HCR.TALL0, ICH_HCR.TALL1, ICH_HCR.TDIR

#: Every ICC_*_EL1 register that exists with 5 preemption bits (AP0R1.. and AP1R1.. are undefined then).
ICC_REGISTERS: Final[tuple[IccRegister, ...]] = (
    IccRegister("ICC_PMR_EL1", 3, 0, 4, 6, 0, "rw", True, _TC),
    IccRegister("ICC_IAR0_EL1", 3, 0, 12, 8, 0, "ro", True, _T0),
    IccRegister("ICC_EOIR0_EL1", 3, 0, 12, 8, 1, "wo", True, _T0),
    IccRegister("ICC_HPPIR0_EL1", 3, 0, 12, 8, 2, "ro", True, _T0),
    IccRegister("ICC_BPR0_EL1", 3, 0, 12, 8, 3, "rw", True, _T0),
    IccRegister("ICC_AP0R0_EL1", 3, 0, 12, 8, 4, "rw", True, _T0),
    IccRegister("ICC_AP1R0_EL1", 3, 0, 12, 9, 0, "rw", True, _T1),
    IccRegister("ICC_DIR_EL1", 3, 0, 12, 11, 1, "wo", True, _TC | _TDIR),
    IccRegister("ICC_RPR_EL1", 3, 0, 12, 11, 3, "ro", True, _TC),
    IccRegister("ICC_SGI1R_EL1", 3, 0, 12, 11, 5, "wo", False, _TC),
    IccRegister("ICC_ASGI1R_EL1", 3, 0, 12, 11, 6, "wo", False, _TC),
    IccRegister("ICC_SGI0R_EL1", 3, 0, 12, 11, 7, "wo", False, _TC),
    IccRegister("ICC_IAR1_EL1", 3, 0, 12, 12, 0, "ro", True, _T1),
    IccRegister("ICC_EOIR1_EL1", 3, 0, 12, 12, 1, "wo", True, _T1),
    IccRegister("ICC_HPPIR1_EL1", 3, 0, 12, 12, 2, "ro", True, _T1),
    IccRegister("ICC_BPR1_EL1", 3, 0, 12, 12, 3, "rw", True, _T1),
    IccRegister("ICC_CTLR_EL1", 3, 0, 12, 12, 4, "rw", True, _TC),
    IccRegister("ICC_SRE_EL1", 3, 0, 12, 12, 5, "rw", False, 0),
    IccRegister("ICC_IGRPEN0_EL1", 3, 0, 12, 12, 6, "rw", True, _T0),
    IccRegister("ICC_IGRPEN1_EL1", 3, 0, 12, 12, 7, "rw", True, _T1),
)

#: Registers that EL1 reaches only through a trap: the SGI generators (HCR_EL2.IMO/FMO) and ICC_SRE_EL1 (ICC_SRE_EL2).
ALWAYS_TRAPPED: Final = frozenset(row.name for row in ICC_REGISTERS if not row.virtual)


def make_lr(
    vintid: int, priority: int, *, pending: bool = True, active: bool = False, group: int = 1, eoi: bool = False
) -> int:
    """A software (HW = 0) list register value.

    :raises ValueError: if the INTID is wider than 16 bits or the priority wider than 8.
    """
    if not 0 <= vintid <= INTID_MASK:
        raise ValueError(f"vINTID {vintid:#x} does not fit the implemented 16 bits")
    if not 0 <= priority <= 0xFF:
        raise ValueError(f"priority {priority:#x} of vINTID {vintid} does not fit 8 bits")
    value = vintid | priority << LR.PRIORITY_SHIFT
    if pending:
        value |= LR.PENDING
    if active:
        value |= LR.ACTIVE
    if group:
        value |= LR.GROUP1
    if eoi:
        value |= LR.EOI
    return value
