"""What becomes of a domain: destroyed while it runs, rebooted, crashed."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .realm_images import POWER_OFF, RESET, SPIN, write_realm
from .terminal import Terminal
from .xl_host import ROOT, XlHost, until


def _domid(host: XlHost, name: str) -> int:
    domain = host.domain(name)
    return domain.domid if domain is not None else -1


def _monitor_log(host: XlHost, name: str) -> str:
    path = host.state / f"xl-{name}.log"
    return path.read_text() if path.exists() else ""


def test_a_running_realm_is_destroyed(host: XlHost, tmp_path: Path) -> None:
    config = write_realm(tmp_path, "spin", SPIN)
    assert host.xl("create", "-q", str(config)).returncode == 0
    until(lambda: host.domains()[0].cpu_time_ns > 0, "the guest has run")
    listed = host.xl("list", "spin").stdout.splitlines()[1]
    assert listed.startswith("spin ") and " r-----" in listed
    done = host.xl("destroy", "spin")
    assert (done.returncode, done.stderr) == (0, "")
    assert host.xl("list", "spin").returncode == 1


def test_a_realm_that_powers_itself_off_is_destroyed(host: XlHost, tmp_path: Path) -> None:
    config = write_realm(tmp_path, "off", POWER_OFF)
    assert host.xl("create", "-q", str(config)).returncode == 0
    until(lambda: not host.domains(), "the domain is gone")
    assert "reason code 0 0x0" in _monitor_log(host, "off")


def test_on_poweroff_preserve_keeps_the_domain_and_ends_the_monitor(host: XlHost, tmp_path: Path) -> None:
    config = write_realm(tmp_path, "keep", POWER_OFF, extra='on_poweroff = "preserve"')
    assert host.xl("create", "-q", str(config)).returncode == 0
    until(lambda: "Done" in _monitor_log(host, "keep"), "the monitor is done")
    assert "---s--" in host.xl("list", "keep").stdout
    assert host.xl("destroy", "keep").returncode == 0


def test_without_a_monitor_nothing_acts_on_the_end(host: XlHost, tmp_path: Path) -> None:
    config = write_realm(tmp_path, "alone", POWER_OFF)
    before = set(host.processes())
    assert host.xl("create", "-q", "-e", str(config)).returncode == 0
    domain = host.domain("alone")
    assert domain is not None
    assert set(host.processes()) <= before | {domain.pid}
    until(lambda: "---s--" in host.xl("list", "alone").stdout, "the guest has powered off")
    assert host.xl("destroy", "alone").returncode == 0


def test_the_monitor_holds_nothing_that_was_open_in_xl(host: XlHost, tmp_path: Path) -> None:
    config = write_realm(tmp_path, "closed", SPIN)
    read_end, write_end = os.pipe()
    subprocess.run(
        host.command("create", "-q", str(config)), env=host.environment, pass_fds=(write_end,), check=True, timeout=60
    )
    os.close(write_end)
    assert select.select([read_end], [], [], 10)[0], "somebody still holds the inherited pipe"
    assert os.read(read_end, 1) == b""
    os.close(read_end)
    (monitor,) = [pid for pid, line in host.processes().items() if "toolstack" in line]
    assert os.getsid(monitor) == monitor
    assert host.xl("destroy", "closed").returncode == 0


def test_a_reboot_builds_the_same_images_again_with_a_new_domid(host: XlHost, tmp_path: Path) -> None:
    config = write_realm(tmp_path, "again", RESET, extra='on_reboot = "restart"')
    assert host.xl("create", "-q", str(config)).returncode == 0
    first = _domid(host, "again")
    (tmp_path / "again.img").write_bytes(b"this is no kernel any more")
    until(lambda: _domid(host, "again") > first, "the domain has been restarted")
    second = _domid(host, "again")
    until(lambda: _domid(host, "again") > second, "the domain has been restarted twice")
    assert "is restart" in _monitor_log(host, "again")

    # It would go on for ever: end the monitor, then the domain.
    monitor = int(re.findall(r"\[pid (\d+)\]", _monitor_log(host, "again"))[-1])
    os.kill(monitor, signal.SIGTERM)
    until(lambda: monitor not in host.processes(), "the monitor is gone")
    host.destroy_all()


def test_a_domain_whose_process_is_killed_has_crashed_and_is_taken_away(host: XlHost, tmp_path: Path) -> None:
    config = write_realm(tmp_path, "victim", SPIN)
    assert host.xl("create", "-q", str(config)).returncode == 0
    domain = host.domain("victim")
    assert domain is not None and domain.pid
    os.kill(domain.pid, signal.SIGKILL)
    until(lambda: not host.domains(), "the domain is gone")
    assert "reason code 3 0x3" in _monitor_log(host, "victim")
    assert "SIGKILL" in host.xl("dmesg").stdout


def test_on_crash_preserve_shows_a_crashed_domain(host: XlHost, tmp_path: Path) -> None:
    config = write_realm(tmp_path, "kept", SPIN, extra='on_crash = "preserve"')
    assert host.xl("create", "-q", str(config)).returncode == 0
    domain = host.domain("kept")
    assert domain is not None
    os.kill(domain.pid, signal.SIGKILL)
    until(lambda: "---sc-" in host.xl("list", "kept").stdout, "the domain is shown as crashed")
    until(lambda: "Done" in _monitor_log(host, "kept"), "the monitor is done")
    assert host.xl("destroy", "kept").returncode == 0


@pytest.mark.parametrize("action", ["coredump-destroy", "rename-restart"])
def test_actions_that_cannot_be_done_in_full_are_said_at_create(host: XlHost, tmp_path: Path, action: str) -> None:
    config = write_realm(tmp_path, "dump", SPIN, extra=f'on_crash = "{action}"')
    created = host.xl("create", str(config))
    assert created.returncode == 0
    assert f'on_crash="{action}": ' in created.stderr
    assert host.xl("destroy", "dump").returncode == 0


def test_the_monitor_in_the_foreground_ends_with_the_domain(host: XlHost, tmp_path: Path) -> None:
    config = write_realm(tmp_path, "front", POWER_OFF)
    done = host.xl("create", "-q", "-F", str(config))
    assert done.returncode == 0
    assert "Action for shutdown reason code 0 is destroy" in done.stderr
    assert not host.domains()


def test_the_name_of_a_domain_is_taken_until_it_is_gone(host: XlHost, tmp_path: Path) -> None:
    config = write_realm(tmp_path, "only", SPIN)
    assert host.xl("create", "-q", str(config)).returncode == 0
    again = host.xl("create", "-q", str(config))
    assert again.returncode == 3
    assert again.stderr.splitlines()[0] == 'libxl: error: Domain with name "only" already exists.'
    assert host.xl("destroy", "only").returncode == 0
    assert host.xl("create", "-q", str(config)).returncode == 0
    assert host.xl("destroy", "only").returncode == 0


def test_realms_of_several_processes_run_at_the_same_time(
    host: XlHost, tmp_path: Path, terminal: Callable[..., Terminal]
) -> None:
    """One that never stops does not keep others from running, and none disturbs another."""
    spin = write_realm(tmp_path, "spin", SPIN)
    assert host.xl("create", "-q", str(spin)).returncode == 0
    talkers = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.cfg"
        path.write_text(
            f'name = "{name}"\ntype = "pvh"\nrealm = 1\ngic_version = "v3"\nmemory = 16\nvuart = "sbsa_uart"\n'
            f'kernel = "{ROOT}/examples/hello-realm/Image"\n'
        )
        talkers.append(terminal(host, "create", "-c", str(path)))
        talkers[-1].expect("> ")
    for line in range(5):
        for number, talker in enumerate(talkers):
            talker.type(f"line {line} to {number}\r")
            talker.expect(f"you said: line {line} to {number}")
    before = host.domain("spin")
    for talker in talkers:
        talker.type("quit\r")
        assert talker.wait() == 0
    after = host.domain("spin")
    assert before is not None and after is not None
    assert after.shutdown_reason is None and after.cpu_time_ns > before.cpu_time_ns > 0
    assert host.xl("destroy", "spin").returncode == 0
