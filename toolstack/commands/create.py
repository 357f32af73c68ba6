"""``xl create``."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from hypervisor.rpc import endpoint
from toolstack import guest as guests
from toolstack import options
from toolstack.command_table import Settings
from toolstack.config_file import read_config, split_arguments
from toolstack.errors import UsageError, XlError, create_failure, libxl
from toolstack.options import Options
from xlconfig import DomainConfig, format_json, to_libxl_json
from xlconfig.enumerations import VuartType

if TYPE_CHECKING:
    from toolstack.builder import GuestImage
    from toolstack.connection import Connection
    from toolstack.interruption import Interruption
    from toolstack.monitor import Monitor

_LONG = {
    "dryrun": "n", "quiet": "q", "defconfig": "f:", "vncviewer": "V", "vncviewer-autopass": "A",
    "ignore-global-affinity-masks": "i",
}  # fmt: skip


def run_create(arguments: list[str], settings: Settings) -> int:
    """Create a domain and let it run. 0; 3 when it is refused; 1 for a bad configuration; 128 + N after signal N."""
    given = options.read("create", arguments, "Fnqf:pcdeVAi", _LONG)
    path, overrides = split_arguments("create", given.arguments, given.value("f"))
    quiet = "q" in given
    config = read_config(path, overrides, quiet=quiet)
    if settings.dry_run or "n" in given:
        print(format_json(to_libxl_json(config)))
        _say_what_would_fail(config)
        return 0
    if "d" in given:
        print(format_json(to_libxl_json(config)), file=sys.stderr)
    if "e" in given and "F" in given:
        raise UsageError("xl: -e (no monitor) and -F (monitor in the foreground) exclude each other", status=1)
    guests.check(config)
    if "c" in given and config.vuart is not VuartType.SBSA_UART:
        raise XlError(libxl(f'-c: domain {config.name} has no console: set vuart="sbsa_uart"'))
    return _Creation(config, given, settings).run()


def _say_what_would_fail(config: DomainConfig) -> None:
    """After a dry run: the reason why this configuration would be refused, if there is one."""
    try:
        guests.check(config)
        guests.prepare(config)
    except XlError as error:
        print(f"xl: warning: this would not be created: {error.lines[0]}", file=sys.stderr)


def _say_where_things_are(guest: GuestImage) -> None:
    """The memory plan, as ``xl -v create`` shows it."""
    for bank in guest.banks:
        print(f"xl: detail: RAM {bank.base:#x}-{bank.end:#x} ({bank.size >> 20} MiB)", file=sys.stderr)
    for segment in guest.segments:
        end = segment.gpa + len(segment.data)
        print(f"xl: detail: {segment.name} {segment.gpa:#x}-{end:#x} ({len(segment.data)} bytes)", file=sys.stderr)
    print(f"xl: detail: vCPU 0 starts at {guest.context.pc:#x}, x0 {guest.context.x0:#x}", file=sys.stderr)


class _Creation:
    """One run of ``xl create``."""

    def __init__(self, config: DomainConfig, given: Options, settings: Settings) -> None:
        self.config = config
        self.given = given
        self.settings = settings
        self.quiet = "q" in given

    def run(self) -> int:
        """The whole flow; the exit status."""
        from toolstack.connection import Connection, explained
        from toolstack.console import attach_to_console
        from toolstack.daemon import ensure_running
        from toolstack.interruption import Interruption
        from toolstack.monitor import Monitor, log_path, remarks

        with explained(), contextlib.ExitStack() as stack:
            with Interruption() as interruption, contextlib.ExitStack() as building:
                # In a list, which the monitor empties when it will never need the images: its copy is then freed.
                guest = [guests.prepare(self.config)]
                if self.settings.verbose:
                    _say_where_things_are(guest[0])
                socket, daemon = endpoint.socket_path(), ensure_running()
                monitor = None
                if "e" not in self.given:
                    self._warn(*remarks(self.config))
                    log = None if "F" in self.given and "c" not in self.given else log_path(self.config.name)
                    monitor = Monitor(socket, daemon, self.config, guest, log, detached="F" not in self.given)
                    building.enter_context(monitor)
                connection = stack.enter_context(contextlib.closing(Connection(socket, daemon)))
                domid = self._build(connection, guest[0], monitor, interruption)
            if "c" in self.given:
                status = attach_to_console(connection, domid)
                if status:
                    return status
        if monitor is not None and "F" in self.given:
            return monitor.wait()
        return 0

    def _build(
        self, connection: Connection, guest: GuestImage, monitor: Monitor | None, interruption: Interruption
    ) -> int:
        """Make the domain, hand it over to the monitor and let it run; the domid. All of it is undone on failure."""
        from hypervisor.rpc.client import RpcError
        from hypervisor.rpc.messages import DomainRef, Nothing, Physinfo
        from toolstack import create, progress
        from toolstack.connection import message_of

        host = connection.call("physinfo", Nothing(), Physinfo)
        if self.config.realm and host.realm_debug_vuart and self.config.vuart is VuartType.SBSA_UART:
            self._warn(
                f"the vuart of Realm {self.config.name} is a debug console: the host reads and writes it in clear text"
            )
        on_created = (lambda domid: None) if monitor is None else monitor.begun
        with progress.shown(self.config.name, quiet=self.quiet, line=self.settings.line_progress) as report:
            domid = create.make_domain(
                connection, self.config, guest, interruption=interruption, on_created=on_created, report=report
            )
        try:
            if monitor is not None:
                monitor.hand_over(domid)
            if "p" not in self.given:
                connection.call("domain_unpause", DomainRef(domid=domid), Nothing)
        except BaseException as error:
            with interruption.shielded():
                create.undo(connection, domid, error)
            if isinstance(error, RpcError):
                raise create_failure([libxl(f"Domain {domid}:{message_of(error)}")]) from None
            raise
        return domid

    def _warn(self, *lines: str) -> None:
        if not self.quiet:
            for line in lines:
                print(f"xl: warning: {line}", file=sys.stderr)
