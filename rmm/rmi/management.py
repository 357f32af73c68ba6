"""VERSION, FEATURES, RMM_CONFIG_SET, RMM_CONFIG_GET and RMM_ACTIVATE (DEN0137 2.0-bet1, B3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmm.abi.rmi import RMI_VERSION, Status
from rmm.abi.structures import RmmConfig
from rmm.carveout import RmmState
from rmm.rmi import ANY_STATE, INIT_ONLY, command

if TYPE_CHECKING:
    from rmm.monitor import Monitor


@command("RMI_VERSION", states=ANY_STATE)
def version(rmm: Monitor, requested: int) -> tuple[int, int, int]:
    """The one version there is: 2.0."""
    return Status.SUCCESS if requested == RMI_VERSION else Status.ERROR_INPUT, RMI_VERSION, RMI_VERSION


@command("RMI_FEATURES", states=ANY_STATE)
def features(rmm: Monitor, index: int) -> tuple[int, int]:
    """Feature register ``index``; zero beyond the last."""
    return Status.SUCCESS, rmm.features[index] if index < len(rmm.features) else 0


@command("RMI_RMM_CONFIG_SET", states=INIT_ONLY)
def rmm_config_set(rmm: Monitor, config: int) -> int:
    """Take the configuration: only 4 KiB granules and 1 GiB tracking regions (both code 0)."""
    page = rmm.read_ns(config, RmmConfig.SIZE)
    if page is None:
        return Status.ERROR_INPUT
    tracking = RmmConfig.tracking_region_size.read(page)
    granule = RmmConfig.rmi_granule_size.read(page)
    if tracking or granule:
        return Status.ERROR_INPUT
    with rmm.commit() as txn:
        txn.store_word(rmm.carveout.global_word("tracking_region_size"), tracking)
        txn.store_word(rmm.carveout.global_word("rmi_granule_size"), granule)
    return Status.SUCCESS


@command("RMI_RMM_CONFIG_GET", states=ANY_STATE)
def rmm_config_get(rmm: Monitor, config: int) -> int:
    """Write the configuration to a host granule."""
    page = RmmConfig.encode(
        tracking_region_size=rmm.words[rmm.carveout.global_word("tracking_region_size")],
        rmi_granule_size=rmm.words[rmm.carveout.global_word("rmi_granule_size")],
    )
    return Status.SUCCESS if rmm.write_ns(config, page) else Status.ERROR_INPUT


@command("RMI_RMM_ACTIVATE", states=INIT_ONLY)
def rmm_activate(rmm: Monitor) -> int:
    """From INIT to ACTIVE; the carve-out was sized for the whole of DRAM, so no memory is asked of the host."""
    with rmm.commit() as txn:
        txn.store_word(rmm.carveout.global_word("state"), RmmState.ACTIVE)
    return Status.SUCCESS
