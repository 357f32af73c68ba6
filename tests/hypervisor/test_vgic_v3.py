"""Interrupts on their way from lines and SGIs through the list registers to the guest and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.arm.vgic_v3 import VgicV3
from machine.ich import ICH_HCR, LR, SPURIOUS, IchRegisters

STRIDE = 0x20000
SGI_FRAME = 0x10000
TIMER = 27
UART = 32


class Guest:
    """What a guest does with one CPU interface per vCPU, all on one physical element."""

    def __init__(self, vcpus: int = 4, nr_spis: int = 32) -> None:
        self.vgic = VgicV3(domid=1, max_vcpus=vcpus, nr_spis=nr_spis)
        self.ich = IchRegisters()
        self.vgic.distributor.write(0x000, 4, 2, 0)
        for word in range(self.vgic.nr_spis // 32):
            self.vgic.distributor.write(0x104 + 4 * word, 4, 0xFFFF_FFFF, 0)
        for vcpu in range(vcpus):
            self.vgic.redistributors.write(vcpu * STRIDE + SGI_FRAME + 0x100, 4, 0xFFFF_FFFF, vcpu)
            for intid in range(32):
                self.vgic.redistributors.write(vcpu * STRIDE + SGI_FRAME + 0x400 + intid, 1, 0xA0, vcpu)
            self.enter(vcpu)
            self.ich.icv_write("ICC_PMR_EL1", 0xF0)
            self.ich.icv_write("ICC_IGRPEN1_EL1", 1)
            self.exit(vcpu)
        for intid in range(32, self.vgic.nr_irqs):
            self.vgic.distributor.write(0x400 + intid, 1, 0xA0, 0)

    def enter(self, vcpu: int) -> None:
        self.vgic.flush_to_lrs(vcpu, self.ich)
        valid = [lr for lr in self.ich.lr if lr & LR.STATE_MASK]
        assert not any(lr & LR.HW for lr in valid)
        assert len({lr & LR.VINTID_MASK for lr in valid}) == len(valid)

    def exit(self, vcpu: int) -> None:
        self.ich.hcr &= ~ICH_HCR.EN  # as the RMM leaves it
        self.vgic.sync_from_lrs(vcpu, self.ich)

    def acknowledge(self) -> int:
        return self.ich.icv_read("ICC_IAR1_EL1")

    def end(self, intid: int) -> None:
        self.ich.icv_write("ICC_EOIR1_EL1", intid)

    def handle_all(self, vcpu: int) -> list[int]:
        """Enter, handle what comes until nothing does (with exits for maintenance), exit."""
        handled = []
        self.enter(vcpu)
        while True:
            intid = self.acknowledge()
            if intid != SPURIOUS:
                handled.append(intid)
                self.end(intid)
            if self.ich.maintenance_pending():
                self.exit(vcpu)
                self.enter(vcpu)
            elif intid == SPURIOUS:
                self.exit(vcpu)
                return handled


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_an_entry_switches_the_interface_on(guest: Guest) -> None:
    guest.enter(0)
    assert guest.ich.hcr == ICH_HCR.EN
    assert guest.ich.lr == [0] * 16
    guest.exit(0)


def test_a_line_goes_up_is_handled_and_goes_down(guest: Guest) -> None:
    guest.vgic.set_irq_line(TIMER, True, 1)
    assert guest.vgic.has_pending(1)
    assert not guest.vgic.has_pending(0)
    guest.enter(1)
    assert guest.ich.virq_pending()
    assert guest.acknowledge() == TIMER
    guest.exit(1)
    guest.vgic.set_irq_line(TIMER, False, 1)
    guest.enter(1)
    guest.end(TIMER)
    assert not guest.ich.maintenance_pending(), "a quiet line needs no exit at the end of the interrupt"
    guest.exit(1)
    guest.enter(1)
    assert guest.ich.lr == [0] * 16
    assert not guest.vgic.has_pending(1)


def test_a_line_that_stays_up_brings_the_interrupt_back_after_its_end(guest: Guest) -> None:
    guest.vgic.set_irq_line(UART, True)
    guest.enter(0)
    assert guest.acknowledge() == UART
    guest.end(UART)
    assert guest.ich.maintenance_pending(), "the end of the interrupt leads to an exit"
    guest.exit(0)
    assert guest.vgic.has_pending(0)
    guest.enter(0)
    assert guest.acknowledge() == UART


def test_a_line_that_stays_up_is_not_pending_again_while_the_interrupt_is_active(guest: Guest) -> None:
    guest.vgic.set_irq_line(UART, True)
    guest.enter(0)
    guest.acknowledge()
    guest.exit(0)
    assert not guest.vgic.has_pending(0)
    guest.enter(0)
    assert guest.ich.lr[0] >> 62 == 2
    assert guest.ich.lr[0] & LR.EOI


def test_a_line_that_falls_before_the_guest_looked_takes_the_interrupt_back(guest: Guest) -> None:
    guest.vgic.set_irq_line(UART, True)
    guest.enter(0)
    guest.exit(0)
    guest.vgic.set_irq_line(UART, False)
    assert not guest.vgic.has_pending(0)
    guest.enter(0)
    assert guest.acknowledge() == SPURIOUS


def test_an_edge_triggered_interrupt_stays_pending_without_its_line(guest: Guest) -> None:
    guest.vgic.distributor.write(0xC08, 4, 0b10, 0)
    guest.vgic.set_irq_line(UART, True)
    guest.vgic.set_irq_line(UART, False)
    assert guest.handle_all(0) == [UART]
    assert guest.handle_all(0) == []
    guest.vgic.set_irq_line(UART, True)
    assert guest.handle_all(0) == [UART]
    assert guest.handle_all(0) == [], "the line is up, but there was no new edge"


def test_setting_the_same_level_twice_changes_nothing(guest: Guest) -> None:
    guest.vgic.distributor.write(0xC08, 4, 0b10, 0)
    guest.vgic.set_irq_line(UART, True)
    assert guest.handle_all(0) == [UART]
    guest.vgic.set_irq_line(UART, True)
    assert not guest.vgic.has_pending(0)


def test_a_disabled_interrupt_waits_until_it_is_enabled(guest: Guest) -> None:
    guest.vgic.distributor.write(0x184, 4, 1, 0)
    guest.vgic.set_irq_line(UART, True)
    assert not guest.vgic.has_pending(0)
    guest.enter(0)
    assert guest.acknowledge() == SPURIOUS
    guest.exit(0)
    guest.vgic.distributor.write(0x104, 4, 1, 0)
    assert guest.vgic.has_pending(0)
    guest.enter(0)
    assert guest.acknowledge() == UART


def test_disabling_withdraws_a_pending_list_register(guest: Guest) -> None:
    guest.vgic.set_irq_line(UART, True)
    guest.enter(0)
    guest.exit(0)
    guest.vgic.distributor.write(0x184, 4, 1, 0)
    guest.enter(0)
    assert guest.acknowledge() == SPURIOUS


def test_disabling_leaves_an_active_interrupt_to_be_ended(guest: Guest) -> None:
    guest.vgic.set_irq_line(UART, True)
    guest.enter(0)
    guest.acknowledge()
    guest.exit(0)
    guest.vgic.distributor.write(0x184, 4, 1, 0)
    guest.enter(0)
    guest.end(UART)
    guest.exit(0)
    assert not guest.vgic.spis[0].active


def test_nothing_is_forwarded_while_the_distributor_is_off(guest: Guest) -> None:
    guest.vgic.distributor.write(0, 4, 0, 0)
    guest.vgic.set_irq_line(UART, True)
    assert not guest.vgic.has_pending(0)
    assert guest.handle_all(0) == []
    guest.vgic.distributor.write(0, 4, 2, 0)
    assert guest.vgic.has_pending(0)


def test_switching_the_distributor_off_withdraws_a_pending_list_register(guest: Guest) -> None:
    guest.vgic.set_irq_line(UART, True)
    guest.enter(0)
    guest.exit(0)
    guest.vgic.distributor.write(0, 4, 0, 0)
    guest.enter(0)
    assert guest.acknowledge() == SPURIOUS


def test_interrupts_are_delivered_by_priority(guest: Guest) -> None:
    gicd = guest.vgic.distributor
    for intid, priority in ((40, 0xA0), (41, 0x20), (42, 0x60)):
        gicd.write(0x400 + intid, 1, priority, 0)
        gicd.write(0xC08, 4, 0xAAAA_AAAA, 0)
        guest.vgic.set_irq_line(intid, True)
    assert guest.handle_all(0) == [41, 42, 40]


def test_a_more_urgent_interrupt_preempts_after_an_exit(guest: Guest) -> None:
    guest.vgic.redistributors.write(SGI_FRAME + 0x400 + 1, 1, 0x20, 0)
    guest.vgic.set_irq_line(UART, True)
    guest.enter(0)
    assert guest.acknowledge() == UART
    guest.exit(0)
    guest.vgic.send_sgi(0, 1 << 24 | 1)
    guest.enter(0)
    assert guest.ich.virq_pending()
    assert guest.acknowledge() == 1
    assert guest.ich.icv_read("ICC_RPR_EL1") == 0x20
    guest.end(1)
    assert guest.ich.icv_read("ICC_RPR_EL1") == 0xA0
    guest.end(UART)
    guest.exit(0)
    assert guest.ich.icv_read("ICC_RPR_EL1") == 0xFF


def test_an_sgi_sent_again_while_active_is_pending_and_active(guest: Guest) -> None:
    guest.vgic.send_sgi(0, 5 << 24 | 1)
    guest.enter(0)
    assert guest.acknowledge() == 5
    guest.exit(0)
    guest.vgic.send_sgi(0, 5 << 24 | 1)
    guest.enter(0)
    assert guest.ich.lr[0] >> 62 == 3
    guest.end(5)
    assert guest.acknowledge() == 5
    guest.end(5)
    guest.exit(0)
    assert guest.handle_all(0) == []


def targets_of(guest: Guest, intid: int) -> list[int]:
    return [vcpu for vcpu in range(len(guest.vgic.vcpus)) if guest.handle_all(vcpu) == [intid]]


def test_an_sgi_reaches_exactly_its_target_list(guest: Guest) -> None:
    guest.vgic.send_sgi(0, 7 << 24 | 0b1010)
    assert targets_of(guest, 7) == [1, 3]


def test_an_sgi_may_reach_its_sender(guest: Guest) -> None:
    guest.vgic.send_sgi(2, 7 << 24 | 0b0100)
    assert targets_of(guest, 7) == [2]


def test_an_sgi_to_all_but_self_ignores_the_target_list(guest: Guest) -> None:
    guest.vgic.send_sgi(2, 1 << 40 | 15 << 24 | 0b0100)
    assert targets_of(guest, 15) == [0, 1, 3]


def test_an_sgi_reaches_the_second_cluster_through_aff1() -> None:
    guest = Guest(vcpus=20)
    guest.vgic.send_sgi(0, 3 << 24 | 1 << 16 | 0b0110)
    assert targets_of(guest, 3) == [17, 18]


@pytest.mark.parametrize("value", [0xFFF0, 1 << 16 | 1, 1 << 32 | 1, 1 << 48 | 1, 1 << 44 | 1],
                         ids=["beyond the last vCPU", "Aff1", "Aff2", "Aff3", "RS"])
def test_an_sgi_to_nobody_is_dropped(guest: Guest, value: int) -> None:
    guest.vgic.send_sgi(0, 3 << 24 | value)
    assert targets_of(guest, 3) == []


def test_an_offline_vcpu_gets_no_sgis(guest: Guest) -> None:
    guest.vgic.set_online(3, False)
    guest.vgic.send_sgi(0, 1 << 40 | 4 << 24)
    guest.vgic.send_sgi(0, 4 << 24 | 0b1000)
    assert targets_of(guest, 4) == [1, 2]
    guest.vgic.set_online(3, True)
    guest.vgic.send_sgi(0, 4 << 24 | 0b1000)
    assert targets_of(guest, 4) == [3]


def test_an_spi_follows_its_router(guest: Guest) -> None:
    guest.vgic.set_irq_line(UART, True)
    assert guest.vgic.has_pending(0)
    guest.vgic.distributor.write(0x6100, 8, 2, 0)
    assert not guest.vgic.has_pending(0)
    assert guest.vgic.has_pending(2)
    guest.enter(0)
    assert guest.acknowledge() == SPURIOUS
    guest.exit(0)
    guest.enter(2)
    assert guest.acknowledge() == UART


def test_an_active_spi_moves_only_after_its_end(guest: Guest) -> None:
    guest.vgic.set_irq_line(UART, True)
    guest.enter(0)
    guest.acknowledge()
    guest.exit(0)
    guest.vgic.distributor.write(0x6100, 8, 2, 0)
    assert not guest.vgic.has_pending(2)
    guest.enter(0)
    guest.end(UART)
    guest.exit(0)
    assert guest.vgic.has_pending(2)
    assert not guest.vgic.has_pending(0)


def test_vcpus_that_share_an_element_keep_their_interfaces_apart(guest: Guest) -> None:
    guest.vgic.set_irq_line(TIMER, True, 0)
    guest.enter(0)
    guest.acknowledge()
    guest.ich.icv_write("ICC_PMR_EL1", 0x80)
    guest.ich.icv_write("ICC_BPR1_EL1", 6)
    guest.exit(0)
    guest.enter(1)
    assert guest.ich.lr == [0] * 16
    assert guest.ich.icv_read("ICC_PMR_EL1") == 0xF0
    assert guest.ich.icv_read("ICC_BPR1_EL1") == 3
    assert guest.ich.icv_read("ICC_RPR_EL1") == 0xFF
    guest.exit(1)
    guest.enter(0)
    assert guest.ich.icv_read("ICC_PMR_EL1") == 0x80
    assert guest.ich.icv_read("ICC_BPR1_EL1") == 6
    assert guest.ich.icv_read("ICC_RPR_EL1") == 0xA0
    assert guest.ich.lr[0] & LR.VINTID_MASK == TIMER


def test_more_interrupts_than_list_registers_ask_for_a_refill(guest: Guest) -> None:
    guest.vgic.distributor.write(0xC08, 4, 0xAAAA_AAAA, 0)
    guest.vgic.distributor.write(0xC0C, 4, 0xAAAA_AAAA, 0)
    for intid in range(32, 57):
        guest.vgic.distributor.write(0x400 + intid, 1, 0x80 if intid >= 50 else 0xA0, 0)
        guest.vgic.set_irq_line(intid, True)
    guest.enter(0)
    assert guest.ich.hcr & ICH_HCR.UIE
    assert [lr & LR.VINTID_MASK for lr in guest.ich.lr] == [*range(50, 57), *range(32, 41)]
    assert not guest.ich.maintenance_pending()
    guest.exit(0)
    assert guest.handle_all(0) == [*range(50, 57), *range(32, 50)]
    guest.enter(0)
    assert guest.ich.hcr == ICH_HCR.EN


def make_active(guest: Guest, intids: range) -> None:
    """EOImode 1: acknowledge and drop the priority of each, leaving all active."""
    guest.vgic.distributor.write(0xC08, 4, 0xAAAA_AAAA, 0)
    guest.vgic.distributor.write(0xC0C, 4, 0xAAAA_AAAA, 0)
    guest.enter(0)
    guest.ich.icv_write("ICC_CTLR_EL1", 2)
    guest.exit(0)
    for intid in intids:
        guest.vgic.set_irq_line(intid, True)
        guest.enter(0)
        assert guest.acknowledge() == intid
        guest.end(intid)
        guest.exit(0)
        assert guest.vgic.spis[intid - 32].active


def test_with_all_list_registers_active_a_pending_interrupt_still_gets_through(guest: Guest) -> None:
    make_active(guest, range(32, 48))
    guest.vgic.set_irq_line(48, True)
    guest.vgic.set_irq_line(49, True)
    guest.enter(0)
    assert guest.acknowledge() == 48
    assert guest.ich.maintenance_pending(), "no list register is pending any more, but 49 waits"
    guest.end(48)
    guest.exit(0)
    guest.enter(0)
    assert guest.acknowledge() == 49


def test_an_active_interrupt_without_list_register_is_deactivated_by_a_trapped_dir(guest: Guest) -> None:
    make_active(guest, range(32, 49))
    guest.enter(0)
    assert guest.ich.hcr & ICH_HCR.TDIR
    assert "ICC_DIR_EL1" in guest.ich.traps()
    in_lrs = {lr & LR.VINTID_MASK for lr in guest.ich.lr}
    (outside,) = set(range(32, 49)) - in_lrs
    guest.exit(0)
    guest.vgic.deactivate(0, outside)
    assert not guest.vgic.spis[outside - 32].active
    guest.enter(0)
    assert not guest.ich.traps()
    guest.ich.icv_write("ICC_DIR_EL1", 33)
    guest.exit(0)
    assert [irq.intid for irq in guest.vgic.spis if irq.active] == sorted(in_lrs - {33})


def test_an_active_interrupt_without_list_register_is_ended_by_the_eoi_count(guest: Guest) -> None:
    make_active(guest, range(32, 49))
    guest.enter(0)
    guest.ich.icv_write("ICC_CTLR_EL1", 0)
    outside = (set(range(32, 49)) - {lr & LR.VINTID_MASK for lr in guest.ich.lr}).pop()
    guest.ich.ap1r0 = 1 << (0xA0 >> 3)
    guest.end(outside)
    assert guest.ich.maintenance_pending()
    guest.exit(0)
    assert not guest.vgic.spis[outside - 32].active
    assert sum(irq.active for irq in guest.vgic.spis) == 16
    guest.enter(0)
    assert guest.ich.hcr == ICH_HCR.EN, "the count starts again"


def test_deactivating_what_is_not_active_or_not_there_is_ignored(guest: Guest) -> None:
    guest.vgic.set_irq_line(UART, True)
    guest.vgic.deactivate(0, UART)
    guest.vgic.deactivate(0, 999)
    guest.vgic.deactivate(0, 0xFFFF_FFFF)
    assert guest.vgic.has_pending(0)


def test_lines_exist_only_for_ppis_and_the_domains_spis(guest: Guest) -> None:
    with pytest.raises(ValueError, match=r"d1v2: interrupt 3 has no line \(PPIs and SPIs: 16 to 63\)"):
        guest.vgic.set_irq_line(3, True, 2)
    with pytest.raises(ValueError, match="d1v0: interrupt 64 has no line"):
        guest.vgic.set_irq_line(64, True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("line"), st.integers(0, 30), st.booleans()),
            st.tuples(st.just("sgi"), st.integers(0, 15), st.integers(0, 1)),
            st.tuples(st.just("run"), st.integers(0, 1), st.integers(0, 20)),
            st.tuples(st.just("priority"), st.integers(0, 30), st.sampled_from([0x20, 0x60, 0xA0])),
            st.tuples(st.just("route"), st.integers(0, 30), st.integers(0, 1)),
        ),
        max_size=60,
    )
)
def test_no_interrupt_is_lost_or_invented(steps: list[tuple[str, int, int]]) -> None:
    """Edges of SPIs and SGIs, each delivered at least once after it was raised, and never without being raised."""
    guest = Guest(vcpus=2)
    guest.vgic.distributor.write(0xC08, 4, 0xAAAA_AAAA, 0)
    guest.vgic.distributor.write(0xC0C, 4, 0xAAAA_AAAA, 0)
    owed: set[tuple[int, int]] = set()  # (vCPU for SGIs or -1, INTID)
    lines = [False] * 31
    running: dict[int, list[int]] = {0: [], 1: []}

    def take(vcpu: int, intid: int) -> None:
        key = (vcpu if intid < 16 else -1, intid)
        assert key in owed, f"{intid} was not raised"
        owed.discard(key)

    def run(vcpu: int, steps: int, drain: bool = False) -> None:
        guest.enter(vcpu)
        for _ in range(steps):
            intid = guest.acknowledge()
            if intid != SPURIOUS:
                take(vcpu, intid)
                running[vcpu].append(intid)
            elif running[vcpu]:
                guest.end(running[vcpu].pop())
            elif not guest.ich.maintenance_pending():
                break
            if guest.ich.maintenance_pending():
                guest.exit(vcpu)
                guest.enter(vcpu)
        guest.exit(vcpu)

    for kind, a, b in steps:
        if kind == "line":
            if b and not lines[a]:
                owed.add((-1, 32 + a))
            lines[a] = bool(b)
            guest.vgic.set_irq_line(32 + a, bool(b))
        elif kind == "sgi":
            owed.add((b, a))
            guest.vgic.send_sgi(1 - b, a << 24 | 1 << b)
        elif kind == "run":
            run(a, b)
        elif kind == "priority":
            guest.vgic.distributor.write(0x420 + a, 1, b, 0)
        else:
            guest.vgic.distributor.write(0x6100 + 8 * a, 8, b, 0)
    for _ in range(3):
        run(0, 500)
        run(1, 500)
    assert not owed
    assert not any(irq.active for vcpu in guest.vgic.vcpus for irq in vcpu.irqs)
