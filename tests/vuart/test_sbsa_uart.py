"""The SBSA UART as a guest driver and the console back end see it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vuart.sbsa_uart import BACKLOG, IN_RING, OUT_RING, Flag, Interrupt, Register, SbsaUart

EVERYTHING = Interrupt.RX | Interrupt.TX | Interrupt.RT


class Console:
    """A UART with what came out of it, its interrupt line's changes, and its log. ``room`` limits the sink."""

    def __init__(self) -> None:
        self.printed = b""
        self.room = 1 << 30
        self.line: list[bool] = []
        self.log: list[str] = []
        self.uart = SbsaUart(self._take, self.line.append, self.log.append)

    def _take(self, data: bytes) -> int:
        taken = min(self.room, len(data))
        self.room -= taken
        self.printed += data[:taken]
        return taken

    def get(self, register: Register, size: int = 4) -> int:
        value = self.uart.read(register, size)
        assert value is not None
        return value

    def put(self, register: Register, value: int, size: int = 4) -> None:
        assert self.uart.write(register, size, value)

    def type_in(self, data: bytes) -> None:
        assert self.uart.receive(data) == len(data)

    def read_bytes(self, count: int) -> bytes:
        return bytes(self.get(Register.DR) for _ in range(count))


@pytest.fixture
def console() -> Console:
    return Console()


def test_reset_state_is_empty_rings_and_no_interrupts(console: Console) -> None:
    assert console.get(Register.FR) == Flag.TXFE | Flag.RXFE == 0x90
    assert [console.get(r) for r in (Register.RIS, Register.IMSC, Register.MIS, Register.RSR)] == [0, 0, 0, 0]
    assert not console.uart.irq_level and console.line == []


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_store_to_the_data_register_prints_its_low_byte(console: Console, size: int) -> None:
    console.put(Register.DR, 0x1234_5641, size)
    assert console.printed == b"A"
    assert console.get(Register.FR) & Flag.TXFE


@pytest.mark.parametrize("register", list(Register))
def test_a_64_bit_access_aborts_and_changes_nothing(console: Console, register: Register) -> None:
    assert console.uart.read(register, 8) is None
    assert console.uart.write(register, 8, 0x7F) is False
    assert console.printed == b"" and console.get(Register.IMSC) == 0


@pytest.mark.parametrize("size", [1, 2, 4])
def test_reading_the_interrupt_clear_register_aborts(console: Console, size: int) -> None:
    assert console.uart.read(Register.ICR, size) is None


@pytest.mark.parametrize("offset", [0x24, 0x28, 0x2C, 0x30, 0x01, 0xFE0, 0xFFC])
def test_a_register_outside_the_sbsa_subset_reads_zero_ignores_writes_and_is_logged(
    console: Console, offset: int
) -> None:
    assert console.uart.read(offset, 4) == 0
    assert console.uart.write(offset, 4, 0xFFFF_FFFF)
    assert console.log == [
        f"vpl011: unhandled read offset {offset:#08x}",
        f"vpl011: unhandled write offset {offset:#08x}",
    ]


def test_read_only_registers_ignore_writes_silently(console: Console) -> None:
    for register in (Register.RSR, Register.FR, Register.RIS, Register.MIS):
        console.put(register, 0xFFFF)
    assert console.get(Register.FR) == 0x90 and console.get(Register.RIS) == 0 and console.log == []


def test_typed_bytes_arrive_in_order_and_clear_the_receive_flags_when_read(console: Console) -> None:
    console.type_in(b"ab")
    assert not console.get(Register.FR) & Flag.RXFE
    assert console.get(Register.RIS) == Interrupt.RT
    assert console.read_bytes(1) == b"a"
    assert console.get(Register.RIS) == Interrupt.RT
    assert console.read_bytes(1) == b"b"
    assert console.get(Register.FR) & Flag.RXFE and console.get(Register.RIS) == 0


def test_reading_an_empty_data_register_gives_zero_and_is_logged(console: Console) -> None:
    assert console.get(Register.DR) == 0
    assert console.log == ["vpl011: Unexpected IN ring buffer empty"]


def test_a_nearly_full_input_ring_raises_rx_until_the_guest_has_read_below_the_trigger(console: Console) -> None:
    console.type_in(bytes(1007))
    assert not console.get(Register.RIS) & Interrupt.RX
    console.type_in(bytes(1))
    assert console.get(Register.RIS) & Interrupt.RX
    console.read_bytes(1)
    assert not console.get(Register.RIS) & Interrupt.RX


def test_a_full_input_ring_shows_rxff_until_a_byte_is_read(console: Console) -> None:
    console.type_in(bytes(IN_RING - 1))
    assert not console.get(Register.FR) & Flag.RXFF
    console.type_in(bytes(1))
    assert console.get(Register.FR) & Flag.RXFF
    console.read_bytes(1)
    assert not console.get(Register.FR) & Flag.RXFF


def test_nothing_typed_beyond_the_ring_is_lost_up_to_the_backlog(console: Console) -> None:
    text = bytes(i % 251 for i in range(IN_RING + BACKLOG))
    assert console.uart.receive(text + b"too much") == len(text)
    assert console.uart.receive(b"x") == 0
    console.read_bytes(1)
    assert console.get(Register.FR) & Flag.RXFF and console.get(Register.RIS) & Interrupt.RX
    assert console.uart.receive(b"yz") == 1
    assert console.read_bytes(len(text)) == text[1:] + b"y"
    assert console.uart.input_waiting == 0


