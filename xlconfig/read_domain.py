"""From settings to a DomainConfig: every key that xl reads on Arm, in xl's order, with its messages.

The order matters: the first refusal is the one users see, behind the warnings of every key read before it. So this
module is a list of steps over one `_Reading`, in the order of the keys in xl. Keys that only an x86 HVM guest has are
not read."""

from __future__ import annotations

import errno
import re
import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from xlconfig.c_text import as_int32, as_uint32, strtok, strtol
from xlconfig.cpu_list import parse_cpu_list
from xlconfig.device_specs import parse_quota_item, parse_uuid
from xlconfig.domain_config import (
    BuildInfo,
    ConfigError,
    CreateInfo,
    DomainConfig,
    HostFacts,
    HvmGuest,
    PvGuest,
    PvhGuest,
)
from xlconfig.enumerations import (
    ActionOnShutdown,
    Altp2mMode,
    ArmSciType,
    DomainType,
    GicVersion,
    SveType,
    TeeType,
    TimerMode,
    TscMode,
    VuartType,
    from_libxl,
)
from xlconfig.read_device_model import read_device_model
from xlconfig.read_devices import (
    all_texts,
    read_devices,
    read_late_devices,
    read_passthrough_devices,
    read_passthrough_resources,
)
from xlconfig.settings import Settings, leading_atoms
from xlconfig.vnuma_spec import read_vnuma

__all__ = ["parse_domain_config"]

INT_MAX = 2**31 - 1
ERROR_FAIL_STATUS = 3
FIRMWARE_DIRECTORY = "/usr/lib/xen/boot"

ACTIONS = {
    "destroy": ActionOnShutdown.DESTROY,
    "restart": ActionOnShutdown.RESTART,
    "rename-restart": ActionOnShutdown.RESTART_RENAME,
    "preserve": ActionOnShutdown.PRESERVE,
    "coredump-destroy": ActionOnShutdown.COREDUMP_DESTROY,
    "coredump-restart": ActionOnShutdown.COREDUMP_RESTART,
    "soft-reset": ActionOnShutdown.SOFT_RESET,
}

# In the order in which xl compares them.
DOMAIN_TYPES = {"hvm": DomainType.HVM, "pv": DomainType.PV, "pvh": DomainType.PVH}
BUILDER_TYPES = {"hvm": DomainType.HVM, "generic": DomainType.PV}

Mode = TypeVar("Mode", bound=StrEnum)


