"""Bringing the RMM up, once, when the hypervisor starts.

Enter at :func:`bring_up`. Whatever fails only leaves CCA unavailable, with one message in the log (none at all when
there is no RMM of this version); the hypervisor goes on without it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hypervisor.arm.cca.ledger import Entry, Ledger
from hypervisor.arm.cca.ports import HostPages, Level, Log
from hypervisor.arm.cca.rmi import Rmi, RmiFailure
from hypervisor.arm.cca.sro import DONATION_CAP, SroEngine
from machine.board import SmcResult
from machine.memory import GRANULE_SIZE, NonSecureView
from rmm.abi import rmi as abi
from rmm.abi.registers import FeatureRegister1, MemCategory, TrackingState
from rmm.abi.structures import RmmConfig

GRANULE_4KB: Final = 0
TRACKING_1GB: Final = 0
_L0_REGION_SHIFT: Final = 30


@dataclass(frozen=True)
class CcaHost:
    """What bring-up found: whether Realms can be made, the RMM's feature registers, the pages it keeps until reset."""

    available: bool = False
    features0: int = 0
    features1: int = 0
    donated: tuple[int, ...] = ()


class _Unavailable(Exception):
    """Bring-up stops; the text, if any, is the log's message."""


def bring_up(
    smc: Callable[..., SmcResult],
    ns: NonSecureView,
    pages: HostPages,
    log: Log,
    banks: Sequence[tuple[int, int]] | None = None,
) -> CcaHost:
    """Version, features, configuration, activation, tracking check and L1 GPTs of every bank of host RAM.

    ``banks`` are (start, end) of the boot memory map, default all DRAM. Pages that activation took stay with the RMM
    until reset; one that neither side can use is never reused.
    """
    rmi = Rmi(smc)
    if banks is None:
        banks = [(ns.dram_base, ns.dram_base + ns.dram_size)]
    ledger = Ledger([0] * DONATION_CAP)
    features = (0, 0)
    taken: list[int] = []
    try:
        version = rmi.version(abi.RMI_VERSION)
        if version[0] or version[1] != abi.RMI_VERSION:
            return CcaHost()
        features = (rmi.features(0), rmi.features(1))
        taken = pages.alloc(2)
        config, list_page = taken
        _configure(rmi, ns, config)
        _activate(rmi, ns, pages, list_page, ledger)
        _check_config(rmi, ns, config)
        _prepare_memory(rmi, ns, pages, list_page, FeatureRegister1(features[1]), banks, log)
    except _Unavailable as stop:
        if str(stop):
            log(Level.ERR, f"ARM CCA: {stop}")
        return CcaHost(False, *features, donated=tuple(ledger.pages()))
    except (RmiFailure, MemoryError) as failure:
        code = failure.errno if isinstance(failure, RmiFailure) else errno.ENOMEM
        log(Level.ERR, f"ARM CCA: RMM activate failed: {-code}")
        return CcaHost(False, *features, donated=tuple(ledger.pages()))
    finally:
        pages.free(taken)
    log(Level.INFO, "ARM CCA: RMI configured")
    return CcaHost(True, *features, donated=tuple(ledger.pages()))


def _configure(rmi: Rmi, ns: NonSecureView, page: int) -> None:
    ns.write(page, RmmConfig.encode(tracking_region_size=TRACKING_1GB, rmi_granule_size=GRANULE_4KB))
    try:
        rmi.config_set(page)
    except RmiFailure as failure:
        raise _Unavailable(f"RMM activate failed: {-failure.errno}") from None


def _activate(rmi: Rmi, ns: NonSecureView, pages: HostPages, list_page: int, ledger: Ledger) -> None:
    """RMM_ACTIVATE; every failure is EIO once pages stayed with the RMM or could not be undelegated."""
    try:
        SroEngine(rmi, ns, pages, list_page).run(abi.RMM_ACTIVATE, (), ledger, DONATION_CAP)
    except RmiFailure as failure:
        code = errno.EIO if ledger.pages() else failure.errno
        raise _Unavailable(f"RMM activate failed: {-code}") from None
    if ledger.pages(Entry.ABANDONED):
        raise _Unavailable(f"RMM activate failed: {-errno.EIO}")


def _check_config(rmi: Rmi, ns: NonSecureView, page: int) -> None:
    ns.zero(page, GRANULE_SIZE)
    try:
        rmi.config_get(page)
    except RmiFailure as failure:
        raise _Unavailable(
            f"RMI_RMM_CONFIG_GET failed status={failure.status:#x} data={failure.data:#x}"
        ) from None
    config = ns.read(page, GRANULE_SIZE)
    granule = RmmConfig.rmi_granule_size.read(config)
    if granule != GRANULE_4KB:
        raise _Unavailable(f"requires 4KB RMI granules, but current RMM granule size encoding is {granule}")
    region = RmmConfig.tracking_region_size.read(config)
    if region != TRACKING_1GB:
        raise _Unavailable(
            f"requires 1GB tracking regions for 4KB RMI granules, but current RMM tracking-region encoding is {region}"
        )


def _prepare_memory(
    rmi: Rmi,
    ns: NonSecureView,
    pages: HostPages,
    list_page: int,
    features1: FeatureRegister1,
    banks: Sequence[tuple[int, int]],
    log: Log,
) -> None:
    """Bank by bank: all of it fine-tracked conventional memory, then an L1 GPT for every L0 region it touches."""
    try:
        for start, end in banks:
            _check_tracking(rmi, start, end, log)
            region = 1 << (_L0_REGION_SHIFT + features1.L0GPTSZ)
            for base in range(start & -region, -(-end // region) * region, region):
                try:
                    _create_gpt(rmi, ns, pages, list_page, base)
                except RmiFailure:
                    log(Level.ERR, f"ARM CCA: failed to create GPT L1 for {base:#016x}")
                    raise
    except RmiFailure as failure:
        raise _Unavailable(f"host memory metadata check failed: {-failure.errno}") from None


def _check_tracking(rmi: Rmi, start: int, end: int, log: Log) -> None:
    while start < end:
        category, state, reached = rmi.tracking_get(start, end)
        if category != MemCategory.CONVENTIONAL or state != TrackingState.FINE or not start < reached <= end:
            log(Level.ERR,
                f"ARM CCA: memory [{start:#016x}, {end:#016x}) is not fine-tracked conventional memory")
            raise RmiFailure(errno.EOPNOTSUPP, 0, "RMI_GRANULE_TRACKING_GET", f"category {category} state {state}")
        start = reached


def _create_gpt(rmi: Rmi, ns: NonSecureView, pages: HostPages, list_page: int, base: int) -> None:
    """GPT_L1_CREATE; ERROR_GPT says that the table is there already.

    The series refuses an RMM that wants memory for it, and leaves the operation open; here it is given some.
    """
    ledger = Ledger([0] * DONATION_CAP)
    try:
        SroEngine(rmi, ns, pages, list_page).run(abi.GPT_L1_CREATE, (base,), ledger, DONATION_CAP)
    except RmiFailure as failure:
        if failure.x0 & 0xFF != abi.Status.ERROR_GPT:
            raise
