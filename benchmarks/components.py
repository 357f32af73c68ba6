"""Benchmarks of one layer, and profiles: what to look at when a figure is missed."""

from __future__ import annotations

import cProfile
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import bench_rmm, first_byte, linux_boot, rec_exit
from benchmarks.figure import CannotRun
from benchmarks.private_host import SOURCE
from benchmarks.realm_machine import RealmMachine
from hypervisor.domain import GUEST_RAM_BASE
from toolstack.builder import BuildError, GuestSpec, build

_ROWS = 30
_MEMORY = 256 << 20


def run(name: str, arguments: list[str]) -> int:
    """Run one by its name in :data:`benchmarks.__main__.COMPONENTS`; its exit status. CannotRun."""
    if name == "rmm":
        bench_rmm.main()
    elif name == "profile-boot":
        profile_boot(*(arguments or ["linux"]))
    elif name == "profile-exit":
        profile_exit()
    else:
        command = [sys.executable, "-m", "pytest", "-q", _path(name), *arguments]
        return subprocess.run(command, cwd=SOURCE, check=False).returncode
    return 0


def _path(name: str) -> str:
    return f"benchmarks/bench_{name.replace('-', '_')}.py"


def _profiled(what: str, action: Callable[[], None]) -> None:
    """Run ``action`` under cProfile and print the functions that took most time."""
    profile = cProfile.Profile()
    start = time.perf_counter()
    profile.runcall(action)
    print(f"{what}: {time.perf_counter() - start:.2f} s under the profiler")
    pstats.Stats(profile).sort_stats("tottime").print_stats(_ROWS)


def _guest(which: str) -> GuestSpec:
    """What `xl create` would hand to the domain builder."""
    if which == "hello":
        return GuestSpec(kernel=str(SOURCE / Path(first_byte.CONFIG).with_name("Image")), max_memkb=_MEMORY >> 10,
                         realm=True, vuart=True)  # fmt: skip
    if which == "linux":
        directory = linux_boot.guest_directory()
        return GuestSpec(
            kernel=str(directory / "Image"),
            ramdisk=str(directory / "initramfs.img"),
            cmdline=linux_boot.bootargs(directory / "linux-realm.cfg"),
            max_memkb=_MEMORY >> 10,
            realm=True,
            vuart=True,
        )
    raise CannotRun(f"no guest called {which!r}: linux or hello")


def profile_boot(which: str = "linux") -> None:
    """Load, build and run a guest in this process, each phase timed; then building and running under cProfile."""
    spec = _guest(which)
    for profiled in (False, True):
        start = time.perf_counter()
        try:
            image = build(spec)
        except BuildError as error:
            raise CannotRun(str(error)) from None
        loaded = time.perf_counter()
        with tempfile.TemporaryDirectory() as directory:
            console = Path(directory, "console")
            with RealmMachine(_MEMORY, console) as machine:
                started = time.perf_counter()
                for segment in image.segments:
                    machine.write(segment.gpa, segment.data)
                written = time.perf_counter()
                marker = linux_boot.MARKER if which == "linux" else b"RIM"
                machine.stop_at(marker)
                context = image.context

                def make(machine: RealmMachine = machine, pc: int = context.pc, x0: int = context.x0) -> None:
                    machine.build(pc, (x0, 0, 0, 0))

                if profiled:
                    _profiled("building", make)
                    _profiled("running", machine.run)
                    return
                make()
                built = time.perf_counter()
                machine.run()
                end = time.perf_counter()
        print(f"images loaded     {loaded - start:8.3f} s")
        print(f"machine started   {started - loaded:8.3f} s")
        print(f"memory written    {written - started:8.3f} s")
        print(f"Realm built       {built - written:8.3f} s")
        print(f"run to the marker {end - built:8.3f} s")


def profile_exit() -> None:
    """Many REC exits under cProfile."""
    with tempfile.TemporaryDirectory() as directory, RealmMachine(4 << 20, Path(directory, "console")) as machine:
        machine.write(GUEST_RAM_BASE, rec_exit.program(rec_exit.READS))
        machine.build(GUEST_RAM_BASE)
        _profiled(f"{rec_exit.READS} REC exits", machine.run)
