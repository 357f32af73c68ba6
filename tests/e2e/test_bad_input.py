"""Bad input: one clear line first, the right exit status, and nothing left behind (the ``host`` fixture looks)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .realm_images import SPIN, image, write_realm
from .xl_host import ROOT, XlHost


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_realm(tmp_path, "bad", SPIN)


def _refused(host: XlHost, status: int, *arguments: str) -> str:
    """Run ``xl create`` with ARGUMENTS, which must fail with STATUS; the first line of its messages."""
    done = host.xl("create", "-q", *arguments)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[0]


def test_a_missing_configuration(host: XlHost, tmp_path: Path) -> None:
    path = tmp_path / "none.cfg"
    assert _refused(host, 3, str(path)) == f"Failed to read config file: {path}: No such file or directory"


def test_a_syntax_error(host: XlHost, tmp_path: Path) -> None:
    path = tmp_path / "syntax.cfg"
    path.write_text('name = "x"\nmemory = = 3\n')
    first = _refused(host, 1, str(path))
    assert first.startswith(f"{path}:2: config parsing error near `='")


def test_a_missing_kernel(host: XlHost, config: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.img").unlink()
    first = _refused(host, 3, str(config))
    assert first.startswith("xc: error: panic: ")
    assert f"failed to open file '{tmp_path / 'bad.img'}': No such file or directory" in first


def test_an_unreadable_kernel(host: XlHost, config: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.img").chmod(0)
    # Root can read everything, but for these two capabilities.
    plain = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    result = subprocess.run(
        [*plain, *host.command("create", "-q", str(config))],
        env=host.environment, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )
    assert result.returncode == 3
    assert f"failed to open file '{tmp_path / 'bad.img'}': Permission denied" in result.stderr.splitlines()[0]


def test_a_kernel_that_is_a_directory(host: XlHost, config: Path, tmp_path: Path) -> None:
    assert "must be a regular file" in _refused(host, 3, str(config), f'kernel="{tmp_path}"')


def test_a_file_that_is_no_arm64_image(host: XlHost, config: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.img").write_bytes(b"\x7fELF" + bytes(4096))
    assert "kernel is not an arm64 Image" in _refused(host, 3, str(config))


def test_an_image_larger_than_memory(host: XlHost, config: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.img").write_bytes(image(SPIN, 20 << 20))
    first = _refused(host, 3, str(config))
    assert "Traceback" not in first and first.startswith("xc: error: panic: ")


def test_a_missing_ramdisk(host: XlHost, config: Path) -> None:
    assert "failed to open file '/nonexistent/initrd'" in _refused(
        host, 3, str(config), 'ramdisk="/nonexistent/initrd"'
    )


def test_an_unknown_vuart(host: XlHost, config: Path) -> None:
    assert _refused(host, 1, str(config), 'vuart="pl010"') == 'ERROR: invalid value "pl010" for "vuart"'


def test_more_memory_than_the_machine_has(host: XlHost, config: Path) -> None:
    first = _refused(host, 3, str(config), "memory=3000")
    assert first.startswith("libxl: error: ") and "KiB" in first


def test_a_plain_guest_with_devices_that_there_are_not(host: XlHost, config: Path) -> None:
    first = _refused(host, 3, str(config), "realm=0", 'vif=["bridge=xenbr0"]')
    assert first == "libxl: error: plain guests do not support frontend/backend devices yet"


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("memory=4096", "guest RAM beyond the first RAM bank"),
        ('device_tree="x.dtb"', "partial device trees"),
        ("acpi=1", "ACPI"),
        ('gic_version="v2"', "non-GICv3 interrupt controllers"),
        ('tee="optee"', "TEE/FF-A plumbing"),
        ("irqs=[64]", "IRQ/IOMEM passthrough"),
        ('passthrough="enabled"', "passthrough mode"),
        ('vif=["bridge=xenbr0"]', "frontend/backend devices"),
        ('vtpm=["backend=0"]', "auxiliary frontend devices"),
    ],
)
def test_what_a_realm_cannot_have_is_refused_word_for_word(host: XlHost, config: Path, setting: str, what: str) -> None:
    done = host.xl("create", "-q", str(config), setting)
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        f"libxl: error: Realm guests do not support {what}",
        "libxl: error: fail to get domain config",
        "libxl: error: cannot make domain: -3",
    ]


def test_too_many_vcpus(host: XlHost, config: Path) -> None:
    assert "at most 128 vCPUs" in _refused(host, 3, str(config), "vcpus=129")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("destroy", "nobody"), "nobody is an invalid domain identifier (rc=-6)"),
        (("pause", "nobody"), "nobody is an invalid domain identifier (rc=-6)"),
        (("console", "nobody"), "nobody is an invalid domain identifier (rc=-6)"),
        (("list", "4321"), "Error: Domain '4321' does not exist."),
        (("destroy", "4321"), "libxl: error: Domain 4321:Non-existant domain"),
        (("unpause", "4321"), "libxl: error: Domain 4321:Failed to unpause domain: Domain 4321 does not exist."),
        (("domid", "nobody"), "Can't get domid of domain name 'nobody', maybe this domain does not exist."),
    ],
)
def test_an_unknown_domain(host: XlHost, arguments: tuple[str, ...], line: str) -> None:
    done = host.xl(*arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == line
