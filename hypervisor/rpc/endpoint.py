"""Where a daemon listens and keeps its files: the runtime and state directories.

The runtime directory is ``$XL_RUNTIME_DIR``, else ``$XDG_RUNTIME_DIR/xl-realm``, else a per-user directory below the
system's temporary directory; the state directory (logs, console histories) ``$XL_STATE_DIR``, else
``$XDG_STATE_HOME/xl-realm``, else ``~/.local/state/xl-realm``. Both are created with mode 0700 and must belong to the
caller.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class EndpointError(Exception):
    """Raised when a directory cannot be made or cannot be trusted; the text names it and says why."""


#: Longest path of a Unix socket, less the terminator.
_SUN_PATH_MAX = 107


def _private(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = os.stat(path)
    except OSError as error:
        raise EndpointError(f"cannot create directory {path}: {error.strerror}") from None
    if info.st_uid != os.geteuid():
        raise EndpointError(f"directory {path} belongs to uid {info.st_uid}, not to uid {os.geteuid()}")
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise EndpointError(f"directory {path} is open to others (mode {stat.S_IMODE(info.st_mode):04o}, want 0700)")
    return path


def _runtime_path() -> Path:
    explicit = os.environ.get("XL_RUNTIME_DIR")
    if explicit:
        return Path(explicit).absolute()
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if xdg and os.access(xdg, os.W_OK):
        return Path(xdg) / "xl-realm"
    import tempfile  # only here: it costs every command some milliseconds

    return Path(tempfile.gettempdir()) / f"xl-realm-{os.geteuid()}"


def runtime_dir() -> Path:
    """The private runtime directory; EndpointError when it cannot be made, is too long for a socket or not ours."""
    path = _runtime_path()
    if len(os.fsencode(path / "rpc.sock")) > _SUN_PATH_MAX:
        raise EndpointError(f"runtime directory {path} is too long for a socket (set XL_RUNTIME_DIR)")
    return _private(path)


def state_dir() -> Path:
    """The private state directory; EndpointError as for :func:`runtime_dir`."""
    explicit = os.environ.get("XL_STATE_DIR")
    if explicit:
        return _private(Path(explicit).absolute())
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return _private(Path(base) / "xl-realm")


def socket_path() -> Path:
    """Path of the RPC socket in the runtime directory."""
    return runtime_dir() / "rpc.sock"


def lock_path() -> Path:
    """The file whose lock says that a daemon owns the runtime directory; it holds the daemon's pid."""
    return runtime_dir() / "hypervisord.lock"


def console_log(name: str, domid: int) -> Path:
    """The console history of a domain."""
    safe = "".join(c if c.isalnum() or c in "-_.+" else "_" for c in name)[:100]
    return state_dir() / "console" / f"guest-{safe}-{domid}-vuart0.log"
