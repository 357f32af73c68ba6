"""Physical memory and the non-secure view of it."""

from __future__ import annotations

import os

import pytest

from machine.board import SMC_UNKNOWN, Board
from machine.memory import (
    DRAM_BASE,
    GRANULE_SIZE,
    BusError,
    GranuleProtectionFault,
    NonSecureView,
    Pas,
    PhysicalMemory,
)


@pytest.fixture
def memory() -> PhysicalMemory:
    return PhysicalMemory.create(16 << 20)


def test_a_second_mapping_of_the_descriptor_sees_the_same_memory_and_the_same_protection_table(
    memory: PhysicalMemory,
) -> None:
    other = PhysicalMemory.attach(memory.fd)
    memory.write(DRAM_BASE + 0x1234, b"granule")
    memory.gpt[7] = Pas.REALM
    assert other.read(DRAM_BASE + 0x1234, 7) == b"granule"
    assert other.gpt[7] == Pas.REALM
    assert (other.dram_size, other.firmware_size) == (memory.dram_size, memory.firmware_size)


def test_dram_starts_non_secure_and_the_carve_out_starts_in_the_realm_pas(memory: PhysicalMemory) -> None:
    first = memory.dram_size // GRANULE_SIZE
    assert set(memory.gpt[:first]) == {Pas.NON_SECURE}
    assert set(memory.gpt[first:]) == {Pas.REALM}
    assert memory.firmware_base == memory.dram_top


@pytest.mark.parametrize("access", ["read", "write", "read_u64", "write_u64", "zero", "window", "punch", "populate"])
def test_the_non_secure_view_refuses_every_kind_of_access_to_a_realm_granule(
    memory: PhysicalMemory, access: str
) -> None:
    view = NonSecureView(memory)
    pa = DRAM_BASE + 3 * GRANULE_SIZE
    memory.write(pa, b"secret")
    memory.gpt[3] = Pas.REALM
    arguments = {
        "read": (pa, 1),
        "write": (pa, b"x"),
        "read_u64": (pa,),
        "write_u64": (pa, 1),
        "zero": (pa, GRANULE_SIZE),
        "window": (pa, GRANULE_SIZE),
        "punch": (pa, GRANULE_SIZE),
        "populate": (pa, GRANULE_SIZE),
    }[access]
    with pytest.raises(GranuleProtectionFault, match=f"granule {pa:#x} is not in the Non-secure PAS") as fault:
        getattr(view, access)(*arguments)
    assert fault.value.pa == pa
    assert memory.read(pa, 6) == b"secret"


def test_a_range_that_ends_in_a_realm_granule_is_refused_whole_and_names_that_granule(memory: PhysicalMemory) -> None:
    view = NonSecureView(memory)
    memory.gpt[2] = Pas.REALM
    with pytest.raises(GranuleProtectionFault) as fault:
        view.write(DRAM_BASE, bytes(b"x" * (2 * GRANULE_SIZE + 1)))
    assert fault.value.pa == DRAM_BASE + 2 * GRANULE_SIZE
    assert memory.read(DRAM_BASE, 4) == bytes(4)


def test_copying_from_or_to_a_realm_granule_is_refused(memory: PhysicalMemory) -> None:
    view = NonSecureView(memory)
    memory.gpt[1] = Pas.REALM
    for destination, source in ((0, 1), (1, 0)):
        with pytest.raises(GranuleProtectionFault):
            view.copy(DRAM_BASE + destination * GRANULE_SIZE, DRAM_BASE + source * GRANULE_SIZE, GRANULE_SIZE)


@pytest.mark.parametrize("pa", [0, DRAM_BASE - 1, DRAM_BASE + (16 << 20)])
def test_an_access_outside_dram_is_a_bus_error(memory: PhysicalMemory, pa: int) -> None:
    with pytest.raises(BusError):
        NonSecureView(memory).read(pa, 1)


def test_an_access_that_runs_past_the_end_of_dram_does_not_reach_the_carve_out(memory: PhysicalMemory) -> None:
    with pytest.raises(BusError):
        NonSecureView(memory).read(memory.dram_top - 4, 8)


def test_a_granule_is_known_to_be_zero_until_something_is_written_and_again_after_a_punch(
    memory: PhysicalMemory,
) -> None:
    view = NonSecureView(memory)
    pa = DRAM_BASE + 5 * GRANULE_SIZE
    assert memory.known_zero(pa)
    view.write(pa + 8, b"\x01")
    assert not memory.known_zero(pa) and memory.known_zero(pa + GRANULE_SIZE)
    view.punch(pa, GRANULE_SIZE)
    assert memory.known_zero(pa) and memory.read(pa, GRANULE_SIZE) == bytes(GRANULE_SIZE)


@pytest.mark.parametrize("change", ["zero", "punch"])
@pytest.mark.parametrize(("start", "size"), [(8, GRANULE_SIZE), (0, GRANULE_SIZE - 8)])
def test_part_of_a_granule_is_not_cleared_as_if_it_were_a_whole_one(
    memory: PhysicalMemory, change: str, start: int, size: int
) -> None:
    memory.write(DRAM_BASE, b"x" * 2 * GRANULE_SIZE)
    with pytest.raises(ValueError, match="is not whole granules"):
        getattr(NonSecureView(memory), change)(DRAM_BASE + start, size)
    assert memory.read(DRAM_BASE, 2 * GRANULE_SIZE) == b"x" * 2 * GRANULE_SIZE
    assert not memory.known_zero(DRAM_BASE)


def test_copying_a_known_zero_granule_clears_what_was_at_the_destination(memory: PhysicalMemory) -> None:
    view = NonSecureView(memory)
    view.write(DRAM_BASE, b"old")
    view.copy(DRAM_BASE, DRAM_BASE + GRANULE_SIZE, GRANULE_SIZE)
    assert memory.read(DRAM_BASE, 3) == bytes(3) and memory.known_zero(DRAM_BASE)


def test_an_unaligned_copy_moves_the_bytes_and_marks_the_destination(memory: PhysicalMemory) -> None:
    view = NonSecureView(memory)
    view.write(DRAM_BASE + 100, b"abcdef")
    view.copy(DRAM_BASE + GRANULE_SIZE + 1, DRAM_BASE + 100, 6)
    assert view.read(DRAM_BASE + GRANULE_SIZE + 1, 6) == b"abcdef"
    assert not view.known_zero(DRAM_BASE + GRANULE_SIZE)


def test_punching_gives_host_memory_back(memory: PhysicalMemory) -> None:
    before = os.fstat(memory.fd).st_blocks
    memory.populate(DRAM_BASE, 4 << 20)
    assert os.fstat(memory.fd).st_blocks - before >= (4 << 20) // 512
    memory.punch(DRAM_BASE, 4 << 20)
    # The tags of the punched granules may have become a page of their own.
    assert os.fstat(memory.fd).st_blocks <= before + 16


def test_a_board_without_firmware_answers_not_supported(memory: PhysicalMemory) -> None:
    assert Board(memory).smc(0xC400_0150, 0x2_0000) == SMC_UNKNOWN
