"""Hosts for end-to-end tests. After every test with ``host`` the machine must be as it was before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from .terminal import Terminal
from .xl_host import ROOT, XlHost

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below this directory is end to end."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def machine() -> Iterator[XlHost]:
    """One daemon for all tests that leave it running."""
    with closing(XlHost()) as host:
        host.start_daemon("2G")
        yield host


@pytest.fixture
def host(machine: XlHost) -> Iterator[XlHost]:
    """The shared machine; fails the test when it leaves anything behind."""
    before = machine.settled()
    assert not before.domains and before.extra_granules == 0
    yield machine
    left = machine.leftovers(before)
    if left:
        log = machine.log()
        machine.destroy_all()
        pytest.fail(f"left behind:\n{left}\n\nlog:\n{log}")


@pytest.fixture
def bare_host() -> Iterator[XlHost]:
    """A host without a daemon, for one test."""
    with closing(XlHost()) as host:
        yield host


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Opens terminals: ``terminal(host, "create", "-c", ...)``."""
    with ExitStack() as stack:

        def opened(host: XlHost, *arguments: str) -> Terminal:
            return stack.enter_context(closing(Terminal(host, *arguments)))

        yield opened


@pytest.fixture(scope="session")
def linux() -> str:
    """The configuration that examples/linux/fetch.py writes; on CI a guest that cannot be had is a failure."""
    fetched = subprocess.run(
        [sys.executable, str(ROOT / "examples/linux/fetch.py")], capture_output=True, text=True, timeout=900
    )
    if fetched.returncode == 0:
        return fetched.stdout.splitlines()[-1]
    if os.environ.get("CI") == "true" or shutil.which("apt-get"):
        pytest.fail(f"the Linux guest could not be fetched: {fetched.stderr}")
    pytest.skip(f"no Linux guest: {fetched.stderr.strip()}")
