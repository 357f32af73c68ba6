"""Blobs as text: dtc makes the same tree of it, and people can read it."""

from __future__ import annotations

import contextlib
import subprocess

import pytest
from dtb_vectors import Case, case, cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolstack.dtb.blob import BlobError
from toolstack.dtb.dts import to_dts
from toolstack.dtb.flatten import SequentialWriter
from toolstack.dtb.render import render
from toolstack.dtb.spec import DeviceTreeSpec

#: One of each kind: all extras, and a few of the matrix.
ROUND_TRIPS = [found for found in cases() if found.blob and (found.name[0] == "x" or "v2-128M" in found.name)]


def dtc(input_format: str, output_format: str, data: bytes) -> bytes:
    command = ["dtc", "-q", "-s", "-I", input_format, "-O", output_format, "-"]
    done = subprocess.run(command, input=data, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def round_trip(blob: bytes) -> bytes:
    return dtc("dts", "dtb", to_dts(blob).encode())


@pytest.mark.parametrize("found", ROUND_TRIPS, ids=str)
def test_dtc_makes_the_same_tree_of_the_text(found: Case) -> None:
    assert found.blob is not None
    assert dtc("dtb", "dts", round_trip(found.blob)) == dtc("dtb", "dts", found.blob)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.binary(max_size=24), min_size=1, max_size=12))
def test_any_property_value_keeps_its_bytes(values: list[bytes]) -> None:
    names = ["reg", "interrupts", "bootargs", "compatible", "rng-seed", "linux,initrd-start"]
    writer = SequentialWriter()
    writer.begin_node("")
    for index, value in enumerate(values):
        writer.begin_node(f"node@{index:x}")
        for name in names:
            writer.property(name, value)
        writer.end_node()
    writer.end_node()
    blob = writer.finish()
    assert dtc("dtb", "dtb", round_trip(blob)) == dtc("dtb", "dtb", blob)


def test_known_numbers_are_explained() -> None:
    blob = case("realm", "m-v2-128M-u1-r1-c0").blob
    assert blob is not None
    text = to_dts(blob)
    for line in (
        'compatible = "xen,xenvm-4.23", "xen,xenvm";',
        "linux,initrd-start = <0x0 0x47b3a000>; /* 0x47b3a000 */",
        "reg = <0x0 0x40000000 0x0 0x8000000>; /* 128 MiB */",
        "interrupts = <0x0 0x0 0xf04>; /* SPI 32, level high */",
        "interrupt-controller;",
    ):
        assert f"\t{line}\n" in text


def test_the_command_line_is_readable_text() -> None:
    blob = render(DeviceTreeSpec(realm=True, cmdline='a="b" \\ c // é\n'), ramdisk=False)
    assert 'bootargs = "a=\\"b\\" \\\\ c // \\xc3\\xa9\\n";' in to_dts(blob)
    assert 'bootargs = "é";' in to_dts(render(DeviceTreeSpec(realm=True, cmdline="é"), ramdisk=False))
    assert 'bootargs = "";' in to_dts(render(DeviceTreeSpec(realm=True, cmdline=""), ramdisk=False))


def test_memory_reservations_are_shown() -> None:
    source = b"/dts-v1/;\n/memreserve/ 0x10000000 0x4000;\n/ { };\n"
    text = to_dts(dtc("dts", "dtb", source))
    assert "/memreserve/ 0x10000000 0x4000;" in text.splitlines()


def test_properties_come_before_nodes_though_the_blob_has_them_after() -> None:
    blob = case("realm", "x-acpi").blob
    assert blob is not None
    text = to_dts(blob)
    assert text.index("rng-seed") < text.index("module@20000000")


def test_what_is_no_device_tree_is_refused() -> None:
    whole = case("realm", "m-v1-1G-u0-r0-c0").blob
    assert whole is not None
    with pytest.raises(BlobError, match="less than the header"):
        to_dts(b"short")
    with pytest.raises(BlobError, match="magic is"):
        to_dts(bytes(100))
    with pytest.raises(BlobError, match="but there are only"):
        to_dts(whole[:-1])


@settings(deadline=None)
@given(st.integers(0, 1100), st.integers(1, 255))
def test_a_damaged_blob_is_refused_or_shown_but_never_worse(offset: int, flip: int) -> None:
    whole = case("realm", "m-v1-1G-u0-r0-c0").blob
    assert whole is not None
    damaged = bytearray(whole)
    damaged[offset] ^= flip
    with contextlib.suppress(BlobError):
        assert to_dts(bytes(damaged)).startswith("/dts-v1/;")
