"""What the device tree says beyond the vectors: user text, seeds, partial trees, and limits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolstack.build_error import BuildError
from toolstack.dtb.blob import Blob, PropertyToken
from toolstack.dtb.finalise import extended_regions
from toolstack.dtb.render import affinity, render
from toolstack.dtb.spec import GPIO, DeviceTreeSpec, IomemRange, VirtioDevice
from toolstack.layout import GIB, MIB, RAM0, RAM1, Range, memory_banks


def value(blob: bytes, path: str, name: str) -> bytes:
    return Blob(blob).find(path, name).value


def properties(blob: bytes, path: str) -> dict[str, bytes]:
    return {
        token.name: token.value
        for token in Blob(blob).walk()
        if isinstance(token, PropertyToken) and token.path == path
    }


def compiled(dts: str, tmp_path: Path) -> bytes:
    source = tmp_path / "partial.dts"
    source.write_text(dts)
    return subprocess.run(["dtc", "-q", "-I", "dts", "-O", "dtb", source], capture_output=True, check=True).stdout


HOSTILE = [
    'a "quoted" word',
    "root=/dev/vda // not a comment",
    "a; b; c",
    "}; evil { x = <1>;",
    "&label <0x1> [00] /bits/ 8",
    "{{ version }}{% if 1 %}",
    "two\nlines and a\ttab",
    "héllo ✓",
    " spaces ",
    "\\x41",
    "",
    "y" * 5000,
]


@pytest.mark.parametrize("cmdline", HOSTILE)
def test_the_command_line_arrives_as_typed(cmdline: str) -> None:
    blob = render(DeviceTreeSpec(realm=True, cmdline=cmdline), ramdisk=False)
    assert value(blob, "/chosen", "bootargs") == cmdline.encode() + b"\0"


@given(st.text(alphabet=st.characters(blacklist_characters="\0", codec="utf-8"), max_size=200))
def test_any_command_line_arrives_and_changes_nothing_else(cmdline: str) -> None:
    with_text = render(DeviceTreeSpec(realm=True, cmdline=cmdline), ramdisk=True)
    plain = render(DeviceTreeSpec(realm=True, cmdline="x"), ramdisk=True)
    expected = properties(plain, "/chosen") | {"bootargs": cmdline.encode() + b"\0"}
    assert properties(with_text, "/chosen") == expected
    for path in ("/", "/cpus/cpu@0", "/psci", "/timer"):
        assert properties(with_text, path) == properties(plain, path)


def test_bytes_that_are_no_utf8_reach_the_command_line() -> None:
    spec = DeviceTreeSpec(realm=True, cmdline=b"a=\xff".decode("utf-8", "surrogateescape"))
    assert value(render(spec, ramdisk=False), "/chosen", "bootargs") == b"a=\xff\0"


def test_a_nul_in_the_command_line_is_refused() -> None:
    with pytest.raises(BuildError, match="the kernel command line has a NUL at byte 2"):
        render(DeviceTreeSpec(cmdline="ab\0cd"), ramdisk=False)


def test_without_a_command_line_there_is_no_bootargs() -> None:
    assert list(properties(render(DeviceTreeSpec(realm=True), ramdisk=False), "/chosen")) == ["rng-seed"]


def test_a_kaslr_seed_is_a_big_endian_number_behind_the_rng_seed() -> None:
    chosen = properties(render(DeviceTreeSpec(realm=True, kaslr_seed=0x1234), ramdisk=False), "/chosen")
    assert list(chosen) == ["rng-seed", "kaslr-seed"]
    assert chosen["kaslr-seed"] == bytes(6) + b"\x12\x34"


@pytest.mark.parametrize("seed", [0, 1 << 64])
def test_a_kaslr_seed_that_linux_would_not_take_is_refused(seed: int) -> None:
    with pytest.raises(BuildError, match="is not a number of 1 to 64 bits, not 0"):
        render(DeviceTreeSpec(kaslr_seed=seed), ramdisk=False)


def test_a_realms_seed_is_zero_so_that_it_measures_the_same() -> None:
    first, second = (render(DeviceTreeSpec(realm=True), ramdisk=False) for _ in range(2))
    assert first == second
    assert value(first, "/chosen", "rng-seed") == bytes(128)


def test_a_plain_guests_seed_is_random() -> None:
    seeds = {value(render(DeviceTreeSpec(), ramdisk=False), "/chosen", "rng-seed") for _ in range(2)}
    assert len(seeds) == 2
    assert all(len(seed) == 128 for seed in seeds)


@pytest.mark.parametrize("realm", [True, False])
def test_a_given_seed_is_used_as_it_is(realm: bool) -> None:
    seed = bytes.fromhex("00112233445566")
    assert value(render(DeviceTreeSpec(realm=realm, seed=seed), ramdisk=False), "/chosen", "rng-seed") == seed


@pytest.mark.parametrize("length", [0, 129])
def test_a_seed_that_is_empty_or_too_long_is_refused(length: int) -> None:
    with pytest.raises(BuildError, match=f"seed is {length} bytes; it must be 1 to 128"):
        render(DeviceTreeSpec(seed=bytes(length)), ramdisk=False)


def test_sixteen_vcpus_share_a_cluster() -> None:
    assert [affinity(vcpu) for vcpu in (0, 15, 16, 127)] == [0, 0xF, 0x100, 0x70F]


def test_a_realm_has_no_hypervisor_node_and_calls_psci_by_smc() -> None:
    realm = render(DeviceTreeSpec(realm=True), ramdisk=False)
    plain = render(DeviceTreeSpec(), ramdisk=False)
    assert value(realm, "/psci", "method") == b"smc\0"
    assert not properties(realm, "/hypervisor")
    assert value(plain, "/psci", "method") == b"hvc\0"
    assert properties(plain, "/hypervisor")


def test_a_gpio_device_is_an_interrupt_controller() -> None:
    spec = DeviceTreeSpec(virtio=(VirtioDevice(), VirtioDevice(kind=GPIO, backend_domid=7, grants=True)))
    blob = render(spec, ramdisk=False)
    gpio = properties(blob, "/virtio@2000200/gpio")
    assert gpio["compatible"] == b"virtio,device29\0"
    assert gpio["interrupt-controller"] == b""
    assert value(blob, "/virtio@2000200", "iommus").hex() == "0000fde900000007"
    assert "iommus" not in properties(blob, "/virtio@2000000")


def test_the_pci_host_bridge_maps_its_two_windows() -> None:
    pcie = properties(render(DeviceTreeSpec(vpci=True), ramdisk=False), "/pcie@10000000")
    assert pcie["reg"].hex() == "00000000100000000000000010000000"
    assert pcie["bus-range"].hex() == "00000000000000ff"
    assert pcie["ranges"].hex() == (
        "02000000" + "0000000023000000" * 2 + "0000000010000000" + "43000000" + "0000000100000000" * 3
    )


def test_too_many_virtio_devices_are_refused() -> None:
    with pytest.raises(BuildError, match="Ran out of reserved range for Virtio MMIO: 12 devices, at most 11"):
        render(DeviceTreeSpec(virtio=(VirtioDevice(),) * 12), ramdisk=False)


def test_a_tree_larger_than_a_mebibyte_is_refused() -> None:
    with pytest.raises(BuildError, match="FDT_ERR_NOSPACE"):
        render(DeviceTreeSpec(cmdline="x" * (1 << 20)), ramdisk=False)


PARTIAL = """/dts-v1/;
/ {
    aliases { net = "/passthrough/ethernet@0"; };
    other { dropped; };
    passthrough {
        compatible = "simple-bus";
        ranges;
        ethernet@0 { reg = <1 2 3 4>; empty; deeper { deepest { x = [01 02 03]; }; }; };
    };
};
"""


def test_passthrough_and_aliases_of_a_partial_tree_are_copied(tmp_path: Path) -> None:
    blob = render(DeviceTreeSpec(partial=compiled(PARTIAL, tmp_path)), ramdisk=False)
    assert value(blob, "/aliases", "net") == b"/passthrough/ethernet@0\0"
    assert properties(blob, "/passthrough") == {"compatible": b"simple-bus\0", "ranges": b""}
    assert value(blob, "/passthrough/ethernet@0/deeper/deepest", "x") == b"\1\2\3"
    assert not properties(blob, "/other")


def test_a_partial_tree_without_passthrough_is_refused(tmp_path: Path) -> None:
    partial = compiled("/dts-v1/;\n/ { aliases { }; };\n", tmp_path)
    with pytest.raises(BuildError, match="/passthrough"):
        render(DeviceTreeSpec(partial=partial), ramdisk=False)


def test_a_partial_tree_that_is_none_is_refused(tmp_path: Path) -> None:
    whole = compiled(PARTIAL, tmp_path)
    for damaged in (b"", b"not a tree", whole[:-20], whole[:64] + b"\xff" * 40 + whole[104:]):
        with pytest.raises(BuildError, match="Partial FDT is not a valid Flat Device Tree"):
            render(DeviceTreeSpec(partial=damaged), ramdisk=False)


def test_extended_regions_are_what_ram_and_iomem_leave() -> None:
    banks = memory_banks(1 << 20)
    iomem = (IomemRange(0xC0000, 0x10), IomemRange(0x90000, 0x10))
    assert extended_regions(banks, 40, iomem) == [
        Range(0x8000_0000, 0x1000_0000),
        Range(0x9001_0000, 0x2FFF_0000),
        Range(0xC001_0000, 0x3FFF_0000),
        RAM1,
    ]


def test_overlapping_iomem_ranges_are_cut_out_once() -> None:
    iomem = (IomemRange(0x90000, 0x1000), IomemRange(0x90100, 0x10), IomemRange(0x8FF00, 0x200))
    regions = extended_regions(memory_banks(1 << 20), 32, iomem)
    assert regions == [Range(0x8000_0000, 0xFF0_0000), Range(0x9100_0000, 0x6F00_0000)]


def test_pieces_below_64_mebibytes_are_no_extended_region() -> None:
    assert extended_regions((Range(RAM0.base, 3 * GIB - 64 * MIB), Range(RAM1.base, 0)), 32, ()) == [
        Range(RAM0.end - 64 * MIB, 64 * MIB)
    ]
    assert extended_regions((Range(RAM0.base, 3 * GIB - 62 * MIB), Range(RAM1.base, 0)), 32, ()) == []
