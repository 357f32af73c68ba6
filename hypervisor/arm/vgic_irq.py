"""Interrupt state of a domain: one :class:`VirtualIrq` an INTID, and per vCPU what goes to its list registers.

The state here is authoritative while the vCPU does not run. :meth:`VcpuInterrupts.flush` turns it into list registers
before an entry, :meth:`VcpuInterrupts.sync` takes back what the guest did to them after the exit; in between nothing
may change it. A vCPU keeps its pending and active interrupts in a small dictionary (``live``), and rebuilds its list
registers only when something about them changed (``dirty``): an idle flush and sync is a few comparisons
(benchmarks/bench_vgic.py).

Level-sensitive interrupts have no end-of-interrupt exit as a rule. Their list register asks for a maintenance interrupt
(LR.EOI) only while the line is up: a handler that quiets its device lowers the line first, which ends the request; one
that does not gets the interrupt again.

More pending or active interrupts than list registers: the highest priorities go in, and at least one pending one.
ICH_HCR_EL2.UIE (and NPIE) bring the vCPU out for a refill; active interrupts left outside are found again by
ICH_HCR_EL2.EOIcount in EOImode 0, highest priority first, and in EOImode 1 by trapping ICC_DIR_EL1 (TDIR).
"""

from __future__ import annotations

from typing import Final

from machine.ich import ICH_HCR, LR, MIN_BPR0, MIN_BPR1, NUM_LRS, PRIORITY_MASK, IchRegisters
from machine.ich import ICH_VMCR as VMCR

#: SGIs and PPIs of a vCPU.
NR_PRIVATE_IRQS: Final = 32
NR_SGIS: Final = 16

_PENDING: Final = LR.PENDING
_ACTIVE: Final = LR.ACTIVE
_GROUP1: Final = LR.GROUP1
_EOI: Final = LR.EOI
_EN: Final = ICH_HCR.EN
_VMCR_RESET: Final = VMCR.VFIQEN | MIN_BPR1 << VMCR.VBPR1_SHIFT | MIN_BPR0 << VMCR.VBPR0_SHIFT


class VirtualIrq:
    """One interrupt of a domain: a vCPU's SGI or PPI, or an SPI.

    ``line`` is the input; ``latch`` a pending state that does not follow it (an edge, an SGI, a write to ISPENDR).
    ``target`` is where the interrupt is routed, ``owner`` the vCPU that holds it: they differ while an SPI that was
    routed elsewhere is still active. After changing any attribute, call :meth:`settle`.
    """

    __slots__ = ("active", "edge", "enabled", "intid", "latch", "line", "owner", "priority", "target")

    def __init__(self, intid: int, vcpu: VcpuInterrupts, *, edge: bool) -> None:
        self.intid = intid
        self.owner = vcpu
        self.target = vcpu
        self.edge = edge
        self.enabled = False
        self.active = False
        self.latch = False
        self.line = False
        self.priority = 0

    @property
    def pending(self) -> bool:
        """Pending, whether enabled or not: latched, or level-sensitive with the line up."""
        return self.latch or (self.line and not self.edge)

    def settle(self) -> None:
        """Bring the owner's bookkeeping up to date after a change; moves an inactive interrupt to its target."""
        owner = self.owner
        if owner is not self.target and not self.active:
            owner.live.pop(self.intid, None)
            owner.dirty = True
            owner = self.owner = self.target
        if self.active or self.latch or (self.line and not self.edge):
            owner.live[self.intid] = self
        else:
            owner.live.pop(self.intid, None)
        owner.dirty = True


def _urgency(irq: VirtualIrq) -> tuple[int, int]:
    return irq.priority & PRIORITY_MASK, irq.intid


