"""Linux as a Realm against Linux on QEMU's TCG: the same kernel, initramfs and bootargs, 256 MiB, one vCPU.

Runs are paired (Realm, QEMU, Realm, QEMU, ...), so that a machine that gets slower or faster meanwhile does so for
both. The Realm's time begins before `xl create` on a host without a daemon and includes all of it: the daemon's start,
building and measuring the Realm. QEMU's begins before QEMU is started. Both end at the shell's marker.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from statistics import median

from benchmarks.figure import CannotRun, Figure
from benchmarks.private_host import SOURCE, PrivateHost
from benchmarks.terminal import Terminal

NAME = "linux-boot"
PROMISE = 3.0
MARKER = b"REALM-SHELL-READY"
_QEMU = "qemu-system-aarch64"
_TIMEOUT = 300


def guest_directory() -> Path:
    """Where `make linux` keeps kernel, initramfs and configuration. CannotRun when they are not there."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    directory = (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "xl-realm" / "linux"
    for name in ("Image", "initramfs.img", "linux-realm.cfg"):
        if not (directory / name).exists():
            raise CannotRun(f"{directory / name} not found: fetch the guest with python examples/linux/fetch.py")
    return directory


def bootargs(config: Path) -> str:
    """The kernel command line of a configuration file written by examples/linux/fetch.py."""
    for line in config.read_text().splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "cmdline":
            return value.strip().strip('"')
    raise CannotRun(f"{config} has no cmdline")


def realm_seconds(guest: Path) -> float:
    """`xl create -c` to the marker."""
    with PrivateHost() as host:
        command = [*host.xl, "create", "-c", str(guest / "linux-realm.cfg"), "memory=256", "vcpus=1"]
        with Terminal(command, host.environment, SOURCE) as terminal:
            elapsed = terminal.wait_for(MARKER, _TIMEOUT)
            host.run("destroy", "linux-realm")
            terminal.wait_end(_TIMEOUT)
        return elapsed


def qemu_seconds(guest: Path, qemu: str) -> float:
    """QEMU's start to the marker."""
    command = [
        *(qemu, "-M", "virt,gic-version=3", "-cpu", "cortex-a72", "-m", "256", "-smp", "1"),
        *("-accel", "tcg,thread=single", "-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(guest / "Image"), "-initrd", str(guest / "initramfs.img")),
        *("-append", bootargs(guest / "linux-realm.cfg")),
    ]
    with Terminal(command, os.environ, SOURCE) as terminal:
        return terminal.wait_for(MARKER, _TIMEOUT)


def measure(runs: int) -> list[Figure]:
    """Seconds of both, and the ratio of the medians (whose samples are the pairs' ratios)."""
    guest = guest_directory()
    qemu = shutil.which(_QEMU)
    if qemu is None:
        raise CannotRun(f"{_QEMU} not found: install qemu-system-arm")
    realm, peer = [], []
    for _ in range(runs):
        realm.append(realm_seconds(guest))
        peer.append(qemu_seconds(guest, qemu))
    command = f"python -m benchmarks {NAME}"
    ratios = [ours / theirs for ours, theirs in zip(realm, peer, strict=True)]
    of_medians = median(realm) / median(peer)
    return [
        Figure("Linux as a Realm: xl create to shell", "s", realm, command),
        Figure("the same kernel on qemu TCG", "s", peer, command),
        Figure("Linux as a Realm against qemu TCG", "x", ratios, command, PROMISE, centre=of_medians),
    ]
