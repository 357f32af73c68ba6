"""hypervisord: the process that owns the machine.

``main`` powers the machine on (memory, firmware), brings the RMM up and serves RPC until it is told to stop. A second
daemon on the same runtime directory fails loudly: the lock file is held for the daemon's lifetime. Exit status: 0 after
a stop, 1 when it cannot start (one line on standard error says why).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import click
import uvloop
import zmq

from hypervisor import kconfig
from hypervisor.arm.cca.bringup import CcaHost, bring_up
from hypervisor.arm.cca.ports import Level
from hypervisor.domains import LEVEL_NAMES, DomainTable
from hypervisor.log import INFO, HypervisorLog
from hypervisor.pages import PageAllocator
from hypervisor.rpc import endpoint, messages
from hypervisor.rpc.messages import Message
from hypervisor.rpc_server import Report, RpcServer
from machine.board import Board
from machine.memory import GRANULE_SIZE, Pas, PhysicalMemory

#: What ``xl info`` and the device tree call the version: that of the Xen tree whose behaviour this follows.
XEN_MAJOR, XEN_MINOR, XEN_EXTRA = 4, 23, "-unstable"
FIRMWARE = "rmm.monitor"


class StartError(Exception):
    """Raised when the daemon cannot start; the text is the line to show."""


def host_memory() -> int:
    """Physical memory of the host, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def parse_size(text: str) -> int:
    """A size such as ``2G``, ``512M`` or ``1048576K`` (no suffix: MiB) in bytes; ValueError."""
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    unit = units.get(text[-1:].lower())
    value = int(text[:-1] if unit else text) * (unit or 1 << 20)
    if value < 16 << 20:
        raise ValueError("less than 16M")
    return value


