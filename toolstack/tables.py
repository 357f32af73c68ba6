"""The tables of ``xl``, column for column as Xen prints them. Functions from the hypervisor's answers to text.

A domain's name is shown as it is, except that characters which would break a line or drive a terminal are replaced.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from hypervisor.rpc.messages import DomainInfo, Physinfo, VcpuInfo

#: Letter for a shutdown reason in the State column (poweroff, reboot, suspend, crash, watchdog, soft reset).
_REASONS = "-rscwS"
_NS = 1_000_000_000
_PAGE_SIZE = 4096
#: Width of the keys of ``xl info``.
_KEY_WIDTH = 23
_HEADER = f"{'Name':<40} {'ID':>5} {'Mem':>5} {'VCPUs':>5}\tState\tTime(s)"


def name_of(domain: DomainInfo) -> str:
    """The name as a table shows it."""
    if not domain.name:
        return "(null)"
    return "".join(letter if letter.isprintable() else "?" for letter in domain.name)


def state_of(domain: DomainInfo) -> str:
    """The six characters of the State column."""
    reason = "-"
    if domain.shutdown and domain.shutdown_reason is not None:
        reason = _REASONS[domain.shutdown_reason] if 0 <= domain.shutdown_reason < len(_REASONS) else "?"
    return (
        ("r" if domain.running else "-")
        + ("b" if domain.blocked else "-")
        + ("p" if domain.paused else "-")
        + ("s" if domain.shutdown else "-")
        + reason
        + ("d" if domain.dying else "-")
    )


def domain_table(
    domains: Iterable[DomainInfo],
    *,
    verbose: bool = False,
    context: bool = False,
    cpupool: bool = False,
    numa: bool = False,
) -> str:
    """``xl list``."""
    header = _HEADER
    if verbose:
        header += "   UUID                            Reason-Code\tSecurity Label"
    elif context:
        header += "   Security Label"
    if cpupool:
        header += "         Cpupool"
    if numa:
        header += " NODE Affinity"
    lines = [header]
    for domain in domains:
        megabytes = (domain.current_memkb + domain.outstanding_memkb) // 1024
        line = f"{name_of(domain):<40} {domain.domid:>5} {megabytes:>5} {domain.vcpu_online:>5}"
        line += f"     {state_of(domain)}  {domain.cpu_time_ns / _NS:8.1f}"
        if verbose:
            line += f" {domain.uuid}"
            line += f" {domain.shutdown_reason:>8x}" if domain.shutdown_reason is not None else f" {'-':>8}"
        if verbose or context:
            line += f" {'-':>16}"
        if cpupool:
            line += f"{'Pool-0':>16}"
        if numa:
            line += " all"
        lines.append(line)
    return _text(lines)


def vm_table(domains: Iterable[DomainInfo]) -> str:
    """``xl vm-list``."""
    lines = ["UUID                                  ID    name"]
    lines += [f"{domain.uuid}  {domain.domid}    {name_of(domain)}" for domain in domains]
    return _text(lines)


def vcpu_table(domains: Sequence[tuple[DomainInfo, Sequence[VcpuInfo]]]) -> str:
    """``xl vcpu-list``: every domain with its vCPUs."""
    lines = [f"{'Name':<32} {'ID':>5} {'VCPU':>5} {'CPU':>5} {'State':>5} {'Time(s)':>9} Affinity (Hard / Soft)"]
    for domain, vcpus in domains:
        for vcpu in vcpus:
            line = f"{name_of(domain):<32} {domain.domid:>5} {vcpu.vcpu:>5}"
            if vcpu.online:
                running, blocked = "r" if vcpu.running else "-", "b" if vcpu.blocked else "-"
                line += f" {vcpu.cpu:>5} {running:>3}{blocked}-"
            else:
                line += f" {'-':>5} {'-':>3}-p"
            lines.append(f"{line} {vcpu.cpu_time_ns / _NS:9.1f}  all / all")
    return _text(lines)


def duration(seconds: int, *, short: bool = False) -> str:
    """``[D day(s), ]HH:MM:SS``, without the seconds when SHORT."""
    days, rest = divmod(max(0, seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    text = f"{days} day{'s' if days > 1 else ''}, " if days else ""
    text += f"{hours:2d}:{minutes:02d}"
    return text if short else f"{text}:{rest:02d}"


def uptime_table(domains: Iterable[DomainInfo], *, short: bool = False, now_ns: int | None = None) -> str:
    """``xl uptime``. NOW_NS is the time of day, by default the present."""
    now = time.time_ns() if now_ns is None else now_ns
    lines = [] if short else [f"{'Name':<33} {'ID':>4} Uptime"]
    for domain in domains:
        up = duration((now - domain.created_ns) // _NS, short=short)
        if short:
            clock = time.strftime("%H:%M:%S", time.localtime(now // _NS))
            lines.append(f" {clock} up {up}, {name_of(domain)} ({domain.domid})")
        else:
            lines.append(f"{name_of(domain):<33} {domain.domid:>4} {up}")
    return _text(lines)


def info_rows(host: Physinfo) -> list[tuple[str, str]]:
    """The lines of ``xl info`` as (key, value): Xen's, then what only an emulated CCA host has."""
    version = f"{host.xen_major}.{host.xen_minor}{host.xen_extra}"
    return [
        ("host", host.host),
        ("release", host.release),
        ("version", host.host_version),
        ("machine", host.machine),
        ("nr_cpus", str(host.nr_cpus)),
        ("max_cpu_id", str(host.nr_cpus - 1)),
        ("nr_nodes", "1"),
        ("cores_per_socket", str(host.nr_cpus)),
        ("threads_per_core", "1"),
        ("cpu_mhz", "0.000"),
        ("hw_caps", ":".join(["00000000"] * 8)),
        ("virt_caps", "hvm hap"),
        ("arm_sve_vector_length", "0"),
        ("total_memory", str(host.total_memory_kib // 1024)),
        ("free_memory", str(host.free_memory_kib // 1024)),
        ("sharing_freed_memory", "0"),
        ("sharing_used_memory", "0"),
        ("outstanding_claims", "0"),
        ("free_cpus", "0"),
        ("xen_major", str(host.xen_major)),
        ("xen_minor", str(host.xen_minor)),
        ("xen_extra", host.xen_extra),
        ("xen_version", version),
        ("xen_caps", "xen-3.0-aarch64"),
        ("xen_scheduler", host.scheduler),
        ("xen_pagesize", str(_PAGE_SIZE)),
        ("platform_params", "virt_start=0x200000"),
        ("xen_changeset", ""),
        ("xen_commandline", host.command_line),
        ("cc_compiler", ""),
        ("cc_compile_by", ""),
        ("cc_compile_domain", ""),
        ("cc_compile_date", host.build_date),
        ("build_id", ""),
        ("xend_config_format", "4"),
        ("cpu", host.cpu),
        ("rmm", host.rmm),
        ("arm_cca", "1" if host.cca else "0"),
        ("realm_debug_vuart", "1" if host.realm_debug_vuart else "0"),
        ("delegated_granules", str(host.delegated_granules)),
        ("activation_granules", str(host.activation_granules)),
    ]


def info_text(host: Physinfo, name: str | None = None) -> str:
    """``xl info``; with NAME only the values of the lines that start with it."""
    rows = info_rows(host)
    if name is not None:
        return _text([value for key, value in rows if key.startswith(name)])
    return key_value_text(rows)


def key_value_text(rows: Sequence[tuple[str, str]]) -> str:
    """Lines of a key and its value, in the columns of ``xl info``."""
    return _text([f"{key:<{_KEY_WIDTH}}: {value}" for key, value in rows])


def program_version() -> str:
    """The version of this package; of a source tree that is not installed, that it is one."""
    from importlib import metadata  # only here: it is slow

    try:
        return metadata.version("xl-realm")
    except metadata.PackageNotFoundError:
        return "not installed (source tree)"


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
