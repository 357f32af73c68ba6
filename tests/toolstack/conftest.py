"""Fixtures of the command line's tests: an ``xl`` in this process and a fake hypervisor behind it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from command_line import Ran, Xl
from fake_hypervisor import FakeHypervisor

from toolstack import main


@pytest.fixture
def directories(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short directory with ``run`` and ``state`` for the daemon's files; no daemon is ever started there."""
    directory = Path(tempfile.mkdtemp(prefix="xl-cli-"))
    monkeypatch.setenv("XL_RUNTIME_DIR", str(directory / "run"))
    monkeypatch.setenv("XL_STATE_DIR", str(directory / "state"))
    monkeypatch.setenv("XL_NO_AUTOSTART", "1")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def hypervisor(directories: Path) -> Iterator[FakeHypervisor]:
    """A hypervisor that answers."""
    with closing(FakeHypervisor(directories / "run" / "rpc.sock")) as fake:
        yield fake


@pytest.fixture
def xl(directories: Path, capfd: pytest.CaptureFixture[str]) -> Xl:
    """Runs a command line in this process."""

    def run(*arguments: str) -> Ran:
        status = main.run(arguments)
        out, err = capfd.readouterr()
        return Ran(status, out, err)

    return run


@pytest.fixture
def realm_config(tmp_path: Path) -> Path:
    """A configuration of a small Realm whose kernel is a valid, empty Image."""
    kernel = tmp_path / "Image"
    kernel.write_bytes(bytes(56) + b"ARM\x64" + bytes(4096 - 60))
    path = tmp_path / "realm.cfg"
    path.write_text(
        f'name = "r1"\ntype = "pvh"\nrealm = 1\nkernel = "{kernel}"\nmemory = 16\ngic_version = "v3"\n'
        'vuart = "sbsa_uart"\nseed = "00"\n'
    )
    return path
