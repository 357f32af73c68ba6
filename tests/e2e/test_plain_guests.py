"""Ordinary Arm PVH guests: the same images as the Realms', run by the hypervisor itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.rpc.client import RpcError
from hypervisor.rpc.messages import DomainCreateRequest, DomainInfo, DomainRef, Nothing

from .realm_images import SPIN, image
from .terminal import Terminal
from .xl_host import ROOT, XlHost, until

MARKER = "REALM-SHELL-READY"
PROMPT = "realm:/root# "


@pytest.fixture
def hello(tmp_path: Path) -> str:
    path = tmp_path / "hello.cfg"
    kernel = ROOT / "examples/hello-realm/Image"
    path.write_text(f'name="hello"\ntype="pvh"\nkernel="{kernel}"\nmemory=16\nvuart="sbsa_uart"\non_reboot="destroy"\n')
    return str(path)


@pytest.fixture
def linux_config(linux: str, tmp_path: Path) -> Callable[..., str]:
    """Writes a configuration of the Linux example as a plain guest, with further settings."""

    def write(*settings: str) -> str:
        path = tmp_path / "plain.cfg"
        text = Path(linux).read_text().replace("realm = true\n", "")
        path.write_text("\n".join((text, 'name = "plain"', *settings, "")))
        return str(path)

    return write


def test_the_hello_image_runs_as_a_plain_guest_and_delegates_nothing(
    host: XlHost, hello: str, terminal: Callable[..., Terminal]
) -> None:
    before = host.physinfo().delegated_granules
    xl = terminal(host, "create", "-c", hello)
    xl.expect("hello-realm: not a Realm")
    xl.expect("> ")
    xl.type("anybody there\r")
    xl.expect("hello-realm: you said: anybody there")
    xl.expect("> ")
    domain = host.domain("hello")
    assert domain is not None and not domain.realm and domain.realm_state == "NONE"
    assert host.physinfo().delegated_granules == before
    xl.type("quit\r")
    assert xl.wait() == 0
    assert "debug console" not in xl.shown()
    until(lambda: not host.domains(), "the domain is destroyed")


def test_a_plain_guest_and_a_realm_of_the_same_image_run_side_by_side(
    host: XlHost, hello: str, terminal: Callable[..., Terminal]
) -> None:
    plain = terminal(host, "create", "-c", hello)
    plain.expect("not a Realm")
    realm = terminal(host, "create", "-c", hello, 'name="realm"', "realm=1", 'gic_version="v3"')
    realm.expect("hello-realm: RIM ")
    for xl in (plain, realm):
        xl.type("quit\r")
        assert xl.wait() == 0


def test_a_paused_plain_guest_runs_after_unpause(
    host: XlHost, hello: str, terminal: Callable[..., Terminal]
) -> None:
    assert host.xl("create", "-q", "-p", hello).returncode == 0
    console = terminal(host, "console", "hello")
    assert host.xl("unpause", "hello").returncode == 0
    console.expect("> ")
    assert host.xl("pause", "hello").returncode == 0
    console.type("late\r")
    assert host.xl("list", "hello").returncode == 0
    assert b"you said" not in console.output
    assert host.xl("unpause", "hello").returncode == 0
    console.expect("you said: late")
    console.type("quit\r")
    assert console.wait() == 0


def test_the_memory_of_a_plain_guest_whose_process_is_killed_comes_back(host: XlHost, tmp_path: Path) -> None:
    (tmp_path / "spin.img").write_bytes(image(SPIN))
    config = tmp_path / "spin.cfg"
    config.write_text(f'name="spin"\ntype="pvh"\nkernel="{tmp_path}/spin.img"\nmemory=64\non_crash="preserve"\n')
    assert host.xl("create", "-q", str(config)).returncode == 0
    until(lambda: host.domains()[0].cpu_time_ns > 0, "the guest has run")
    os.kill(host.domains()[0].pid, signal.SIGKILL)
    until(lambda: host.domains()[0].shutdown, "the domain counts as crashed")
    assert "SIGKILL" in host.domains()[0].crash_reason
    assert host.xl("destroy", "spin").returncode == 0


def test_a_domain_that_is_to_be_a_realm_does_not_run_as_a_plain_guest(host: XlHost) -> None:
    request = DomainCreateRequest(
        name="unfinished", uuid="0" * 8 + "-0000-4000-8000-" + "0" * 12, max_vcpus=1, max_memkb=16384, realm=True,
        vuart=False, trap_unmapped_accesses=True, config="{}",
    )  # fmt: skip
    with host.client() as client:
        domid = client.call("domain_create", request, DomainInfo).domid
        with pytest.raises(RpcError, match="must be finalized before it runs"):
            client.call("domain_unpause", DomainRef(domid=domid), Nothing)
        client.call("domain_destroy", DomainRef(domid=domid), Nothing)


@pytest.mark.linux
def test_debians_kernel_boots_as_a_plain_guest_to_a_shell_and_powers_off(
    host: XlHost, linux_config: Callable[..., str], terminal: Callable[..., Terminal]
) -> None:
    xl = terminal(host, "create", "-c", linux_config('uuid = "3c7a1c2e-58b2-4a8b-9f0e-6f1f6d4f2b11"'))
    xl.expect("Xen 4.23 support found", seconds=120)
    xl.expect("linux-realm: this is an ordinary guest, not a Realm", seconds=120)
    xl.expect(MARKER, seconds=30)
    xl.expect(PROMPT, seconds=30)
    xl.type("echo $((6 * 7)) $(cat /sys/hypervisor/type /sys/hypervisor/uuid) $(cat /sys/class/tty/console/active)\r")
    xl.expect("42 xen 3c7a1c2e-58b2-4a8b-9f0e-6f1f6d4f2b11 ttyAMA0", seconds=30)
    xl.expect(PROMPT, seconds=30)
    xl.type("poweroff\r")
    xl.expect("reboot: Power down", seconds=30)
    assert xl.wait() == 0
    until(lambda: not host.domains(), "the domain is destroyed")


@pytest.mark.linux
def test_a_plain_linux_guest_with_two_vcpus_reboots_into_a_new_domid(
    host: XlHost, linux_config: Callable[..., str], terminal: Callable[..., Terminal]
) -> None:
    xl = terminal(host, "create", "-c", linux_config("vcpus = 2", 'on_reboot = "restart"'))
    xl.expect(MARKER, seconds=120)
    xl.expect(PROMPT, seconds=30)
    xl.type("(sleep 1; echo slept) & (true | cat; echo piped) & wait; echo $(nproc) vCPUs\r")
    xl.expect("2 vCPUs", seconds=60)
    first = host.domain("plain")
    assert first is not None and first.vcpu_online == 2
    xl.expect(PROMPT, seconds=30)
    xl.type("reboot\r")
    xl.expect("reboot: Restarting system", seconds=30)
    assert xl.wait() == 0

    def second_boots() -> bool:
        domain = host.domain("plain")
        if domain is None or domain.domid == first.domid:
            return False
        log = host.state / "console" / f"guest-plain-{domain.domid}-vuart0.log"
        return log.exists() and MARKER.encode() in log.read_bytes()

    until(second_boots, "the next incarnation is up", 120)
    assert host.xl("destroy", "plain").returncode == 0