def test_the_line_is_high_exactly_while_an_unmasked_interrupt_is_raised(console: Console) -> None:
    console.type_in(b"x")
    assert not console.uart.irq_level
    console.put(Register.IMSC, Interrupt.RT)
    assert console.uart.irq_level and console.get(Register.MIS) == Interrupt.RT
    console.type_in(b"y")
    console.read_bytes(2)
    assert not console.uart.irq_level
    assert console.line == [True, False]


def test_masking_and_clearing_lower_the_line(console: Console) -> None:
    console.put(Register.IMSC, EVERYTHING)
    console.type_in(b"x")
    console.put(Register.IMSC, 0)
    console.put(Register.IMSC, EVERYTHING)
    console.put(Register.ICR, Interrupt.RT)
    assert console.line == [True, False, True, False] and console.get(Register.RIS) == 0
    console.type_in(b"y")
    assert console.line[-1] is True


def test_input_whose_interrupt_was_cleared_unread_is_announced_again_by_the_next_output(console: Console) -> None:
    console.put(Register.IMSC, Interrupt.RT)
    console.type_in(b"x")
    console.put(Register.ICR, Interrupt.RT)
    console.put(Register.DR, ord("."))
    assert console.uart.irq_level


def test_narrow_stores_to_the_mask_change_only_their_bytes(console: Console) -> None:
    console.put(Register.IMSC, 0x1234_5678)
    console.put(Register.IMSC, 0xFFFF_FF00 | Interrupt.TX, size=1)
    assert console.get(Register.IMSC) == 0x1234_5620
    assert console.get(Register.IMSC, 1) == 0x20 and console.get(Register.IMSC, 2) == 0x5620


def test_transmit_interrupt_is_raised_by_the_first_byte_and_stays_until_cleared(console: Console) -> None:
    console.put(Register.IMSC, Interrupt.TX)
    assert console.line == []
    console.put(Register.DR, ord("x"))
    assert console.line == [True]
    console.put(Register.ICR, Interrupt.TX)
    assert console.line == [True, False]
    console.put(Register.DR, ord("x"))
    assert console.line == [True, False, True]


def test_a_sink_that_takes_nothing_fills_the_output_ring_and_then_bytes_are_dropped(console: Console) -> None:
    console.room = 0
    for count in range(1, OUT_RING + 1):
        console.put(Register.DR, count & 0xFF)
        flags, raised = console.get(Register.FR), console.get(Register.RIS)
        assert not flags & Flag.TXFE
        assert bool(flags & Flag.TXFF) is bool(flags & Flag.BUSY) is (count == OUT_RING)
        assert bool(raised & Interrupt.TX) is (count <= OUT_RING - 16)
    console.put(Register.DR, ord("!"))
    assert console.log == ["vpl011: Unexpected OUT ring buffer full"]
    console.room = 1 << 20
    assert console.uart.drain() == 0
    assert console.printed == bytes(i & 0xFF for i in range(1, OUT_RING + 1))
    assert console.get(Register.FR) == 0x90 and console.get(Register.RIS) == Interrupt.TX


def test_output_stays_in_order_when_the_sink_takes_it_in_parts(console: Console) -> None:
    console.room = 3
    for byte in b"abcdef":
        console.put(Register.DR, byte)
    assert console.printed == b"abc" and console.uart.output_waiting == 3
    console.room = 2
    assert console.uart.drain() == 1
    console.room = 9
    console.put(Register.DR, ord("g"))
    assert console.uart.drain() == 0 and console.printed == b"abcdefg"


class AnyDriver(RuleBasedStateMachine):
    """Whatever a guest and its user do: nothing is lost, nothing is made up, the line is RIS & IMSC."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console()
        self.typed = b""
        self.seen = b""
        self.stored = b""

    @rule(data=st.binary(max_size=1500))
    def user_types(self, data: bytes) -> None:
        self.typed += data[: self.console.uart.receive(data)]

    @rule(count=st.integers(1, 1200))
    def guest_reads(self, count: int) -> None:
        for _ in range(count):
            if self.console.get(Register.FR) & Flag.RXFE:
                break
            self.seen += self.console.read_bytes(1)

    @rule(data=st.binary(max_size=1500))
    def guest_prints(self, data: bytes) -> None:
        for byte in data:
            if self.console.get(Register.FR) & Flag.TXFF:
                break
            self.console.put(Register.DR, byte)
            self.stored += bytes((byte,))

    @rule(room=st.integers(0, 3000))
    def sink_gets_room(self, room: int) -> None:
        self.console.room = room
        self.console.uart.drain()

    @rule(register=st.sampled_from([Register.IMSC, Register.ICR]), value=st.integers(0, 0xFFFF_FFFF))
    def guest_sets_interrupts(self, register: Register, value: int) -> None:
        self.console.put(register, value)

    @invariant()
    def input_and_output_are_prefixes(self) -> None:
        assert self.typed.startswith(self.seen)
        assert self.stored.startswith(self.console.printed)
        assert len(self.stored) - len(self.console.printed) == self.console.uart.output_waiting
        assert len(self.typed) - len(self.seen) == self.console.uart.input_waiting

    @invariant()
    def the_line_follows_the_registers(self) -> None:
        masked = self.console.get(Register.MIS)
        assert masked == self.console.get(Register.RIS) & self.console.get(Register.IMSC)
        assert self.console.uart.irq_level is bool(masked)
        assert self.console.line[-1:] in ([], [bool(masked)])
        changes = self.console.line
        assert all(a != b for a, b in itertools.pairwise(changes))
        flags = self.console.get(Register.FR)
        assert bool(flags & Flag.RXFE) is (self.console.uart.input_waiting == 0)
        assert bool(flags & Flag.RXFF) is (self.console.uart.input_waiting >= IN_RING)


TestAnyDriver = AnyDriver.TestCase
