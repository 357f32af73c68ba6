#!/usr/bin/env python3
"""Gets a Linux guest: Debian's unmodified arm64 cloud kernel and an initramfs with BusyBox. Run by ``make linux``.

Everything ends up in ``$XDG_CACHE_HOME/xl-realm/linux`` (``~/.cache`` by default): ``Image``, ``busybox``,
``initramfs.img``, ``versions.json`` and ``linux-realm.cfg``, the file to give to ``xl create``. What is there is not
fetched again (``--refresh`` does). Several runs at once are fine: one works, the others wait for it.

The packages come from the mirror that this system's apt uses, checked against Debian's archive keys, with an apt state
of their own, so that neither root nor a foreign architecture in the system's apt is needed. Realm guests need Linux
6.13 or newer. ``--kernel`` and ``--busybox`` take local files instead, which needs neither apt nor a network.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import initramfs

OLDEST_KERNEL: Final = (6, 13)
"""The first Linux that can be a Realm guest."""
KERNEL_SUITES: Final = ("trixie-backports", "sid")
"""Where new enough kernels are, the smaller package list first; the second is used if the first has none."""
DEFAULT_SITE: Final = "http://deb.debian.org/debian"
DEFAULT_SUITE: Final = "trixie"
KEYRINGS: Final = tuple(Path(f"/usr/share/keyrings/debian-archive-keyring.{suffix}") for suffix in ("gpg", "pgp"))
_PARTIAL: Final = ".partial."
_KERNEL_PACKAGE: Final = re.compile(r"linux-(binary|image)-(\d+(?:\.\d+)+)\S*-cloud-arm64")

CONFIG: Final = """\
# Written by examples/linux/fetch.py. Debian's kernel {kernel} as a Realm guest:
#
#     xl create -c {path}
name = "linux-realm"
type = "pvh"
realm = true
kernel = "{directory}/Image"
ramdisk = "{directory}/initramfs.img"
cmdline = "console=ttyAMA0 rdinit=/init"
memory = 256
vcpus = 1
gic_version = "v3"
vuart = "sbsa_uart"
"""


class FetchError(Exception):
    """Raised when the guest cannot be had; the message is one line that says what to do."""


@dataclass(frozen=True)
class Mirror:
    """A Debian archive: where, and which suite this system itself uses."""

    site: str
    suite: str


def mirror_of(targets: str) -> Mirror:
    """The mirror in the answer of ``apt-get indextargets`` (lines of SITE|RELEASE|COMPONENT): the first plain suite of
    Debian's main archive, or Debian's own servers if this system uses none."""
    for line in targets.splitlines():
        site, suite, component = line.split("|")
        is_debian = urlsplit(site).path.rstrip("/").endswith("/debian")
        if is_debian and component == "main" and not suite.endswith(("-updates", "-backports", "-security")):
            return Mirror(site.rstrip("/"), suite)
    return Mirror(DEFAULT_SITE, DEFAULT_SUITE)


def newest_kernel(packages: str) -> tuple[str, str] | None:
    """(package, version) of the newest signed kernel in the answer of ``apt-cache pkgnames``, if one is new enough.

    Newer Debian kernels are in linux-binary-*, and linux-image-* of the same version is then a package without files.
    """
    found = []
    for package in packages.split():
        match = _KERNEL_PACKAGE.fullmatch(package)
        if match:
            version = tuple(int(part) for part in match[2].split("."))
            found.append((version, match[1] == "binary", package, match[2]))
    if not found or max(found)[0] < OLDEST_KERNEL:
        return None
    return max(found)[2:]


class Apt:
    """apt with its state below ``root``, for arm64, from ``mirror``. Raises FetchError where apt fails."""

    def __init__(self, root: Path, mirror: Mirror, keyring: Path) -> None:
        self._root = root
        self._mirror = mirror
        self._keyring = keyring
        for directory in ("state/lists/partial", "cache/archives/partial", "sources.d", "preferences.d"):
            (root / directory).mkdir(parents=True)
        (root / "status").touch()
        self._settings = root / "apt.conf"
        # The system's own apt.conf.d stays in force: proxies and certificates are there.
        self._settings.write_text(
            f"""\
