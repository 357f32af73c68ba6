"""Round-robin scheduling of a domain's vCPUs on its one processing element.

A vCPU runs until it blocks, yields, or its quantum ends while another one wants to run; a lone vCPU is not interrupted.
When all wait, the element itself waits for the nearest timer or a kick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from hypervisor.arm.cca.ports import VcpuState
from hypervisor.runstate import Runstate, VcpuRun
from machine import clock
from machine.cpu import Cpu

#: A vCPU's turn while others wait, in counter ticks: 1 ms. A guest that waits for another of its vCPUs mostly spins
#: (the emulated CPU does not trap WFE), so short turns are worth a switch of some 25 us.
QUANTUM = clock.COUNTER_FREQUENCY // 1000

_RUNSTATE = {
    VcpuState.RUNNABLE: VcpuRun.RUNNABLE,
    VcpuState.YIELDED: VcpuRun.RUNNABLE,
    VcpuState.BLOCKED: VcpuRun.BLOCKED,
    VcpuState.DOWN: VcpuRun.DOWN,
    VcpuState.PARKED: VcpuRun.BLOCKED,
}


class SchedulableVcpu(Protocol):
    """What the scheduler needs of a vCPU (:class:`hypervisor.arm.cca.rec_loop.RealmVcpu`)."""

    state: VcpuState

    @property
    def deadline(self) -> int | None:
        """Counter value at which a blocked vCPU must be looked at again."""

    def run_once(self) -> VcpuState:
        """One entry and what follows from its exit."""

    def poll(self) -> bool:
        """A vCPU that is not runnable: deliver what is due; whether it wants to run now."""


class Scheduler:
    """Runs ``vcpus`` on ``cpu`` until ``interrupted()`` says that something else wants the thread."""

    def __init__(
        self, vcpus: Sequence[SchedulableVcpu], cpu: Cpu, runstate: Runstate, interrupted: Callable[[], bool]
    ) -> None:
        self._vcpus = vcpus
        self._cpu = cpu
        self._runstate = runstate
        self._interrupted = interrupted
        self._next = 0
        for number, vcpu in enumerate(vcpus):
            runstate.set(number, _RUNSTATE[vcpu.state])

    def run(self) -> bool:
        """Run or wait until interrupted; False when no vCPU can ever run again (all parked or down)."""
        while not self._interrupted():
            number = self._pick()
            if number is None:
                if all(vcpu.state in (VcpuState.PARKED, VcpuState.DOWN) for vcpu in self._vcpus):
                    return False
                self._cpu.wait(self._nearest())
            else:
                self._turn(number)
        return True

    def _wants(self, number: int) -> bool:
        vcpu = self._vcpus[number]
        return vcpu.state <= VcpuState.YIELDED or vcpu.poll()

    def _pick(self) -> int | None:
        total = len(self._vcpus)
        for step in range(total):
            number = (self._next + step) % total
            if self._wants(number):
                self._next = (number + 1) % total
                return number
        return None

    def _nearest(self, other_than: int = -1) -> int | None:
        nearest = None
        for number, vcpu in enumerate(self._vcpus):
            if number != other_than and vcpu.state is VcpuState.BLOCKED:
                at = vcpu.deadline
                if at is not None and (nearest is None or at < nearest):
                    nearest = at
        return nearest

    def _turn(self, number: int) -> None:
        vcpu = self._vcpus[number]
        runstate = self._runstate
        interrupted = self._interrupted
        run_once = vcpu.run_once
        runstate.start(number)
        if len(self._vcpus) == 1:
            self._cpu.set_deadline(None)
            state = run_once()
            while state is VcpuState.RUNNABLE and not interrupted():
                state = run_once()
        else:
            state = self._shared_turn(number, vcpu)
        runstate.set(number, _RUNSTATE[state])

    def _shared_turn(self, number: int, vcpu: SchedulableVcpu) -> VcpuState:
        end = clock.now() + QUANTUM
        while True:
            due = self._nearest(number)
            self._cpu.set_deadline(end if due is None else min(end, due))
            state = vcpu.run_once()
            if state is not VcpuState.RUNNABLE or self._interrupted():
                return state
            count = clock.now()
            if count < end and not (due is not None and count >= due):
                continue
            if any(self._wants(other) for other in range(len(self._vcpus)) if other != number):
                return state
            end = count + QUANTUM
