"""The Linux example: choosing a kernel, packing the initramfs, and fetching it all once."""

from __future__ import annotations

import gzip
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import fetch
import initramfs
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "linux"
IMAGE = bytes(0x38) + b"ARM\x64" + b"kernel"


def test_the_newest_signed_kernel_is_chosen_by_version_not_by_spelling() -> None:
    names = """
        linux-image-6.19.14+deb13-cloud-arm64 linux-image-7.2.9+deb13-cloud-arm64
        linux-binary-7.2.9+deb13-cloud-arm64 linux-binary-7.2.12+deb13-cloud-arm64
        linux-image-7.2.12+deb13-cloud-arm64 linux-image-7.2.12+deb13-cloud-arm64-dbg
        linux-binary-unsigned-7.3.4+deb13-cloud-arm64 linux-image-cloud-arm64 linux-image-7.9.9+deb13-arm64
    """
    assert fetch.newest_kernel(names) == ("linux-binary-7.2.12+deb13-cloud-arm64", "7.2.12")


def test_a_kernel_from_before_the_split_is_found_under_its_old_name() -> None:
    assert fetch.newest_kernel("linux-image-6.16.3+deb13-cloud-arm64") == (
        "linux-image-6.16.3+deb13-cloud-arm64",
        "6.16.3",
    )


@pytest.mark.parametrize("names", ["", "linux-image-6.1.0-47-cloud-arm64 linux-image-6.12.9+deb13-cloud-arm64"])
def test_kernels_without_realm_support_are_not_chosen(names: str) -> None:
    assert fetch.newest_kernel(names) is None


@pytest.mark.parametrize(
    ("targets", "mirror"),
    [
        (
            "https://packages.example.org/apt|stable|main\nhttp://security.debian.org/debian-security|trixie-security|main\n"
            "http://mirror.example.org/debian/|trixie-updates|main\nhttp://mirror.example.org/debian/|trixie|contrib\n"
            "http://mirror.example.org/debian/|trixie|main\n",
            ("http://mirror.example.org/debian", "trixie"),
        ),
        ("http://archive.ubuntu.com/ubuntu|noble|main\n", (fetch.DEFAULT_SITE, fetch.DEFAULT_SUITE)),
        ("", (fetch.DEFAULT_SITE, fetch.DEFAULT_SUITE)),
    ],
)
def test_the_mirror_is_the_one_that_this_system_uses_for_debian_itself(targets: str, mirror: tuple[str, str]) -> None:
    assert fetch.mirror_of(targets) == fetch.Mirror(*mirror)


def test_a_gzipped_kernel_is_unpacked_and_anything_else_is_refused() -> None:
    assert fetch.raw_image(IMAGE, "x") == fetch.raw_image(gzip.compress(IMAGE), "x") == IMAGE
    with pytest.raises(fetch.FetchError, match="bzImage is not a raw arm64 Image"):
        fetch.raw_image(b"MZ" * 100, "bzImage")


class Record(NamedTuple):
    """One cpio member: type and permissions, device, contents."""

    mode: int
    device: tuple[int, int]
    data: bytes


