"""What would corrupt a guest on Unicorn does not: each test fails without the engine's countermeasure."""

from __future__ import annotations

import ctypes
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import guest_asm as a
import pytest
from realm_box import CODE, DATA, PAGE, VECTORS, RealmBox

from machine.cpu import CONTEXT_SIZE, ExitKind, Regime
from machine.cpu.unicorn_core import writes_back
from machine.cpu.unicorn_library import TLB
from machine.ich import ICH_HCR, ICH_VMCR, make_lr

EL1_SYNC, EL1_IRQ = VECTORS + 0x200, VECTORS + 0x280
MMIO = 0x9000_0000


@pytest.fixture
def box() -> Iterator[RealmBox]:
    with RealmBox() as made:
        yield made


def ec(esr: int) -> int:
    return esr >> 26


@contextmanager
def kicked_every(box: RealmBox, seconds: float) -> Iterator[None]:
    """Kicks from another thread while the body runs."""
    done = threading.Event()

    def kick() -> None:
        while not done.wait(seconds):
            box.engine.kick()

    thread = threading.Thread(target=kick)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_stop_never_repeats_a_load_or_a_store(box: RealmBox) -> None:
    """A ring of pointers, followed by one block of 60 loads and stores: a repeated one leaves the ring's rhythm."""
    ring = 60
    for n in range(ring):
        box.memory.write_u64(box.pa[DATA] + 8 * n, DATA + 8 * ((n + 1) % ring))
    counter = 0x800
    block = [a.ldr(1, 1) for _ in range(ring)]
    increment = [a.ldr(3, 2), a.add(3, 3, 1), a.str_(3, 2)]
    box.put(CODE, a.mov(1, DATA), a.mov(2, DATA + counter))
    loop = CODE + 4 * len([*a.mov(1, DATA), *a.mov(2, DATA + counter)])
    body = [*block, *increment, a.add(4, 4, 1)]
    box.put(loop, *body, a.b(-len(body)))
    with kicked_every(box, 0.0005):
        for _ in range(300):
            assert box.run().kind is ExitKind.IRQ
            assert box.engine.pc in (CODE, loop)
            if box.engine.pc == loop:
                assert box.engine.gpr(1) == DATA
                assert box.memory.read_u64(box.pa[DATA] + counter) == box.engine.gpr(4)
    assert box.engine.gpr(4) > 300


def test_a_stop_after_pc_was_written_resumes_at_that_pc(box: RealmBox) -> None:
    box.put(CODE, a.smc(), a.add(1, 1, 1), a.b(-2))
    with kicked_every(box, 0.001):
        count = 0
        while count < 2000:
            taken = box.run()
            if taken.kind is ExitKind.SYNC:
                assert box.engine.pc == CODE
                assert box.engine.gpr(1) == count
                count += 1
                box.engine.pc = CODE + 4


def race_kicks_with_entries(box: RealmBox, count: int) -> None:
    """Each of ``count`` kicks must be answered by one IRQ, wherever in the entry it falls."""
    box.put(CODE, a.b())
    answered = 0
    failures: list[str] = []
    chance = random.Random(1)

    def kick() -> None:
        for n in range(count):
            for _ in range(chance.randrange(40)):
                pass
            box.engine.kick()
            patience = time.monotonic() + 10
            while answered <= n:
                if time.monotonic() > patience:
                    failures.append(f"kick {n} was lost")
                    box.engine.kick()
                    return
                time.sleep(0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=kick)
    thread.start()
    try:
        while answered < count and not failures:
            assert box.run().kind is ExitKind.IRQ
            answered += 1
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert failures == []


def test_no_kick_is_lost_that_races_an_entry(box: RealmBox) -> None:
    race_kicks_with_entries(box, 2000)


