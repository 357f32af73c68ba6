"""The monitor that ``xl create`` leaves behind: it waits for the domain's end and does what the configuration says.

Enter at :class:`Monitor`. It is forked before the domain exists, while the process has one thread and no connection,
and learns the domid through a pipe: so it has the caller's rights, configuration and images, and if its parent is
killed in the middle of a build it takes the half-built domain away. :func:`watch` is its work; ``xl create -F`` does it
in the foreground.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hypervisor.rpc import endpoint
from hypervisor.rpc.client import RpcError, Unreachable
from hypervisor.rpc.messages import DomainInfo, DomainRef, Nothing, ShutdownReason, WaitAnswer, WaitRequest
from toolstack.builder import GuestImage
from toolstack.connection import Connection, message_of
from toolstack.create import make_domain
from toolstack.errors import XlError
from toolstack.interruption import Interruption
from xlconfig import DomainConfig
from xlconfig.enumerations import ActionOnShutdown

#: Longest single wait for the domain's end, in milliseconds.
_WAIT_MS = 60_000
#: Shortest time in seconds between two starts of a domain: one that crashes at once must not keep the host busy.
_RESTART_INTERVAL = 2.0

Log = Callable[[str], None]

#: The actions as a configuration names them, where libxl's name is another one.
_NAMES = {ActionOnShutdown.RESTART_RENAME: "rename-restart"}

_RESTARTING = frozenset({ActionOnShutdown.RESTART, ActionOnShutdown.RESTART_RENAME, ActionOnShutdown.COREDUMP_RESTART})


def action_for(config: DomainConfig, reason: int | None) -> ActionOnShutdown:
    """What CONFIG wants done after a shutdown for REASON; an unknown reason means destroy, as in Xen."""
    actions = {
        ShutdownReason.POWEROFF: config.on_poweroff,
        ShutdownReason.REBOOT: config.on_reboot,
        ShutdownReason.CRASH: config.on_crash,
        ShutdownReason.WATCHDOG: config.on_watchdog,
        ShutdownReason.SOFT_RESET: config.on_soft_reset,
    }
    return ActionOnShutdown.DESTROY if reason is None else actions.get(ShutdownReason(reason), ActionOnShutdown.DESTROY)


def name_of(action: ActionOnShutdown) -> str:
    """ACTION as a configuration names it."""
    return _NAMES.get(action, action.value.replace("_", "-"))


def may_restart(config: DomainConfig) -> bool:
    """Whether any way in which the domain can end makes the monitor build it again."""
    ends = (config.on_poweroff, config.on_reboot, config.on_crash, config.on_watchdog, config.on_soft_reset)
    return any(action in _RESTARTING for action in ends)


def remarks(config: DomainConfig) -> list[str]:
    """What the user should know of the actions in CONFIG that cannot be done in full, one sentence each."""
    lines = []
    keys = (("on_poweroff", config.on_poweroff), ("on_reboot", config.on_reboot), ("on_crash", config.on_crash),
            ("on_watchdog", config.on_watchdog))  # fmt: skip
    for key, action in keys:
        text = _shortfall(action, config.realm)
        if text:
            lines.append(f'{key}="{name_of(action)}": {text}')
    return lines


def _shortfall(action: ActionOnShutdown, realm: bool) -> str:
    """What of the action is not done, for a Realm or for a plain guest; empty when all of it is."""
    if action is ActionOnShutdown.RESTART_RENAME:
        return "domains cannot be renamed yet; the old domain will be destroyed, then restarted"
    if action in (ActionOnShutdown.COREDUMP_DESTROY, ActionOnShutdown.COREDUMP_RESTART):
        why = "a Realm's memory cannot be read by the host" if realm else "core dumps are not supported yet"
        return f"{why}; there will be no core dump"
    if action is ActionOnShutdown.SOFT_RESET:
        why = "a Realm cannot be soft reset" if realm else "soft reset is not supported yet"
        return f"{why}; it will be destroyed"
    return ""


def watch(connection: Connection, domid: int, config: DomainConfig, guest: GuestImage | None, log: Log) -> None:
    """Wait for the end of DOMID and carry out what CONFIG says, until there is no domain left to watch.

    GUEST is what a restart builds; None when :func:`may_restart` is false. Raises Unreachable when the daemon ends.
    """
    current: int | None = domid
    while current is not None:
        log(f"Waiting for domain {config.name} (domid {current}) to die [pid {os.getpid()}]")
        started = time.monotonic()
        info = _await_shutdown(connection, current)
        if info is None:
            log(f"Domain {current} has been destroyed.")
            return
        log(f"Domain {current} has shut down, reason code {info.shutdown_reason} 0x{info.shutdown_reason or 0:x}")
        if info.crash_reason:
            log(f"Domain {current}: {info.crash_reason}")
        action = action_for(config, info.shutdown_reason)
        log(f"Action for shutdown reason code {info.shutdown_reason} is {name_of(action)}")
        if _shortfall(action, config.realm):
            log(f"{name_of(action)}: {_shortfall(action, config.realm)}")
        if action is ActionOnShutdown.PRESERVE:
            log("Done. Exiting now")
            return
        _destroy(connection, current, log)
        if action not in _RESTARTING or guest is None:
            log("Done. Exiting now")
            return
        time.sleep(max(0.0, started + _RESTART_INTERVAL - time.monotonic()))
        current = _restart(connection, config, guest, log)


def _await_shutdown(connection: Connection, domid: int) -> DomainInfo | None:
    """The domain as it is when it has shut down; None when it was destroyed."""
    request = WaitRequest(domid=domid, wait_ms=_WAIT_MS)
    while True:
        # No timeout of our own: the connection notices when the daemon ends, and a busy daemon is none of our business.
        answer = connection.call("domain_wait", request, WaitAnswer, timeout=None)
        if answer.done:
            return answer.info


def _destroy(connection: Connection, domid: int, log: Log) -> None:
    try:
        connection.call("domain_destroy", DomainRef(domid=domid), Nothing, timeout=None)
        log(f"Domain {domid} needs to be cleaned up: destroying the domain")
    except RpcError as error:
        if error.code != "no_domain":
            log(f"Domain {domid} cannot be destroyed: {message_of(error)}")


def _restart(connection: Connection, config: DomainConfig, guest: GuestImage, log: Log) -> int | None:
    """Build the domain again and let it run; its new domid, None when that fails."""
    domid = None
    try:
        with Interruption() as interruption:
            domid = make_domain(connection, config, guest, interruption=interruption)
        connection.call("domain_unpause", DomainRef(domid=domid), Nothing)
    except XlError as error:
        for line in error.lines:
            log(line)
        return None
    except RpcError as error:
        log(f"Domain {domid} cannot be started: {message_of(error)}")
        if domid is not None:
            _destroy(connection, domid, log)
        return None
    log(f"Domain {config.name} has been restarted with domid {domid}")
    return domid


class Monitor:
    """The forked process, as its parent sees it.

    ``begun`` tells it that there is a domain to take away should the parent die, ``hand_over`` that the domain runs and
    is the monitor's from now on. Leaving the ``with`` block without ``hand_over`` ends the process.
    """

    def __init__(
        self, path: Path, pid: int, config: DomainConfig, guest: list[GuestImage], log: Path | None, *, detached: bool
    ) -> None:
        """Fork it, for the daemon with process id PID that listens on PATH.

        GUEST holds the one guest that a restart builds. LOG is its log file, None for standard error; DETACHED puts it
        into a session of its own. Raises XlError when LOG cannot be opened.
        """
        log_fd = -1 if log is None else _open_log(log)
        read_end, self._pipe = os.pipe()
        self._handed_over = False
        sys.stdout.flush()
        sys.stderr.flush()
        # No handler of the parent may run in the child before the child has its own.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                os.close(self._pipe)
                _be_monitor(lambda: _serve(read_end, path, pid, config, guest), read_end, log_fd, detached)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if log_fd >= 0:
                os.close(log_fd)
        os.close(read_end)

    def __enter__(self) -> Monitor:
        return self

    def begun(self, domid: int) -> None:
        """A domain exists from now on."""
        self._tell(f"begun {domid}\n")

    def hand_over(self, domid: int) -> None:
        """The domain is complete; the monitor watches it."""
        self._tell(f"ready {domid}\n")
        self._handed_over = True

    def wait(self) -> int:
        """Wait until the monitor ends; its exit status."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _tell(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody killed the monitor: then nobody acts on the domain's end
            os.write(self._pipe, text.encode())

    def __exit__(self, *exc: object) -> None:
        if not self._handed_over:
            self._tell("never\n")
        os.close(self._pipe)
        if not self._handed_over:
            self.wait()


