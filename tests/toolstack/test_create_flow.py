"""xl create: the order of requests, refusals, dry runs, and what is undone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import msgspec
import pytest
from command_line import Xl
from fake_hypervisor import FakeHypervisor

from hypervisor.rpc.messages import MAX_CHUNK, Progress


def test_a_realm_is_created_filled_finalized_and_unpaused_in_this_order(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path
) -> None:
    ran = xl("create", "-e", str(realm_config))
    assert ran == (0, "", f"Parsing config from {realm_config}\n")
    assert hypervisor.methods() == [
        "physinfo", "domain_create", "domain_write", "domain_set_context", "domain_finalize_realm", "domain_unpause",
    ]  # fmt: skip
    (created,) = hypervisor.called("domain_create")
    assert (created.name, created.max_vcpus, created.max_memkb) == ("r1", 1, 16 * 1024)
    assert created.realm and created.vuart and created.trap_unmapped_accesses
    assert json.loads(created.config)["b_info"]["realm"] == "True"
    (finalized,) = hypervisor.called("domain_finalize_realm")
    assert (finalized.base_gfn, finalized.nr_pages) == (0x40000, 16 * 256)
    (context,) = hypervisor.called("domain_set_context")
    assert context.vcpu == 0 and context.pc == 0x4000_0000
    tree = [write for write in hypervisor.called("domain_write") if write.gpa == context.x[0]]
    assert tree[0].data[:4] == bytes.fromhex("d00dfeed")


def test_no_message_carries_more_than_a_chunk_and_zeros_are_not_sent(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path, tmp_path: Path
) -> None:
    ramdisk = tmp_path / "initrd"
    ramdisk.write_bytes(b"\1" * (MAX_CHUNK + 5) + bytes(3 * MAX_CHUNK) + b"\2")
    assert xl("create", "-qe", str(realm_config), f'ramdisk="{ramdisk}"').status == 0
    writes = [write for write in hypervisor.called("domain_write") if b"\1" in write.data or b"\2" in write.data]
    writes = [write for write in writes if not write.data.startswith(b"\xd0\x0d\xfe\xed")]
    base = writes[0].gpa
    pieces = {write.gpa - base: write.data for write in writes}
    assert max(len(data) for data in pieces.values()) == MAX_CHUNK
    image = bytearray(4 * MAX_CHUNK + 6)
    for offset, data in pieces.items():
        image[offset : offset + len(data)] = data
    assert bytes(image) == ramdisk.read_bytes()
    assert len(pieces) < 5


def test_paused_leaves_out_the_unpause(xl: Xl, hypervisor: FakeHypervisor, realm_config: Path) -> None:
    assert xl("create", "-qep", str(realm_config)).status == 0
    assert hypervisor.called("domain_unpause") == []


def test_settings_on_the_command_line_are_appended(xl: Xl, hypervisor: FakeHypervisor, realm_config: Path) -> None:
    assert xl("create", "-qe", "-f", str(realm_config), 'name="other"', "vcpus=2").status == 0
    (created,) = hypervisor.called("domain_create")
    assert (created.name, created.max_vcpus) == ("other", 2)


def test_the_debug_vuart_is_warned_about_unless_quiet(xl: Xl, hypervisor: FakeHypervisor, realm_config: Path) -> None:
    hypervisor.host = msgspec.structs.replace(hypervisor.host, realm_debug_vuart=True)
    assert "the host reads and writes it in clear text" in xl("create", "-e", str(realm_config)).err
    assert xl("create", "-qe", str(realm_config)).err == ""


@pytest.mark.parametrize("option", ["-n", "--dryrun", "--dry"])
def test_a_dry_run_prints_the_configuration_and_asks_nothing(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path, option: str
) -> None:
    ran = xl("create", "-q", option, str(realm_config))
    assert ran.status == 0 and ran.err == ""
    assert json.loads(ran.out)["c_info"]["name"] == "r1"
    assert xl("-N", "create", "-q", str(realm_config), 'uuid="00000000-0000-0000-0000-000000000001"').status == 0
    assert hypervisor.calls == []


def test_a_dry_run_says_what_would_fail_and_still_succeeds(xl: Xl, realm_config: Path) -> None:
    ran = xl("create", "-qn", str(realm_config), "acpi=1")
    assert ran.status == 0
    assert ran.err == ("xl: warning: this would not be created: libxl: error: Realm guests do not support ACPI\n")
    assert "no such file" in xl("create", "-qn", str(realm_config), 'kernel="/none"').err.lower()


def test_debug_prints_the_configuration_on_standard_error(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path
) -> None:
    ran = xl("create", "-qde", str(realm_config))
    assert ran.out == "" and json.loads(ran.err)["c_info"]["name"] == "r1"


def test_two_configuration_files_print_the_help(xl: Xl, realm_config: Path) -> None:
    ran = xl("create", str(realm_config), "second.cfg")
    assert ran.status == 2 and "Usage: xl [-v] [-N] create" in ran.err


def test_no_configuration_file(xl: Xl) -> None:
    assert xl("create") == (6, "", "Config file not specified and none in save file\n")


def test_syntax_errors_are_listed_and_end_with_a_summary(xl: Xl, tmp_path: Path) -> None:
    path = tmp_path / "bad.cfg"
    path.write_text("a = = 1\n")
    ran = xl("create", "-q", str(path))
    assert ran.status == 1
    first, last = ran.err.splitlines()
    assert first.startswith(f"{path}:1: config parsing error near `=': ")
    assert last == "Failed to parse config: Invalid argument"


def test_a_configuration_without_a_name(xl: Xl) -> None:
    assert xl("create", "-q", "/dev/null", 'kernel="x"') == (1, "", "Domain name must be specified.\n")


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("vcpus=200", "libxl: error: maxvcpus = 200: an arm64 domain has at most 128 vCPUs"),
        ("memory=0", "libxl: error: memory = 0: a domain needs at least 1 MiB"),
        ('name=""', "libxl: error: domain name '': it is empty"),
        ('name="' + "x" * 300 + '"', f"libxl: error: domain name '{'x' * 40}': it has 300 characters, more than 256"),
    ],
)
def test_what_cannot_be_created_is_refused_before_the_hypervisor_is_asked(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path, setting: str, line: str
) -> None:
    ran = xl("create", "-q", str(realm_config), setting)
    assert ran.status == 3
    assert ran.err.splitlines()[0] == line
    assert hypervisor.calls == []


def test_a_plain_guest_is_created_filled_and_unpaused_without_being_finalized(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path
) -> None:
    hypervisor.host = msgspec.structs.replace(hypervisor.host, realm_debug_vuart=True)
    ran = xl("create", "-e", str(realm_config), "realm=0")
    assert ran == (0, "", f"Parsing config from {realm_config}\n")
    assert hypervisor.methods() == [
        "physinfo", "domain_create", "domain_write", "domain_set_context", "domain_unpause",
    ]  # fmt: skip
    (created,) = hypervisor.called("domain_create")
    assert not created.realm and created.vuart


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ('gic_version="v2"', "non-GICv3 interrupt controllers"),
        ('device_tree="x.dtb"', "partial device trees"),
        ("acpi=1", "ACPI"),
        ('vif=["bridge=xenbr0"]', "frontend/backend devices"),
        ("iomem=['0x9000,1']", "IRQ/IOMEM passthrough"),
    ],
)
def test_what_a_plain_guest_cannot_have_yet_is_refused_before_the_hypervisor_is_asked(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path, setting: str, what: str
) -> None:
    ran = xl("create", "-q", str(realm_config), "realm=0", setting)
    assert ran.status == 3
    assert ran.err.splitlines()[0] == f"libxl: error: plain guests do not support {what} yet"
    assert hypervisor.calls == []


def test_a_plain_guest_need_not_name_the_gic_version(xl: Xl, hypervisor: FakeHypervisor, realm_config: Path) -> None:
    path = realm_config.with_name("plain.cfg")
    path.write_text(realm_config.read_text().replace('gic_version = "v3"\n', "").replace("realm = 1\n", ""))
    assert xl("create", "-qe", str(path)).status == 0


def test_a_console_that_the_guest_does_not_have(xl: Xl, hypervisor: FakeHypervisor, realm_config: Path) -> None:
    path = realm_config.with_name("mute.cfg")
    path.write_text(realm_config.read_text().replace('vuart = "sbsa_uart"\n', ""))
    ran = xl("create", "-qc", str(path))
    assert ran == (1, "", 'libxl: error: -c: domain r1 has no console: set vuart="sbsa_uart"\n')


@pytest.mark.parametrize(
    ("method", "trail"),
    [
        ("domain_write", ["cannot (re-)build domain: -3"]),
        ("domain_set_context", ["cannot (re-)build domain: -3"]),
        ("domain_finalize_realm", ["xc_arm_cca_init_realm failed", "cannot (re-)build domain: -3"]),
        ("domain_unpause", []),
    ],
)
def test_a_refusal_in_the_middle_destroys_the_domain(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path, method: str, trail: list[str]
) -> None:
    hypervisor.refuse(method, "some", "the cause", "EOPNOTSUPP")
    ran = xl("create", "-qe", str(realm_config))
    assert ran.status == 3
    assert ran.err.splitlines() == ["libxl: error: Domain 1:the cause", *(f"libxl: error: {step}" for step in trail)]
    assert hypervisor.domains == []


def test_a_failure_of_the_rmm_shows_its_raw_result(xl: Xl, hypervisor: FakeHypervisor, realm_config: Path) -> None:
    hypervisor.refuse("domain_finalize_realm", "build_failed", "RMI_DATA_CREATE", "EIO", rmi_result=0x201)
    lines = xl("create", "-qe", str(realm_config)).err.splitlines()
    assert lines[0] == "libxl: error: Domain 1:RMI_DATA_CREATE"
    assert lines[1] == "xc: error: xc_arm_cca_init_realm failed with raw RMI result 0x201"


@pytest.mark.parametrize(
    ("code", "errno", "trail"),
    [
        ("name_taken", "EEXIST", "cannot make domain: -3"),
        ("no_memory", "ENOMEM", "cannot (re-)build domain: -5"),
    ],
)
def test_a_domain_that_cannot_be_made_leaves_nothing_to_destroy(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path, code: str, errno: str, trail: str
) -> None:
    hypervisor.refuse("domain_create", code, "the cause", errno)
    ran = xl("create", "-qe", str(realm_config))
    assert ran == (3, "", f"libxl: error: the cause\nlibxl: error: {trail}\n")
    assert hypervisor.called("domain_destroy") == []


def test_a_domain_that_cannot_be_destroyed_either_is_said(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path
) -> None:
    hypervisor.refuse("domain_write", "some", "the cause")
    hypervisor.refuse("domain_destroy", "stuck", "granules are busy")
    lines = xl("create", "-qe", str(realm_config)).err.splitlines()
    assert lines[0].endswith("the cause")
    assert lines[-1] == "libxl: error: Domain 1:granules are busy"


@pytest.mark.parametrize("method", ["domain_create", "domain_write", "domain_finalize_realm", "domain_unpause"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_any_step_undoes_what_was_done(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path, method: str, number: signal.Signals
) -> None:
    hypervisor.before[method] = lambda: os.kill(os.getpid(), number)
    before = signal.getsignal(number)
    assert xl("create", "-qe", str(realm_config)).status == 128 + number
    assert hypervisor.domains == []
    assert len(hypervisor.called("domain_destroy")) == 1
    assert signal.getsignal(number) is before


def test_progress_lines_can_be_asked_for(xl: Xl, hypervisor: FakeHypervisor, realm_config: Path) -> None:
    hypervisor.progress["domain_finalize_realm"] = [
        Progress(phase="data", done=1, total=4), Progress(phase="data", done=4, total=4)
    ]  # fmt: skip
    quiet = xl("create", "-qe", str(realm_config))
    assert quiet.err == ""
    ran = xl("-t", "create", "-e", str(realm_config))
    assert "r1: data 25%" in ran.err and "r1: data 100%" in ran.err


def test_dtb_writes_the_tree_that_create_would_use(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path, tmp_path: Path
) -> None:
    assert xl("create", "-qe", str(realm_config)).status == 0
    (context,) = hypervisor.called("domain_set_context")
    (used,) = [write.data for write in hypervisor.called("domain_write") if write.gpa == context.x[0]]
    asked = len(hypervisor.calls)
    output = tmp_path / "realm.dtb"
    assert xl("dtb", str(realm_config), "-o", str(output)) == (0, "", "")
    assert output.read_bytes() == used
    assert len(hypervisor.calls) == asked
    assert xl("dtb", str(realm_config), "--dts").out.startswith("/dts-v1/;")


def test_dtb_names_the_file_that_it_cannot_write(xl: Xl, realm_config: Path) -> None:
    ran = xl("dtb", str(realm_config), "-o", "/nonexistent/x.dtb")
    assert ran == (1, "", "xl: cannot write /nonexistent/x.dtb: No such file or directory\n")


def test_verbose_shows_the_memory_plan(xl: Xl, hypervisor: FakeHypervisor, realm_config: Path) -> None:
    lines = xl("-v", "create", "-qe", str(realm_config)).err.splitlines()
    assert lines[0] == "xl: detail: RAM 0x40000000-0x41000000 (16 MiB)"
    assert lines[1] == "xl: detail: kernel 0x40000000-0x40001000 (4096 bytes)"
    assert lines[-1].startswith("xl: detail: vCPU 0 starts at 0x40000000, x0 0x40")


def test_a_log_that_the_monitor_cannot_open_stops_the_creation_before_it_begins(
    xl: Xl, hypervisor: FakeHypervisor, realm_config: Path, directories: Path
) -> None:
    (directories / "state" / "xl-r1.log").mkdir(parents=True, mode=0o700)
    (directories / "state").chmod(0o700)
    ran = xl("create", "-q", str(realm_config))
    assert ran.status == 1
    assert ran.err == f"xl: cannot open the monitor's log {directories}/state/xl-r1.log: Is a directory\n"
    assert hypervisor.calls == []
