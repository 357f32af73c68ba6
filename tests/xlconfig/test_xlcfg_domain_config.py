"""Typing a configuration: what the keys become, in which order they are checked, and what is refused."""

from __future__ import annotations

import pytest

import xlconfig
from xlconfig.devices import SocketChannel
from xlconfig.enumerations import ActionOnShutdown, DomainType, GicVersion, Passthrough, VuartType

BASE = 'name="g"\nkernel="/k"\n'


def config_of(text: str, *, base: str = BASE, host: xlconfig.HostFacts | None = None) -> xlconfig.DomainConfig:
    return xlconfig.parse_domain_config(xlconfig.load((base + text).encode(), "a.cfg"), host=host)


def refusal_of(text: str, *, base: str = BASE) -> tuple[str, int]:
    with pytest.raises(xlconfig.ConfigError) as refused:
        config_of(text, base=base)
    return refused.value.message, refused.value.exit_status


def messages_of(text: str) -> str:
    settings = xlconfig.load((BASE + text).encode(), "a.cfg")
    xlconfig.parse_domain_config(settings)
    return "".join(settings.messages)


REALM = """
type = "pvh"
uuid = "12345678-9ABC-def0-1234-56789abcdef0"
memory = 256
vcpus = 2
maxvcpus = 4
ramdisk = "/r"
root = "/dev/ram0"
extra = "console=ttyAMA0"
vuart = "sbsa_uart"
gic_version = "v3"
realm = 1
on_crash = "preserve"
trap_unmapped_accesses = 0
seed = "00ffAB"
"""


def test_a_realm_configuration_carries_all_that_its_builder_needs() -> None:
    config = config_of(REALM)
    assert (config.name, config.uuid) == ("g", "12345678-9abc-def0-1234-56789abcdef0")
    assert config.type is DomainType.PVH
    assert (config.target_memkb, config.max_memkb) == (262144, 262144)
    assert (config.vcpus, config.max_vcpus) == (2, 4)
    assert (config.kernel, config.ramdisk) == ("/k", "/r")
    assert config.cmdline == "root=/dev/ram0 console=ttyAMA0"
    assert config.vuart is VuartType.SBSA_UART
    assert config.gic_version is GicVersion.V3
    assert config.realm
    assert config.trap_unmapped_accesses is False
    assert config.seed == b"\x00\xff\xab"
    assert config.on_crash is ActionOnShutdown.PRESERVE
    assert config.on_reboot is ActionOnShutdown.RESTART
    assert config.on_soft_reset is ActionOnShutdown.SOFT_RESET
    xlconfig.check_realm(config)


def test_the_json_of_a_realm_has_realm_behind_tee_and_never_the_seed() -> None:
    build = xlconfig.to_libxl_json(config_of(REALM + 'tee="none"\nacpi=0\n'))["b_info"]
    keys = list(build)
    assert build["realm"] == "True"
    assert keys[keys.index("realm") + 1] == "type.pvh"
    assert "seed" not in build
    assert "seed" not in xlconfig.to_libxl_json(config_of(REALM))


@pytest.mark.parametrize(
    ("text", "target", "maximum"),
    [
        ("", 32768, 32768),
        ("memory=64\n", 65536, 65536),
        ("maxmem=64\n", 65536, 65536),
        ("memory=64\nmaxmem=128\n", 65536, 131072),
        ("memory=128\nmaxmem=64\n", 131072, 65536),
    ],
)
def test_memory_and_maxmem_default_to_each_other(text: str, target: int, maximum: int) -> None:
    config = config_of(text)
    assert (config.target_memkb, config.max_memkb) == (target, maximum)


def test_defaults_of_arm_are_filled_in_by_the_properties_only() -> None:
    config = config_of("")
    assert config.trap_unmapped_accesses
    assert config.passthrough is Passthrough.DISABLED
    assert config.nr_spis is None
    assert not config.realm
    assert "trap_unmapped_accesses" not in xlconfig.to_libxl_json(config)["b_info"]


def test_a_domain_without_uuid_gets_a_new_one_each_time() -> None:
    assert config_of("").uuid != config_of("").uuid


