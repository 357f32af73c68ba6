"""What an MMIO exit costs on the host's side, and what a page of a build costs besides its SMC.

Run with ``pytest benchmarks/bench_rec_loop.py``. Limits: 12 us for the host's part of an MMIO round trip, 5 us a page.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "hypervisor" / "cca"))

from cca_host import BASE_GFN, Host
from rmm_double import CONTINUE, RmmDouble

from hypervisor.arm.cca.build import finalize
from hypervisor.arm.cca.rec_loop import bind_vcpus
from rmm.abi import rmi
from rmm.abi.structures import RecRun

DONE = (0, 0, 0, 0, 0)


class Register:
    """A device of one register."""

    def read(self, offset: int, size: int, vcpu: int) -> int:
        return 5

    def write(self, offset: int, size: int, value: int, vcpu: int) -> bool:
        return True


def test_a_device_store_without_the_smc(benchmark: Any) -> None:
    host = Host(firmware="rmm.monitor")
    host.bring_up()
    guest = host.guest()
    host.finalize(guest)
    guest.mmio.add(0x2200_0000, 0x1000, "uart", Register())
    host.smc = lambda *args: DONE
    vcpu = bind_vcpus(guest, host.board, guest.root_pa, host.log)[0]
    page = vcpu.run.cast("B")
    RecRun.esr.write(page, 0x24 << 26 | 1 << 24 | 2 << 22 | 1 << 6)
    RecRun.hpfar.write(page, (0x2200_0000 | 1 << 47) >> 8)
    benchmark(vcpu.run_once)
    assert benchmark.stats.stats.median < 12e-6


def test_twelve_megabytes_of_a_build_without_the_smcs(benchmark: Any) -> None:
    """Half of the 3,072 pages have content; some 5 ms are for allocating work pages and do not grow."""
    pages = 3072

    def machine() -> tuple[tuple[Host, Any], dict[str, Any]]:
        host = Host()
        double = RmmDouble(host.memory)
        double.default[rmi.OP_MEM_DONATE] = (CONTINUE, 16)
        host.smc = double
        host.bring_up()
        guest = host.guest(pages, vcpus=1)
        for extent in guest.ram:
            for pa in range(extent.pa, extent.pa + extent.size, 8192):
                host.ns.write(pa, b"content")
        plain = double

        def smc(fid: int, *args: int) -> tuple[int, ...]:
            if fid == rmi.RTT_DATA_MAP_INIT:
                return DONE
            return (0, args[1], 0, 0, 0) if fid == rmi.GRANULE_RANGE_DELEGATE else plain(fid, *args)

        host.smc = smc
        return (host, guest), {}

    def build(host: Host, guest: Any) -> None:
        for _ in finalize(guest, host.access(), host.cca, guest.root_pa, BASE_GFN, pages):
            pass

    benchmark.pedantic(build, setup=machine, rounds=10)
