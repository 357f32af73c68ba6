"""The processing element, as EL2 sees it.

One operation carries the layers above: :meth:`Cpu.run` runs the loaded EL1/EL0 context under a stage-2 regime until an
exception is taken to EL2, and answers with that exception. Everything that hardware does at EL1 and EL0 happens
inside: exception entry, the generic timers, the virtual GIC CPU interface fed from :class:`machine.ich.IchRegisters`.

Two implementations: :class:`machine.cpu.engine.Engine` (Unicorn) and :class:`machine.cpu.scripted.ScriptedCpu`
(replay of recorded exits, and exits the engine cannot produce).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from machine.ich import IchRegisters

#: Bytes that :meth:`Cpu.save` writes; a REC keeps them in its auxiliary granules.
CONTEXT_SIZE = 4 * 4096


class CpuError(Exception):
    """Raised when the processing element cannot do what was asked: an unknown library, a foreign context image."""


class ExitKind(IntEnum):
    """Which exception was taken to EL2."""

    SYNC = 0
    IRQ = 1
    FIQ = 2
    SERROR = 3


@dataclass(slots=True)
class CpuExit:
    """An exception taken to EL2.

    ``esr``, ``far`` and ``hpfar`` are the EL2 syndrome registers as the architecture defines them, valid for SYNC (and
    ``esr`` for SERROR). The preferred return address stays in the context's PC: for SMC, HVC, WFx and system register
    traps it is the trapping instruction itself, except for HVC, where it is the next one.
    """

    kind: ExitKind
    esr: int = 0
    far: int = 0
    hpfar: int = 0


@dataclass(frozen=True, slots=True)
class Regime:
    """The EL2 configuration under which a context runs (Arm ARM D19.2, register names as there).

    ``hcr_el2`` holds the caller's bits (VM, TSC, TWI, TWE, ...); RW and IMO are always on, VI belongs to the GIC.
    ``hvc`` is SCR_EL3.HCE: off, HVC is undefined at EL1, as a Realm sees it.
    ``sysreg_traps`` are accesses that take EC 0x18 to EL2, by register name (``ICC_SGI1R_EL1``, ``ICC_SRE_EL1``, ...).
    """

    vttbr_el2: int
    vtcr_el2: int
    hcr_el2: int
    vmpidr_el2: int
    hvc: bool = False
    sysreg_traps: frozenset[str] = frozenset()


class HCR:
    """HCR_EL2 bits that a caller of :meth:`Cpu.run` sets (Arm ARM D19.2.48)."""

    VM = 1 << 0
    FMO = 1 << 3
    IMO = 1 << 4
    AMO = 1 << 5
    TWI = 1 << 13
    TWE = 1 << 14
    TID3 = 1 << 18
    TSC = 1 << 19
    RW = 1 << 31


@dataclass(slots=True)
class TimerState:
    """The two EL1 timers of the loaded context: control bits ENABLE 0, IMASK 1, ISTATUS 2; compare values in ticks."""

    cntp_ctl: int = 0
    cntp_cval: int = 0
    cntv_ctl: int = 0
    cntv_cval: int = 0


class Cpu(Protocol):
    """A processing element with one loaded EL1/EL0 context.

    All methods but :meth:`kick` belong to the thread that runs the element.
    """

    ich: IchRegisters

    def run(self, regime: Regime) -> CpuExit:
        """Run the loaded context until an exception is taken to EL2.

        IRQ is answered after a :meth:`kick`, at the deadline of :meth:`set_deadline`, when the level of one of the
        context's timers (ENABLE and ISTATUS and not IMASK) has changed since :meth:`run` began, and when a maintenance
        interrupt condition of the ICH registers became true. A kick that came before the call is not lost.
        """

    def reset(self) -> None:
        """Load the architectural reset state: GPRs zero, PSTATE EL1h with D, A, I, F masked, MMU and caches off."""

    def save(self, into: memoryview) -> None:
        """Write the loaded context (CONTEXT_SIZE bytes, no host pointers, tagged with its layout version)."""

    def restore(self, image: memoryview) -> None:
        """Load a context written by :meth:`save`; CpuError if the tag is not this element's. Drops the TLB."""

    def gprs(self, count: int = 31) -> Sequence[int]:
        """X0..X<count-1>."""

    def set_gprs(self, values: Sequence[int], first: int = 0) -> None:
        """Write X<first>.. in one batch."""

    def gpr(self, n: int) -> int:
        """X<n>; 31 reads as zero."""

    def set_gpr(self, n: int, value: int) -> None:
        """Write X<n>; a write to 31 is dropped."""

    @property
    def pc(self) -> int:
        """The preferred return address."""

    @pc.setter
    def pc(self, value: int) -> None: ...

    def sysreg(self, name: str) -> int:
        """An EL1 system register by its architectural name (``SCTLR_EL1``, ``VBAR_EL1``, ``SPSR_EL1``, ``PSTATE``)."""

    def set_sysreg(self, name: str, value: int) -> None:
        """Write an EL1 system register by name."""

    def timers(self) -> TimerState:
        """Both timers, with ISTATUS evaluated now."""

    def take_exception_el1(self, esr: int, far: int | None = None) -> None:
        """Enter EL1's synchronous exception vector from the loaded state: ELR, SPSR, ESR (and FAR) are set.

        ``esr`` is given for an exception from the current EL; the EC's lower-EL form is chosen when PSTATE is at EL0.
        """

    def flush_tlb(self) -> None:
        """Drop every cached translation (stage 1 and 2)."""

    def invalidate_code(self, pa: int, size: int) -> None:
        """Drop translated code of the physical range; writes from outside the element do not do it by themselves."""

    def set_deadline(self, counter: int | None) -> None:
        """EL2's own timer: :meth:`run` answers IRQ once the physical counter reaches ``counter`` (ticks)."""

    def kick(self) -> None:
        """From any thread: make the running (or the next) :meth:`run` answer IRQ. Never lost."""

    def wait(self, counter: int | None) -> None:
        """Block until a :meth:`kick` (consumed) or until the physical counter reaches ``counter`` (None: no limit)."""

    def close(self) -> None:
        """Release the element's host resources."""
