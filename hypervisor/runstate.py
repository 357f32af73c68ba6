"""Run state of a domain's vCPUs, in a Non-secure page that the domain's process writes and the daemon reads.

The counterpart of Xen's runstate area: the daemon answers ``xl list`` and ``xl vcpu-list`` from it without asking a
process that may be busy in its guest. One writer; a reader sees each 8-byte word whole.

Layout, per vCPU at ``index * 24``: u64 state (:class:`VcpuRun`), u64 CPU time in ns, u64 ``since``: the monotonic time
in ns at which the vCPU started to run, valid in state RUNNING. The last word of the page is the console's doorbell: 1
while the daemon wants to hear of new output.
"""

from __future__ import annotations

import time
from enum import IntEnum
from typing import NamedTuple

ENTRY_WORDS = 3
MAX_VCPUS = 128
_DOORBELL = 511


class VcpuRun(IntEnum):
    """What a vCPU is doing."""

    DOWN = 0
    RUNNABLE = 1
    RUNNING = 2
    BLOCKED = 3


class VcpuTimes(NamedTuple):
    """One vCPU's state and CPU time (ns), up to now."""

    state: VcpuRun
    cpu_time_ns: int


class Runstate:
    """A view of the page; ``window`` is its 4 KiB."""

    def __init__(self, window: memoryview) -> None:
        self._words = window.cast("Q")

    def release(self) -> None:
        """Let go of the page; it is about to be freed. Every vCPU reads as DOWN with no CPU time from now on."""
        self._words = memoryview(bytearray(4096)).cast("Q")

    def arm_doorbell(self) -> None:
        """The daemon wants to be told of the next console output. It looks for output once more after this."""
        self._words[_DOORBELL] = 1

    def take_doorbell(self) -> bool:
        """There is console output: whether the daemon is to be told (which disarms)."""
        if not self._words[_DOORBELL]:
            return False
        self._words[_DOORBELL] = 0
        return True

    def set(self, vcpu: int, state: VcpuRun) -> None:
        """The vCPU leaves RUNNING for ``state``, or changes between the others."""
        at = vcpu * ENTRY_WORDS
        words = self._words
        if words[at] == VcpuRun.RUNNING:
            now = time.monotonic_ns()
            words[at + 1] += now - words[at + 2]
            words[at + 2] = now
        words[at] = state

    def start(self, vcpu: int) -> None:
        """The vCPU starts to run."""
        at = vcpu * ENTRY_WORDS
        words = self._words
        words[at + 2] = time.monotonic_ns()
        words[at] = VcpuRun.RUNNING

    def read(self, vcpu: int, alive: bool = True) -> VcpuTimes:
        """State and CPU time; without a live process a RUNNING vCPU is only RUNNABLE and its time stands still."""
        at = vcpu * ENTRY_WORDS
        state, spent, since = VcpuRun(self._words[at]), self._words[at + 1], self._words[at + 2]
        if state is VcpuRun.RUNNING:
            if alive:
                spent += max(0, time.monotonic_ns() - since)
            else:
                state = VcpuRun.RUNNABLE
        return VcpuTimes(state, spent)
