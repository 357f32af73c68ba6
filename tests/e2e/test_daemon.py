"""Starting, finding, stopping and losing the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .realm_images import SPIN, write_realm
from .terminal import Terminal
from .xl_host import ROOT, XlHost, killed_at_the_end, until


def _daemons(host: XlHost) -> list[int]:
    return [pid for pid, line in host.processes().items() if "hypervisor.daemon" in line]


def test_xl_starts_the_daemon_when_there_is_none(bare_host: XlHost) -> None:
    assert bare_host.xl("daemon", "status").returncode == 3
    assert _daemons(bare_host) == []
    listed = bare_host.xl("list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert len(_daemons(bare_host)) == 1
    status = bare_host.xl("daemon", "status")
    assert status.returncode == 0 and f"pid {_daemons(bare_host)[0]}" in status.stdout
    assert bare_host.xl("daemon", "stop").returncode == 0
    assert bare_host.processes() == {}
    assert not (bare_host.runtime / "rpc.sock").exists()


def test_a_started_daemon_keeps_no_pipe_of_xl_open(bare_host: XlHost) -> None:
    with killed_at_the_end(bare_host.start("list")) as xl:
        out, err = xl.communicate(timeout=60)  # returns only when nobody holds the pipes any more
        assert xl.returncode == 0 and out.startswith("Name ") and err == ""
    (daemon,) = _daemons(bare_host)
    for fd in (0, 1, 2):
        assert not os.readlink(f"/proc/{daemon}/fd/{fd}").startswith("pipe:")


def test_racing_starts_end_in_one_daemon(bare_host: XlHost) -> None:
    racers = [bare_host.start("list") for _ in range(3)]
    for xl in racers:
        _, err = xl.communicate(timeout=120)
        assert (xl.returncode, err) == (0, "")
    assert len(_daemons(bare_host)) == 1


def test_no_autostart_says_that_there_is_no_daemon(bare_host: XlHost) -> None:
    done = bare_host.xl("list", XL_NO_AUTOSTART="1")
    assert done.returncode == 1
    assert done.stderr.startswith("xl: hypervisord is not running") and done.stderr.count("\n") == 1
    assert bare_host.processes() == {}


def test_a_daemon_that_cannot_start_is_quoted(bare_host: XlHost) -> None:
    bare_host.runtime.mkdir(mode=0o700)
    (bare_host.runtime / "hypervisord.lock").mkdir()
    done = bare_host.xl("list")
    assert done.returncode == 1
    assert done.stderr == f"xl: cannot start hypervisord: {bare_host.runtime}/hypervisord.lock: Is a directory\n"
    assert bare_host.processes() == {}


def test_a_runtime_directory_open_to_others_is_refused(bare_host: XlHost) -> None:
    bare_host.runtime.mkdir()
    bare_host.runtime.chmod(0o755)
    done = bare_host.xl("list")
    assert done.returncode == 1
    assert "open to others" in done.stderr and done.stderr.count("\n") == 1


def test_a_socket_left_by_a_killed_daemon_does_not_matter(bare_host: XlHost) -> None:
    assert bare_host.xl("list").returncode == 0
    (daemon,) = _daemons(bare_host)
    os.kill(daemon, signal.SIGKILL)
    until(lambda: bare_host.processes() == {}, "the daemon is gone")
    assert (bare_host.runtime / "rpc.sock").exists()
    assert bare_host.xl("daemon", "status").returncode == 3
    assert bare_host.xl("list").returncode == 0
    assert len(_daemons(bare_host)) == 1


def test_stop_refuses_while_there_are_domains(bare_host: XlHost, tmp_path: Path) -> None:
    bare_host.start_daemon("512M")
    assert bare_host.xl("create", "-q", str(write_realm(tmp_path, "busy", SPIN))).returncode == 0
    refused = bare_host.xl("daemon", "stop")
    assert refused.returncode == 1
    assert "1 domain (busy)" in refused.stderr
    assert bare_host.domain("busy") is not None
    assert bare_host.xl("daemon", "stop", "--force").returncode == 0
    until(lambda: bare_host.processes() == {}, "daemon, domain and monitor are gone")


def test_a_killed_daemon_takes_domains_monitors_and_consoles_with_it(
    bare_host: XlHost, tmp_path: Path, terminal: Callable[..., Terminal]
) -> None:
    daemon = bare_host.start_daemon("512M")
    config = write_realm(tmp_path, "doomed", SPIN)
    assert bare_host.xl("create", "-q", str(config)).returncode == 0
    console = terminal(bare_host, "console", "doomed")
    until(lambda: not console.restored(), "the terminal is in raw mode")
    os.kill(daemon, signal.SIGKILL)
    assert console.wait() == 1
    assert "hypervisord" in console.shown() and "has ended" in console.shown()
    assert console.restored()
    until(lambda: bare_host.processes() == {}, "domain and monitor are gone")
    assert bare_host.xl("list").stdout.count("\n") == 1
    assert bare_host.xl("create", "-q", str(config)).returncode == 0


def test_a_daemon_killed_during_a_build_ends_the_create(bare_host: XlHost, tmp_path: Path) -> None:
    daemon = bare_host.start_daemon("1G")
    config = write_realm(tmp_path, "large", SPIN, memory=768)
    with killed_at_the_end(bare_host.start("create", "-q", str(config))) as xl:
        until(lambda: bare_host.physinfo().delegated_granules > 2000, "the Realm is being built")
        os.kill(daemon, signal.SIGKILL)
        _, said = xl.communicate(timeout=20)
    assert xl.returncode == 1
    assert said == f"xl: hypervisord (pid {daemon}) has ended\n"
    until(lambda: bare_host.processes() == {}, "domain and monitor are gone")


def test_a_daemon_whose_starter_was_interrupted_serves_all_the_same(bare_host: XlHost) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    daemon = subprocess.Popen(
        [sys.executable, "-m", "hypervisor.daemon", "--memory", "64M", "--ready-fd", str(write_end)],
        env=bare_host.environment, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=(write_end,), start_new_session=True,
    )  # fmt: skip
    os.close(write_end)
    until(lambda: (bare_host.runtime / "rpc.sock").exists(), "the daemon serves")
    assert bare_host.xl("daemon", "status", XL_NO_AUTOSTART="1").returncode == 0
    assert bare_host.xl("daemon", "stop").returncode == 0
    assert daemon.wait(timeout=20) == 0


def test_a_daemon_that_cannot_write_its_log_runs_and_reports_deaths_all_the_same(
    bare_host: XlHost, tmp_path: Path
) -> None:
    with open("/dev/full", "wb") as full:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "hypervisor.daemon", "--memory", "64M"],
            env=bare_host.environment, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=full, start_new_session=True,
        )  # fmt: skip
    until(lambda: (bare_host.runtime / "rpc.sock").exists(), "the daemon serves")
    config = write_realm(tmp_path, "victim", SPIN, extra='on_crash = "preserve"')
    assert bare_host.xl("create", "-q", str(config)).returncode == 0
    domain = bare_host.domain("victim")
    assert domain is not None
    os.kill(domain.pid, signal.SIGKILL)
    until(lambda: "---sc-" in bare_host.xl("list", "victim").stdout, "the death is reported")
    assert bare_host.xl("daemon", "stop", "-f").returncode == 0
    assert daemon.wait(timeout=20) == 0
