"""Hypercalls of plain guests: what Linux asks for at boot, and what it must not get."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from plain_board import DATA, RAM, SIZE, PlainBoard, a

from hypervisor.arm.cca.ports import Level, ShutdownReason, VcpuState
from hypervisor.arm.event_channels import Port
from hypervisor.arm.physmap import MAX_GRANT_FRAMES
from machine import clock

MEMORY_OP, XEN_VERSION, CONSOLE_IO, GRANT_TABLE_OP, VCPU_OP, SCHED_OP, EVENT_CHANNEL_OP, PHYSDEV_OP, HVM_OP = (
    12, 17, 18, 20, 24, 29, 32, 33, 34,
)  # fmt: skip
SELF = 0x7FF0
EPERM, ESRCH, EFAULT, EINVAL, ENOSYS = -1, -3, -14, -22, -38
#: A page of RAM that is free for the guest to give away.
PAGE = RAM + 0x30_0000
GRANTS = 0x3800_0000


class Caller(PlainBoard):
    """A plain guest whose vCPU 0 makes hypercalls with MMU off: virtual addresses are guest physical ones."""

    def __init__(self, vcpus: int = 1) -> None:
        super().__init__(vcpus)
        self.vcpu = self.plain.vcpus[0]
        self.vcpu.element.load(self.vcpu)
        self.state = VcpuState.RUNNABLE

    def call(self, number: int, *arguments: int) -> int:
        """X0, signed."""
        self.cpu.set_gprs([*arguments, 0, 0, 0, 0, 0][:5])
        self.cpu.set_gpr(16, number)
        self.state = self.plain.hypercalls.call(self.vcpu)
        value = self.cpu.gpr(0)
        return value - (1 << 64) if value >> 63 else value

    def call_with(self, number: int, operation: int, layout: str, *members: int) -> int:
        """A call with a structure as its argument."""
        self.write(DATA, struct.pack(layout, *members))
        return self.call(number, operation, DATA)

    def result(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.read(DATA, struct.calcsize(layout)))

    def add_to_physmap(self, space: int, index: int, gpa: int, domid: int = SELF) -> int:
        return self.call_with(MEMORY_OP, 7, "<HHIQQ", domid, 0, space, index, gpa >> 12)

    def share_info(self) -> int:
        """Map the shared page; its guest address."""
        assert self.add_to_physmap(0, 0, PAGE) == 0
        return PAGE


@pytest.fixture
def guest() -> Iterator[Caller]:
    made = Caller(vcpus=2)
    yield made
    made.close()


def test_a_guest_makes_a_hypercall_with_hvc_0xea1() -> None:
    box = PlainBoard()
    box.program(a.mov(16, XEN_VERSION), a.mov(0, 0), a.hvc(0xEA1), a.add(5, 0, 0))
    box.run()
    assert box.cpu.gpr(5) == 4 << 16 | 23
    box.close()


# xen_version


def test_features_say_auto_translated_and_not_direct_mapped(guest: Caller) -> None:
    assert guest.call_with(XEN_VERSION, 6, "<II", 0, 0) == 0
    index, features = guest.result("<II")
    assert index == 0
    assert features == 1 << 0 | 1 << 2 | 1 << 13 | 1 << 14 | 1 << 16
    assert guest.call_with(XEN_VERSION, 6, "<II", 1, 0) == EINVAL


def test_version_texts_fill_their_arrays(guest: Caller) -> None:
    guest.write(DATA, b"\xff" * 1024)
    assert guest.call(XEN_VERSION, 3, DATA) == 0
    assert guest.read(DATA, 1024) == b"xen-3.0-aarch64 ".ljust(1024, b"\0")
    assert guest.call(XEN_VERSION, 7) == 4096


def test_the_guest_can_read_its_uuid(guest: Caller) -> None:
    assert guest.call(XEN_VERSION, 8, DATA) == 0
    assert guest.read(DATA, 16).hex() == "0123456789abcdef0123456789abcdef"


def test_a_pointer_to_nowhere_is_a_fault(guest: Caller) -> None:
    assert guest.call(XEN_VERSION, 6, 0x3000_0000) == EFAULT
    assert guest.call(MEMORY_OP, 7, 0x3000_0000) == EFAULT
    assert guest.call(SCHED_OP, 2, 0x3000_0000) == EFAULT


# memory_op


def test_the_shared_page_replaces_the_ram_that_the_guest_gives_for_it(guest: Caller) -> None:
    guest.write(PAGE, b"guest")
    guest.write(PAGE + 0x1000, b"next")
    assert guest.add_to_physmap(0, 0, PAGE) == 0
    assert guest.read(PAGE, 5) == bytes(5)
    assert guest.read(PAGE + 0x1000, 4) == b"next"


def test_the_shared_page_has_the_wall_clock(guest: Caller) -> None:
    base = guest.share_info() + 1072
    version, seconds, nanoseconds, high = struct.unpack("<4I", guest.read(base, 16))
    assert version % 2 == 0
    assert (high << 32 | seconds, nanoseconds) == (1_700_000_000, 500_000_000)


def test_a_special_page_has_one_place_at_a_time(guest: Caller) -> None:
    guest.share_info()
    assert guest.add_to_physmap(0, 0, PAGE + 0x1000) == 0
    assert guest.plain.p2m.translate(PAGE) is None
    assert guest.plain.p2m.translate(PAGE + 0x1000) is not None


def test_a_removed_page_is_gone(guest: Caller) -> None:
    guest.share_info()
    assert guest.call_with(MEMORY_OP, 15, "<H6xQ", SELF, PAGE >> 12) == 0
    assert guest.plain.p2m.translate(PAGE) is None
    assert guest.call_with(MEMORY_OP, 15, "<H6xQ", SELF, PAGE >> 12) == EINVAL


def test_grant_frames_are_mapped_where_the_guest_wants_them(guest: Caller) -> None:
    for index in (3, 2, 1, 0):
        assert guest.add_to_physmap(1, index, GRANTS + index * 4096) == 0
    pages = {guest.pa(GRANTS + index * 4096) for index in range(4)}
    assert len(pages) == 4
    assert guest.add_to_physmap(1, MAX_GRANT_FRAMES, GRANTS) == EINVAL


@pytest.mark.parametrize(
    ("space", "index", "gpa", "domid", "error"),
    [
        (0, 1, PAGE, SELF, EINVAL),
        (0, 0, 1 << 48, SELF, EINVAL),
        (0, 0, 1 << 63, SELF, EINVAL),
        (2, 0, PAGE, SELF, ENOSYS),
        (4, 0, PAGE, SELF, ENOSYS),
        (0, 0, PAGE, 9, ESRCH),
    ],
    ids=["second shared page", "beyond 48 bits", "far beyond", "gmfn", "foreign", "another domain"],
)
def test_what_cannot_be_mapped(guest: Caller, space: int, index: int, gpa: int, domid: int, error: int) -> None:
    assert guest.add_to_physmap(space, index, gpa, domid) == error
    assert guest.plain.p2m.translate(PAGE) is not None


def test_the_guest_learns_how_much_memory_it_has(guest: Caller) -> None:
    assert guest.call_with(MEMORY_OP, 3, "<H", SELF) == SIZE >> 12
    assert guest.call_with(MEMORY_OP, 4, "<H", 1) == SIZE >> 12
    assert guest.call_with(MEMORY_OP, 3, "<H", 2) == ESRCH
    assert guest.call(MEMORY_OP, 2) == (RAM + SIZE >> 12) - 1


def test_a_host_without_pages_says_so(guest: Caller) -> None:
    guest.pages.alloc(guest.pages.free_pages)
    assert guest.add_to_physmap(1, 5, GRANTS) == -12


def test_a_guest_cannot_spend_the_hosts_memory_on_tables(guest: Caller) -> None:
    answers = {guest.add_to_physmap(0, 0, PAGE + number * (1 << 30)) for number in range(600)}
    assert answers == {0, -12}
    assert len(guest.plain.p2m.tables) == 2 * 256 + 4 * 2
    assert guest.plain.p2m.translate(RAM) is not None


# grant_table_op


def test_the_grant_table_has_version_1_and_a_limit(guest: Caller) -> None:
    assert guest.call_with(GRANT_TABLE_OP, 8, "<I", 1) == 0
    assert guest.call_with(GRANT_TABLE_OP, 8, "<I", 2) == ENOSYS
    assert guest.call_with(GRANT_TABLE_OP, 6, "<H2xIIh2x", SELF, 0, 0, 1) == 0
    assert guest.result("<H2xIIh2x") == (SELF, 1, MAX_GRANT_FRAMES, 0)


def test_setting_the_table_up_grows_it_and_lists_where_its_frames_are(guest: Caller) -> None:
    guest.add_to_physmap(1, 0, GRANTS)
    frames = DATA + 0x100
    assert guest.call_with(GRANT_TABLE_OP, 2, "<H2xIh6xQ", SELF, 2, 9, frames) == 0
    assert guest.result("<H2xIh6xQ") == (SELF, 2, 0, frames)
    assert struct.unpack("<QQ", guest.read(frames, 16)) == (GRANTS >> 12, (1 << 64) - 1)
    assert guest.call_with(GRANT_TABLE_OP, 2, "<H2xIh6xQ", SELF, 65, 0, frames) == EINVAL


# hvm_op


def test_the_event_interrupt_is_ppi_31_and_there_is_no_xenstore_and_no_pv_console(guest: Caller) -> None:
    assert guest.call_with(HVM_OP, 1, "<HHIQ", SELF, 0, 0, 9) == 0
    assert guest.result("<HHIQ")[3] == 2 << 56 | 0x21F
    for index in (1, 2, 17, 18):
        assert guest.call_with(HVM_OP, 1, "<HHIQ", SELF, 0, index, 9) == 0
        assert guest.result("<HHIQ")[3] == 0


def test_a_guest_sets_no_parameters_and_reads_no_others(guest: Caller) -> None:
    assert guest.call_with(HVM_OP, 0, "<HHIQ", SELF, 0, 1, 5) == EPERM
    assert guest.call_with(HVM_OP, 0, "<HHIQ", SELF, 0, 28, 5) == EINVAL
    assert guest.call_with(HVM_OP, 1, "<HHIQ", SELF, 0, 28, 0) == EINVAL
    assert guest.call_with(HVM_OP, 1, "<HHIQ", 3, 0, 0, 0) == ESRCH


# vcpu_op and event channels


def test_a_registered_vcpu_info_gets_the_upcall_and_its_ppi_until_the_guest_clears_it(guest: Caller) -> None:
    guest.share_info()
    info = DATA + 0x800
    guest.write(DATA, struct.pack("<QII", info >> 12, info & 0xFFF, 0))
    assert guest.call(VCPU_OP, 10, 0, DATA) == 0
    assert guest.read(info, 1) == b"\1"
    ppi = guest.vgic.vcpus[0].irqs[31]
    assert ppi.line
    guest.plain.events.sample(0)
    assert ppi.line
    guest.write(info, b"\0")
    guest.plain.events.sample(0)
    assert not ppi.line
    assert guest.call(VCPU_OP, 10, 0, DATA) == EINVAL


@pytest.mark.parametrize(
    ("vcpu", "gpa", "error"),
    [(2, DATA, EINVAL), (0, DATA + 4, EINVAL), (0, DATA + 4096 - 40, EINVAL), (0, 0x3000_0000, EFAULT)],
    ids=["no such vCPU", "not aligned", "over the page's end", "no page"],
)
def test_a_vcpu_info_must_lie_in_a_page_of_the_guest(guest: Caller, vcpu: int, gpa: int, error: int) -> None:
    guest.write(DATA, struct.pack("<QII", gpa >> 12, gpa & 0xFFF, 0))
    assert guest.call(VCPU_OP, 10, vcpu, DATA) == error


def test_the_runstate_area_says_running(guest: Caller) -> None:
    guest.write(DATA, struct.pack("<Q", DATA + 0x100))
    guest.write(DATA + 0x100, b"\xff" * 48)
    assert guest.call(VCPU_OP, 5, 0, DATA) == 0
    state, since, *times = struct.unpack("<i4xQ4Q", guest.read(DATA + 0x100, 48))
    assert state == 0 and since > 0 and times == [0, 0, 0, 0]


def test_which_vcpus_are_up(guest: Caller) -> None:
    assert guest.call(VCPU_OP, 3, 0) == 1
    assert guest.call(VCPU_OP, 3, 1) == 0
    assert guest.call(VCPU_OP, 3, 2) == EINVAL


def _bind_ipi(guest: Caller, vcpu: int) -> int:
    assert guest.call_with(EVENT_CHANNEL_OP, 7, "<II", vcpu, 0) == 0
    return guest.result("<II")[1]


def test_an_event_marks_port_selector_and_upcall_of_its_vcpu(guest: Caller) -> None:
    shared = guest.share_info()
    for _ in range(65):
        port = _bind_ipi(guest, 0)
    assert guest.call_with(EVENT_CHANNEL_OP, 4, "<I", port) == 0
    assert port == 65
    assert guest.word(shared + 48 + 8) == 1 << 1
    assert guest.word(shared + 8) == 1 << 1
    assert guest.read(shared, 1) == b"\1"
    assert guest.vgic.vcpus[0].irqs[31].line


def test_a_masked_event_notifies_only_when_it_is_unmasked(guest: Caller) -> None:
    shared = guest.share_info()
    port = _bind_ipi(guest, 0)
    guest.write(shared + 560, struct.pack("<Q", 1 << port))
    guest.call_with(EVENT_CHANNEL_OP, 4, "<I", port)
    assert guest.plain.events.is_pending(port)
    assert not guest.vgic.vcpus[0].irqs[31].line
    assert guest.call_with(EVENT_CHANNEL_OP, 9, "<I", port) == 0
    assert guest.word(shared + 560) == 0
    assert guest.vgic.vcpus[0].irqs[31].line


def test_ports_are_opened_described_and_closed(guest: Caller) -> None:
    assert guest.call_with(EVENT_CHANNEL_OP, 6, "<HHI", SELF, 0, 0) == 0
    unbound = guest.result("<HHI")[2]
    assert guest.call_with(EVENT_CHANNEL_OP, 1, "<III", 1, 1, 0) == 0
    virq = guest.result("<III")[2]
    assert virq != unbound
    assert guest.call_with(EVENT_CHANNEL_OP, 5, "<H2xIIIII", SELF, virq, 9, 9, 9, 9) == 0
    assert guest.result("<H2xIIIII") == (SELF, virq, 4, 1, 1, 0)
    assert guest.call_with(EVENT_CHANNEL_OP, 8, "<II", virq, 0) == 0
    assert guest.call_with(EVENT_CHANNEL_OP, 3, "<I", virq) == 0
    assert guest.call_with(EVENT_CHANNEL_OP, 3, "<I", virq) == EINVAL
    assert guest.call_with(EVENT_CHANNEL_OP, 5, "<H2xIIIII", SELF, virq, 9, 9, 9, 9) == 0
    assert guest.result("<H2xIIIII") == (SELF, virq, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("operation", "layout", "members"),
    [
        (4, "<I", (77,)),
        (9, "<I", (5000,)),
        (7, "<II", (2, 0)),
        (1, "<III", (24, 0, 0)),
        (8, "<II", (77, 0)),
        (5, "<H2xIIIII", (SELF, 4096, 0, 0, 0, 0)),
    ],
)
def test_ports_and_vcpus_that_do_not_exist_are_refused(
    guest: Caller, operation: int, layout: str, members: tuple[int, ...]
) -> None:
    assert guest.call_with(EVENT_CHANNEL_OP, operation, layout, *members) == EINVAL


def test_there_are_4095_ports(guest: Caller) -> None:
    guest.plain.events.ports = {number: Port(1) for number in range(1, 4096)}
    assert guest.call_with(EVENT_CHANNEL_OP, 7, "<II", 0, 0) == -28


# sched_op


@pytest.mark.parametrize("reason", [ShutdownReason.POWEROFF, ShutdownReason.REBOOT, ShutdownReason.CRASH])
def test_a_shutdown_has_the_guests_reason(guest: Caller, reason: ShutdownReason) -> None:
    guest.call_with(SCHED_OP, 2, "<I", reason)
    assert guest.state is VcpuState.PARKED
    assert guest.reasons == [reason]


def test_a_suspend_is_refused(guest: Caller) -> None:
    assert guest.call_with(SCHED_OP, 2, "<I", 2) == EINVAL
    assert guest.state is VcpuState.RUNNABLE and guest.reasons == []


def test_yield_and_block(guest: Caller) -> None:
    assert guest.call(SCHED_OP, 0) == 0
    assert guest.state is VcpuState.YIELDED
    assert guest.call(SCHED_OP, 1) == 0
    assert guest.state is VcpuState.BLOCKED


def test_a_poll_ends_with_a_masked_event_on_its_port(guest: Caller) -> None:
    shared = guest.share_info()
    port = _bind_ipi(guest, 0)
    guest.write(shared + 560, struct.pack("<Q", 1 << port))
    guest.write(DATA + 0x100, struct.pack("<I", port))
    assert guest.call_with(SCHED_OP, 3, "<QI4xQ", DATA + 0x100, 1, 0) == 0
    guest.vcpu.state = guest.state
    assert guest.state is VcpuState.BLOCKED and not guest.vcpu.poll()
    guest.plain.events.raise_port(port)
    assert guest.vcpu.state is VcpuState.RUNNABLE
    assert guest.call_with(SCHED_OP, 3, "<QI4xQ", DATA + 0x100, 1, 0) == 0
    assert guest.state is VcpuState.RUNNABLE


def test_a_poll_ends_at_its_time(guest: Caller) -> None:
    at = clock.now() + clock.COUNTER_FREQUENCY // 100
    guest.call_with(SCHED_OP, 3, "<QI4xQ", 0, 0, at * clock.NS_PER_TICK)
    guest.vcpu.state = guest.state
    assert guest.vcpu.state is VcpuState.BLOCKED
    assert guest.vcpu.deadline == at
    guest.cpu.wait(at)
    assert guest.vcpu.poll()
    guest.call_with(SCHED_OP, 3, "<QI4xQ", 0, 0, 1)
    assert guest.state is VcpuState.RUNNABLE


def test_a_poll_of_too_many_ports_or_of_one_that_cannot_be(guest: Caller) -> None:
    assert guest.call_with(SCHED_OP, 3, "<QI4xQ", DATA, 129, 0) == EINVAL
    guest.write(DATA + 0x100, struct.pack("<I", 4096))
    assert guest.call_with(SCHED_OP, 3, "<QI4xQ", DATA + 0x100, 1, 0) == EINVAL


# console_io, and what is not there


def test_console_output_goes_to_the_log_line_by_line(guest: Caller) -> None:
    guest.write(DATA, b"hello \x1b[1m\r\nwor")
    assert guest.call(CONSOLE_IO, 0, 15, DATA) == 0
    guest.write(DATA, b"ld\n")
    assert guest.call(CONSOLE_IO, 0, 3, DATA) == 0
    assert guest.texts == ["(d1) hello ?[1m", "(d1) world"]
    assert guest.call(CONSOLE_IO, 1, 3, DATA) == EPERM


@pytest.mark.parametrize(
    ("number", "operation"),
    [(PHYSDEV_OP, 25), (13, 0), (21, 0), (35, 0), (999, 0), (EVENT_CHANNEL_OP, 11), (MEMORY_OP, 9), (VCPU_OP, 6)],
)
def test_what_is_not_there_is_enosys_and_logged_once(guest: Caller, number: int, operation: int) -> None:
    assert guest.call(number, operation) == ENOSYS
    assert guest.call(number, operation) == ENOSYS
    assert len(guest.lines) == 1
    level, text = guest.lines[0]
    assert level is Level.GUEST_INFO
    assert f"({number}) operation {operation} is not implemented" in text