class Daemon:
    """The machine and everything that serves it."""

    def __init__(self, memory_size: int, options: kconfig.Kconfig, log: HypervisorLog) -> None:
        self.log = log
        self.kconfig = options
        self.started_ns = time.time_ns()
        try:
            memory = PhysicalMemory.create(memory_size)
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or error
            raise StartError(f"cannot create {memory_size >> 20} MiB of physical memory: {why}") from None
        self.board = Board(memory)
        self.board.load_firmware(FIRMWARE)
        self.pages = PageAllocator(self.board.ns)
        python = f"Python {platform.python_version()}"
        log.log(INFO, f"Xen version {XEN_MAJOR}.{XEN_MINOR}{XEN_EXTRA} (hypervisord, {python})")
        log.log(INFO, f"RAM: {memory.dram_base:016x} - {memory.dram_top - 1:016x}")
        self.cca = CcaHost()
        if options.arm_cca:
            self.cca = bring_up(self.board.smc, self.board.ns, self.pages, self._log_cca)
        self.activation_granules = self.delegated_granules()
        self.domains = DomainTable(self.board, self.pages, self.cca, options, log)
        self.stopping = asyncio.Event()

    def _log_cca(self, level: Level, text: str) -> None:
        self.log.log(LEVEL_NAMES[level], text)

    def delegated_granules(self) -> int:
        """How many granules of DRAM are in the Realm PAS now."""
        memory = self.board.memory
        return bytes(memory.gpt[: memory.dram_size // GRANULE_SIZE]).count(Pas.REALM)

    def handlers(self) -> dict[str, object]:
        """Every RPC method."""
        return {name: getattr(self, f"rpc_{name}") for name in messages.METHODS}

    async def rpc_hello(self, request: messages.Nothing, report: Report) -> Message:
        """Who is there."""
        version = f"{XEN_MAJOR}.{XEN_MINOR}{XEN_EXTRA}"
        return messages.Hello(
            protocol=messages.PROTOCOL_VERSION, version=version, pid=os.getpid(), started_ns=self.started_ns
        )

    async def rpc_health(self, request: messages.Nothing, report: Report) -> Message:
        """Answers when the event loop turns."""
        return messages.Nothing()

    async def rpc_physinfo(self, request: messages.Nothing, report: Report) -> Message:
        """The host."""
        uname = os.uname()
        return messages.Physinfo(
            host=uname.nodename,
            release=uname.release,
            host_version=uname.version,
            machine="aarch64",
            nr_cpus=len(os.sched_getaffinity(0)),
            total_memory_kib=self.pages.total_pages * 4,
            free_memory_kib=self.pages.free_pages * 4,
            xen_major=XEN_MAJOR,
            xen_minor=XEN_MINOR,
            xen_extra=XEN_EXTRA,
            scheduler="round-robin",
            command_line=" ".join(sys.argv[1:]),
            cpu="unicorn 2.1.4, Cortex-A72",
            rmm="RMM 2.0-bet1 (emulated)",
            cca=self.cca.available,
            realm_debug_vuart=self.kconfig.arm_cca_realm_debug_vuart,
            delegated_granules=self.delegated_granules(),
            activation_granules=self.activation_granules,
            build_date=time.strftime("%a %b %e %H:%M:%S UTC %Y", time.gmtime(Path(__file__).stat().st_mtime)),
        )

    async def rpc_dmesg(self, request: messages.DmesgRequest, report: Report) -> Message:
        """The log."""
        return messages.Dmesg(text=self.log.text(request.clear))

    async def rpc_stop(self, request: messages.Nothing, report: Report) -> Message:
        """Power off: every domain ends, then the daemon."""
        await self.domains.destroy_all()
        self.stopping.set()
        return messages.Nothing()

    async def rpc_domain_create(self, request: messages.DomainCreateRequest, report: Report) -> Message:
        """Create a paused domain."""
        return (await self.domains.create(request)).info()

    async def rpc_domain_write(self, request: messages.DomainWriteRequest, report: Report) -> Message:
        """Write guest RAM."""
        self.domains.write(request.domid, request.gpa, request.data)
        return messages.Nothing()

    async def rpc_domain_set_context(self, request: messages.VcpuContextRequest, report: Report) -> Message:
        """Set vCPU registers."""
        self.domains.set_context(request.domid, request.vcpu, request.pc, request.x)
        return messages.Nothing()

    async def rpc_domain_finalize_realm(self, request: messages.FinalizeRealmRequest, report: Report) -> Message:
        """Turn the domain into a Realm."""
        await self.domains.finalize_realm(request.domid, request.base_gfn, request.nr_pages, report)
        return messages.Nothing()

    async def rpc_domain_pause(self, request: messages.DomainRef, report: Report) -> Message:
        """Pause."""
        self.domains.pause(request.domid)
        return messages.Nothing()

    async def rpc_domain_unpause(self, request: messages.DomainRef, report: Report) -> Message:
        """Unpause."""
        self.domains.unpause(request.domid)
        return messages.Nothing()

    async def rpc_domain_shutdown(self, request: messages.ShutdownRequest, report: Report) -> Message:
        """Shut down from outside."""
        self.domains.shutdown(request.domid, request.reason)
        return messages.Nothing()

    async def rpc_domain_destroy(self, request: messages.DomainRef, report: Report) -> Message:
        """Destroy."""
        await self.domains.destroy(request.domid)
        return messages.Nothing()

    async def rpc_domain_info(self, request: messages.DomainRef, report: Report) -> Message:
        """One domain."""
        return self.domains.get(request.domid).info()

    async def rpc_domain_list(self, request: messages.Nothing, report: Report) -> Message:
        """All domains."""
        return messages.DomainList(domains=[domain.info() for domain in self.domains.all()])

    async def rpc_domain_vcpus(self, request: messages.DomainRef, report: Report) -> Message:
        """A domain's vCPUs."""
        return messages.VcpuList(vcpus=self.domains.get(request.domid).vcpus())

    async def rpc_domain_wait(self, request: messages.WaitRequest, report: Report) -> Message:
        """Wait for the end of a domain."""
        done, domain = await self.domains.wait(request.domid, request.wait_ms, request.gone)
        return messages.WaitAnswer(done=done, info=None if domain is None else domain.info())

    async def rpc_console_read(self, request: messages.ConsoleReadRequest, report: Report) -> Message:
        """Console output."""
        offset, data, ended = await self.domains.consoles.read(
            request.domid, request.offset, request.max_bytes, request.wait_ms
        )
        return messages.ConsoleOutput(offset=offset, data=data, ended=ended)

    async def rpc_console_write(self, request: messages.ConsoleWriteRequest, report: Report) -> Message:
        """Console input."""
        return messages.ConsoleTaken(taken=await self.domains.consoles.write(request.domid, request.data))


def take_lock(path: Path) -> int:
    """Own the runtime directory: the descriptor of its locked lock file, which holds our pid. StartError when taken."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise StartError(f"another hypervisord (pid {owner}) already serves {path.parent}") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def print_log_line(line: str) -> None:
    """A line of the log to standard error; a full disk or a closed terminal there does not stop the machine."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


async def serve(memory_size: int, options: kconfig.Kconfig, ready_fd: int | None) -> None:
    """Run the machine until it is told to stop."""
    log = HypervisorLog(print_log_line)
    daemon = Daemon(memory_size, options, log)
    server = RpcServer(endpoint.socket_path(), daemon.handlers(), log.log)  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stopping.set)
    try:
        server.start()
    except zmq.ZMQError as error:
        raise StartError(f"cannot listen on {endpoint.socket_path()}: {error.strerror}") from None
    if ready_fd is not None:
        with contextlib.suppress(BrokenPipeError):  # whoever started us was interrupted
            os.write(ready_fd, b"ready\n")
        os.close(ready_fd)
    await daemon.stopping.wait()
    await daemon.domains.destroy_all()
    await server.stop()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--memory", metavar="SIZE", help="DRAM of the machine (K, M, G; default: as much as the host has).")
@click.option(
    "--config", type=click.Path(path_type=Path), default=kconfig.DEFAULT, help="Build-time options (a .config file)."
)
@click.option("--ready-fd", type=int, hidden=True)
def main(memory: str | None, config: Path, ready_fd: int | None) -> None:
    """Own the machine: run the hypervisor and its domains until stopped (xl daemon stop, SIGTERM)."""
    os.umask(0o077)
    try:
        try:
            size = parse_size(memory) if memory is not None else host_memory()
        except ValueError as error:
            raise StartError(f"--memory {memory}: not a size such as 2G ({error})") from None
        lock = take_lock(endpoint.lock_path())
        uvloop.run(serve(size, kconfig.load(config), ready_fd))
        os.close(lock)
    except (StartError, endpoint.EndpointError, kconfig.KconfigError) as error:
        _cannot_start(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        _cannot_start(f"{where}{error.strerror or error}")


def _cannot_start(why: str) -> NoReturn:
    print(f"hypervisord: {why}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
