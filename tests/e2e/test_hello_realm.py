"""The example Realm at a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .terminal import Terminal
from .xl_host import ROOT, XlHost, killed_at_the_end, until


@pytest.fixture
def hello(tmp_path: Path) -> str:
    path = tmp_path / "hello.cfg"
    kernel = ROOT / "examples/hello-realm/Image"
    path.write_text(
        f'name="hello"\ntype="pvh"\nrealm=1\nkernel="{kernel}"\nmemory=16\ngic_version="v3"\nvuart="sbsa_uart"\n'
        'on_reboot="destroy"\n'
    )
    return str(path)


def test_create_with_a_console_talks_to_the_guest_and_ends_with_it(
    host: XlHost, hello: str, terminal: Callable[..., Terminal]
) -> None:
    xl = terminal(host, "create", "-c", hello)
    xl.expect("hello-realm: RIM ")
    xl.expect("> ")
    xl.type("two words\r")
    xl.expect("hello-realm: you said: two words")
    xl.expect("> ")
    xl.type("quit\r")
    assert xl.wait() == 0
    assert xl.restored()
    until(lambda: not host.domains(), "the domain is destroyed")


def test_the_escape_key_leaves_the_guest_running_and_its_console_can_be_entered_again(
    host: XlHost, hello: str, terminal: Callable[..., Terminal]
) -> None:
    first = terminal(host, "create", "-c", hello)
    first.expect("> ")
    first.type("\x1d")
    assert first.wait() == 0
    assert first.restored()
    assert host.domain("hello") is not None
    second = terminal(host, "console", "hello")
    second.expect("hello-realm: RIM ")
    second.expect("> ")
    second.type("again\r")
    second.expect("you said: again")
    second.type("quit\r")
    assert second.wait() == 0


def test_a_paused_guest_answers_only_after_unpause(host: XlHost, hello: str, terminal: Callable[..., Terminal]) -> None:
    assert host.xl("create", "-q", "-p", hello).returncode == 0
    assert " --p--- " in host.xl("list", "hello").stdout
    console = terminal(host, "console", "-t", "vuart", "hello")
    assert host.xl("unpause", "hello").returncode == 0
    console.expect("> ")
    assert host.xl("pause", "hello").returncode == 0
    assert host.xl("list", "hello").stdout.splitlines()[1].split()[4] in ("--p---", "-bp---")
    console.type("late\r")
    assert host.xl("list", "hello").returncode == 0
    assert b"you said" not in console.output
    assert host.xl("unpause", "hello").returncode == 0
    console.expect("you said: late")
    console.type("quit\r")
    assert console.wait() == 0


def test_shutdown_says_how_to_power_a_realm_off_and_waits_for_it(
    host: XlHost, hello: str, terminal: Callable[..., Terminal]
) -> None:
    assert host.xl("create", "-q", hello).returncode == 0
    refused = host.xl("shutdown", "hello")
    assert refused.returncode == 1
    assert "has no PV control interface" in refused.stderr
    assert "xl console hello" in refused.stderr
    assert "shutdown failed (rc=-10)" in refused.stderr
    console = terminal(host, "console", "hello")
    console.expect("> ")
    with killed_at_the_end(host.start("shutdown", "-w", "hello")) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("Shutting down domain ")
        console.type("quit\r")
        _, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert said.endswith(("has been shut down, reason code 0\n", "has been destroyed\n"))


def test_two_realms_of_one_configuration_have_the_same_measurement(
    host: XlHost, hello: str, terminal: Callable[..., Terminal]
) -> None:
    measurements = []
    for name in ("one", "two"):
        xl = terminal(host, "create", "-c", hello, f'name="{name}"')
        xl.expect("hello-realm: RIM ")
        xl.expect("> ")
        measurements.append([line for line in xl.shown().splitlines() if "RIM" in line])
        xl.type("quit\r")
        assert xl.wait() == 0
    assert measurements[0] and measurements[0] == measurements[1]


def test_two_clients_see_the_same_console_and_both_type_into_it(
    host: XlHost, hello: str, terminal: Callable[..., Terminal]
) -> None:
    assert host.xl("create", "-q", hello).returncode == 0
    one, two = terminal(host, "console", "hello"), terminal(host, "console", "hello")
    for client in (one, two):
        client.expect("hello-realm: RIM ")
        client.expect("> ")
    one.type("from ")
    for client in (one, two):
        client.expect("from ")
    two.type("both\r")
    for client in (one, two):
        client.expect("hello-realm: you said: from both")
        client.expect("> ")
    one.type("quit\r")
    assert (one.wait(), two.wait()) == (0, 0)
