"""The domain table with processes that only listen: what a request does to the table, the memory and other requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hypervisor import channel, consoles, domains
from hypervisor.arm.cca.bringup import CcaHost
from hypervisor.domains import DomainTable
from hypervisor.kconfig import Kconfig
from hypervisor.log import HypervisorLog
from hypervisor.pages import PageAllocator
from hypervisor.refusal import Refusal
from hypervisor.rpc.messages import DomainCreateRequest
from machine.board import Board
from machine.memory import OutOfMemory, PhysicalMemory

MEMORY = 256 << 20


class ListeningProcess:
    """Stands for a domain's process: keeps what it is told and dies when killed."""

    def __init__(
        self,
        memory_fd: int,
        on_message: Callable[[channel.FromDomainMessage], None],
        on_console: Callable[[], None],
        on_death: Callable[[int], None],
    ) -> None:
        self.on_message = on_message
        self.on_console = on_console
        self.on_death = on_death
        self.pid = 4711
        self.alive = True
        self.dead = asyncio.Event()
        self.told: list[channel.ToDomain] = []

    def send(self, message: channel.ToDomain) -> None:
        self.told.append(message)

    def kill(self) -> None:
        if self.alive:
            self.alive = False
            asyncio.get_running_loop().call_soon(self._die)

    def _die(self) -> None:
        self.dead.set()
        self.on_death(-9)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DomainTable:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XL_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(domains, "DomainProcessHandle", ListeningProcess)
    board = Board(PhysicalMemory.create(MEMORY))
    options = Kconfig(arm_cca=True, sbsa_vuart_console=True, arm_cca_realm_debug_vuart=True)
    return DomainTable(board, PageAllocator(board.ns), CcaHost(), options, HypervisorLog())


def _request(name: str = "guest", mib: int = 16) -> DomainCreateRequest:
    uuid = "00000000-0000-0000-0000-000000000001"
    return DomainCreateRequest(name=name, uuid=uuid, max_vcpus=1, max_memkb=mib << 10, realm=True, vuart=True)


def _free(table: DomainTable) -> int:
    return table._pages.free_pages


def _process(table: DomainTable, domid: int) -> ListeningProcess:
    process = table.get(domid).process
    assert isinstance(process, ListeningProcess)
    return process


def _write_console(table: DomainTable, domid: int, text: bytes) -> None:
    path = table.get(domid).console_log
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(text)


async def _beside(work: Awaitable[object]) -> int:
    """Do WORK; how often the event loop turned meanwhile."""
    turns = 0
    task = asyncio.ensure_future(work)
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    task.result()
    return turns


def test_memory_is_taken_and_given_back_in_steps_between_other_requests(
    table: DomainTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domains, "STEP", 0.0)

    async def life() -> None:
        before = _free(table)
        assert await _beside(table.create(_request(mib=128))) > 16
        assert _free(table) == before - (128 << 20) // 4096 - 2
        assert await _beside(table.destroy(1)) > 16
        assert _free(table) == before and table.all() == []

    asyncio.run(life())


def test_a_name_is_taken_from_the_moment_its_memory_is_asked_for(
    table: DomainTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domains, "STEP", 0.0)

    async def race() -> list[object]:
        return list(
            await asyncio.gather(table.create(_request()), table.create(_request()), return_exceptions=True)
        )

    first, second = asyncio.run(race())
    assert isinstance(second, Refusal) and second.code == "name_taken"
    assert table.all() == [first]


