"""A whole machine in this process: engine, RMM, host, one Realm. No daemon, no sockets, so that a profiler sees it all.

It is put together as :mod:`hypervisor.domain_process` does it; only the pages come straight from the allocator.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from hypervisor.arm.cca.bringup import bring_up
from hypervisor.arm.cca.build import HostAccess, finalize
from hypervisor.arm.cca.ports import Extent, Level, ShutdownReason, VcpuContext
from hypervisor.arm.cca.rec_loop import bind_vcpus
from hypervisor.domain import GUEST_RAM_BASE
from hypervisor.pages import PageAllocator
from hypervisor.realm_guest import Guest
from hypervisor.runstate import Runstate
from hypervisor.scheduler import Scheduler
from machine.board import Board
from machine.cpu.engine import Engine
from machine.memory import GRANULE_SIZE, PhysicalMemory

_HOST_SIZE = 64 << 20


class RealmMachine:
    """A machine with one domain of ``memory_size`` bytes; ``console_log`` is the file its console goes to.

    Write its image with :meth:`write`, then :meth:`build`, then :meth:`run`. ``log`` is the hypervisor's log.
    """

    def __init__(self, memory_size: int, console_log: Path) -> None:
        self.memory = PhysicalMemory.create(memory_size + _HOST_SIZE)
        self.board = Board(self.memory)
        self.board.cpu = self.cpu = Engine(self.memory)
        self.board.load_firmware("rmm.monitor")
        self.log: list[str] = []
        self.pages = PageAllocator(self.board.ns)
        self.cca = bring_up(self.board.smc, self.board.ns, self.pages, self._log)
        self._size = memory_size
        gpa, ram = GUEST_RAM_BASE, []
        for extent in self.pages.alloc_extents(memory_size):
            ram.append(Extent(gpa, extent.pa, extent.size))
            gpa += extent.size
        self.guest = Guest(
            domid=1,
            max_vcpus=1,
            ram=ram,
            has_vuart=True,
            trap_unmapped_accesses=True,
            console_log=console_log,
            on_output=self._look_for_marker,
            on_shutdown=self._ended,
            log=self.log.append,
        )
        self._console_fd = os.open(console_log, os.O_RDONLY)
        self.shutdown_reason: ShutdownReason | None = None
        self._marker = b""
        self._marked = False
        self._records_pa, runstate_pa = self.pages.alloc(2)
        self._runstate = Runstate(self.board.ns.window(runstate_pa, GRANULE_SIZE))

    def __enter__(self) -> RealmMachine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.cpu.close()
        os.close(self._console_fd)

    def _log(self, level: Level, text: str) -> None:
        self.log.append(text)

    def _ended(self, reason: ShutdownReason) -> None:
        self.shutdown_reason = reason

    def stop_at(self, marker: bytes) -> None:
        """Have :meth:`run` return once the guest has printed ``marker``."""
        self._marker = marker

    def _look_for_marker(self) -> None:
        if self._marker:
            start = max(self.guest.console.end - len(self._marker), 0)
            self._marked |= os.pread(self._console_fd, len(self._marker), start) == self._marker

    def write(self, gpa: int, data: bytes) -> None:
        """Copy into guest memory, before :meth:`build`."""
        view = memoryview(data)
        for extent in self.guest.ram:
            low, high = max(gpa, extent.gpa), min(gpa + len(data), extent.gpa + extent.size)
            if low < high:
                self.board.ns.write(extent.pa + low - extent.gpa, view[low - gpa : high - gpa])

    def build(self, pc: int, x: Sequence[int] = (0, 0, 0, 0)) -> None:
        """Make the domain a Realm whose vCPU 0 starts at ``pc``. Raises FinalizeError."""
        self.guest.set_context(0, VcpuContext(pc, tuple(x)))
        host = HostAccess(self.board.smc, self.board.ns, self.pages, self._log)
        frame, count = GUEST_RAM_BASE // GRANULE_SIZE, self._size // GRANULE_SIZE
        for _ in finalize(self.guest, host, self.cca, self._records_pa, frame, count, debug_vuart=True):
            pass
        vcpus = bind_vcpus(self.guest, self.board, self._records_pa, self._log)
        self._scheduler = Scheduler(vcpus, self.cpu, self._runstate, self._interrupted)

    def _interrupted(self) -> bool:
        return self.guest.is_shutting_down or self._marked

    def run(self) -> None:
        """Run the Realm until it powers off or prints the marker; RuntimeError, with the log's end, if it does not."""
        self._scheduler.run()
        if not self._marked and self.shutdown_reason is not ShutdownReason.POWEROFF:
            raise RuntimeError(f"the guest did not power off: {_last(self.log)}")


def _last(lines: Iterable[str]) -> str:
    return "; ".join(list(lines)[-3:]) or "no log"