def test_a_stop_request_that_the_library_forgets_is_repeated(box: RealmBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kick arrives after the run loop has looked and before uc_emu_start clears the request."""
    box.put(CODE, a.b())
    stopper, emulate = box.engine._stopper, box.engine._lib.uc_emu_start

    def late(*args: int) -> int:
        stopper.kick()
        time.sleep(0.005)  # the stopping thread asks now: uc_emu_start will forget it
        return emulate(*args)

    monkeypatch.setattr(box.engine._lib, "uc_emu_start", late)
    before = time.monotonic()
    assert box.run().kind is ExitKind.IRQ
    assert time.monotonic() - before < 5


def test_code_that_the_host_replaced_runs_after_invalidation(box: RealmBox) -> None:
    box.put(CODE, a.mov(1, 1), a.smc())
    box.run()
    box.put(CODE, a.mov(1, 2))
    box.engine.invalidate_code(box.pa[CODE], 4)
    box.engine.pc = CODE
    box.run()
    assert box.engine.gpr(1) == 2


@pytest.mark.parametrize("size", [0x1000, 8 << 20])
def test_invalidating_a_granule_or_all_memory_drops_its_code(box: RealmBox, size: int) -> None:
    box.put(CODE, a.mov(1, 1), a.smc())
    box.run()
    box.put(CODE, a.mov(1, 3))
    box.engine.invalidate_code(box.pa[CODE] if size == 0x1000 else box.memory.dram_base, size)
    box.engine.pc = CODE
    box.run()
    assert box.engine.gpr(1) == 3


def test_invalidating_one_granule_leaves_other_granules_translated(box: RealmBox) -> None:
    """Otherwise the test above would pass with an invalidation of everything; stale code shows the difference."""
    box.put(CODE, a.mov(1, 1), a.smc())
    box.run()
    box.put(CODE, a.mov(1, 2))
    box.engine.invalidate_code(box.pa[DATA], 0x1000)
    box.engine.pc = CODE
    box.run()
    assert box.engine.gpr(1) == 1


def test_a_guests_own_writes_to_code_are_seen(box: RealmBox) -> None:
    patched = CODE + 0x100
    box.put(patched, a.mov(1, 1), a.RET)
    box.put(CODE, a.mov(2, patched), a.blr(2), a.add(5, 1, 0), a.mov(3, a.mov(1, 2)[0]), a.str_w(3, 2), a.ISB,
            a.blr(2), a.smc())
    assert ec(box.run().esr) == 0x17
    assert (box.engine.gpr(5), box.engine.gpr(1)) == (1, 2)


@pytest.mark.parametrize("others", [0, 3])
def test_code_that_a_guest_changes_again_and_again_runs_as_changed(box: RealmBox, others: int) -> None:
    """A write to code opens its page's TLB entry for further writes; a new translation has to close it (native.c).

    Code that stays keeps the page marked as one with code. ``others``: pages with the same index in the TLB that are
    written after the code, so that the entry is in the victim buffer when the translation is made.
    """
    stride = 256 << TLB.page_bits  # the TLB begins with 256 entries
    for n in range(1, others + 1):
        box.map(DATA + n * stride, box.take())
    evict = [word for n in range(1, others + 1) for word in (*a.mov(6, DATA + n * stride), a.str_w(3, 6))]
    box.put(DATA, a.mov(1, 0), a.RET, a.mov(7, 7), a.RET)
    words = [*a.mov(2, DATA), *a.mov(8, DATA + 8), a.blr(8)]
    for value in (1, 2, 3, 4):
        words += [*a.mov(3, a.mov(1, value)[0]), a.str_w(3, 2), *evict, a.ISB, a.blr(2), a.add(10 + value, 1, 0)]
    box.put(CODE, words, a.smc())
    assert ec(box.run().esr) == 0x17
    assert [box.engine.gpr(10 + value) for value in (1, 2, 3, 4)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("instruction", "valid"),
    [
        (a.ldr(2, 1), True),
        (a.ldur(2, 1, 8), True),
        (a.ldtr(2, 1, 8), True),
        (a.ldr_reg(2, 1, 5), True),
        (a.ldr_post(2, 1, 8), False),
        (a.ldr_pre(2, 1, 8), False),
        (a.str_post(2, 1, -8), False),
        (a.strb_pre(2, 1, 1), False),
        (a.stp(2, 3, 1), False),
    ],
)
def test_a_write_back_access_to_a_device_has_no_valid_syndrome(
    box: RealmBox, instruction: int, valid: bool
) -> None:
    box.put(CODE, a.mov(1, MMIO), instruction)
    taken = box.run()
    assert ec(taken.esr) == 0x24
    assert bool(taken.esr >> 24 & 1) is valid
    if not valid:
        assert taken.esr >> 14 & 0x7FF == 0
    assert box.engine.gpr(1) == MMIO


def test_only_pre_and_post_index_forms_write_back() -> None:
    written = [a.ldr_post(2, 1, 8), a.ldr_pre(2, 1, 8), a.str_post(2, 1, 8), a.strb_pre(2, 1, 1)]
    kept = [a.ldr(2, 1), a.ldur(2, 1, 8), a.ldtr(2, 1, 8), a.ldr_reg(2, 1, 3), a.str_(2, 1), a.ldxr(2, 1)]
    assert all(map(writes_back, written))
    assert not any(map(writes_back, kept))


@pytest.mark.parametrize(
    ("prepare", "status"),
    [
        (lambda box, table: box.unmap(table), 0x07),
        (lambda box, table: box.map(table, box.take(), PAGE & ~(1 << 10)), 0x0B),
        (lambda box, table: box.map(table, box.take(), PAGE & ~(1 << 6)), 0x0F),
        (lambda box, table: box.memory.write_u64(box.entry(table, 2), 0), 0x06),
        (lambda box, table: box.memory.write_u64(box.entry(table, 1), 0), 0x05),
    ],
    ids=["unmapped", "no access flag", "not readable", "no level 3 table", "no level 2 table"],
)
def test_the_status_of_a_fault_on_a_stage_1_walk_is_that_of_stage_2(
    box: RealmBox, prepare: object, status: int
) -> None:
    table = 0x1_4000_3000
    assert callable(prepare)
    prepare(box, table)
    cpu = box.engine
    cpu.set_sysreg("TCR_EL1", 25 | 1 << 23 | 5 << 32)  # 39 bits (start level 1), TTBR0 only
    cpu.set_sysreg("TTBR0_EL1", table)
    cpu.set_sysreg("SCTLR_EL1", cpu.sysreg("SCTLR_EL1") | 1)
    taken = box.run()
    assert (ec(taken.esr), taken.esr >> 7 & 1, taken.esr & 0x3F) == (0x20, 1, status)
    assert taken.hpfar == table >> 8
    assert taken.far == CODE


def two_contexts(box: RealmBox) -> tuple[bytearray, bytearray]:
    """Context 0 has its MMU off; context 1 maps the DATA address to another page through stage 1."""
    other, table = 0x3000, 0x4000
    for ipa in (other, table, table + 0x1000, table + 0x2000):
        box.pa[ipa] = box.take()
        box.map(ipa, box.pa[ipa])
    box.memory.write_u64(box.pa[DATA], 100)
    box.memory.write_u64(box.pa[other], 200)
    leaf = 1 << 10 | 3 << 8 | 3
    box.memory.write_u64(box.pa[table], table + 0x1000 | 3)
    box.memory.write_u64(box.pa[table + 0x1000], table + 0x2000 | 3)
    for va, ipa in ((VECTORS, VECTORS), (CODE, CODE), (DATA, other)):
        box.memory.write_u64(box.pa[table + 0x2000] + (va >> 9), ipa | leaf)
    box.put(CODE, a.mov(1, DATA), a.ldr(2, 1), a.smc(), a.b(-2))
    cpu = box.engine
    images = bytearray(CONTEXT_SIZE), bytearray(CONTEXT_SIZE)
    cpu.save(memoryview(images[0]))
    cpu.set_sysreg("TCR_EL1", 25 | 1 << 23 | 5 << 32)
    cpu.set_sysreg("TTBR0_EL1", table)
    cpu.set_sysreg("MAIR_EL1", 0xFF)
    cpu.set_sysreg("SCTLR_EL1", cpu.sysreg("SCTLR_EL1") | 1)
    cpu.save(memoryview(images[1]))
    return images


def test_contexts_on_one_engine_do_not_see_each_others_translations(box: RealmBox) -> None:
    images = two_contexts(box)
    for _ in range(3):
        for image, expected in zip(images, (100, 200), strict=True):
            box.engine.restore(memoryview(image))
            assert ec(box.run().esr) == 0x17
            assert box.engine.gpr(2) == expected
            box.engine.pc += 4
            box.engine.save(memoryview(image))


def test_a_translation_register_written_from_outside_takes_effect_at_once(box: RealmBox) -> None:
    _, image = two_contexts(box)
    box.engine.restore(memoryview(image))
    box.run()
    assert box.engine.gpr(2) == 200
    box.engine.set_sysreg("SCTLR_EL1", box.engine.sysreg("SCTLR_EL1") & ~1)
    box.engine.pc += 4
    box.run()
    assert box.engine.gpr(2) == 100


def test_another_stage_2_root_does_not_see_the_old_ones_translations(box: RealmBox) -> None:
    box.memory.write_u64(box.pa[DATA], 100)
    box.put(CODE, a.mov(1, DATA), a.ldr(2, 1), a.smc(), a.b(-2))
    box.run()
    first, root = box.regime, box.root
    box.root = box.take(16)
    fresh = box.take()
    box.memory.write_u64(fresh, 300)
    for ipa, pa in ((CODE, box.pa[CODE]), (DATA, fresh)):
        box.map(ipa, pa)
    second = Regime(box.root, first.vtcr_el2, first.hcr_el2, first.vmpidr_el2)
    assert root != box.root
    for regime, expected in ((second, 300), (first, 100), (second, 300)):
        box.engine.pc += 4
        box.engine.run(regime)
        assert box.engine.gpr(2) == expected


def test_an_unmapped_page_is_not_reached_once_the_tlb_is_flushed(box: RealmBox) -> None:
    box.put(CODE, a.mov(1, DATA), a.ldr(2, 1), a.smc(), a.b(-2))
    box.run()
    box.unmap(DATA)
    box.engine.flush_tlb()
    box.engine.pc += 4
    assert ec(box.run().esr) == 0x24


def test_the_exclusive_monitor_does_not_survive_a_switch(box: RealmBox) -> None:
    box.put(CODE, a.mov(1, DATA), a.ldxr(2, 1), a.smc(), a.stxr(3, 2, 1), a.smc())
    box.run()
    image = bytearray(CONTEXT_SIZE)
    box.engine.save(memoryview(image))
    box.engine.restore(memoryview(image))
    box.engine.pc += 4
    box.run()
    assert box.engine.gpr(3) == 1


def test_a_pending_interrupt_line_does_not_leak_into_another_context(box: RealmBox) -> None:
    box.put(EL1_IRQ, a.smc(0xBAD))
    box.put(CODE, a.UNMASK_IRQ, a.NOP, a.smc(1))
    unmasked = bytearray(CONTEXT_SIZE)
    box.engine.save(memoryview(unmasked))
    ich = box.engine.ich
    ich.hcr, ich.vmcr = ICH_HCR.EN, ICH_VMCR.VENG1 | 0xFF << ICH_VMCR.VPMR_SHIFT
    ich.lr[0] = make_lr(40, 0x80)
    box.put(CODE + 0x100, a.smc(2))
    box.engine.pc = CODE + 0x100
    assert box.run().esr & 0xFFFF == 2  # masked, but the line is up
    ich.lr[0] = 0
    box.engine.restore(memoryview(unmasked))
    assert box.run().esr & 0xFFFF == 1


def test_a_line_saved_as_pending_is_taken_after_a_restore(box: RealmBox) -> None:
    box.put(EL1_IRQ, a.smc(0x40))
    box.put(CODE, a.smc(1), a.UNMASK_IRQ, a.b())
    ich = box.engine.ich
    ich.hcr, ich.vmcr = ICH_HCR.EN, ICH_VMCR.VENG1 | 0xFF << ICH_VMCR.VPMR_SHIFT
    ich.lr[0] = make_lr(40, 0x80)
    box.run()
    box.engine.pc += 4
    image = bytearray(CONTEXT_SIZE)
    box.engine.save(memoryview(image))
    lr, ich.lr[0] = ich.lr[0], 0
    box.engine.reset()
    box.engine.pc = CODE
    box.run()
    ich.lr[0] = lr
    box.engine.restore(memoryview(image))
    assert box.run().esr & 0xFFFF == 0x40


def test_a_breakpoint_that_the_guest_sets_changes_nothing_and_puts_no_pointer_into_its_context(box: RealmBox) -> None:
    dbgbvr0, dbgbcr0 = 0xD5100080, 0xD51000A0  # msr DBGBVR0_EL1, x0; msr DBGBCR0_EL1, x0
    target = CODE + 0x100
    box.put(target, a.add(9, 31, 0), a.smc(5))
    box.put(CODE, a.mov(0, target), dbgbvr0, a.mov(0, 0x1E5), dbgbcr0, a.mov(0, 1 << 15 | 1 << 13),
            a.msr("MDSCR_EL1", 0), a.mov(0, 0), 0xD5101080, a.ISB, a.mov(2, target), a.blr(2))
    box.put(EL1_SYNC, a.smc(0xBAD))
    assert box.run().esr & 0xFFFF == 5
    env = box.engine._env
    library_pointers = (ctypes.c_uint64 * 16).from_address(env + 12600 - 128)
    assert not any(library_pointers)


def test_thumb_code_cannot_be_reached(box: RealmBox) -> None:
    """Its translation would switch exits after loads and stores on again; ID registers say it does not exist."""
    box.put(CODE, a.mrs(1, "ID_AA64PFR0_EL1"), a.smc())
    box.run()
    assert box.engine.gpr(1) & 0xFF == 0x11


def test_accesses_to_ram_take_the_fast_path(box: RealmBox) -> None:
    """A memory hook would cost a factor of three: 20 million loads must take well under two seconds."""
    loop = [a.ldr(2, 1) for _ in range(20)]
    start = [*a.mov(1, DATA), *a.mov(3, 1_000_000)]
    box.put(CODE, start, loop, a.sub(3, 3, 1), a.cbnz(3, -21), a.smc())
    before = time.perf_counter()
    assert ec(box.run().esr) == 0x17
    assert time.perf_counter() - before < 1.5