def parse_domain_config(
    settings: Settings,
    *,
    host: HostFacts | None = None,
    new_uuid: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> DomainConfig:
    """Type and check the settings of one domain, as `xl create` does before it asks libxl for anything.

    Warnings go to `settings.messages`. `host` is what CPU lists are checked against; `new_uuid` names a domain whose
    configuration has no `uuid`. Raises ConfigError with xl's message and exit status.
    """
    config = DomainConfig(c_info=CreateInfo(uuid=""))
    reading = _Reading(settings, config, host or HostFacts())
    reading.create_info(new_uuid)
    reading.scheduling_and_memory()
    reading.vcpus()
    reading.grants_and_actions()
    read_passthrough_devices(settings, config)
    reading.clocks_and_images()
    reading.bootloader()
    reading.firmware()
    reading.alternate_p2m()
    read_passthrough_resources(settings, config)
    read_devices(settings, config)
    read_device_model(settings, config)
    reading.arm()
    read_late_devices(settings, config)
    reading.last_keys()
    reading.realm_seed()
    return config


class _Reading:
    """The settings being read and the configuration being filled."""

    def __init__(self, settings: Settings, config: DomainConfig, host: HostFacts) -> None:
        self.settings = settings
        self.config = config
        self.create: CreateInfo = config.c_info
        self.build: BuildInfo = config.b_info
        self.host = host

    def bounded(self, name: str) -> int | None:
        """A number 0 to INT_MAX; xl dies without a word for any other."""
        error, number = self.settings.get_long(name, warn=False, minimum=0, maximum=INT_MAX)
        if error not in (0, errno.ESRCH):
            raise ConfigError("")
        return number

    def create_info(self, new_uuid: Callable[[], str]) -> None:
        settings, create = self.settings, self.create
        create.ssid_label = settings.string("init_seclabel")
        label = settings.string("seclabel")
        if create.ssid_label is None:
            create.ssid_label = label
        else:
            self.build.exec_ssid_label = label
        create.run_hotplug_scripts = True
        self.domain_type()
        create.hap = settings.defbool("hap")
        create.name = settings.string("name")
        if create.name is None:
            raise ConfigError("Domain name must be specified.")
        text = settings.string("uuid")
        if text is None:
            create.uuid = new_uuid()
        else:
            parsed = parse_uuid(text)
            if parsed is None:
                raise ConfigError(f"Failed to parse UUID: {text}")
            create.uuid = parsed
        create.oos = settings.defbool("oos")
        create.pool_name = settings.string("pool")
        mask = settings.long("xenstore_feature_mask")
        if mask is not None:
            self.build.xenstore_feature_mask = as_uint32(mask)
        quotas = all_texts(settings, "xenstore_quota", "xl: Can't get element {index} in Xenstore quota list")
        self.build.xenstore_quota.quota = [parse_quota_item(text) for text in quotas]
        match create.type:
            case DomainType.HVM:
                self.build.type = HvmGuest()
            case DomainType.PV:
                self.build.type = PvGuest()
            case _:
                self.build.type = PvhGuest(
                    pvshim=settings.defbool("pvshim"),
                    pvshim_path=settings.string("pvshim_path"),
                    pvshim_cmdline=settings.string("pvshim_cmdline"),
                    pvshim_extra=settings.string("pvshim_extra"),
                )

    def domain_type(self) -> None:
        """xl compares only as many characters as the user wrote, so the empty text means hvm."""
        text = self.settings.string("type")
        if text is not None:
            self.create.type = _type_starting_with(text, DOMAIN_TYPES)
        builder = self.settings.string("builder")
        if builder is not None:
            kind = _type_starting_with(builder, BUILDER_TYPES)
            if self.create.type not in (DomainType.INVALID, kind):
                raise ConfigError('Contradicting "builder" and "type" options specified.')
            self.create.type = kind
        if self.create.type is DomainType.INVALID:
            self.create.type = DomainType.PVH

    def scheduling_and_memory(self) -> None:
        settings, build = self.settings, self.build
        for key, field in [("cpu_weight", "weight")] + [
            (name, name) for name in ("cap", "period", "slice", "latency", "extratime")
        ]:
            number = settings.long(key)
            if number is not None:
                setattr(build.sched_params, field, as_int32(number))
        build.target_memkb = settings.kib("memory")
        build.max_memkb = settings.kib("maxmem")
        for text in all_texts(settings, "llc_colors", "xl: Can't get element {index} in LLC color list"):
            build.llc_colors.extend(_llc_colors(text))

    def vcpus(self) -> None:
        settings, build = self.settings, self.build
        vcpus = max(1, settings.long("vcpus") or 1)
        build.avail_vcpus = list(range(vcpus))
        build.max_vcpus = as_int32(settings.long("maxvcpus") or 0)
        text = settings.string("vuart")
        if text is not None:
            vuart = from_libxl(VuartType, text)
            if vuart is None:
                raise ConfigError(f'ERROR: invalid value "{text}" for "vuart"')
            build.arch_arm.vuart = vuart
        read_vnuma(settings, build, self.host)
        if build.max_memkb is None:
            build.max_memkb = build.target_memkb
        if build.max_vcpus == 0:
            build.max_vcpus = vcpus
        if build.max_vcpus < vcpus:
            raise ConfigError("xl: maxvcpus < vcpus")
        build.vcpu_hard_affinity = self.affinity("cpus", soft=False)
        build.vcpu_soft_affinity = self.affinity("cpus_soft", soft=True)

    def affinity(self, name: str, *, soft: bool) -> list[list[int]]:
        """One mask for all vCPUs when the value is a text, the i-th for vCPU i when it is a list."""
        items = self.settings.get_list(name, warn=False).value
        if items is not None:
            count = min(len(items), self.build.max_vcpus)
            masks = [parse_cpu_list(text, self.host) for text in leading_atoms(items)[:count]]
            self.build.numa_placement = False
            return masks + [[] for _ in range(count - len(masks))]
        text = self.settings.string(name)
        if text is None:
            return []
        mask = parse_cpu_list(text, self.host)
        if soft:
            self.build.numa_placement = False
        return [mask] * self.build.max_vcpus

    def grants_and_actions(self) -> None:
        build = self.build
        for name in ("max_grant_frames", "max_maptrack_frames", "max_grant_version"):
            number = self.bounded(name)
            if number is not None:
                setattr(build, name, number)
        build.claim_mode = True
        for name, default in [
            ("on_poweroff", "destroy"),
            ("on_reboot", "restart"),
            ("on_watchdog", "destroy"),
            ("on_crash", "destroy"),
            ("on_soft_reset", "soft-reset"),
        ]:
            text = self.settings.string(name)
            action = ACTIONS.get(default if text is None else text)
            if action is None:
                raise ConfigError(f'Unknown {name} action "{text}" specified')
            setattr(self.config, name, action)

    def clocks_and_images(self) -> None:
        settings, build = self.settings, self.build
        build.shadow_memkb = settings.kib("shadow_memory")
        build.disable_migrate = settings.defbool("nomigrate")
        build.tsc_mode = self.numbered_mode("tsc_mode", TscMode, first=0) or build.tsc_mode
        build.rtc_timeoffset = as_uint32(settings.long("rtc_timeoffset") or 0)
        if settings.long("vncviewer") is not None:
            settings.say(
                'WARNING: ignoring "vncviewer" option. Use "-V" option of "xl create" to automatically spawn vncviewer.'
            )
        build.localtime = settings.defbool("localtime")
        build.video_memkb = settings.kib("videoram")
        build.event_channels = as_uint32(settings.long("max_event_channels") or 0)
        build.kernel = settings.string("kernel")
        build.ramdisk = settings.string("ramdisk")
        build.device_tree = settings.string("device_tree")
        build.cmdline = self.command_line()
        self.create.driver_domain = settings.defbool("driver_domain")
        build.acpi = settings.defbool("acpi")

    def command_line(self) -> str | None:
        cmdline, root, extra = (self.settings.string(name) for name in ("cmdline", "root", "extra"))
        if cmdline is not None:
            if root is not None or extra is not None:
                self.settings.say("Warning: ignoring root= and extra= in favour of cmdline=")
            return cmdline
        if root is None:
            return extra
        return f"root={root}" if extra is None else f"root={root} {extra}"

    def numbered_mode(self, name: str, modes: type[Mode], *, first: int) -> Mode | None:
        """A mode given by name, or by its number in the order of `modes`, which xl remarks on."""
        members = list(modes)
        number = self.settings.get_long(name, warn=False).value
        text = self.settings.string(name) if number is None else None
        if number is not None or text is not None:
            self.refuse_for_pv(name)
        if number is not None:
            index = as_int32(number) - first
            known = 0 <= index < len(members)
            example = f'e.g. {name}="{members[index]}"' if known else ""
            self.settings.say(
                f'WARNING: specifying "{name}" as an integer is deprecated. '
                f"Please use the named parameter variant. {example}"
            )
            if not known or number < 0:
                raise ConfigError(f'ERROR: invalid value {number} for "{name}"')
            return members[index]
        if text is None:
            return None
        if text.lower() not in members:
            raise ConfigError(f'ERROR: invalid value "{text}" for "{name}"')
        return modes(text.lower())

    def refuse_for_pv(self, name: str) -> None:
        if name == "timer_mode" and isinstance(self.build.type, PvGuest):
            raise ConfigError('ERROR: "timer_mode" option is not supported for PV guests.', ERROR_FAIL_STATUS)

    def bootloader(self) -> None:
        settings, build = self.settings, self.build
        build.bootloader = settings.string("bootloader")
        build.bootloader_restrict = settings.defbool("bootloader_restrict")
        build.bootloader_user = settings.string("bootloader_user")
        error, arguments = settings.get_string_list("bootloader_args", warn=False)
        if arguments is not None:
            build.bootloader_args = arguments
        elif error == errno.EINVAL:
            settings.say(
                'WARNING: Specifying "bootloader_args" as a string is deprecated. Please use a list of arguments.'
            )
            build.bootloader_args = strtok(settings.string("bootloader_args") or "", " \t\n")
        build.timer_mode = self.numbered_mode("timer_mode", TimerMode, first=-1) or build.timer_mode
        build.nested_hvm = settings.defbool("nestedhvm")

    def firmware(self) -> None:
        if isinstance(self.build.type, HvmGuest):
            return
        firmware = self.settings.string("firmware")
        if firmware is not None:
            if self.build.kernel is not None:
                raise ConfigError("ERROR: both kernel and firmware specified")
            if not any(known.startswith(firmware) for known in ("pvgrub32", "pvgrub64")):
                raise ConfigError("ERROR: only pvgrub{32|64} supported as firmware options")
            self.build.kernel = f"{FIRMWARE_DIRECTORY}/{firmware}.bin"
        if self.build.bootloader is None and self.build.kernel is None:
            raise ConfigError("Neither kernel nor bootloader specified")

    def alternate_p2m(self) -> None:
        settings, build = self.settings, self.build
        modes = list(Altp2mMode)
        number = settings.get_long("altp2m", warn=False).value
        if number is not None:
            if not 0 <= number < len(modes):
                raise ConfigError(f'ERROR: invalid value {number} for "altp2m"')
            build.altp2m = modes[number]
        else:
            text = settings.string("altp2m")
            if text is not None:
                mode = from_libxl(Altp2mMode, text)
                if mode is None:
                    raise ConfigError(f'ERROR: invalid value "{text}" for "altp2m"')
                build.altp2m = mode
        count = settings.get_long("altp2m_count", warn=False).value
        if count is not None:
            if not 0 <= count <= 0xFFFF:
                raise ConfigError(f'ERROR: invalid value {count} for "altp2m_count"')
            build.altp2m_count = count
        build.vmtrace_buf_kb = as_int32(settings.get_long("vmtrace_buf_kb", warn=False).value or 0)

    def arm(self) -> None:
        settings, build = self.settings, self.build
        text = settings.get_string("gic_version", warn=False).value
        if text is not None:
            gic = from_libxl(GicVersion, text)
            if gic is None:
                raise ConfigError(f'Unknown gic_version "{text}" specified', ERROR_FAIL_STATUS)
            build.arch_arm.gic_version = gic
        text = settings.get_string("tee", warn=False).value
        if text is not None:
            tee = from_libxl(TeeType, text)
            if tee is None:
                raise ConfigError(f'Unknown tee "{text}" specified', ERROR_FAIL_STATUS)
            build.tee = tee
        build.realm = settings.defbool("realm")
        text = settings.get_string("sve", warn=False).value
        if text is not None:
            sve = from_libxl(SveType, text)
            if sve is None:
                raise ConfigError(f'Unknown sve "{text}" specified')
            build.arch_arm.sve_vl = sve
        spis = settings.long("nr_spis")
        if spis is not None:
            build.arch_arm.nr_spis = as_uint32(spis)
        build.trap_unmapped_accesses = settings.defbool("trap_unmapped_accesses")
        text = settings.get_string("arm_sci", warn=False).value
        for field in strtok(text or "", ","):
            if field.startswith("type="):
                kind = field.removeprefix("type=")
                sci = from_libxl(ArmSciType, kind)
                if sci is None:
                    raise ConfigError(f"Unknown ARM_SCI type: {kind}")
                build.arch_arm.arm_sci.type = sci

    def last_keys(self) -> None:
        settings = self.settings
        self.create.xend_suspend_evtchn_compat = settings.defbool("xend_suspend_evtchn_compat")
        relaxed = settings.defbool("msr_relaxed")
        if relaxed is not None:
            self.build.arch_x86.msr_relaxed = relaxed
            settings.say("WARNING: msr_relaxed will be removed in future versions.")
            settings.say("If it fixes an issue you are having please report to xen-devel@lists.xenproject.org.")
        self.build.vpmu = settings.defbool("vpmu")

    def realm_seed(self) -> None:
        """Not Xen's: `seed`, the bytes of the guest's rng-seed in hexadecimal, and `kaslr_seed`, a number."""
        text = self.settings.string("seed")
        if text is not None:
            if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", text):
                raise ConfigError(f'Invalid seed "{text}" specified: it must be hexadecimal, two digits for each byte')
            self.config.seed = bytes.fromhex(text)
        text = self.settings.string("kaslr_seed")
        if text is not None:
            try:
                seed = int(text, 0)
            except ValueError:
                seed = 0
            if not 0 < seed < 1 << 64:
                raise ConfigError(f'Invalid kaslr_seed "{text}" specified: it must be a number of 1 to 64 bits, not 0')
            self.config.kaslr_seed = seed


def _type_starting_with(text: str, types: dict[str, DomainType]) -> DomainType:
    for name, kind in types.items():
        if name.startswith(text):
            return kind
    raise ConfigError(f"Invalid domain type {text}.")


def _llc_colors(text: str) -> range:
    """`N` or `A-B`; text behind the number is not looked at."""
    first, taken = strtol(text, 10)
    if not taken:
        raise ConfigError(f"xl: Invalid LLC color range: {text}")
    last, rest = first, text[taken:]
    if rest.startswith("-"):
        number, taken = strtol(rest[1:], 10)
        if taken:
            last = number
            if first > last:
                raise ConfigError(f"xl: Start LLC color is greater than end: {text}")
    return range(as_uint32(first), as_uint32(last) + 1)