def test_a_pv_guest_is_built_as_pvh_and_printed_as_pv() -> None:
    config = config_of('type="pv"\n')
    assert config.type is DomainType.PVH
    assert xlconfig.to_libxl_json(config)["c_info"]["type"] == "pv"


def test_cmdline_wins_over_root_and_extra_with_a_remark() -> None:
    assert messages_of('cmdline="a"\nextra="b"\n') == ("Warning: ignoring root= and extra= in favour of cmdline=\n")


@pytest.mark.parametrize(
    ("text", "message", "status"),
    [
        ('name=["a"]\n', "Domain name must be specified.", 1),
        ('type="hvm"\nbuilder="generic"\n', 'Contradicting "builder" and "type" options specified.', 1),
        ('builder="x"\n', "Invalid domain type x.", 1),
        ("vcpus=4\nmaxvcpus=2\n", "xl: maxvcpus < vcpus", 1),
        ('cpus="^all"\n', 'Can\'t combine "^" and "all".', 1),
        ('cpus=["0","x"]\nvcpus=2\n', "Invalid pcpu range: x.", 1),
        ('max_maptrack_frames="1x"\n', "", 1),
        ('on_reboot="x"\n', 'Unknown on_reboot action "x" specified', 1),
        ('pci=["zz"]\n', "unable to parse PCI_SPEC_STRING `zz' for passthrough", 6),
        ('passthrough="x"\n', "ERROR: unknown passthrough option 'x'", 1),
        ("tsc_mode=9\n", 'ERROR: invalid value 9 for "tsc_mode"', 1),
        ('timer_mode="x"\n', 'ERROR: invalid value "x" for "timer_mode"', 1),
        ('firmware="pvgrub64"\n', "ERROR: both kernel and firmware specified", 1),
        ('altp2m="x"\n', 'ERROR: invalid value "x" for "altp2m"', 1),
        ("altp2m_count=65536\n", 'ERROR: invalid value 65536 for "altp2m_count"', 1),
        ('ioports=["zz"]\n', "xl: Invalid argument parsing ioport: zz", 1),
        ('irqs=["-"]\n', "xl: Invalid argument parsing irq: -", 1),
        ("irqs=[[1]]\n", "xl: Unable to get element 0 in irq list", 1),
        ('iomem=["1,2@"]\n', "xl: Invalid argument parsing iomem: 1,2@", 1),
        ('llc_colors=["x"]\n', "xl: Invalid LLC color range: x", 1),
        ('xenstore_quota=["a"]\n', 'Quota specification "a" lacks "=".', 1),
        ('xenstore_quota=["a=b"]\n', 'Quota specification "a=b" uses illegal value "b".', 1),
        ('tee="x"\n', 'Unknown tee "x" specified', 3),
        ('device_model_args="x"\n', "xl: Unable to parse device_model_args.", 3),
        ('device_model_version="x"\n', 'Unknown device_model_version "x" specified', 1),
        ('vnuma=["x"]\n', "xl: cannot get vnode config option list", 1),
        ('vnuma=[["pnode=1"]]\n', "xl: invalid pnode number: 1", 1),
        ('vnuma=[["vcpus=0-1"]]\nmaxvcpus=3\n', "xl: vnuma vcpus and maxvcpus= mismatch", 1),
        (
            "kaslr_seed=0\n",
            'Invalid kaslr_seed "0" specified: it must be a number of 1 to 64 bits, not 0',
            1,
        ),
        (
            'kaslr_seed="0x10000000000000000"\n',
            'Invalid kaslr_seed "0x10000000000000000" specified: it must be a number of 1 to 64 bits, not 0',
            1,
        ),
        (
            'seed="abc"\n',
            'Invalid seed "abc" specified: it must be hexadecimal, two digits for each byte',
            1,
        ),
    ],
)
def test_a_bad_value_is_refused_with_the_message_and_status_of_xl(text: str, message: str, status: int) -> None:
    assert refusal_of(text) == (message, status)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('type="x"\n', 'uuid="x"\n'),
        ('uuid="x"\n', 'vuart="x"\n'),
        ('vuart="x"\n', 'cpus="x"\n'),
        ('cpus="x"\n', 'on_crash="x"\n'),
        ('on_crash="x"\n', 'pci=["x"]\n'),
        ('pci=["x"]\n', 'passthrough="x"\n'),
        ('passthrough="x"\n', 'firmware="x"\n'),
        ('firmware="x"\n', 'irqs=["x"]\n'),
        ('irqs=["x"]\n', 'iomem=["x"]\n'),
        ('iomem=["x"]\n', 'disk=["x"]\n'),
        ('disk=["x"]\n', 'vtpm=["x"]\n'),
        ('vtpm=["x"]\n', 'gic_version="x"\n'),
        ('gic_version="x"\n', 'tee="x"\n'),
        ('tee="x"\n', 'sve="x"\n'),
        ('sve="x"\n', 'vkb=["x"]\n'),
        ('vkb=["x"]\n', 'virtio=["x"]\n'),
    ],
)
def test_of_two_bad_keys_the_one_that_xl_reads_first_is_refused(first: str, second: str) -> None:
    assert refusal_of(second + first) == refusal_of(first)
    assert refusal_of(first) != refusal_of(second)


