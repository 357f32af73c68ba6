"""A configuration to a guest: what of it can be built, and its images, layout and device tree.

Enter at :func:`prepare`. Everything that can be wrong with a configuration by itself is found here, before the
hypervisor is asked for anything; so that a refusal leaves nothing behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolstack.build_error import BuildError
from toolstack.errors import CREATE_FAILED, FAIL, INVAL, XlError, create_failure, libxl
from xlconfig import DomainConfig, RealmRefusal, check_realm
from xlconfig.enumerations import GicVersion, TeeType, VuartType
from xlconfig.realm_checks import REFUSALS

if TYPE_CHECKING:
    from toolstack.builder import GuestImage, GuestSpec

#: vCPUs that an arm64 domain can have, and the longest name (characters) that the hypervisor keeps.
VCPU_LIMIT = 128
NAME_LIMIT = 256

_GET_CONFIG = "fail to get domain config"
_MAKE = f"cannot make domain: {FAIL}"
_BUILD = f"cannot (re-)build domain: {FAIL}"


def check(config: DomainConfig) -> None:
    """Refuse what cannot be created; XlError with the cause first, then the steps of libxl that fail because of it."""
    try:
        check_realm(config)
    except RealmRefusal as refusal:
        raise create_failure([libxl(refusal.message)], _GET_CONFIG, _MAKE) from None
    _check_plain(config)
    if config.max_vcpus > VCPU_LIMIT:
        text = f"maxvcpus = {config.max_vcpus}: an arm64 domain has at most {VCPU_LIMIT} vCPUs"
        raise create_failure([libxl(text)], _MAKE)
    if config.max_memkb < 1024:
        raise create_failure([libxl(f"memory = {config.max_memkb // 1024}: a domain needs at least 1 MiB")], _MAKE)
    _check_name(config.name)


def _check_plain(config: DomainConfig) -> None:
    """What a plain guest cannot have: Xen would offer it, this host does not."""
    if config.realm:
        return
    for refusal in REFUSALS:
        # As in Xen a GIC version that is not named is the host's, and a passthrough mode alone does nothing.
        missing = refusal.applies(config)
        if refusal.what == "non-GICv3 interrupt controllers":
            missing = config.gic_version is GicVersion.V2
        if missing:
            raise create_failure([libxl(f"plain guests do not support {refusal.what} yet")], _MAKE)


def _check_name(name: str) -> None:
    wrong = ""
    if not name:
        wrong = "it is empty"
    elif len(name) > NAME_LIMIT:
        wrong = f"it has {len(name)} characters, more than {NAME_LIMIT}"
    elif not name.isprintable():
        wrong = "it has control characters, or is not UTF-8"
    if wrong:
        raise create_failure([libxl(f"domain name {name[:40]!a}: {wrong}")], f"cannot make domain: {INVAL}")


def spec_of(config: DomainConfig) -> GuestSpec:
    """What the builder needs to know of CONFIG. Raises XlError for a configuration without a kernel."""
    from toolstack.builder import GuestSpec
    from toolstack.dtb.spec import IomemRange, VirtioDevice

    if config.kernel is None:
        raise XlError(
            libxl("bootloaders are not supported: the configuration must name a kernel"), status=CREATE_FAILED
        )
    build = config.b_info
    partial = _read_partial(build.device_tree) if build.device_tree is not None else None
    return GuestSpec(
        realm=config.realm,
        vcpus=config.max_vcpus,
        cmdline=config.cmdline,
        vuart=config.vuart is VuartType.SBSA_UART,
        gic_version=2 if config.gic_version is GicVersion.V2 else 3,
        seed=config.seed,
        kaslr_seed=config.kaslr_seed,
        iomem=tuple(
            IomemRange(gfn=area.start if area.gfn == 2**64 - 1 else area.gfn, count=area.number) for area in build.iomem
        ),
        optee=build.tee is TeeType.OPTEE,
        vpci=bool(config.pcidevs),
        virtio=tuple(
            VirtioDevice(kind=device.type or "virtio,device", grants=device.grant_usage is True)
            for device in config.virtios
        ),
        partial=partial,
        kernel=config.kernel,
        ramdisk=config.ramdisk,
        max_memkb=config.max_memkb,
    )


def _read_partial(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise create_failure([libxl(f"Failed to read partial device tree {path}: {reason}")], _BUILD) from None


def prepare(config: DomainConfig) -> GuestImage:
    """Read the images of CONFIG and assemble its guest. Raises XlError, the cause first."""
    from toolstack.builder import build

    try:
        return build(spec_of(config))
    except BuildError as error:
        raise create_failure(error.lines(), _BUILD) from None
    except MemoryError:
        raise create_failure([libxl("not enough memory on this host to build the guest")], _BUILD) from None
