"""The vCPUs of a plain guest: the hypervisor enters the processing element itself, under its own stage 2.

Enter at :class:`GuestVcpu`, which the scheduler drives as it does a Realm's
(:class:`hypervisor.arm.cca.rec_loop.RealmVcpu`). What an exit means is in :mod:`hypervisor.arm.guest_exits`.

One element runs all vCPUs of the domain. :class:`Element` keeps the last one loaded: a context is saved and another
one restored only when a different vCPU has its turn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from hypervisor.arm.affinity import affinity_of
from hypervisor.arm.cca.ports import Level, Log, RealmGuest, ShutdownReason, VcpuContext, VcpuState
from hypervisor.arm.guest_exits import dispatch
from machine import clock as system_clock
from machine.cpu import CONTEXT_SIZE, HCR, Cpu, Regime

if TYPE_CHECKING:
    from hypervisor.arm.plain_guest import PlainGuest

#: Stage 2, interrupts to EL2, SMC, WFI and WFE trapped.
GUEST_HCR: Final = HCR.VM | HCR.FMO | HCR.IMO | HCR.AMO | HCR.TSC | HCR.TWI | HCR.TWE | HCR.RW
ENTRY_PSTATE: Final = 0x3C5
ENTRY_SCTLR: Final = 0x00C5_0078
#: MPIDR_EL1[31] is RES1.
_MPIDR_RES1: Final = 1 << 31


class Element:
    """The processing element of a domain, and the vCPU whose context is loaded in it."""

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self.loaded: GuestVcpu | None = None

    def load(self, vcpu: GuestVcpu) -> None:
        """Make ``vcpu`` the loaded one: from its saved context, or from reset with the registers it starts with."""
        cpu = self.cpu
        before = self.loaded
        if before is not None and before is not vcpu:
            cpu.save(before.context)
        start, vcpu.start = vcpu.start, None
        if start is None:
            cpu.restore(vcpu.context)
        else:
            cpu.reset()
            cpu.set_sysreg("PSTATE", ENTRY_PSTATE)
            cpu.set_sysreg("SCTLR_EL1", ENTRY_SCTLR)
            cpu.set_gprs(start.x)
            cpu.pc = start.pc
        self.loaded = vcpu


class GuestVcpu:
    """A vCPU of a plain guest; 0 is runnable at once, the others are down until CPU_ON.

    ``state`` is what the last iteration left. ``context`` holds the registers while another vCPU is loaded, ``start``
    those of a vCPU that is to begin from reset. Belongs to the thread that runs the domain's vCPUs.
    """

    def __init__(
        self,
        plain: PlainGuest,
        number: int,
        element: Element,
        siblings: Sequence[GuestVcpu],
        log: Log,
        clock: Callable[[], int] = system_clock.now,
    ) -> None:
        guest: RealmGuest = plain.guest
        self.guest = guest
        self.plain = plain
        self.vcpu_id = number
        self.domid = guest.domid
        self.name = f"d{guest.domid}v{number}"
        self.log = log
        self.clock = clock
        self.siblings = siblings
        self.element = element
        self.cpu = element.cpu
        self.ich = element.cpu.ich
        self.vgic = guest.vgic
        self.mmio = guest.mmio
        self.timers = guest.vtimers[number]
        self.regime = Regime(
            plain.p2m.vttbr, plain.p2m.vtcr, GUEST_HCR, _MPIDR_RES1 | affinity_of(number), hvc=True
        )
        self.context = memoryview(bytearray(CONTEXT_SIZE))
        self.start: VcpuContext | None = guest.vcpu_context[number]
        self.state = VcpuState.RUNNABLE if number == 0 else VcpuState.DOWN
        #: Event channel ports that a SCHEDOP_poll waits for.
        self.polled: Sequence[int] = ()
        guest.vgic.set_online(number, number == 0)

    # What exit handling asks of a vCPU. Registers: only while it is the loaded one.

    def gpr(self, number: int) -> int:
        """X<number>; 31 reads as zero."""
        return self.cpu.gpr(number)

    def set_gpr(self, number: int, value: int) -> None:
        """Write X<number>; a write to 31 is dropped."""
        self.cpu.set_gpr(number, value)

    def block(self) -> VcpuState:
        """Wait for an interrupt, unless one is pending."""
        return VcpuState.RUNNABLE if self.vgic.has_pending(self.vcpu_id) else VcpuState.BLOCKED

    def turn_on(self, entry: int, context: int) -> None:
        """CPU_ON of a vCPU that is down: it starts from reset."""
        if self.element.loaded is self:
            # What it was when it went down is of no interest.
            self.element.loaded = None
        self.start = VcpuContext(entry, (context,))
        self.timers.update(0, 0, 0, 0)
        self.vgic.set_online(self.vcpu_id, True)
        self.state = VcpuState.RUNNABLE

    def turn_off(self) -> VcpuState:
        """CPU_OFF."""
        self.vgic.set_online(self.vcpu_id, False)
        return VcpuState.DOWN

    def shut_down(self, reason: ShutdownReason) -> VcpuState:
        """The guest ends itself: no vCPU runs any more."""
        self.guest.shutdown(reason)
        return VcpuState.PARKED

    def crash(self, text: str) -> VcpuState:
        """Crash the domain: the message, where it was noticed, and the vCPU stops for good."""
        caller = sys._getframe(1)
        self.log(Level.GUEST_ERR, f"{self.name}: {text}")
        self.log(Level.ERR, f"domain_crash called from {caller.f_globals['__name__']}:{caller.f_lineno}")
        self.log(Level.ERR, f"Domain {self.domid} (vcpu#{self.vcpu_id}) crashed on cpu#0: pc={self.cpu.pc:#x}")
        return self.shut_down(ShutdownReason.CRASH)

    # What the scheduler asks.

    @property
    def deadline(self) -> int | None:
        """The counter value at which a BLOCKED vCPU wakes by itself; None if only an event can wake it."""
        return self.timers.deadline() if self.state is VcpuState.BLOCKED else None

    def wake(self) -> None:
        """A BLOCKED vCPU goes on at once, whatever it waits for."""
        if self.state is VcpuState.BLOCKED:
            self.timers.stop_wait()
            self.polled = ()
            self.state = VcpuState.RUNNABLE

    def poll(self) -> bool:
        """Whether a waiting vCPU has something to do now; drives the lines of timers that expired while it waited."""
        if self.state is not VcpuState.BLOCKED:
            return False
        if not self.timers.expire(self.clock()) and not self.vgic.has_pending(self.vcpu_id):
            if self.guest.is_shutting_down:
                self.state = VcpuState.PARKED
            return False
        self.wake()
        return True

    def run_once(self) -> VcpuState:
        """One iteration: flush, run until an exception reaches EL2, sync, timers, the exit's action.

        Without an entry when the vCPU has nothing to run: BLOCKED, DOWN, PARKED (also once the domain shuts down).
        """
        if self.state > VcpuState.YIELDED and not self.poll():
            return self.state
        if self.guest.is_shutting_down:
            self.state = VcpuState.PARKED
            return self.state
        cpu, vcpu_id, ich, vgic = self.cpu, self.vcpu_id, self.ich, self.vgic
        if self.element.loaded is not self:
            self.element.load(self)
        vgic.flush_to_lrs(vcpu_id, ich)
        taken = cpu.run(self.regime)
        vgic.sync_from_lrs(vcpu_id, ich)
        timers = cpu.timers()
        self.timers.update(timers.cntp_ctl, timers.cntp_cval, timers.cntv_ctl, timers.cntv_cval)
        self.plain.events.sample(vcpu_id)
        self.state = state = dispatch(self, taken)
        return state