Dir::State "{root}/state";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "{root}/sources.d";
Dir::Etc::preferences "{root}/preferences";
Dir::Etc::preferencesparts "{root}/preferences.d";
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "{"root" if os.geteuid() == 0 else ""}";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"""
        )

    def update(self, suites: Sequence[str]) -> None:
        """Get the package lists of these suites, and only these."""
        sources = [f"deb [signed-by={self._keyring}] {self._mirror.site} {suite} main\n" for suite in suites]
        (self._root / "sources.list").write_text("".join(sources))
        self._run("apt-get", "-q", "update", failure=f"cannot get Debian's package lists from {self._mirror.site}")

    def packages(self) -> str:
        """The names of all packages."""
        return self._run("apt-cache", "pkgnames", failure="cannot read Debian's package lists")

    def unpack(self, package: str) -> Path:
        """Download one package (apt checks its hash) and unpack it; the directory with its files."""
        download, files = self._root / f"{package}.download", self._root / f"{package}.files"
        download.mkdir()
        self._run("apt-get", "-q", "download", package, failure=f"cannot download {package}", where=download)
        (archive,) = download.glob("*.deb")
        self._run("dpkg-deb", "-x", str(archive), str(files), failure=f"cannot unpack {archive.name}")
        return files

    def _run(self, *command: str, failure: str, where: Path | None = None) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self._settings), "LC_ALL": "C"}
        done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            told = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:", "dpkg-deb:"))]
            raise FetchError(f"{failure} (offline?): {' '.join(told[:1]) or done.stderr.strip()[-200:]}")
        return done.stdout


def fetch_packages(workspace: Path, report: bool) -> tuple[bytes, bytes, dict[str, str]]:
    """Kernel, BusyBox and their package names, from Debian."""
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FetchError(f"{tool} not found: this needs Debian or a derivative, or --kernel and --busybox")
    keyring = next((path for path in KEYRINGS if path.exists()), None)
    if keyring is None:
        raise FetchError(f"{KEYRINGS[0]} not found: install the package debian-archive-keyring")
    question = ("apt-get", "indextargets", "--format", "$(SITE)|$(RELEASE)|$(COMPONENT)", "Created-By: Packages")
    answer = subprocess.run(question, capture_output=True, text=True, check=False)
    mirror = mirror_of(answer.stdout)
    apt = Apt(workspace, mirror, keyring)
    kernel = None
    for suite in KERNEL_SUITES:
        _say(report, f"looking for a kernel in {suite} at {mirror.site}")
        apt.update(tuple(dict.fromkeys((suite, mirror.suite))))
        kernel = newest_kernel(apt.packages())
        if kernel:
            break
    else:
        raise FetchError(f"no arm64 cloud kernel {_dotted(OLDEST_KERNEL)} or newer in {' or '.join(KERNEL_SUITES)}")
    package, version = kernel
    _say(report, f"downloading {package} and busybox-static")
    image = _only_file(apt.unpack(package), "vmlinuz*", package)
    busybox = _only_file(apt.unpack("busybox-static"), "bin/busybox", "busybox-static")
    return image, busybox, {"kernel": version, "package": package, "site": mirror.site}


def raw_image(kernel: bytes, name: str) -> bytes:
    """``kernel`` as a raw arm64 Image; decompressed if it is gzip."""
    if kernel[:2] == b"\x1f\x8b":
        kernel = gzip.decompress(kernel)
    if kernel[0x38:0x3C] != b"ARM\x64":
        raise FetchError(f"{name} is not a raw arm64 Image")
    return kernel


def store(path: Path, data: bytes) -> None:
    """Put a file in place at once, so that nobody ever sees half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def fetch(directory: Path, arguments: argparse.Namespace) -> Path:
    """Make ``directory`` complete and answer the configuration file's path. Raises FetchError and OSError."""
    image, busybox, versions = directory / "Image", directory / "busybox", directory / "versions.json"
    report = not arguments.quiet
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / ".lock"):
        _remove_leftovers(directory)
        if arguments.kernel:
            store(image, raw_image(arguments.kernel.read_bytes(), str(arguments.kernel)))
            store(busybox, arguments.busybox.read_bytes())
            store(versions, _json({"kernel": str(arguments.kernel)}))
        elif arguments.refresh or not all(path.exists() for path in (image, busybox, versions)):
            with tempfile.TemporaryDirectory(dir=directory, prefix=_PARTIAL) as workspace:
                kernel, program, origin = fetch_packages(Path(workspace), report)
            store(image, raw_image(kernel, origin["package"]))
            store(busybox, program)
            store(versions, _json(origin))
        init = Path(__file__).with_name("init").read_bytes()
        store(directory / "initramfs.img", initramfs.for_shell(busybox.read_bytes(), init))
        config = directory / "linux-realm.cfg"
        kernel_version = json.loads(versions.read_text())["kernel"]
        store(config, CONFIG.format(kernel=kernel_version, directory=directory, path=config).encode())
    return config


def cache_directory() -> Path:
    """Where fetched guests are kept."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The base directory specification: a relative path is to be ignored.
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "xl-realm" / "linux"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_leftovers(directory: Path) -> None:
    """What runs that were killed have left; called with the lock held."""
    for path in directory.glob(f"{_PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _only_file(files: Path, pattern: str, package: str) -> bytes:
    found = [path for path in files.rglob(pattern) if path.is_file()]
    if len(found) != 1:
        raise FetchError(f"{package} has {len(found)} files named {pattern}, not one")
    return found[0].read_bytes()


def _json(versions: dict[str, str]) -> bytes:
    return (json.dumps(versions, indent=1) + "\n").encode()


def _dotted(version: Sequence[int]) -> str:
    return ".".join(str(part) for part in version)


def _say(report: bool, text: str) -> None:
    if report:
        print(f"linux: {text}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. 0: the configuration's path is on stdout. 1: one line on stderr says why not."""
    parser = argparse.ArgumentParser(description="Fetch Debian's arm64 kernel and BusyBox as a Realm guest.")
    parser.add_argument("--refresh", action="store_true", help="fetch again, for a newer kernel")
    parser.add_argument("--kernel", type=Path, metavar="IMAGE", help="use this arm64 kernel (with --busybox)")
    parser.add_argument("--busybox", type=Path, metavar="PROGRAM", help="use this static arm64 BusyBox (with --kernel)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress messages")
    arguments = parser.parse_args(argv)
    if bool(arguments.kernel) != bool(arguments.busybox):
        parser.error("--kernel and --busybox go together")
    try:
        print(fetch(cache_directory(), arguments))
    except (FetchError, OSError) as error:
        print(f"linux: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
