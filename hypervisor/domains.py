"""The domain table: what the daemon does with domains, the counterpart of Xen's domctls.

Every operation is all or nothing towards its caller: a :class:`~hypervisor.refusal.Refusal` means that nothing changed
(or says what did). Taking a Realm apart runs here, in short steps between other work, from the records in memory: a
domain's process may be dead at any point.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hypervisor import channel
from hypervisor.arm.cca.bringup import CcaHost
from hypervisor.arm.cca.ports import Level
from hypervisor.arm.cca.records import handle_in_use
from hypervisor.arm.cca.relinquish import RelinquishError, relinquish
from hypervisor.channel import FromDomainMessage
from hypervisor.consoles import Consoles
from hypervisor.domain import GUEST_RAM_BANK0, Domain, GuestMemoryError
from hypervisor.domain_process_handle import DomainProcessHandle
from hypervisor.kconfig import Kconfig
from hypervisor.log import ERR, INFO, WARNING, HypervisorLog
from hypervisor.pages import Extent, OutOfPages, PageAllocator
from hypervisor.refusal import Refusal
from hypervisor.rpc import endpoint
from hypervisor.rpc.messages import DomainCreateRequest, Progress, ShutdownReason
from hypervisor.runstate import Runstate
from machine.board import Board
from machine.memory import GRANULE_SIZE

#: Domids stay below this (DOMID_FIRST_RESERVED).
FIRST_RESERVED_DOMID = 0x7FF0
#: Longest time in seconds that taking memory or a teardown works before it lets other requests have their turn.
STEP = 0.004

#: The host side's severities in the log's words.
LEVEL_NAMES = {Level.ERR: ERR, Level.INFO: INFO, Level.GUEST_ERR: ERR, Level.GUEST_INFO: INFO}


class DomainTable:
    """All domains of the machine."""

    def __init__(self, board: Board, pages: PageAllocator, cca: CcaHost, kconfig: Kconfig, log: HypervisorLog) -> None:
        self._board = board
        self._pages = pages
        self._cca = cca
        self._kconfig = kconfig
        self._log = log
        self._domains: dict[int, Domain] = {}
        #: Names of domains whose memory is still being taken.
        self._creating: set[str] = set()
        self._last_domid = 0
        self._finalized: dict[int, asyncio.Future[channel.Finalized]] = {}
        self._progress: dict[int, Callable[[Progress], None]] = {}
        self.consoles = Consoles(self._domains, self.get)
        self._tasks: set[asyncio.Task[None]] = set()

    # Looking

    def all(self) -> list[Domain]:
        """Every domain, by domid."""
        return sorted(self._domains.values(), key=lambda domain: domain.domid)

    def get(self, domid: int) -> Domain:
        """The domain, or the refusal ``no_domain``."""
        domain = self._domains.get(domid)
        if domain is None:
            raise Refusal("no_domain", f"Domain {domid} does not exist.", "ESRCH")
        return domain

    # Building

    async def create(self, request: DomainCreateRequest) -> Domain:
        """A new, paused domain with zeroed RAM and its process."""
        if request.name in self._creating or any(other.name == request.name for other in self._domains.values()):
            raise Refusal("name_taken", f'Domain with name "{request.name}" already exists.', "EEXIST")
        self._creating.add(request.name)
        try:
            return self._create(request, await self._ram_for(request))
        finally:
            self._creating.discard(request.name)

    async def _ram_for(self, request: DomainCreateRequest) -> list[Extent]:
        """RAM for the domain, taken in steps between other work."""
        if request.max_memkb * 1024 > GUEST_RAM_BANK0:
            raise Refusal("no_memory", f"{request.max_memkb} KiB do not fit in the first RAM bank", "EINVAL")
        ram = request.max_memkb * 1024 // (1 << 20) * (1 << 20) or request.max_memkb * 1024
        extents: list[Extent] = []
        try:
            extents = self._pages.reserve_extents(ram)
            await _in_steps(self._pages.populate(extents))
        except BaseException as error:
            await _in_steps(self._pages.release(extents))
            if isinstance(error, OutOfPages):
                raise self._no_memory(request, error) from None
            raise
        return extents

    def _no_memory(self, request: DomainCreateRequest, error: OutOfPages) -> Refusal:
        free = self._pages.free_pages * 4
        text = f"cannot get {request.max_memkb} KiB for domain {request.name}: {error} ({free} KiB free)"
        return Refusal("no_memory", text, "ENOMEM")

    def _create(self, request: DomainCreateRequest, guest_pages: list[Extent]) -> Domain:
        """The domain around its RAM; all of it in one go, or nothing."""
        host_pages: list[int] = []
        try:
            domid = self._next_domid()
            log_path = self._fresh_console_log(request.name, domid)
            host_pages = self._pages.alloc(2)
            return self._enter(request, domid, log_path, guest_pages, host_pages)
        except BaseException as error:
            self._pages.free_extents(guest_pages)
            self._pages.free(host_pages)
            if isinstance(error, OutOfPages):
                raise self._no_memory(request, error) from None
            raise

    def _enter(
        self, request: DomainCreateRequest, domid: int, log_path: Path, guest_pages: list[Extent], host_pages: list[int]
    ) -> Domain:
        """Start the domain's process and enter the domain into the table."""
        ns = self._board.ns
        records_pa, runstate_pa = host_pages
        domain = Domain(
            ns=ns,
            domid=domid,
            uuid=request.uuid,
            name=request.name,
            max_vcpus=request.max_vcpus,
            max_memkb=request.max_memkb,
            config=request.config,
            vuart=request.vuart,
            wants_realm=request.realm,
            trap_unmapped_accesses=request.trap_unmapped_accesses,
            guest_pages=guest_pages,
            host_pages=set(host_pages),
            records_pa=records_pa,
            runstate_pa=runstate_pa,
            runstate=Runstate(ns.window(runstate_pa, GRANULE_SIZE)),
            console_log=log_path,
        )
        try:
            domain.process = DomainProcessHandle(
                self._board.memory.fd,
                lambda message: self._on_message(domain, message),
                lambda: self.consoles.rang(domain),
                lambda status: self._on_death(domain, status),
            )
        except OSError as error:
            domain.runstate.release()
            raise Refusal("no_process", f"cannot start the domain's process: {error.strerror}", "EAGAIN") from None
        self._last_domid = domid
        self._domains[domid] = domain
        self.consoles.begin(domid)
        domain.runstate.arm_doorbell()
        domain.process.send(
            channel.Init(
                domid=domid,
                name=domain.name,
                uuid=domain.uuid,
                max_vcpus=domain.max_vcpus,
                extents=domain.guest_extents(),
                records_pa=domain.records_pa,
                runstate_pa=domain.runstate_pa,
                pages=[],
                console_log=str(log_path),
                vuart=domain.vuart,
                trap_unmapped_accesses=domain.trap_unmapped_accesses,
                cca_available=self._cca.available,
                debug_vuart=self._kconfig.arm_cca_realm_debug_vuart,
                features=(self._cca.features0, self._cca.features1),
            )
        )
        return domain

    def _next_domid(self) -> int:
        for step in range(1, FIRST_RESERVED_DOMID):
            domid = (self._last_domid + step - 1) % (FIRST_RESERVED_DOMID - 1) + 1
            if domid not in self._domains:
                return domid
        raise Refusal("no_domid", "no free domain id", "ENOMEM")

    def _fresh_console_log(self, name: str, domid: int) -> Path:
        """The path of the new domain's console history; one of an earlier daemon's domain is kept as ``.old``."""
        try:
            path = endpoint.console_log(name, domid)
            if path.exists():
                path.replace(path.with_suffix(".log.old"))
        except (OSError, endpoint.EndpointError) as error:
            raise Refusal("no_log", f"cannot keep a console log for {name}: {error}", "EIO") from None
        return path

    def write(self, domid: int, gpa: int, data: bytes) -> None:
        """Write guest RAM of a domain that has not been finalized or unpaused."""
        domain = self._under_construction(domid)
        try:
            domain.write(gpa, data)
        except GuestMemoryError as error:
            raise Refusal("bad_address", f"domain {domid}: {error}", "EINVAL") from None

    def set_context(self, domid: int, vcpu: int, pc: int, x: list[int]) -> None:
        """Registers of a vCPU before it first runs."""
        domain = self._under_construction(domid)
        if vcpu >= domain.max_vcpus:
            raise Refusal("no_vcpu", f"domain {domid} has no vCPU {vcpu}", "EINVAL")
        domain.live_process().send(channel.SetContext(vcpu, pc, x))

    def _under_construction(self, domid: int) -> Domain:
        domain = self.get(domid)
        if domain.was_unpaused or domain.building or domain.realm or domain.dying or domain.shutdown_reason is not None:
            raise Refusal("not_building", f"domain {domid} is no longer under construction", "EPERM")
        return domain

    async def finalize_realm(
        self, domid: int, base_gfn: int, nr_pages: int, report: Callable[[Progress], None]
    ) -> None:
        """Turn the domain into a Realm; reports progress. On EIO the domain is left shut down as crashed."""
        domain = self.get(domid)
        if domain.building:
            raise Refusal("busy", f"domain {domid} is being built already", "EBUSY")
        if domain.dying or domain.shutdown_reason is not None:
            raise Refusal("crashed", f"domain {domid} is shut down", "EIO")
        process = domain.live_process()
        done: asyncio.Future[channel.Finalized] = asyncio.get_running_loop().create_future()
        self._finalized[domid] = done
        self._progress[domid] = report
        domain.building = True
        process.send(channel.Finalize(base_gfn, nr_pages))
        try:
            outcome = await done
        finally:
            domain.building = False
            self._finalized.pop(domid, None)
            self._progress.pop(domid, None)
        if outcome.errno:
            raise Refusal("build_failed", outcome.message, outcome.errno, outcome.rmi_result)
        domain.realm = True

    # Running

    def pause(self, domid: int) -> None:
        """One more reason not to run."""
        domain = self.get(domid)
        domain.pause_count += 1
        if domain.pause_count == 1 and domain.process is not None:
            domain.process.send(channel.Pause())
        domain.notify()

    def unpause(self, domid: int) -> None:
        """One reason less; the first time ends construction. A domain that is not paused is refused with EINVAL."""
        domain = self.get(domid)
        if domain.pause_count == 0:
            raise Refusal("not_paused", f"domain {domid} is not paused", "EINVAL")
        if domain.building:
            raise Refusal("busy", f"domain {domid} is being built", "EBUSY")
        if domain.wants_realm and not domain.realm and not domain.was_unpaused:
            text = "it was created as a Realm and must be finalized before it runs"
            raise Refusal("not_a_realm", f"domain {domid}: {text}", "EINVAL")
        process = domain.live_process()
        domain.pause_count -= 1
        if domain.pause_count == 0:
            domain.was_unpaused = True
            process.send(channel.Unpause())
        domain.notify()

    def shutdown(self, domid: int, reason: ShutdownReason) -> None:
        """Shut the domain down from outside; the first reason wins."""
        domain = self.get(domid)
        if domain.process is not None:
            domain.process.send(channel.Stop(int(reason)))
        self._shut_down(domain, reason, "")

    def _shut_down(self, domain: Domain, reason: ShutdownReason, message: str) -> None:
        if domain.shutdown_reason is None:
            domain.shutdown_reason = reason
            domain.crash_reason = message
        domain.notify()
        self.consoles.wake(domain.domid)

    async def wait(self, domid: int, wait_ms: int, gone: bool) -> tuple[bool, Domain | None]:
        """Wait until the domain is shut down or crashed (``gone``: until it does not exist)."""
        deadline = time.monotonic() + wait_ms / 1000
        while True:
            domain = self._domains.get(domid)
            if domain is None:
                return True, None
            if not gone and domain.shutdown_reason is not None:
                return True, domain
            try:
                await asyncio.wait_for(domain.changed.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return False, domain

    # The domain's process speaks

    def _on_message(self, domain: Domain, message: FromDomainMessage) -> None:
        match message:
            case channel.LogLine(level, text):
                self._log.log(level, text)
            case channel.BuildProgress(phase, done, total):
                report = self._progress.get(domain.domid)
                if report is not None:
                    report(Progress(phase=phase, done=done, total=total))
            case channel.Finalized():
                future = self._finalized.get(domain.domid)
                if message.crash:
                    self._shut_down(domain, ShutdownReason.CRASH, message.message)
                if future is not None and not future.done():
                    future.set_result(message)
            case channel.Shutdown(reason, text):
                self._shut_down(domain, ShutdownReason(reason), text)
            case channel.NeedPages(count):
                self._give_pages(domain, count)
            case channel.InputTaken(ident, taken):
                self.consoles.input_taken(ident, taken)
            case channel.Failed(text):
                self._log.log(ERR, f"d{domain.domid}: {text}")
                domain.crash_reason = text
            case channel.Ready():
                pass

    def _give_pages(self, domain: Domain, count: int) -> None:
        pages: list[int] = []
        if not domain.dying:
            try:
                pages = self._pages.alloc(count)
            except OutOfPages as error:
                self._log.log(WARNING, f"d{domain.domid}: {error}")
        domain.host_pages.update(pages)
        if domain.process is not None:
            domain.process.send(channel.Pages(pages))

    def _on_death(self, domain: Domain, status: int) -> None:
        """The domain's process is gone: unless the domain is being destroyed, it crashed; its Realm is taken apart."""
        if not domain.dying:
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            text = domain.crash_reason or f"domain process died ({how})"
            self._log.log(ERR, f"d{domain.domid}: {text}")
            self._shut_down(domain, ShutdownReason.CRASH, text)
            task = asyncio.get_running_loop().create_task(self._take_apart_quietly(domain))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting = self._finalized.get(domain.domid)
        if waiting is not None and not waiting.done():
            text = domain.crash_reason or "the domain was destroyed while it was being built"
            waiting.set_result(channel.Finalized("EIO", text, 0, True))
        self.consoles.process_died(domain)
        domain.notify()

    # Destroying

    async def destroy(self, domid: int) -> None:
        """End the domain and take everything back. Refusal ``stuck``: it stays dying, try again later."""
        domain = self.get(domid)
        async with domain.destroy_lock:
            if domain.gone:
                return
            domain.dying = True
            domain.notify()
            await self._end_process(domain)
            await self._take_apart(domain)
            await self._free_all(domain)
            domain.gone = True
            # A console can be read to its end after the domain is gone: open it while it has a name here.
            try:
                self.consoles.keep(domid)
            except OSError as error:
                self._log.log(WARNING, f"d{domid}: its console cannot be read any more: {error}")
            del self._domains[domid]
            self.consoles.trim()
        domain.notify()
        self.consoles.wake(domid)

    async def _end_process(self, domain: Domain) -> None:
        process = domain.process
        if process is not None:
            process.kill()
            await process.dead.wait()

    async def _take_apart_quietly(self, domain: Domain) -> None:
        async with domain.destroy_lock:
            if not domain.gone:
                try:
                    await self._take_apart(domain)
                except Refusal as refusal:
                    self._log.log(ERR, f"d{domain.domid}: {refusal}")

    async def _take_apart(self, domain: Domain) -> None:
        """Run relinquish in steps of a few milliseconds; the records say where an earlier attempt stopped."""
        ns = self._board.ns

        def handles_in_use() -> list[int]:
            others = (other for other in self._domains.values() if other is not domain)
            handles = (handle_in_use(ns, other.records_pa) for other in others)
            return [handle for handle in handles if handle is not None]

        steps = relinquish(
            domain.records_pa, self._board.smc, ns, _Returned(domain), self._log_cca, handles_in_use=handles_in_use
        )
        try:
            await _in_steps(steps)
        except RelinquishError as error:
            raise Refusal("stuck", f"domain {domain.domid} cannot be destroyed yet: {error}", "EIO") from None
        domain.realm = False

    def _log_cca(self, level: Level, text: str) -> None:
        self._log.log(LEVEL_NAMES[level], text)

    async def _free_all(self, domain: Domain) -> None:
        await _in_steps(self._pages.release(domain.guest_pages))
        domain.runstate.release()
        self._pages.free(domain.host_pages)
        domain.host_pages = set()

    async def destroy_all(self) -> None:
        """End every domain (the daemon is going away); what is stuck is left to the memory's end."""
        for domain in self.all():
            try:
                await self.destroy(domain.domid)
            except Exception as error:
                self._log.log(ERR, f"d{domain.domid}: left behind: {type(error).__name__}: {error}")


async def _in_steps(steps: Iterator[object]) -> None:
    """Run ``steps`` to their end, and let other requests have their turn every :data:`STEP` seconds."""
    until = time.monotonic() + STEP
    for _ in steps:
        if time.monotonic() >= until:
            await asyncio.sleep(0)
            until = time.monotonic() + STEP


class _Returned:
    """The page allocator as relinquish sees it: a page it gives back stays with the domain until all is freed."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def alloc(self, count: int = 1) -> list[int]:
        raise MemoryError("no pages for a dying domain")

    def free(self, pages: Iterable[int]) -> None:
        self._domain.host_pages.update(pages)