class VcpuInterrupts:
    """The interrupts of one vCPU, and its virtual CPU interface while it does not run.

    ``irqs`` is indexed by INTID: the vCPU's own 32, then the domain's SPIs. ``forwarding`` is GICD_CTLR.EnableGrp1A.
    """

    __slots__ = ("_hcr", "_lr_irqs", "_written", "ap0r0", "ap1r0", "dirty", "forwarding", "irqs", "live", "online",
                 "vcpu", "vmcr")

    def __init__(self, vcpu: int) -> None:
        self.vcpu = vcpu
        self.irqs = [VirtualIrq(intid, self, edge=intid < NR_SGIS) for intid in range(NR_PRIVATE_IRQS)]
        self.live: dict[int, VirtualIrq] = {}
        self.forwarding = False
        self.online = True
        self.dirty = False
        self.vmcr = _VMCR_RESET
        self.ap0r0 = 0
        self.ap1r0 = 0
        self._hcr = _EN
        self._lr_irqs: list[VirtualIrq] = []
        self._written = [0] * NUM_LRS

    def deliverable(self) -> bool:
        """True if an enabled interrupt is pending and not active: what wakes the vCPU from WFI.

        As in Xen neither the priority mask nor PSTATE.I counts.
        """
        if not self.live or not self.forwarding:
            return False
        return any(irq.enabled and not irq.active and irq.pending for irq in self.live.values())

    def flush(self, ich: IchRegisters) -> None:
        """Load the element's virtual interface with this vCPU's interrupts and control registers, and switch it on."""
        if self.dirty:
            self._rebuild()
        if ich.lr != self._written:
            ich.lr[:] = self._written
        ich.hcr = self._hcr
        ich.vmcr = self.vmcr
        ich.ap0r0 = self.ap0r0
        ich.ap1r0 = self.ap1r0

    def sync(self, ich: IchRegisters) -> None:
        """Take back what the guest acknowledged, ended and configured. Call it first after every exit."""
        if ich.lr != self._written:
            self._take_back(ich.lr)
        if ich.hcr >> 27:
            self._end_uncovered(ich.hcr >> 27 & 0x1F)
        self.vmcr = ich.vmcr
        self.ap0r0 = ich.ap0r0
        self.ap1r0 = ich.ap1r0

    def _take_back(self, lrs: list[int]) -> None:
        written = self._written
        for n, irq in enumerate(self._lr_irqs):
            value = lrs[n]
            if value == written[n]:
                continue
            if written[n] & _PENDING and not value & _PENDING:
                irq.latch = False
            irq.active = value & _ACTIVE != 0
            irq.settle()
        self._written = lrs[:]
        self.dirty = True

    def _end_uncovered(self, count: int) -> None:
        """Deactivate interrupts that were active outside the list registers when the guest ended them."""
        covered = self._lr_irqs
        outside = sorted((irq for irq in self.live.values() if irq.active and irq not in covered), key=_urgency)
        for irq in outside[:count]:
            irq.active = False
            irq.settle()

    def _rebuild(self) -> None:
        self.dirty = False
        forwarding = self.forwarding
        wanted = [
            irq for irq in self.live.values() if irq.active or (forwarding and irq.enabled and irq.pending)
        ]
        hcr = _EN
        if len(wanted) > 1:
            wanted.sort(key=_urgency)
            if len(wanted) > NUM_LRS:
                wanted, hcr = self._choose(wanted)
        self._lr_irqs = wanted
        values = [self._list_register(irq) for irq in wanted]
        values.extend([0] * (NUM_LRS - len(values)))
        self._written = values
        self._hcr = hcr

    def _choose(self, wanted: list[VirtualIrq]) -> tuple[list[VirtualIrq], int]:
        """Of more than 16 interrupts in order of urgency, the ones that get a list register, and ICH_HCR_EL2."""
        chosen, rest = wanted[:NUM_LRS], wanted[NUM_LRS:]
        hcr = _EN
        if any(not irq.active for irq in rest):
            hcr |= ICH_HCR.UIE | ICH_HCR.NPIE
            if all(irq.active for irq in chosen):
                first = next(n for n, irq in enumerate(rest) if not irq.active)
                chosen[-1], rest[first] = rest[first], chosen[-1]
        if any(irq.active for irq in rest):
            hcr |= ICH_HCR.LRENPIE | ICH_HCR.TDIR
        return chosen, hcr

    def _list_register(self, irq: VirtualIrq) -> int:
        value = irq.intid | (irq.priority & PRIORITY_MASK) << 48 | _GROUP1
        pending = self.forwarding and irq.enabled and irq.pending
        if irq.edge:
            if irq.active:
                value |= _ACTIVE
            if pending:
                value |= _PENDING
        elif irq.active:
            # Never pending and active: the line is sampled again when the guest ends the interrupt.
            value |= _ACTIVE | _EOI if pending else _ACTIVE
        else:
            value |= _PENDING | _EOI if irq.line else _PENDING
        return value
