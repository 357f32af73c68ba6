"""The tables of xl, character by character."""

from __future__ import annotations

import pytest
from fake_hypervisor import HOST, domain

from hypervisor.rpc.messages import VcpuInfo
from toolstack import tables


def test_list_has_xens_columns() -> None:
    text = tables.domain_table([domain("r1", 3), domain("a-realm-with-a-name-of-more-than-forty-characters", 12345)])
    assert text == (
        "Name                                        ID   Mem VCPUs\tState\tTime(s)\n"
        "r1                                           3   256     1     -b----       1.2\n"
        "a-realm-with-a-name-of-more-than-forty-characters 12345   256     1     -b----       1.2\n"
    )


def test_list_verbose_adds_uuid_reason_and_label() -> None:
    header, alive, dead = tables.domain_table(
        [domain("r1", 1), domain("r2", 2, blocked=False, shutdown=True, shutdown_reason=3)], verbose=True
    ).splitlines()
    assert header.endswith("\tState\tTime(s)   UUID                            Reason-Code\tSecurity Label")
    assert alive.endswith("       1.2 00000000-0000-0000-0000-000000000001        -                -")
    assert dead.endswith(
        "  ---sc-       1.2 00000000-0000-0000-0000-000000000002        3                -".strip("\n")
    )


def test_list_can_add_label_pool_and_node() -> None:
    header, row = tables.domain_table([domain("r1", 1)], context=True, cpupool=True, numa=True).splitlines()
    assert header.endswith("Time(s)   Security Label         Cpupool NODE Affinity")
    assert row.endswith("       1.2                -          Pool-0 all")


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"blocked": False}, "------"),
        ({"blocked": False, "running": True}, "r-----"),
        ({}, "-b----"),
        ({"blocked": False, "paused": True}, "--p---"),
        ({"blocked": False, "shutdown": True, "shutdown_reason": 0}, "---s--"),
        ({"blocked": False, "shutdown": True, "shutdown_reason": 1}, "---sr-"),
        ({"blocked": False, "shutdown": True, "shutdown_reason": 2}, "---ss-"),
        ({"blocked": False, "shutdown": True, "shutdown_reason": 3}, "---sc-"),
        ({"blocked": False, "shutdown": True, "shutdown_reason": 4}, "---sw-"),
        ({"blocked": False, "shutdown": True, "shutdown_reason": 5}, "---sS-"),
        ({"blocked": False, "shutdown": True, "shutdown_reason": 9}, "---s?-"),
        ({"blocked": False, "dying": True}, "-----d"),
    ],
)
def test_state_characters_stand_in_their_places(fields: dict[str, object], state: str) -> None:
    assert tables.state_of(domain("r", 1, **fields)) == state


def test_a_name_cannot_break_a_line_or_drive_the_terminal() -> None:
    assert tables.name_of(domain("a\nb\x1b[2J", 1)) == "a?b?[2J"
    assert tables.name_of(domain("", 1)) == "(null)"


def test_vcpu_list_shows_running_blocked_and_offline() -> None:
    vcpus = [
        VcpuInfo(vcpu=0, online=True, blocked=False, running=True, cpu=0, cpu_time_ns=2_000_000_000),
        VcpuInfo(vcpu=1, online=True, blocked=True, running=False, cpu=0, cpu_time_ns=0),
        VcpuInfo(vcpu=2, online=False, blocked=False, running=False, cpu=0, cpu_time_ns=0),
    ]
    assert tables.vcpu_table([(domain("r1", 7), vcpus)]) == (
        "Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)\n"
        "r1                                   7     0     0   r--       2.0  all / all\n"
        "r1                                   7     1     0   -b-       0.0  all / all\n"
        "r1                                   7     2     -   --p       0.0  all / all\n"
    )


def test_vm_list() -> None:
    assert tables.vm_table([domain("r1", 7)]) == (
        "UUID                                  ID    name\n00000000-0000-0000-0000-000000000007  7    r1\n"
    )


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (0, " 0:00:00", " 0:00"),
        (59, " 0:00:59", " 0:00"),
        (36061, "10:01:01", "10:01"),
        (86400 + 60, "1 day,  0:01:00", "1 day,  0:01"),
        (3 * 86400, "3 days,  0:00:00", "3 days,  0:00"),
    ],
)
def test_durations(seconds: int, long: str, short: str) -> None:
    assert tables.duration(seconds) == long
    assert tables.duration(seconds, short=True) == short


def test_uptime() -> None:
    now = 90_000_000_000_000
    assert tables.uptime_table([domain("r1", 7)], now_ns=now) == (
        "Name                                ID Uptime\nr1                                   7 1 day,  1:00:00\n"
    )
    assert tables.uptime_table([domain("r1", 7)], now_ns=now, short=True).endswith(" up 1 day,  1:00, r1 (7)\n")


def test_info_has_a_key_field_of_23_columns_in_xens_order() -> None:
    lines = tables.info_text(HOST).splitlines()
    assert lines[0] == "host                   : board"
    assert all(line[23:25] == ": " for line in lines)
    keys = [line[:23].rstrip() for line in lines]
    assert keys[:12] == [
        "host", "release", "version", "machine", "nr_cpus", "max_cpu_id", "nr_nodes", "cores_per_socket",
        "threads_per_core", "cpu_mhz", "hw_caps", "virt_caps",
    ]  # fmt: skip
    assert "xen_version            : 4.23-unstable" in lines
    assert "total_memory           : 2048" in lines
    assert "free_memory            : 1024" in lines
    assert keys.index("xend_config_format") > keys.index("build_id") > keys.index("xen_caps")


def test_info_with_a_name_prints_the_values_of_all_lines_that_start_with_it() -> None:
    assert tables.info_text(HOST, "nr_cpus") == "4\n"
    assert tables.info_text(HOST, "xen_m") == "4\n23\n"
    assert tables.info_text(HOST, "nonsense") == ""
