"""Commands on domains: what they ask of the hypervisor, what they print, and their exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Xl
from fake_hypervisor import FakeHypervisor, domain


@pytest.fixture(autouse=True)
def _two_domains(hypervisor: FakeHypervisor) -> None:
    hypervisor.domains = [domain("r1", 1), domain("r2", 2, vuart=False)]


def test_list_shows_all_or_one_by_name_or_domid(xl: Xl) -> None:
    assert [line.split()[0] for line in xl("list").out.splitlines()] == ["Name", "r1", "r2"]
    assert [line.split()[0] for line in xl("list", "r2").out.splitlines()] == ["Name", "r2"]
    assert [line.split()[0] for line in xl("list", "1").out.splitlines()] == ["Name", "r1"]


def test_list_of_a_missing_domain(xl: Xl) -> None:
    assert xl("list", "9") == (1, "", "Error: Domain '9' does not exist.\n")
    assert xl("list", "nobody") == (1, "", "nobody is an invalid domain identifier (rc=-6)\n")


def test_list_takes_one_domain(xl: Xl) -> None:
    ran = xl("list", "r1", "r2")
    assert ran.status == 1 and ran.err.startswith("\nUsage" if ran.err.startswith("\n") else "Usage: xl [-v] list")


def test_list_long_is_an_array_of_domid_and_config(xl: Xl, hypervisor: FakeHypervisor) -> None:
    hypervisor.domains.append(domain("r3", 3, config="not json"))
    assert json.loads(xl("list", "-l").out) == [
        {"domid": 1, "config": {"c_info": {"name": "r1"}}},
        {"domid": 2, "config": {"c_info": {"name": "r2"}}},
    ]


def test_list_json_has_a_version_and_every_field(xl: Xl) -> None:
    answer = json.loads(xl("list", "--json").out)
    assert answer["version"] == 1
    first = answer["domains"][0]
    assert (first["domid"], first["name"], first["realm_state"]) == (1, "r1", "ACTIVE")
    assert first["config"] == {"c_info": {"name": "r1"}}


def test_domid_and_domname(xl: Xl) -> None:
    assert xl("domid", "r2") == (0, "2\n", "")
    assert xl("domname", "2") == (0, "r2\n", "")
    assert xl("domid", "r9").status == 1
    assert xl("domname", "9").status == 1
    assert xl("domname", "r2").err == "Invalid domain id.\n\n"


def test_vcpu_list_and_uptime_go_on_after_a_missing_domain(xl: Xl) -> None:
    listed = xl("vcpu-list", "nobody", "r2")
    assert listed.status == 1
    assert [line.split()[0] for line in listed.out.splitlines()] == ["Name", "r2"]
    assert listed.err == "nobody is an invalid domain identifier (rc=-6)\n"
    assert xl("uptime", "9", "1").status == 1


@pytest.mark.parametrize("command", ["pause", "unpause", "destroy"])
def test_a_command_names_its_domain_by_domid(xl: Xl, hypervisor: FakeHypervisor, command: str) -> None:
    assert xl(command, "r2") == (0, "", "")
    (request,) = hypervisor.called(f"domain_{command}")
    assert request.domid == 2


def test_destroy_of_a_missing_domain(xl: Xl) -> None:
    assert xl("destroy", "9") == (1, "", "libxl: error: Domain 9:Non-existant domain\ndestroy failed (rc=-21)\n")


def test_destroy_spares_domain_0(xl: Xl, hypervisor: FakeHypervisor) -> None:
    assert xl("destroy", "0") == (1, "", "Cannot destroy privileged domain 0.\n\n")
    assert hypervisor.called("domain_destroy") == []


def test_a_domain_that_cannot_be_destroyed_is_explained(xl: Xl, hypervisor: FakeHypervisor) -> None:
    hypervisor.refuse("domain_destroy", "stuck", "RTT is busy", "EIO", rmi_result=0x104)
    ran = xl("destroy", "r1")
    assert ran.status == 1
    assert ran.err == ("libxl: error: Domain 1:RTT is busy (raw RMI result 0x104)\ndestroy failed (rc=-3)\n")


def test_a_domid_beyond_all_domids_is_no_request(xl: Xl, hypervisor: FakeHypervisor) -> None:
    assert xl("pause", "32752") == (1, "", "32752 is an invalid domain identifier (rc=-6)\n")
    assert xl("pause", "") == (1, "", " is an invalid domain identifier (rc=-6)\n")
    assert hypervisor.called("domain_pause") == []


def test_unpause_of_a_running_domain_is_mentioned_only(xl: Xl, hypervisor: FakeHypervisor) -> None:
    hypervisor.refuse("domain_unpause", "not_paused", "domain 1 is not paused", "EINVAL")
    ran = xl("unpause", "r1")
    assert ran.status == 0 and "is not paused" in ran.err


def test_shutdown_says_what_to_do_instead(xl: Xl) -> None:
    with_console, without = xl("shutdown", "r1"), xl("shutdown", "r2")
    assert with_console.status == without.status == 1
    assert with_console.err.splitlines() == [
        "Shutting down domain 1",
        "libxl: error: Domain 1:a Realm guest has no PV control interface: power it off from inside (xl console r1), "
        "or end it with: xl destroy r1",
        "shutdown failed (rc=-10)",
    ]
    assert "xl console" not in without.err


def test_shutdown_waits_for_the_end(xl: Xl, hypervisor: FakeHypervisor) -> None:
    hypervisor.domains[0] = domain("r1", 1, shutdown=True, shutdown_reason=0)
    ran = xl("shutdown", "-w", "r1")
    assert ran.status == 0
    assert ran.err.endswith("Domain 1 has been shut down, reason code 0\n")
    assert [request.gone for request in hypervisor.called("domain_wait")] == [False]
    xl("shutdown", "-ww", "r1")
    assert [request.gone for request in hypervisor.called("domain_wait")] == [False, True]


def test_shutdown_needs_a_target(xl: Xl) -> None:
    ran = xl("shutdown")
    assert ran.status == 1 and ran.err.startswith("You must specify -a or a domain id.\n")
    assert xl("reboot", "-a", "r1").status == 1


def test_console_types(xl: Xl) -> None:
    assert xl("console", "-t", "vga", "r1") == (1, "", "console type supported are: pv, serial, vuart\n")
    assert "has no pv console (it has a vuart: xl console -t vuart)" in xl("console", "-t", "pv", "r1").err
    assert 'has no vuart (set vuart="sbsa_uart")' in xl("console", "r2").err


def test_info_and_dmesg(xl: Xl, hypervisor: FakeHypervisor) -> None:
    assert xl("info", "xen_version") == (0, "4.23-unstable\n", "")
    assert json.loads(xl("info", "--json").out)["host"]["nr_cpus"] == 4
    assert xl("dmesg") == (0, "(XEN) hello\n", "")
    xl("dmesg", "-c")
    assert [request.clear for request in hypervisor.called("dmesg")] == [False, True]


def test_version_names_program_protocol_and_hypervisor(xl: Xl, hypervisor: FakeHypervisor) -> None:
    lines = dict(line.split(":", 1) for line in xl("version").out.splitlines())
    assert {key.strip() for key in lines} == {"xl_version", "protocol", "xen_version", "rmm_version", "cpu"}
    assert [value.strip() for key, value in lines.items() if key.strip() == "xen_version"] == ["4.23-unstable"]
    assert json.loads(xl("version", "--json").out)["versions"]["protocol"] == "1"


def test_daemon_status_and_stop(xl: Xl, hypervisor: FakeHypervisor) -> None:
    status = xl("daemon", "status")
    assert status.status == 0 and "hypervisord 4.23-unstable is running" in status.out
    refused = xl("daemon", "stop")
    assert refused.status == 1
    assert "hypervisord has 2 domains (r1, r2): destroy them first, or use --force" in refused.err
    assert hypervisor.called("stop") == []


def test_another_protocol_version_is_said(xl: Xl, hypervisor: FakeHypervisor) -> None:
    hypervisor.version = 99
    ran = xl("list")
    assert ran.status == 1
    assert ran.err == "xl: this hypervisord speaks protocol version 99, the client version 1\n"


def test_a_refusal_becomes_one_line(xl: Xl, hypervisor: FakeHypervisor) -> None:
    hypervisor.refuse("domain_list", "internal", "internal error in hypervisord: ValueError: x")
    assert xl("list") == (1, "", "libxl: error: internal error in hypervisord: ValueError: x\n")


def test_without_a_daemon(xl: Xl, hypervisor: FakeHypervisor, directories: Path) -> None:
    (directories / "run" / "rpc.sock").unlink()
    assert xl("daemon", "status").status == 3
    assert xl("daemon", "stop").status == 0
    ran = xl("list")
    assert ran.status == 1 and "XL_NO_AUTOSTART is set" in ran.err and ran.err.count("\n") == 1
