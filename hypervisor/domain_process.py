"""A domain's own process: its vCPUs on one processing element, its devices, and nothing that competes with them.

Started by the daemon as ``python -m hypervisor.domain_process MEMORY CHANNEL CONSOLE DAEMON``: three inherited
descriptors and the daemon's process id. Two threads: the main one builds the Realm (or, at the first unpause, the plain
guest) and runs vCPUs; the other waits for the daemon's messages and kicks the processing element. It ends with the
daemon, or when the daemon kills it; what it leaves in memory is the daemon's to take apart.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from hypervisor import channel
from hypervisor.arm.cca.bringup import CcaHost
from hypervisor.arm.cca.build import FinalizeError, HostAccess, finalize
from hypervisor.arm.cca.ports import Extent, Level, ShutdownReason, VcpuContext
from hypervisor.arm.cca.rec_loop import bind_vcpus
from hypervisor.arm.plain_guest import PlainGuest
from hypervisor.channel import FromDomain, ToDomain
from hypervisor.domains import LEVEL_NAMES
from hypervisor.log import WARNING
from hypervisor.realm_guest import Guest
from hypervisor.runstate import Runstate
from hypervisor.scheduler import Scheduler
from machine.board import Board
from machine.cpu import Cpu, CpuError
from machine.cpu.engine import Engine
from machine.memory import GRANULE_SIZE, PhysicalMemory

FIRMWARE = "rmm.monitor"
_PR_SET_PDEATHSIG = 1
#: Least time between two progress reports, in ns.
PROGRESS_INTERVAL = 50_000_000
#: Pages asked of the daemon at a time, at least.
PAGE_BATCH = 64
#: Guest-caused log lines a second; the rest is counted and reported.
GUEST_LOG_RATE = 20


def _nothing() -> None:
    """There is no processing element to kick yet."""


class Mailbox:
    """Messages from the daemon: filled by the I/O thread, emptied by the main thread, which may also wait for one."""

    def __init__(self) -> None:
        self.waiting: deque[channel.ToDomainMessage] = deque()
        self._arrived = threading.Condition()
        #: Makes the main thread look, when it runs vCPUs.
        self.kick: Callable[[], None] = _nothing

    def put(self, message: channel.ToDomainMessage) -> None:
        """From the I/O thread."""
        with self._arrived:
            self.waiting.append(message)
            self._arrived.notify()
        self.kick()

    def take(self) -> channel.ToDomainMessage:
        """The next message, waiting for it."""
        with self._arrived:
            while not self.waiting:
                self._arrived.wait()
            return self.waiting.popleft()

    def take_pages(self) -> channel.Pages:
        """The next :class:`~channel.Pages`, past any other message."""
        with self._arrived:
            while True:
                for message in self.waiting:
                    if isinstance(message, channel.Pages):
                        self.waiting.remove(message)
                        return message
                self._arrived.wait()


class ChannelPages:
    """The host's page allocator seen from here: pages come from the daemon in batches and stay with the domain."""

    def __init__(self, process: DomainProcess, pages: Iterable[int]) -> None:
        self._process = process
        self._free = list(pages)

    def alloc(self, count: int = 1) -> list[int]:
        """``count`` zeroed pages; MemoryError when the daemon has none left."""
        missing = count - len(self._free)
        if missing > 0:
            self._process.send(channel.NeedPages(max(missing, PAGE_BATCH)))
            got = self._process.mailbox.take_pages().pages
            if len(got) < missing and missing < PAGE_BATCH:
                self._process.send(channel.NeedPages(missing))
                got += self._process.mailbox.take_pages().pages
            self._free += sorted(got, reverse=True)
            if len(self._free) < count:
                raise MemoryError(f"the host has no {count} free pages")
        taken = self._free[len(self._free) - count :][::-1]
        del self._free[len(self._free) - count :]
        return taken

    def free(self, pages: Iterable[int]) -> None:
        """Zero them and keep them for the next allocation."""
        for pa in pages:
            self._process.board.ns.zero(pa, GRANULE_SIZE)
            self._free.append(pa)


