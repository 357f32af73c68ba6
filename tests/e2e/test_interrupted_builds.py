"""A build that is stopped leaves nothing behind; the ``host`` fixture looks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from .realm_images import SPIN, write_realm
from .terminal import Terminal
from .xl_host import XlHost, killed_at_the_end, until

#: MiB of a Realm that takes long enough to build that a signal comes in the middle.
LARGE = 768


def _building(host: XlHost) -> bool:
    info = host.physinfo()
    return info.delegated_granules - info.activation_granules > 2000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_build_undoes_it(host: XlHost, tmp_path: Path, number: signal.Signals) -> None:
    config = write_realm(tmp_path, "large", SPIN, memory=LARGE)
    with killed_at_the_end(host.start("create", "-q", str(config))) as xl:
        until(lambda: _building(host), "the Realm is being built")
        os.kill(xl.pid, number)
        assert xl.wait(timeout=60) == 128 + number
    assert not host.domains()


def test_ctrl_c_at_a_terminal_during_the_build_undoes_it(
    host: XlHost, tmp_path: Path, terminal: Callable[..., Terminal]
) -> None:
    config = write_realm(tmp_path, "large", SPIN, memory=LARGE)
    xl = terminal(host, "create", "-c", str(config))
    until(lambda: _building(host), "the Realm is being built")
    xl.type("\x03")
    assert xl.wait() == 130
    assert xl.restored()
    assert "\x1b[?25h" in xl.shown(), "the cursor is visible again"
    assert not host.domains()


def test_a_killed_create_has_its_half_built_domain_taken_away(host: XlHost, tmp_path: Path) -> None:
    config = write_realm(tmp_path, "orphan", SPIN, memory=LARGE)
    with killed_at_the_end(host.start("create", "-q", str(config))) as xl:
        until(lambda: _building(host), "the Realm is being built")
        xl.kill()
    until(lambda: not host.domains(), "the monitor has destroyed the domain")


def test_destroying_a_domain_that_is_being_built_ends_its_create(host: XlHost, tmp_path: Path) -> None:
    config = write_realm(tmp_path, "large", SPIN, memory=LARGE)
    with killed_at_the_end(host.start("create", "-q", str(config))) as xl:
        until(lambda: _building(host), "the Realm is being built")
        assert host.xl("destroy", "large").returncode == 0
        _, said = xl.communicate(timeout=60)
    assert xl.returncode == 3
    assert said.startswith("libxl: error: Domain ")


def test_progress_is_shown_at_a_terminal(host: XlHost, tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    config = write_realm(tmp_path, "shown", SPIN, memory=64)
    xl = terminal(host, "create", str(config))
    xl.expect("shown: ")
    assert xl.wait() == 0
    assert host.xl("destroy", "shown").returncode == 0