def _be_monitor(work: Callable[[], int], orders: int, log: int, detached: bool) -> None:
    """The child's whole life; does not return."""
    status = 1
    try:
        # The signals are blocked until here: none of the parent's handlers may run in this process.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if detached:
            os.setsid()
            os.chdir("/")
        _let_go_of_files(orders, log)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        status = work()
    except BaseException as error:
        os.write(2, f"xl monitor: {type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(status)


def _open_log(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise XlError(f"xl: cannot open the monitor's log {path}: {error.strerror}") from None


def _let_go_of_files(kept: int, log: int) -> None:
    """Standard input from nowhere, the others to LOG unless that is negative, and nothing else open but KEPT.

    Nobody's terminal or pipe is held; that includes what xl had inherited without knowing.
    """
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    if log >= 0:
        os.dup2(log, 1)
        os.dup2(log, 2)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _serve(read_end: int, path: Path, pid: int, config: DomainConfig, guest: list[GuestImage]) -> int:
    """Listen to the parent, then watch; the exit status."""
    if not may_restart(config):
        guest.clear()
    begun: int | None = None
    ready: int | None = None
    with os.fdopen(read_end, encoding="ascii") as orders:
        for order in orders:
            word, _, number = order.strip().partition(" ")
            if word == "begun":
                begun = int(number)
            elif word == "ready":
                ready = int(number)
            elif word == "never":
                return 0
    if begun is None and ready is None:
        return 0
    try:
        with contextlib.closing(Connection(path, pid)) as connection:
            if ready is not None:
                watch(connection, ready, config, guest[0] if guest else None, write_log)
            elif begun is not None:
                write_log(f"xl create was killed while it built domain {begun}: destroying it")
                _destroy(connection, begun, write_log)
    except Unreachable as error:
        write_log(f"{error}: nothing is left to watch")
    return 0


def write_log(text: str) -> None:
    """A line on standard error, with the time."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=sys.stderr, flush=True)


def log_path(name: str) -> Path:
    """The log file of the monitor of domain NAME."""
    safe = "".join(letter if letter.isalnum() or letter in "-_.+" else "_" for letter in name)[:100]
    return endpoint.state_dir() / f"xl-{safe}.log"