class _DeviceLog(logging.Handler):
    """What the emulated devices say of their guest, to the daemon."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(record.getMessage())


class DomainProcess:
    """The process: its connection to the daemon, and the domain once it is told which."""

    def __init__(self, memory_fd: int, sock: socket.socket, console_fd: int) -> None:
        self._socket = sock
        self._console_fd = console_fd
        self._send_lock = threading.Lock()
        self.mailbox = Mailbox()
        threading.Thread(target=self._receive, name="io", daemon=True).start()
        self.board = Board(PhysicalMemory.attach(memory_fd))
        self.cpu: Cpu = Engine(self.board.memory)
        self.board.cpu = self.cpu
        self.board.load_firmware(FIRMWARE)
        self.mailbox.kick = self.cpu.kick
        self._paused = True
        self._log_window = 0
        self._log_count = 0

    # The daemon's side

    def send(self, message: FromDomain) -> None:
        """One message to the daemon; the process ends when there is none."""
        try:
            with self._send_lock:
                self._socket.send(channel.encode(message))
        except OSError:
            os._exit(0)

    def _receive(self) -> None:
        while True:
            try:
                packet = self._socket.recv(channel.MAX_PACKET)
            except OSError:
                packet = b""
            if not packet:
                os._exit(0)
            try:
                self.mailbox.put(channel.decode_to_domain(packet))
            except channel.ChannelError as error:
                # Such as after an update of the files below a running daemon.
                self.send(channel.Failed(f"domain process and hypervisord do not fit together, restart it: {error}"))
                os._exit(1)

    def _log(self, level: Level, text: str) -> None:
        if level is Level.GUEST_ERR:
            # The line before a crash is its reason.
            self._crash_message = text
        if level in (Level.GUEST_ERR, Level.GUEST_INFO) and not self._may_log():
            return
        self.send(channel.LogLine(LEVEL_NAMES[level], text))

    def _device_log(self, text: str) -> None:
        if self._may_log():
            self.send(channel.LogLine(WARNING, f"d{self.domid}: {text}"))

    def _may_log(self) -> bool:
        second = time.monotonic_ns() // 1_000_000_000
        if second != self._log_window:
            if self._log_count > GUEST_LOG_RATE:
                dropped = self._log_count - GUEST_LOG_RATE
                self.send(channel.LogLine(WARNING, f"d{self.domid}: {dropped} guest messages suppressed"))
            self._log_window, self._log_count = second, 0
        self._log_count += 1
        return self._log_count <= GUEST_LOG_RATE

    def _on_output(self) -> None:
        if self._runstate.take_doorbell():
            os.eventfd_write(self._console_fd, 1)

    def _interrupted(self) -> bool:
        return bool(self.mailbox.waiting) or self.guest.is_shutting_down

    # The domain's life

    def run(self) -> None:
        """From the first message to the end."""
        first = self.mailbox.take()
        assert isinstance(first, channel.Init), first
        self._initialise(first)
        self.send(channel.Ready())
        while True:
            if self._paused or self.guest.is_shutting_down or not self._scheduler:
                self._handle(self.mailbox.take())
            else:
                while self.mailbox.waiting:
                    self._handle(self.mailbox.take())
                if not self._paused and not self._scheduler.run():
                    # Every vCPU turned itself off: nothing can wake one any more, and the domain stays as it is.
                    self._handle(self.mailbox.take())

    def _initialise(self, init: channel.Init) -> None:
        self.domid = init.domid
        self._init = init
        self._runstate = Runstate(self.board.ns.window(init.runstate_pa, GRANULE_SIZE))
        self._pages = ChannelPages(self, init.pages)
        self._scheduler: Scheduler | None = None
        self._crash_message = ""
        self.guest = Guest(
            domid=init.domid,
            max_vcpus=init.max_vcpus,
            ram=[Extent(*extent) for extent in init.extents],
            has_vuart=init.vuart,
            trap_unmapped_accesses=init.trap_unmapped_accesses,
            console_log=Path(init.console_log),
            on_output=self._on_output,
            on_shutdown=self._on_shutdown,
            log=self._device_log,
        )
        logging.getLogger("hypervisor.arm").addHandler(_DeviceLog(self._device_log))

    def _on_shutdown(self, reason: ShutdownReason) -> None:
        why = self._crash_message if reason is ShutdownReason.CRASH else ""
        self.send(channel.Shutdown(int(reason), why))

    def _handle(self, message: ToDomain) -> None:
        match message:
            case channel.SetContext(vcpu, pc, x):
                self.guest.set_context(vcpu, VcpuContext(pc, tuple((x + [0] * 4)[:4])))
            case channel.Finalize(base_gfn, nr_pages):
                self._finalize(base_gfn, nr_pages)
            case channel.Pause():
                self._paused = True
            case channel.Unpause():
                self._paused = False
                self.guest.was_unpaused = True
                if self._scheduler is None and not self.guest.is_shutting_down:
                    self._start_plain_guest()
            case channel.Input(ident, data):
                uart = self.guest.uart
                taken = uart.receive(data) if uart is not None else len(data)
                self.send(channel.InputTaken(ident, taken))
            case channel.Stop():
                self.guest.is_shutting_down = True
            case channel.Pages(pages):
                self._pages.free(pages)

    def _start_plain_guest(self) -> None:
        """The first unpause of a domain that was not made a Realm: from now on it is a plain guest."""
        try:
            plain = PlainGuest(self.guest, self._init.uuid, self.board, self._pages, self._log)
        except MemoryError as error:
            self._log(Level.GUEST_ERR, f"d{self.domid}: no memory for the guest's stage-2 tables: {error}")
            self.guest.shutdown(ShutdownReason.CRASH)
            return
        self._scheduler = Scheduler(plain.vcpus, self.cpu, self._runstate, self._interrupted)

    def _finalize(self, base_gfn: int, nr_pages: int) -> None:
        init, last = self._init, 0
        host = HostAccess(self.board.smc, self.board.ns, self._pages, self._log)
        cca = CcaHost(init.cca_available, *init.features)
        steps = finalize(
            self.guest, host, cca, init.records_pa, base_gfn, nr_pages, debug_vuart=init.debug_vuart
        )
        try:
            for step in steps:
                now = time.monotonic_ns()
                if now - last >= PROGRESS_INTERVAL or step.done == step.total:
                    last = now
                    self.send(channel.BuildProgress(step.phase, step.done, step.total))
        except FinalizeError as error:
            name = errno.errorcode.get(error.errno, str(error.errno))
            self.send(channel.Finalized(name, str(error), error.rmi_result, error.crash))
            return
        vcpus = bind_vcpus(self.guest, self.board, init.records_pa, self._log)
        self._scheduler = Scheduler(vcpus, self.cpu, self._runstate, self._interrupted)
        self.send(channel.Finalized("", "", 0, False))


def _die_with(daemon: int) -> None:
    """SIGKILL when the daemon dies; at once when it is dead already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != daemon:
        os._exit(0)


def main() -> None:
    """Run the domain that the daemon describes."""
    memory_fd, channel_fd, console_fd, daemon = map(int, sys.argv[1:5])
    _die_with(daemon)
    # The terminal's signals are for whoever started the daemon.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=channel_fd)
    try:
        process = DomainProcess(memory_fd, sock, console_fd)
    except (CpuError, OSError, ImportError, MemoryError) as error:
        sock.send(channel.encode(channel.Failed(f"cannot start a processing element: {error}")))
        sys.exit(1)
    try:
        process.run()
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        process.send(channel.Failed(f"internal error of the domain's process: {error!r} ({where})"))
        raise


if __name__ == "__main__":
    main()
