"""The twelve things that a Realm guest cannot have, in the order in which they are refused."""

from __future__ import annotations

import pytest

import xlconfig

BASE = 'name="g"\nkernel="/k"\nmemory=256\ngic_version="v3"\nrealm=1\n'

# One configuration for each refusal, in order.
REFUSED = [
    ('type="hvm"\n', "non-PVH build types"),
    ("memory=3073\n", "guest RAM beyond the first RAM bank"),
    ('device_tree="/d"\n', "partial device trees"),
    ("acpi=1\n", "ACPI"),
    ('gic_version="v2"\n', "non-GICv3 interrupt controllers"),
    ('tee="ffa"\n', "TEE/FF-A plumbing"),
    ("irqs=[112]\n", "IRQ/IOMEM passthrough"),
    ('vnuma=[["pnode=0","size=256","vcpus=0"]]\n', "vNUMA"),
    ('passthrough="share_pt"\n', "passthrough mode"),
    ('passthrough="disabled"\ndtdev=["/a"]\n', "passthrough devices"),
    ('disk=["/d,raw,xvda,w"]\n', "frontend/backend devices"),
    ('vtpm=["backend=0"]\n', "auxiliary frontend devices"),
]

ALSO_REFUSED = [
    ("maxmem=3073\n", "guest RAM beyond the first RAM bank"),
    ('gic_version="default"\n', "non-GICv3 interrupt controllers"),
    ('tee="optee"\n', "TEE/FF-A plumbing"),
    ('iomem=["fe000,1"]\n', "IRQ/IOMEM passthrough"),
    ('pci=["01:00.0"]\n', "passthrough mode"),
    ('passthrough="disabled"\npci=["01:00.0"]\n', "passthrough devices"),
    ("vif=['']\n", "frontend/backend devices"),
    ('virtio=["transport=mmio"]\n', "frontend/backend devices"),
    ('vkb=["backend-type=qemu"]\n', "frontend/backend devices"),
    ('p9=["tag=t"]\n', "frontend/backend devices"),
    ('pvcalls=["backend=0"]\n', "frontend/backend devices"),
    ('vdispl=["connectors=id:1x1"]\n', "auxiliary frontend devices"),
    ('vsnd=[["card"]]\n', "auxiliary frontend devices"),
    ('channel=["connection=pty"]\n', "auxiliary frontend devices"),
    ('usbctrl=["type=auto"]\n', "auxiliary frontend devices"),
    ('usbdev=["type=hostdev"]\n', "auxiliary frontend devices"),
]


def config_of(text: str) -> xlconfig.DomainConfig:
    return xlconfig.parse_domain_config(xlconfig.load((BASE + text).encode(), "a.cfg"))


def what_is_refused(text: str) -> str:
    with pytest.raises(xlconfig.RealmRefusal) as refused:
        xlconfig.check_realm(config_of(text))
    assert refused.value.message == f"Realm guests do not support {refused.value.what}"
    assert refused.value.exit_status == 3
    return refused.value.what


@pytest.mark.parametrize(("text", "what"), REFUSED + ALSO_REFUSED)
def test_a_realm_guest_is_refused_what_it_cannot_have(text: str, what: str) -> None:
    assert what_is_refused(text) == what


@pytest.mark.parametrize("at", range(len(REFUSED) - 1))
def test_of_two_refusals_the_earlier_one_is_told(at: int) -> None:
    (first, what), (second, later) = REFUSED[at : at + 2]
    if later == "passthrough devices":
        second = 'dtdev=["/a"]\n'
    assert what_is_refused(second + first) == what


def test_a_frame_buffer_brings_a_keyboard_and_is_refused_for_it() -> None:
    assert what_is_refused('vfb=["vnc=1"]\n') == "frontend/backend devices"


@pytest.mark.parametrize(
    "text", ["", "memory=3072\n", 'type="pv"\n', 'tee="none"\npassthrough="disabled"\nacpi=0\n', "vif=[]\n"]
)
def test_a_realm_guest_without_any_of_these_passes(text: str) -> None:
    xlconfig.check_realm(config_of(text))


@pytest.mark.parametrize(("text", "_"), REFUSED)
def test_an_ordinary_guest_is_refused_nothing(text: str, _: str) -> None:
    xlconfig.check_realm(config_of(text + "realm=0\n"))


def test_realm_is_a_number_like_every_boolean() -> None:
    settings = xlconfig.load((BASE + 'realm="yes"\n').encode(), "a.cfg")
    assert not xlconfig.parse_domain_config(settings).realm
    assert settings.messages == ["a.cfg:6: warning: parameter `realm' is not a valid number\n"]