def test_memory_that_runs_out_half_way_is_all_given_back_and_the_name_with_it(
    table: DomainTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = table._board.memory
    backed, calls = memory.populate, 0

    def scarce(pa: int, size: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OutOfMemory("the host has none")
        backed(pa, size)

    async def life() -> None:
        before = _free(table)
        monkeypatch.setattr(memory, "populate", scarce)
        with pytest.raises(Refusal, match="cannot get 32768 KiB for domain guest: the host has none") as refused:
            await table.create(_request(mib=32))
        assert refused.value.errno == "ENOMEM"
        assert _free(table) == before and table.all() == []
        await table.create(_request(mib=32))

    asyncio.run(life())


def test_a_process_that_cannot_be_started_costs_nothing(table: DomainTable, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(*arguments: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async def life() -> None:
        before = _free(table)
        monkeypatch.setattr(domains, "DomainProcessHandle", no_process)
        with pytest.raises(Refusal, match="cannot start the domain's process: Resource temporarily unavailable"):
            await table.create(_request())
        assert _free(table) == before and table.all() == []

    asyncio.run(life())


def test_two_destroys_at_once_both_find_the_domain_gone_afterwards(table: DomainTable) -> None:
    async def life() -> None:
        before = _free(table)
        await table.create(_request())
        await asyncio.gather(table.destroy(1), table.destroy(1))
        assert table.all() == [] and _free(table) == before
        with pytest.raises(Refusal, match=r"Domain 1 does not exist\."):
            await table.destroy(1)

    asyncio.run(life())


def test_a_destroy_during_the_build_ends_the_build(table: DomainTable) -> None:
    async def life() -> None:
        before = _free(table)
        await table.create(_request())
        build = asyncio.ensure_future(table.finalize_realm(1, 0x40000, 4096, lambda progress: None))
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="is being built already"):
            await table.finalize_realm(1, 0x40000, 4096, lambda progress: None)
        with pytest.raises(Refusal, match="is being built"):
            table.unpause(1)
        await table.destroy(1)
        with pytest.raises(Refusal, match="the domain was destroyed while it was being built"):
            await build
        assert _free(table) == before

    asyncio.run(life())


def test_a_domain_that_is_no_realm_yet_cannot_be_unpaused(table: DomainTable) -> None:
    async def life() -> None:
        await table.create(_request())
        with pytest.raises(Refusal):
            table.unpause(1)
        assert table.get(1).pause_count == 1

    asyncio.run(life())


def test_pauses_are_counted_and_only_the_last_unpause_lets_it_run(table: DomainTable) -> None:
    async def life() -> None:
        domain = await table.create(_request())
        domain.realm = True
        process = _process(table, 1)
        process.told.clear()
        table.pause(1)
        table.unpause(1)
        assert process.told == []
        table.unpause(1)
        assert process.told == [channel.Unpause()]
        with pytest.raises(Refusal, match="is not paused"):
            table.unpause(1)
        table.pause(1)
        table.pause(1)
        assert process.told == [channel.Unpause(), channel.Pause()]

    asyncio.run(life())


def test_a_console_is_read_to_its_end_after_the_domain_is_gone(table: DomainTable) -> None:
    async def life() -> None:
        await table.create(_request())
        _write_console(table, 1, b"last words")
        waiting = asyncio.ensure_future(table.consoles.read(1, 10, 100, 30_000))
        await asyncio.sleep(0)
        await table.destroy(1)
        assert await waiting == (10, b"", True)
        assert await table.consoles.read(1, 5, 100, 0) == (5, b"words", False)

    asyncio.run(life())


def test_the_console_of_an_earlier_domain_is_not_shown_as_that_of_its_successor(table: DomainTable) -> None:
    async def life() -> None:
        await table.create(_request())
        _write_console(table, 1, b"secret of the first")
        await table.destroy(1)
        table._last_domid = 0
        await table.create(_request("other"))
        assert await table.consoles.read(1, 0, 100, 0) == (0, b"", False)

    asyncio.run(life())


def test_reading_consoles_leaves_nothing_behind(table: DomainTable) -> None:
    async def life() -> None:
        for domid in range(100, 200):
            with pytest.raises(Refusal, match="does not exist"):
                await table.consoles.read(domid, 0, 100, 0)
        await table.create(_request())
        _write_console(table, 1, b"x")
        assert await table.consoles.read(1, 1, 100, 5) == (1, b"", False)
        await table.destroy(1)
        assert table.consoles._events == {}

    asyncio.run(life())


def test_a_console_that_cannot_be_opened_does_not_keep_the_domain(table: DomainTable) -> None:
    async def life() -> None:
        await table.create(_request())
        path = table.get(1).console_log
        path.parent.mkdir(mode=0o700)
        path.symlink_to("/nonexistent")  # refused by O_NOFOLLOW
        await table.destroy(1)
        assert table.all() == []

    asyncio.run(life())


def test_a_console_that_rings_all_the_time_is_looked_at_once_an_interval(
    table: DomainTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def life() -> None:
        domain = await table.create(_request())
        process = _process(table, 1)
        looks = 0

        def arm() -> None:
            nonlocal looks
            looks += 1

        monkeypatch.setattr(domain.runstate, "arm_doorbell", arm)
        for _ in range(100):
            process.on_console()
        await asyncio.sleep(3 * consoles.CONSOLE_INTERVAL)
        assert looks == 1
        process.on_console()
        await asyncio.sleep(3 * consoles.CONSOLE_INTERVAL)
        assert looks == 2

    asyncio.run(life())


def test_input_during_the_build_is_not_taken_and_not_passed_on(table: DomainTable) -> None:
    async def life() -> None:
        await table.create(_request())
        build = asyncio.ensure_future(table.finalize_realm(1, 0x40000, 4096, lambda progress: None))
        await asyncio.sleep(0)
        assert await table.consoles.write(1, b"early") == 0
        assert not any(isinstance(message, channel.Input) for message in _process(table, 1).told)
        await table.destroy(1)
        with pytest.raises(Refusal):
            await build

    asyncio.run(life())


def test_input_that_is_on_its_way_is_not_asked_for_again(table: DomainTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consoles, "INPUT_TIMEOUT", 0.01)

    async def life() -> None:
        await table.create(_request())
        assert await table.consoles.write(1, b"once") == 4
        assert _process(table, 1).told[-1] == channel.Input(1, b"once")
        assert table.consoles._inputs == {}

    asyncio.run(life())


def test_input_to_a_process_that_dies_is_answered_at_once(table: DomainTable) -> None:
    async def life() -> None:
        await table.create(_request())
        typed = asyncio.ensure_future(table.consoles.write(1, b"hello"))
        await asyncio.sleep(0)
        _process(table, 1).kill()
        assert await asyncio.wait_for(typed, 5) == 0

    asyncio.run(life())
