"""What the monitor does when a domain ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fake_hypervisor import FakeHypervisor, domain

from toolstack import monitor
from toolstack.config_file import read_config
from toolstack.connection import Connection
from toolstack.guest import prepare
from xlconfig.enumerations import ActionOnShutdown


@pytest.fixture
def connection(hypervisor: FakeHypervisor, directories: Path) -> Iterator[Connection]:
    with closing(Connection(directories / "run" / "rpc.sock", os.getpid())) as opened:
        yield opened


def _watch(connection: Connection, realm_config: Path, *settings: str) -> list[str]:
    config = read_config(str(realm_config), settings, quiet=True)
    lines: list[str] = []
    monitor.watch(connection, 1, config, prepare(config), lines.append)
    return lines


@pytest.mark.parametrize(
    ("reason", "action"),
    [(0, "preserve"), (1, "restart"), (3, "coredump-destroy"), (4, "destroy"), (2, "destroy"), (5, "soft-reset")],
)
def test_each_reason_has_its_action(realm_config: Path, reason: int, action: str) -> None:
    settings = ['on_poweroff="preserve"', 'on_reboot="restart"', 'on_crash="coredump-destroy"']
    config = read_config(str(realm_config), settings, quiet=True)
    assert monitor.name_of(monitor.action_for(config, reason)) == action
    assert monitor.may_restart(config)
    assert not monitor.may_restart(read_config(str(realm_config), ['on_reboot="destroy"'], quiet=True))


def test_a_powered_off_domain_is_destroyed(
    connection: Connection, hypervisor: FakeHypervisor, realm_config: Path
) -> None:
    hypervisor.domains = [domain("r1", 1, shutdown=True, shutdown_reason=0)]
    log = _watch(connection, realm_config)
    assert "Domain 1 has shut down, reason code 0 0x0" in log
    assert "Action for shutdown reason code 0 is destroy" in log
    assert hypervisor.domains == []


def test_preserve_leaves_the_domain_alone(
    connection: Connection, hypervisor: FakeHypervisor, realm_config: Path
) -> None:
    hypervisor.domains = [domain("r1", 1, shutdown=True, shutdown_reason=0)]
    _watch(connection, realm_config, 'on_poweroff="preserve"')
    assert [row.domid for row in hypervisor.domains] == [1]


def test_a_destroyed_domain_ends_the_monitor(
    connection: Connection, hypervisor: FakeHypervisor, realm_config: Path
) -> None:
    assert _watch(connection, realm_config)[-1] == "Domain 1 has been destroyed."
    assert hypervisor.called("domain_destroy") == []


def test_a_core_dump_is_said_to_be_impossible(
    connection: Connection, hypervisor: FakeHypervisor, realm_config: Path
) -> None:
    hypervisor.domains = [domain("r1", 1, shutdown=True, shutdown_reason=3, crash_reason="RTT fault")]
    log = _watch(connection, realm_config, 'on_crash="coredump-destroy"')
    assert "Domain 1: RTT fault" in log
    assert any("there will be no core dump" in line for line in log)
    assert hypervisor.domains == []


def test_a_restart_destroys_builds_again_and_watches_the_new_domain(
    connection: Connection, hypervisor: FakeHypervisor, realm_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_RESTART_INTERVAL", 0.0)
    hypervisor.domains = [domain("other", 5), domain("r1", 1, shutdown=True, shutdown_reason=1)]
    hypervisor.after["domain_unpause"] = hypervisor.domains.clear  # the new domain is destroyed at once
    log = _watch(connection, realm_config, 'on_reboot="restart"')
    assert "Domain r1 has been restarted with domid 6" in log
    assert log[-1] == "Domain 6 has been destroyed."
    expected = ["domain_wait", "domain_destroy", "domain_create", "domain_write", "domain_set_context",
                "domain_finalize_realm", "domain_unpause", "domain_wait"]  # fmt: skip
    assert hypervisor.methods() == expected


def test_a_restart_that_fails_is_logged_and_ends_the_monitor(
    connection: Connection, hypervisor: FakeHypervisor, realm_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_RESTART_INTERVAL", 0.0)
    hypervisor.domains = [domain("r1", 1, shutdown=True, shutdown_reason=1)]
    hypervisor.refuse("domain_create", "no_memory", "no memory", "ENOMEM")
    log = _watch(connection, realm_config, 'on_reboot="restart"')
    assert "libxl: error: no memory" in log


def test_remarks_name_the_key(realm_config: Path) -> None:
    config = read_config(str(realm_config), ['on_crash="rename-restart"'], quiet=True)
    (remark,) = monitor.remarks(config)
    assert remark.startswith('on_crash="rename-restart": domains cannot be renamed yet')
    assert config.on_crash is ActionOnShutdown.RESTART_RENAME
