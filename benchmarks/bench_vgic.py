"""What interrupts cost at each REC exit: list registers out and in, timers, and one timer interrupt from end to end.

Run with ``pytest benchmarks/bench_vgic.py``. The budget for an exit that brings nothing new is a few microseconds of
the 40 that 25,000 exits a second leave.
"""

from __future__ import annotations

from typing import Any

import pytest

from hypervisor.arm.vgic_v3 import VgicV3
from hypervisor.arm.vtimer import VcpuTimers
from machine.ich import IchRegisters


@pytest.fixture
def vgic() -> VgicV3:
    """A running guest's GIC: four vCPUs, everything enabled."""
    vgic = VgicV3(domid=1, max_vcpus=4, nr_spis=32)
    vgic.distributor.write(0, 4, 2, 0)
    vgic.distributor.write(0x104, 4, 0xFFFF_FFFF, 0)
    for vcpu in vgic.vcpus:
        vgic.redistributors.write(vcpu.vcpu * 0x20000 + 0x10100, 4, 0xFFFF_FFFF, vcpu.vcpu)
        vcpu.vmcr |= 0xF0 << 24 | 2
    return vgic


def test_an_exit_that_brings_nothing_new(benchmark: Any, vgic: VgicV3) -> None:
    ich = IchRegisters()
    timers = VcpuTimers(vgic, 0)

    def one_exit() -> None:
        vgic.flush_to_lrs(0, ich)
        ich.virq_pending()
        vgic.sync_from_lrs(0, ich)
        timers.update(0, 0, 1, 1000)

    benchmark(one_exit)


def test_an_exit_with_another_vcpu_next(benchmark: Any, vgic: VgicV3) -> None:
    ich = IchRegisters()
    vgic.set_irq_line(27, True, 1)

    def two_exits() -> None:
        for vcpu in (0, 1):
            vgic.flush_to_lrs(vcpu, ich)
            ich.virq_pending()
            vgic.sync_from_lrs(vcpu, ich)

    benchmark(two_exits)


def test_a_timer_interrupt_from_expiry_to_end(benchmark: Any, vgic: VgicV3) -> None:
    ich = IchRegisters()
    timers = VcpuTimers(vgic, 0)

    def timer_interrupt() -> None:
        timers.update(0, 0, 5, 1000)
        vgic.flush_to_lrs(0, ich)
        assert ich.icv_read("ICC_IAR1_EL1") == 27
        vgic.sync_from_lrs(0, ich)
        timers.update(0, 0, 1, 2000)
        vgic.flush_to_lrs(0, ich)
        ich.icv_write("ICC_EOIR1_EL1", 27)
        vgic.sync_from_lrs(0, ich)

    benchmark(timer_interrupt)