def test_no_kernel_is_refused_only_after_the_earlier_keys() -> None:
    assert refusal_of("", base='name="g"\n') == ("Neither kernel nor bootloader specified", 1)
    assert refusal_of('on_crash="x"\n', base='name="g"\n')[0].startswith("Unknown on_crash")


def test_a_cpu_list_names_nodes_ranges_and_exceptions() -> None:
    host = xlconfig.HostFacts(cpus=8, nodes=2)
    masks = config_of('vcpus=5\ncpus=["all", "node:1", "nodes:0,^1", "2-3,^3", "7-200"]\n', host=host)
    assert masks.b_info.vcpu_hard_affinity == [list(range(8)), [4, 5, 6, 7], [0, 2, 3], [2], [7]]


def test_extra_entries_of_a_cpu_list_are_ignored_and_placement_is_off() -> None:
    build = config_of('cpus=["1","2"]\n').b_info
    assert build.vcpu_hard_affinity == [[1]]
    assert build.numa_placement is False


def test_iomem_keeps_the_frame_it_is_mapped_at() -> None:
    mapped = xlconfig.to_libxl_json(config_of('iomem=["fe000,10@40000","0x1,2"]\n'))["b_info"]["iomem"]
    assert mapped == [{"start": 0xFE000, "number": 0x10, "gfn": 0x40000}, {"start": 1, "number": 2}]


def test_llc_colors_may_be_ranges() -> None:
    assert config_of('llc_colors=["1-3","7"]\n').b_info.llc_colors == [1, 2, 3, 7]


def test_a_key_that_the_guest_type_ignores_still_warns() -> None:
    assert messages_of('vncdisplay="x"\n') == "a.cfg:3: warning: parameter `vncdisplay' is not a valid number\n"


def test_a_socket_channel_needs_its_path() -> None:
    assert refusal_of('channel=["connection=socket,name=c"]\n')[0] == "channel connection 'socket' requires path=.."
    [channel] = config_of('channel=["connection=socket, name = c ,path=/s"]\n').channels
    assert channel.name == "c"
    assert isinstance(channel.connection, SocketChannel)
    assert channel.connection.path == "/s"


def test_a_pty_channel_prints_an_empty_variant() -> None:
    printed = xlconfig.to_libxl_json(config_of('channel=["connection=pty"]\n'))
    assert printed["channels"] == [{"connection.pty": {}}]


def test_a_sound_card_is_a_list_of_items() -> None:
    [card] = config_of(
        'vsnd=[["card, short-name=s, sample-rates=8000;44100", "pcm, name=p", "stream, unique-id=0, type=P"]]\n'
    ).vsnds
    assert card.short_name == "s"
    assert card.params.sample_rates == [8000, 44100]
    assert card.pcms[0].streams[0].type == "p"


def test_a_vnuma_node_sets_maxvcpus_and_maxmem() -> None:
    config = config_of('vnuma=[["pnode=0","size=64","vcpus=0-1","vdistances=10,20"],["size=32","vcpus=2"]]\n')
    assert (config.max_vcpus, config.max_memkb) == (3, 98304)
    assert config.b_info.vnuma_nodes[0].distances == [10, 20]
