"""A host of its own for tests: ``xl`` as a process, with directories and a daemon that nobody else uses.

:meth:`XlHost.leftovers` says what is different from when :meth:`XlHost.settled` was taken: domains, processes,
delegated granules, free memory, files in the runtime directory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from hypervisor.rpc.client import Client
from hypervisor.rpc.messages import DomainInfo, DomainList, DomainRef, Nothing, Physinfo, VcpuInfo, VcpuList
from machine.board import Board
from machine.memory import PhysicalMemory
from rmm.sro import find

ROOT = Path(__file__).resolve().parents[2]
#: Seconds in which everything that a command started must be gone again.
SETTLE = 20.0


class Settled(NamedTuple):
    """What a host has when nothing runs on it."""

    domains: tuple[str, ...]
    extra_granules: int
    free_memory_kib: int
    open_operations: int
    processes: frozenset[str]
    runtime_files: frozenset[str]


def until(condition: Callable[[], bool], what: str, seconds: float = SETTLE) -> None:
    """Wait for CONDITION; the test fails naming WHAT when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not: {what}"
        time.sleep(0.01)


class XlHost:
    """Runtime and state directory, environment, and the processes that have them."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="xl-e2e-"))
        self.runtime = self.directory / "run"
        self.state = self.directory / "state"
        self.environment = {
            **os.environ,
            "XL_RUNTIME_DIR": str(self.runtime),
            "XL_STATE_DIR": str(self.state),
            "PYTHONPATH": str(ROOT),
        }
        self.environment.pop("XL_NO_AUTOSTART", None)

    # Commands

    def command(self, *arguments: str) -> list[str]:
        """The argument vector of an ``xl`` command."""
        return [sys.executable, "-m", "toolstack", *arguments]

    def xl(self, *arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``xl`` to its end."""
        return subprocess.run(
            self.command(*arguments),
            env={**self.environment, **environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``xl`` in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    # The daemon

    def start_daemon(self, memory: str) -> int:
        """Start hypervisord with MEMORY of DRAM and wait until it serves; its process id."""
        read_end, write_end = os.pipe()
        log = (self.directory / "daemon.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "hypervisor.daemon", "--memory", memory, "--ready-fd", str(write_end)],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(write_end,),
            start_new_session=True,
        )
        os.close(write_end)
        ready = os.read(read_end, 16)
        os.close(read_end)
        log.close()
        assert ready == b"ready\n", (self.directory / "daemon.log").read_text()
        return process.pid

    def client(self) -> Client:
        """A client of the daemon."""
        return Client(self.runtime / "rpc.sock")

    def physinfo(self) -> Physinfo:
        """What the daemon says of the machine."""
        with self.client() as client:
            return client.call("physinfo", Nothing(), Physinfo)

    def domains(self) -> list[DomainInfo]:
        """All domains."""
        with self.client() as client:
            return client.call("domain_list", Nothing(), DomainList).domains

    def domain(self, name: str) -> DomainInfo | None:
        """The domain of that name."""
        return next((domain for domain in self.domains() if domain.name == name), None)

    def vcpus(self, name: str) -> list[VcpuInfo]:
        """The vCPUs of the domain of that name."""
        domain = self.domain(name)
        assert domain is not None, f"no domain {name}"
        with self.client() as client:
            return client.call("domain_vcpus", DomainRef(domid=domain.domid), VcpuList).vcpus

    def log(self) -> str:
        """The daemon's log, for the message of a failing test."""
        return "".join(path.read_text() for path in (*self.directory.glob("*.log"), *self.state.glob("*.log")))

    # What is there

    def processes(self) -> dict[int, str]:
        """Command lines of all processes with this host's directories in their environment, by process id."""
        mark = f"XL_RUNTIME_DIR={self.runtime}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        words = (entry / "cmdline").read_bytes().split(b"\0")
                        if words != [b""]:  # a zombie is its parent's business
                            found[int(entry.name)] = b" ".join(words).decode(errors="replace").strip()
        return found

    def open_operations(self) -> int:
        """How many stateful operations the RMM has open: looked up in its own memory, through the daemon's memfd."""
        pid = int((self.runtime / "hypervisord.lock").read_text())
        fd = -1
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the daemon closes some while we look
                if "physical-memory" in os.readlink(link):
                    fd = os.open(link, os.O_RDWR | os.O_CLOEXEC)
                    break
        assert fd >= 0, "the daemon has no physical memory"
        board = Board(PhysicalMemory.attach(fd))
        board.load_firmware("rmm.monitor")
        rmm = board.smc.__self__  # type: ignore[attr-defined]
        with rmm.lock:
            count = sum(find(rmm, handle) is not None for handle in range(rmm.options.sro_contexts))
        os.close(fd)
        return count

    def settled(self) -> Settled:
        """The host as it is now."""
        info = self.physinfo()
        return Settled(
            domains=tuple(domain.name for domain in self.domains()),
            extra_granules=info.delegated_granules - info.activation_granules,
            free_memory_kib=info.free_memory_kib,
            open_operations=self.open_operations(),
            processes=frozenset(f"{pid}: {line}" for pid, line in self.processes().items()),
            runtime_files=frozenset(path.name for path in self.runtime.iterdir()),
        )

    def leftovers(self, before: Settled) -> str:
        """Wait until everything is as BEFORE; otherwise what is not, one line each."""
        deadline = time.monotonic() + SETTLE
        while True:
            now = self.settled()
            if now == before or time.monotonic() >= deadline:
                break
            time.sleep(0.02)
        pairs = zip(Settled._fields, before, now, strict=True)
        return "\n".join(f"{name}: {was!r} became {became!r}" for name, was, became in pairs if was != became)

    def destroy_all(self) -> None:
        """Destroy every domain, and end the monitors that would build new ones."""
        for pid, line in self.processes().items():
            if "toolstack" in line:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with self.client() as client:
            for domain in self.domains():
                client.call("domain_destroy", DomainRef(domid=domain.domid), Nothing, timeout=120)

    def close(self) -> None:
        """End every process of this host and remove its directories."""
        for _ in range(50):
            left = self.processes()
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        subprocess.run(["rm", "-rf", str(self.directory)], check=False)


@contextlib.contextmanager
def killed_at_the_end(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """PROCESS, which does not outlive the block."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
