"""What a guest said on its console, kept in a file. Enter at ``ConsoleLog`` (writer) and ``ConsoleReader``.

The file is the console: a byte's position in it is its absolute offset, the same for every client, for as long as the
file exists. Nothing is buffered while the disk takes what it is given, so a killed writer loses nothing.

A guest decides how much it prints, and must not be able to fill the host's disk. Beyond ``keep`` bytes the oldest part
is given back to the file system as a hole: offsets stay as they are, and ``ConsoleReader`` begins after the hole. On a
file system without holes the file keeps growing.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

KEEP: Final = 64 << 20
_TRIM_STEP: Final = 1 << 20
"""How far beyond ``keep`` the file may grow before its oldest part is given back."""
_BACKLOG: Final = 1 << 20
"""How much output is kept in memory while the disk is full."""
_PUNCH_HOLE_KEEP_SIZE: Final = 0x02 | 0x01
_SURVIVABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Chunk(NamedTuple):
    """Bytes of a console and where they begin."""

    offset: int
    data: bytes


class ConsoleLog:
    """The writing side of one console's file (mode 0600, in a directory created 0700).

    While the disk is full the guest goes on: up to 1 MiB of output waits in memory and is written once there is room;
    what does not fit is lost, and the file says how much at the place where it is missing. ``on_error(message)`` is
    called once when that begins, not for every byte.
    """

    def __init__(self, path: Path, on_error: Callable[[str], None], *, keep: int = KEEP) -> None:
        """Opens or continues ``path``. Raises OSError when that is impossible (also: it is a symbolic link)."""
        self.path = path
        self._on_error = on_error
        self._keep = keep
        self._waiting = bytearray()
        self._lost = 0
        self._failing = False
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size
        self._trim_at = keep + _TRIM_STEP

    @property
    def end(self) -> int:
        """The absolute offset after the last byte written."""
        return self._size

    def append(self, data: bytes) -> int:
        """Write ``data`` at the end, at once. Takes all of it, always: answers ``len(data)``."""
        if self._failing:
            self._keep_in_memory(data)
            self.flush()
            return len(data)
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            written = 0
            self._report(error)
        self._size += written
        if written < len(data):
            self._keep_in_memory(data[written:])
            self.flush()
        elif self._size >= self._trim_at:
            self._trim()
        return len(data)

    def flush(self) -> bool:
        """Try again to write what waits in memory. True if nothing waits any more."""
        try:
            while self._waiting:
                written = os.write(self._fd, self._waiting)
                self._size += written
                del self._waiting[:written]
                if not self._waiting and self._lost:
                    self._waiting += b"\r\n[%d bytes of console output lost: no room for the log]\r\n" % self._lost
                    self._lost = 0
        except OSError as error:
            self._report(error)
            return False
        self._failing = False
        return True

    def close(self) -> None:
        """Close the file. What waited in memory is written if there is room by now, and otherwise reported as lost."""
        if not self.flush():
            self._on_error(f"{self.path}: {len(self._waiting) + self._lost} bytes of console output lost")
        os.close(self._fd)

    def _keep_in_memory(self, data: bytes) -> None:
        # Once something was lost, all that follows is, so that the note about it stands where it belongs.
        room = 0 if self._lost else _BACKLOG - len(self._waiting)
        self._waiting += data[:room]
        self._lost += len(data[room:])

    def _report(self, error: OSError) -> None:
        if error.errno not in _SURVIVABLE:
            raise error
        if not self._failing:
            self._failing = True
            self._on_error(f"{self.path}: cannot write the console log: {error.strerror}; the guest goes on")

    def _trim(self) -> None:
        length = (self._size - self._keep) // _TRIM_STEP * _TRIM_STEP
        # The result is not looked at: a file system without holes keeps everything, which is no error.
        _libc.fallocate(self._fd, _PUNCH_HOLE_KEEP_SIZE, 0, length)
        self._trim_at = length + self._keep + _TRIM_STEP


class ConsoleReader:
    """The reading side: any number of them, in any process, while the file is written and after that."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError if there is no such console log."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    @property
    def size(self) -> int:
        """The absolute offset after the last byte: what can be read now."""
        return os.fstat(self._fd).st_size

    def read(self, offset: int, max_bytes: int) -> Chunk:
        """Up to ``max_bytes`` from ``offset`` on; no bytes at the end. Never waits.

        The answer begins later than asked if what stood there is no longer kept.
        """
        if offset < 0 or max_bytes < 0:
            raise ValueError(f"console offset {offset} and size {max_bytes} must not be negative")
        try:
            offset = os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # at or beyond the end
                raise
            return Chunk(offset, b"")
        return Chunk(offset, os.pread(self._fd, max_bytes, offset))

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> ConsoleReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