def members(archive: bytes) -> dict[str, Record]:
    found = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        data_at = (at + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = Record(fields[1], (fields[9], fields[10]), archive[data_at : data_at + size])
        at = (data_at + size + 3) & ~3


def test_the_initramfs_holds_busybox_init_and_a_console_whatever_their_lengths() -> None:
    for length in range(4):
        busybox = b"b" * (1000 + length)
        packed = members(gzip.decompress(initramfs.for_shell(busybox, b"#!")))
        assert packed["bin/busybox"] == (stat.S_IFREG | 0o755, (0, 0), busybox)
        assert packed["init"] == (stat.S_IFREG | 0o755, (0, 0), b"#!")
        assert packed["dev/console"] == (stat.S_IFCHR | 0o600, (5, 1), b"")


@pytest.mark.skipif(not shutil.which("cpio"), reason="needs cpio")
def test_cpio_itself_reads_the_initramfs(tmp_path: Path) -> None:
    archive = gzip.decompress(initramfs.for_shell(b"program", b"script"))
    listing = subprocess.run(["cpio", "-t", "--quiet"], input=archive, capture_output=True, check=True, timeout=30)
    assert listing.stdout.split() == [b"bin", b"dev", b"dev/console", b"bin/busybox", b"init"]


def test_packing_twice_gives_the_same_bytes() -> None:
    assert initramfs.for_shell(b"a", b"b") == initramfs.for_shell(b"a", b"b")


class Debian:
    """Stand-ins for apt-get, apt-cache and dpkg-deb; what they were asked is in ``calls``."""

    def __init__(self, directory: Path) -> None:
        self.calls_file = directory / "calls"
        self.calls_file.touch()
        self.cache = directory / "cache"
        self.programs = directory / "bin"
        self.programs.mkdir()
        (directory / "vmlinuz").write_bytes(IMAGE)
        keyring = directory / "keyring.gpg"
        keyring.touch()
        self.script("apt-cache", "echo linux-binary-7.2.12+deb13-cloud-arm64")
        self.script(
            "apt-get",
            'case "$*" in *indextargets*) echo "http://mirror.test/debian|trixie|main";; '
            f'*update*) cat "$(dirname "$APT_CONFIG")/sources.list" >>{directory}/sources;; '
            '*download*) for last; do :; done; touch "$last.deb";; esac',
        )
        self.script(
            "dpkg-deb",
            f'mkdir -p "$3/bin"; case "$2" in *busybox*) echo program >"$3/bin/busybox";; '
            f'*) cp {directory}/vmlinuz "$3/vmlinuz";; esac',
        )
        self.sources = directory / "sources"
        self.environment = {
            **os.environ,
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(self.cache),
        }
        self.code = (
            f"import fetch, pathlib, sys; fetch.KEYRINGS = (pathlib.Path({str(keyring)!r}),); sys.exit(fetch.main())"
        )

    def script(self, name: str, body: str) -> None:
        program = self.programs / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls_file}\n{body}\n')
        program.chmod(0o755)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", self.code, *arguments]
        return subprocess.Popen(
            command, cwd=EXAMPLE, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def fetch(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def downloads(self) -> int:
        return self.calls_file.read_text().count(" download ")


@pytest.fixture
def debian(tmp_path: Path) -> Debian:
    return Debian(tmp_path)


def test_fetching_leaves_a_kernel_an_initramfs_and_a_config_and_prints_where_the_config_is(debian: Debian) -> None:
    code, out, err = debian.fetch("-q")
    directory = debian.cache / "xl-realm" / "linux"
    config = directory / "linux-realm.cfg"
    assert (code, out, err) == (0, f"{config}\n", "")
    text = config.read_text()
    assert f'kernel = "{directory}/Image"' in text and f'ramdisk = "{directory}/initramfs.img"' in text
    assert "realm = true" in text and "Debian's kernel 7.2.12" in text
    assert (directory / "Image").read_bytes() == IMAGE
    packed = members(gzip.decompress((directory / "initramfs.img").read_bytes()))
    assert packed["bin/busybox"].data == b"program\n"
    assert packed["init"].data == (EXAMPLE / "init").read_bytes()
    assert [path.name for path in directory.iterdir() if path.name.startswith(".")] == [".lock"]
    keyring = debian.programs.parent / "keyring.gpg"
    assert debian.sources.read_text() == "".join(
        f"deb [signed-by={keyring}] http://mirror.test/debian {suite} main\n"
        for suite in ("trixie-backports", "trixie")
    )


def test_what_is_there_is_not_fetched_again_until_a_refresh(debian: Debian) -> None:
    assert debian.fetch("-q")[0] == 0 and debian.downloads() == 2
    assert debian.fetch("-q")[0] == 0 and debian.downloads() == 2
    assert debian.fetch("-q", "--refresh")[0] == 0 and debian.downloads() == 4


def test_of_several_runs_at_once_one_fetches_and_all_succeed(debian: Debian) -> None:
    runs = [debian.start("-q") for _ in range(4)]
    assert [run.communicate(timeout=60)[1] for run in runs] == [""] * 4
    assert [run.returncode for run in runs] == [0] * 4 and debian.downloads() == 2


def test_without_a_new_enough_kernel_in_the_first_suite_the_next_is_tried_and_then_it_says_so(debian: Debian) -> None:
    debian.script("apt-cache", "echo linux-image-6.1.0-47-cloud-arm64")
    expected = "linux: no arm64 cloud kernel 6.13 or newer in trixie-backports or sid\n"
    assert debian.fetch("-q") == (1, "", expected)
    assert " sid main" in debian.sources.read_text()


def test_being_offline_is_one_clear_line_and_leaves_nothing_half_done(debian: Debian) -> None:
    debian.script(
        "apt-get",
        'case "$*" in *indextargets*) echo "http://mirror.test/debian|trixie|main";; '
        '*) echo "E: Could not resolve mirror.test" >&2; echo "E: more" >&2; exit 100;; esac',
    )
    code, out, err = debian.fetch("-q")
    assert (code, out) == (1, "")
    assert err == (
        "linux: cannot get Debian's package lists from http://mirror.test/debian (offline?): "
        "E: Could not resolve mirror.test\n"
    )
    assert [path.name for path in (debian.cache / "xl-realm" / "linux").iterdir()] == [".lock"]


def test_without_apt_it_says_what_is_needed(debian: Debian) -> None:
    debian.environment["PATH"] = "/nonexistent"
    expected = "linux: apt-get not found: this needs Debian or a derivative, or --kernel and --busybox\n"
    assert debian.fetch("-q") == (1, "", expected)


def test_local_files_need_neither_apt_nor_a_network(debian: Debian, tmp_path: Path) -> None:
    debian.environment["PATH"] = "/nonexistent"
    (tmp_path / "my.gz").write_bytes(gzip.compress(IMAGE))
    (tmp_path / "bb").write_bytes(b"my busybox")
    code, out, _ = debian.fetch("--kernel", str(tmp_path / "my.gz"), "--busybox", str(tmp_path / "bb"))
    assert code == 0 and f"kernel {tmp_path}/my.gz" in Path(out.strip()).read_text()
    assert (debian.cache / "xl-realm" / "linux" / "Image").read_bytes() == IMAGE


def test_what_a_killed_run_left_is_cleaned_up_by_the_next(debian: Debian) -> None:
    working = debian.programs / "apt-get"
    goes_on = working.read_text()
    started = debian.programs.parent / "started"
    debian.script(
        "apt-get", f'case "$*" in *update*) mkfifo {started}.fifo; touch {started}; read x <{started}.fifo;; esac'
    )
    run = debian.start("-q")
    deadline = time.monotonic() + 30
    while not started.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait(30)
    with open(f"{started}.fifo", "w"):
        pass
    run.communicate(timeout=30)
    directory = debian.cache / "xl-realm" / "linux"
    assert any(path.name.startswith(".partial.") for path in directory.iterdir())
    working.write_text(goes_on)
    assert debian.fetch("-q")[0] == 0
    assert not any(path.name.startswith(".partial.") for path in directory.iterdir())


@pytest.mark.linux
@pytest.mark.skipif(not shutil.which("qemu-system-aarch64"), reason="needs qemu-system-arm")
def test_the_fetched_guest_boots_to_a_shell_that_works_and_powers_off() -> None:
    directory = fetch.cache_directory()
    if not (directory / "initramfs.img").exists():
        pytest.skip("needs make linux")
    command = [
        "qemu-system-aarch64",
        "-M",
        "virt,gic-version=3",
        "-cpu",
        "cortex-a72",
        "-m",
        "256",
        "-nographic",
        "-nodefaults",
        "-serial",
        "stdio",
    ]
    files = ["-kernel", str(directory / "Image"), "-initrd", str(directory / "initramfs.img")]
    boot = subprocess.Popen(
        [*command, *files, "-append", "console=ttyAMA0 rdinit=/init"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert boot.stdin is not None and boot.stdout is not None
    screen = b""
    try:
        for text, answer in (
            (b"REALM-SHELL-READY", b""),
            (b"realm:/root#", b"tty; echo $((6*7))\n"),
            (b"42", b"exit\n"),
        ):
            while text not in screen:
                assert select.select((boot.stdout,), (), (), 120)[0], screen
                data = os.read(boot.stdout.fileno(), 65536)
                assert data, screen
                screen += data
            os.write(boot.stdin.fileno(), answer)
        screen += boot.stdout.read()
        assert boot.wait(60) == 0
    finally:
        boot.kill()
        boot.wait()
        boot.stdin.close()
        boot.stdout.close()
    assert b"/dev/ttyAMA0" in screen and b"reboot: Power down" in screen
    assert b"linux-realm: this is an ordinary guest, not a Realm" in screen
