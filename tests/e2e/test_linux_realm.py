"""Debian's unmodified kernel as a Realm: to the shell, a command typed and answered, power-off, destroy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .terminal import Terminal
from .xl_host import XlHost, until

pytestmark = pytest.mark.linux
MARKER = "REALM-SHELL-READY"
PROMPT = "realm:/root# "


@pytest.fixture
def config(linux: str, tmp_path: Path) -> str:
    """A copy under a name of its own that is not restarted."""
    path = tmp_path / "linux.cfg"
    path.write_text(Path(linux).read_text() + '\nname = "linux"\non_reboot = "destroy"\n')
    return str(path)


def test_debians_kernel_boots_to_a_shell_that_answers_and_powers_off(
    host: XlHost, config: str, terminal: Callable[..., Terminal]
) -> None:
    xl = terminal(host, "create", "-c", config)
    xl.expect("linux-realm: this is a Realm (RME: Using RSI version 1.0)", seconds=120)
    xl.expect(MARKER, seconds=30)
    xl.expect(PROMPT, seconds=30)
    xl.type("echo $((6 * 7)) $(nproc) $(dmesg | grep -c 'RME: Using RSI')\r")
    xl.expect("42 1 1", seconds=30)
    xl.expect(PROMPT, seconds=30)
    info = host.domain("linux")
    assert info is not None and info.realm_state == "ACTIVE" and info.cpu_time_ns > 0
    xl.type("poweroff\r")
    xl.expect("reboot: Power down", seconds=30)
    assert xl.wait() == 0
    assert xl.restored()
    until(lambda: not host.domains(), "the domain is destroyed")


def test_a_running_linux_realm_is_destroyed_with_everything_it_had(
    host: XlHost, config: str, terminal: Callable[..., Terminal]
) -> None:
    xl = terminal(host, "create", "-c", config)
    xl.expect("Booting Linux on physical CPU", seconds=120)
    destroyed = host.xl("destroy", "linux")
    assert (destroyed.returncode, destroyed.stderr) == (0, "")
    assert xl.wait() == 0
    assert host.domain("linux") is None


def test_the_console_of_a_realm_without_a_client_is_logged_and_kept_when_it_is_gone(host: XlHost, config: str) -> None:
    assert host.xl("create", "-q", config).returncode == 0
    domain = host.domain("linux")
    assert domain is not None
    log = host.state / "console" / f"guest-linux-{domain.domid}-vuart0.log"
    until(lambda: log.exists() and b"Booting Linux" in log.read_bytes(), "the kernel prints", 60)
    assert host.xl("destroy", "linux").returncode == 0
    assert b"Booting Linux" in log.read_bytes()


def test_the_kernel_runs_on_two_vcpus_and_parallel_work_comes_out_right(
    host: XlHost, config: str, terminal: Callable[..., Terminal]
) -> None:
    xl = terminal(host, "create", "-c", config, "vcpus=2")
    xl.expect(PROMPT, seconds=180)
    xl.type("echo cpus $(nproc); for i in 1 2 3 4 5 6; do md5sum /bin/busybox & done | sort -u | wc -l\r")
    xl.expect("cpus 2", seconds=60)
    xl.expect("\n1\r", seconds=120)
    xl.type("for i in $(seq 30); do (echo $i | cat | cat) & done | sort -n | tail -1; echo done\r")
    xl.expect("\n30\r", seconds=120)
    assert [vcpu.online for vcpu in host.vcpus("linux")] == [True, True]
    assert all(vcpu.cpu_time_ns > 10**9 for vcpu in host.vcpus("linux"))
    assert host.xl("destroy", "linux").returncode == 0


def test_two_kaslr_seeds_give_two_kernel_bases(
    host: XlHost, config: str, terminal: Callable[..., Terminal]
) -> None:
    bases = []
    for seed in ("1311768467463790320", "81985529216486895"):
        xl = terminal(host, "create", "-c", config, f"kaslr_seed={seed}")
        xl.expect(PROMPT, seconds=120)
        xl.type("grep -w _text /proc/kallsyms\r")
        xl.expect(" T _text", seconds=30)
        bases.append(xl.output.rsplit(b" T _text", 1)[0].split()[-1])
        assert host.xl("destroy", "linux").returncode == 0
        assert xl.wait() == 0
    unmoved = b"ffff800080000000"
    assert len({*bases, unmoved}) == 3, bases
