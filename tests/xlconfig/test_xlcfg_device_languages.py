"""The languages of disks, network interfaces and PCI devices."""

from __future__ import annotations

import pytest

from xlconfig.devices import Nic, Pci
from xlconfig.disk_spec import parse_disk
from xlconfig.domain_config import ConfigError
from xlconfig.enumerations import DiskBackend, DiskFormat, DiskSpecification
from xlconfig.nic_spec import parse_nic
from xlconfig.pci_spec import parse_pci


def nic_of(spec: str) -> tuple[Nic, list[str]]:
    said: list[str] = []
    return parse_nic(spec, "a.cfg", 0, said.append), said


def disk_errors(spec: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse_disk(spec, "a.cfg")
    assert refused.value.exit_status == 1
    prefix, suffix = "a.cfg: config parsing error in disk specification: ", f" in `{spec}'"
    lines = refused.value.message.split("\n")
    assert all(line.startswith(prefix) and line.endswith(suffix) for line in lines)
    return [line.removeprefix(prefix).removesuffix(suffix) for line in lines]


def test_positional_fields_are_target_format_vdev_and_access() -> None:
    disk = parse_disk("/d.img, qcow2, xvda, ro", "a.cfg")
    assert (disk.pdev_path, disk.format, disk.vdev, disk.readwrite) == ("/d.img", DiskFormat.QCOW2, "xvda", 0)


def test_an_empty_format_is_raw_and_an_empty_access_is_read_write() -> None:
    disk = parse_disk("/d.img,,xvda,", "a.cfg")
    assert (disk.format, disk.readwrite) == (DiskFormat.RAW, 1)


def test_target_takes_the_rest_commas_included() -> None:
    disk = parse_disk("vdev=xvda, discard, target=/a,b=c.img", "a.cfg")
    assert disk.pdev_path == "/a,b=c.img"
    assert disk.discard_enable is True


def test_a_cdrom_without_target_is_empty_and_read_only() -> None:
    disk = parse_disk("vdev=hdc,cdrom", "a.cfg")
    assert (disk.format, disk.readwrite, disk.removable) == (DiskFormat.EMPTY, 0, 1)


def test_an_old_script_prefix_names_a_block_script() -> None:
    disk = parse_disk("nbd:/x,xvda,w", "a.cfg")
    assert (disk.script, disk.pdev_path, disk.vdev) == ("block-nbd", "/x", "xvda")


def test_a_virtio_disk_names_its_specification_and_back_end() -> None:
    disk = parse_disk("vdev=xvda,specification=virtio,backendtype=standalone,grant_usage=0,target=/d", "a.cfg")
    assert disk.specification is DiskSpecification.VIRTIO
    assert disk.backend is DiskBackend.STANDALONE
    assert disk.grant_usage is False


@pytest.mark.parametrize(
    ("spec", "errors"),
    [
        ("/d", ["no vdev specified"]),
        ("vdev=xvda", ["no target specified (and device not removable)"]),
        ("/d,zz,xvda,w", ["unknown value for format: near `zz'"]),
        ("/d,raw,xvda,w,more", ["too many positional parameters: near `more'"]),
        ("vdev=a,vdev=b,target=/d", ["vdev respecified: near `b'"]),
        ("format=raw,format=vhd,vdev=a,target=/d", ["format respecified: near `vhd'"]),
        ("devtype=tape,vdev=a,target=/d", ["unknown value for type: near `devtype=tape,'"]),
        ("backendtype=x,vdev=a,target=/d", ["unknown value for backendtype: near `x'"]),
        ("colo-port=x,vdev=a,target=/d", ["unknown value for colo_port: near `x'"]),
        ("foo=1,vdev=a,target=/d", ["unknown parameter: near `foo=1,'"]),
        ("=,vdev=a", ["bad disk syntax: near `=,vdev=a'"]),
        ("foo=", ["no vdev specified"]),
        ("what:/x,xvda,w", ["unknown deprecated disk prefix: near `what:'"]),
        ("access=x,specification=y,vdev=a", ["unknown value for access: near `x'",
                                             "unknown value for specification: near `y'"]),
    ],
)  # fmt: skip
def test_a_bad_disk_is_refused_with_a_line_for_each_error(spec: str, errors: list[str]) -> None:
    assert disk_errors(spec) == errors


def test_a_nic_keeps_what_it_understood_and_remarks_on_the_rest() -> None:
    nic, said = nic_of("mac=00:16:3E:aa:b:1, type=ioemu,model=e1000,foo, untrusted,type=x")
    assert nic.mac == "00:16:3e:aa:0b:01"
    assert (nic.nictype, nic.model, nic.trusted) == ("vif_ioemu", "e1000", False)
    assert said == ["unrecognized argument `foo'", "Invalid parameter `type'."]


@pytest.mark.parametrize(
    ("rate", "per_interval", "usecs"),
    [
        ("10Mb/s", 62_500, 50_000),
        ("250KB/s", 12_500, 50_000),
        ("1MB/s@20ms", 20_000, 20_000),
        ("100B/s@2s", 200, 2_000_000),
        ("8b/s@1000000us", 1, 1_000_000),
    ],
)
def test_a_rate_is_bytes_for_each_interval(rate: str, per_interval: int, usecs: int) -> None:
    nic, _ = nic_of(f"rate={rate}")
    assert (nic.rate_bytes_per_interval, nic.rate_interval_usecs) == (per_interval, usecs)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("", "no rate specified in `'"),
        ("10", "invalid rate in `10'"),
        ("0B/s", "rate overflow in `0B/s'"),
        ("1B/s@x", "invalid replenishment interval in `x'"),
        ("1B/s@5000s", "replenishment interval overflow in `5000s'"),
    ],
)
def test_a_bad_rate_stops_creation(rate: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        nic_of(f"rate={rate}")
    assert refused.value.message == f"a.cfg: config parsing error in vif: {message}"


def test_a_colo_field_is_printed_under_its_own_name() -> None:
    nic, said = nic_of("colo_checkpoint_host=h,colo_sock_mirror_id=i")
    assert nic.colo == {"colo_checkpoint_host": "h", "colo_sock_mirror_id": "i"}
    assert said == []


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ("01:02.3", (0, 1, 2, 3, 1, 0)),
        ("0001:0a:1f.*", (1, 0x0A, 0x1F, 0, 0xFFFFFFFF, 0)),
        ("01:00.0@1c,permissive=1", (0, 1, 0, 0, 1, 0xE0)),
        ("bdf=0000:01:00.0,vslot=2", (0, 1, 0, 0, 1, 0x10)),
    ],
)
def test_a_pci_address_has_domain_bus_device_and_function(spec: str, fields: tuple[int, ...]) -> None:
    pci = Pci()
    parse_pci(spec, pci)
    assert (pci.domain, pci.bus, pci.dev, pci.func, pci.vfunc_mask, pci.vdevfn) == fields
    assert pci.permissive is ("permissive" in spec)


@pytest.mark.parametrize(
    "spec", ["", "01:20.0", "01:00.8", "100:00.0", "01:00.0x", "01:00.0,name=n", "rdm_policy=x", "a=1"]
)
def test_a_bad_pci_specification_exits_with_six(spec: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_pci(spec, Pci())
    assert refused.value.exit_status == 6
    assert refused.value.message.endswith(f"unable to parse PCI_SPEC_STRING `{spec}' for passthrough")
