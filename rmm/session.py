"""A REC on this process's processing element: what REC_ENTER keeps between two entries, and how contexts come and go.

Enter at :meth:`Residents.session`. Everything here is a cache of what the REC granule and the RD say; it is checked
against them at each entry (the REC's incarnation, the number of its last saved image, the realm's generation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from machine.cpu import CONTEXT_SIZE, HCR, Cpu, Regime
from machine.ich import ALWAYS_TRAPPED
from machine.memory import DRAM_BASE, GRANULE_SHIFT
from rmm.abi.registers import RecEnterFlags
from rmm.realm import Realm, RealmDescriptor
from rmm.rec import Context, Rec, RecGranule

if TYPE_CHECKING:
    from rmm.monitor import Monitor

#: HCR_EL2 of a Realm: stage 2, interrupts to EL2, SMC trapped. WFI and WFE are the host's choice at each entry.
_HCR: Final = HCR.VM | HCR.FMO | HCR.IMO | HCR.AMO | HCR.TSC | HCR.RW
_TRAP_WFI: Final = int(RecEnterFlags.make(TRAP_WFI=1))
_TRAP_WFE: Final = int(RecEnterFlags.make(TRAP_WFE=1))
_TRAPS: Final = _TRAP_WFI | _TRAP_WFE
#: MPIDR_EL1[31] is RES1.
_MPIDR_RES1: Final = 1 << 31
_SCTLR_EE: Final = 1 << 25
_GENERATION: Final = RealmDescriptor.generation.offset >> 3
_ENTERED_GENERATION: Final = RealmDescriptor.entered_generation.offset >> 3
_SAVES: Final = RecGranule.saves.offset >> 3
_CONTEXT: Final = RecGranule.context.offset >> 3
_IMAGE: Final = int(Context.IMAGE)


class Session:
    """One REC and the element it runs on. ``par_size`` and ``ipa_top`` bound the protected half and the IPA space."""

    __slots__ = (
        "at", "checked_lrs", "claim", "cpu", "granule", "image", "incarnation", "index", "ipa_top",
        "memory", "par_size", "rd", "realm", "rec", "regimes", "rmm", "saves", "scratch", "vmpidr",
    )  # fmt: skip

    def __init__(self, rmm: Monitor, cpu: Cpu, rec: Rec, realm: Realm) -> None:
        self.rmm = rmm
        self.cpu = cpu
        self.memory = rmm.memory
        self.rec = rec
        self.at = rec.at
        self.granule = (rec.pa - DRAM_BASE) >> GRANULE_SHIFT
        self.incarnation = rec.incarnation
        self.index = rec.index
        self.realm = realm
        self.rd = realm.rd
        self.par_size = realm.par_size
        self.ipa_top = 1 << realm.s2sz
        self.claim = rmm.running.claim(self.rd, self.index)
        self.vmpidr = _MPIDR_RES1 | rec.mpidr
        self.image = rec.image()
        #: Where an image in scattered granules is put together.
        self.scratch = memoryview(bytearray(CONTEXT_SIZE)) if len(self.image) > 1 else self.image[0]
        self.regimes: dict[int, Regime] = {}
        #: The list registers as last found valid.
        self.checked_lrs: list[int] = []
        #: Number of the image that the element had when this REC left it.
        self.saves = 0

    def regime(self, flags: int) -> Regime:
        """The EL2 configuration for an entry with these RmiRecEnterFlags."""
        traps = flags & _TRAPS
        regime = self.regimes.get(traps)
        if regime is None:
            hcr = _HCR | (HCR.TWI if traps & _TRAP_WFI else 0) | (HCR.TWE if traps & _TRAP_WFE else 0)
            realm = self.realm
            # What ICH_HCR_EL2 traps besides (ICC_DIR_EL1 with TDIR), the element finds there itself.
            regime = Regime(realm.vttbr, realm.vtcr, hcr, self.vmpidr, hvc=False, sysreg_traps=ALWAYS_TRAPPED)
            self.regimes[traps] = regime
        return regime

    def save(self) -> None:
        """Write the element's context into the REC's auxiliary granules."""
        self.cpu.save(self.scratch)
        if len(self.image) > 1:
            at = 0
            for piece in self.image:
                piece[:] = self.scratch[at : at + len(piece)]
                at += len(piece)
        words, at = self.memory.words, self.at
        self.saves = words[at + _SAVES] = words[at + _SAVES] + 1
        words[at + _CONTEXT] = _IMAGE

    def restore(self) -> None:
        """Load the REC's context, from its image or from reset."""
        cpu, rec = self.cpu, self.rec
        if rec.context == Context.RESET:
            cpu.reset()
            cpu.set_gprs(rec.gprs)
            cpu.pc = rec.pc
            if rec.big_endian:
                cpu.set_sysreg("SCTLR_EL1", cpu.sysreg("SCTLR_EL1") | _SCTLR_EE)
            return
        if len(self.image) > 1:
            at = 0
            for piece in self.image:
                self.scratch[at : at + len(piece)] = piece
                at += len(piece)
        cpu.restore(self.scratch)


class Residents:
    """The RECs that this process has run, and which of them its element holds."""

    def __init__(self) -> None:
        #: By address of the REC; an entry may be of a REC that is no more, and is checked before it is used.
        self.sessions: dict[int, Session] = {}
        #: Realm generations that the element's TLB and translated code are good for, by realm serial number.
        self._generations: dict[int, int] = {}
        self._loaded: Session | None = None

    def session(self, rmm: Monitor, cpu: Cpu, pa: int) -> Session:
        """The session of the REC at ``pa`` (state REC, RMM lock held)."""
        session = self.sessions.get(pa)
        if session is None or session.incarnation != rmm.words[session.at + INCARNATION] or session.cpu is not cpu:
            rec = Rec(rmm.memory, pa)
            realm = rmm.realm(rec.rd)
            assert realm is not None, f"REC {pa:#x} outlived its RD {rec.rd:#x}"
            session = self.sessions[pa] = Session(rmm, cpu, rec, realm)
        return session

    def load(self, session: Session) -> None:
        """Have the element hold the session's context and nothing stale of its realm's translations."""
        words, at = session.memory.words, session.at
        if self._loaded is not session or words[at + _SAVES] != session.saves or words[at + _CONTEXT] != _IMAGE:
            self._loaded = None
            session.restore()
            self._loaded = session
        realm = session.realm
        generation = words[realm.serial_word + _GENERATION]
        if self._generations.get(realm.serial) != generation:
            session.cpu.flush_tlb()
            session.cpu.invalidate_code(session.memory.dram_base, session.memory.dram_size)
            self._generations[realm.serial] = words[realm.serial_word + _ENTERED_GENERATION] = generation

    def forget(self) -> None:
        """The element's context is not any REC's as of its last image."""
        self._loaded = None


INCARNATION: Final = RecGranule.incarnation.offset >> 3


def residents(rmm: Monitor) -> Residents:
    """This process's residents."""
    found = rmm.residents
    if found is None:
        found = rmm.residents = Residents()
    return found
