"""Finding hypervisord, and starting it when none is running.

Enter at :func:`connected`, which every command uses that needs the hypervisor. Two commands that start a daemon at
the same time end with one: the second daemon finds the lock taken and leaves, and its command uses the first one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from hypervisor.rpc import endpoint
from toolstack.connection import Connection, explained
from toolstack.errors import XlError

#: Seconds that a daemon may take until it serves.
START_TIMEOUT = 60.0
#: Seconds between two looks whether the daemon that won a race serves already.
_LOOK_AGAIN = 0.02
#: How often a start is tried again when the daemon that had won it ended at once.
_ATTEMPTS = 3

_LOST = re.compile(r"another hypervisord \(pid (\d+|unknown)\)")
_CREDENTIALS = struct.Struct("iII")


@contextlib.contextmanager
def connected(autostart: bool = True) -> Iterator[Connection]:
    """A connection to the daemon; what goes wrong inside is explained as by :func:`~connection.explained`."""
    with explained(), contextlib.closing(connect(autostart)) as connection:
        yield connection


def connect(autostart: bool = True) -> Connection:
    """Connect to the daemon; start one when there is none, unless AUTOSTART is False or ``XL_NO_AUTOSTART=1``.

    Raises XlError when there is none or it cannot be started, EndpointError, Unreachable.
    """
    path, pid = endpoint.socket_path(), ensure_running(autostart)
    return Connection(path, pid)


def ensure_running(autostart: bool = True) -> int:
    """The process id of the daemon, which is started when there is none; raises as :func:`connect`."""
    path = endpoint.socket_path()
    pid = serving(path)
    if pid is not None:
        return pid
    if not autostart:
        raise XlError(f"xl: hypervisord is not running ({path.parent})")
    if os.environ.get("XL_NO_AUTOSTART", "") not in ("", "0"):
        raise XlError(f"xl: hypervisord is not running ({path.parent}), and XL_NO_AUTOSTART is set: start hypervisord")
    return _start(path)


def serving(path: Path) -> int | None:
    """The process id of the daemon that listens on PATH; None when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                return None
            raise XlError(f"xl: cannot reach hypervisord at {path}: {error.strerror}") from None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(credentials)[0]
        return pid


def _start(path: Path) -> int:
    deadline = time.monotonic() + START_TIMEOUT
    complaint = "it ended at once"
    for _ in range(_ATTEMPTS):
        complaint = _spawn(deadline)
        if complaint:
            lost = _LOST.search(complaint)
            if lost is None:
                break
            _await_winner(path, lost[1], deadline)
        pid = serving(path)
        if pid is not None:
            return pid
    raise XlError(f"xl: cannot start hypervisord: {complaint.removeprefix('hypervisord: ')}")


def _spawn(deadline: float) -> str:
    """Start a daemon and wait until it serves. Its complaint when it does not, else the empty string."""
    import subprocess

    log_path = endpoint.state_dir() / "hypervisord.log"
    try:
        log = os.open(log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise XlError(f"xl: cannot start hypervisord: cannot open its log {log_path}: {error.strerror}") from None
    read_end, write_end = os.pipe()
    try:
        said_before = os.fstat(log).st_size
        modules = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        process = subprocess.Popen(
            [sys.executable, "-m", "hypervisor.daemon", "--ready-fd", str(write_end)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(write_end,),
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": modules, "PYTHONSAFEPATH": "1"} | _absolute_directories(),
        )
        os.close(write_end)
        write_end = -1
        if _ready(read_end, deadline):
            return ""
        if process.poll() is None and time.monotonic() >= deadline:
            process.kill()
            process.wait()
            return f"it was not ready after {START_TIMEOUT:.0f} seconds (log: {log_path})"
        process.wait()
        return _last_words(log, said_before) or f"it ended with status {process.returncode} (log: {log_path})"
    except OSError as error:
        return f"{error.strerror}"
    finally:
        os.close(log)
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)


def _absolute_directories() -> dict[str, str]:
    """The directories of the environment as absolute paths: the daemon runs elsewhere."""
    names = ("XL_RUNTIME_DIR", "XL_STATE_DIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")
    return {name: os.path.abspath(os.environ[name]) for name in names if os.environ.get(name)}


def _ready(read_end: int, deadline: float) -> bool:
    """Wait for the daemon's word that it serves; False when it ends or DEADLINE passes without."""
    import select

    while (left := deadline - time.monotonic()) > 0:
        if select.select([read_end], [], [], left)[0]:
            return bool(os.read(read_end, 64))
    return False


def _last_words(log: int, start: int) -> str:
    """The daemon's own line of why it ended: the last one of its log behind START that is its own."""
    text = os.pread(log, 1 << 16, max(start, os.fstat(log).st_size - (1 << 16))).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("(XEN)")]
    own = [line for line in lines if line.startswith("hypervisord: ")]
    return (own or lines or [""])[-1]


def _await_winner(path: Path, pid: str, deadline: float) -> None:
    """Wait until the daemon PID, which was started by somebody else, serves or ends."""
    while time.monotonic() < deadline and serving(path) is None:
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            return
        time.sleep(_LOOK_AGAIN)
