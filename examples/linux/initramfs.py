"""Writes an initramfs: a gzip-compressed cpio archive (format "newc") with one program and its init script.

The archive says nothing about the machine it is built on (no time stamps, owners or inode numbers), so that building it
again from the same files does not change the RIM of a Realm that is measured with it.
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterable
from typing import NamedTuple


class Entry(NamedTuple):
    """One file. ``mode`` is type and permissions; ``device`` is (major, minor) of a character device."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def pack(entries: Iterable[Entry]) -> bytes:
    """The archive: cpio(5) "newc", the only format that Linux unpacks at boot, and gzip around it."""
    trailer = Entry("TRAILER!!!", 0)
    archive = b"".join(_record(inode, entry) for inode, entry in enumerate((*entries, trailer), start=1))
    return gzip.compress(archive, 6, mtime=0)


def for_shell(busybox: bytes, init: bytes) -> bytes:
    """An initramfs with BusyBox and ``init``, which is run as ``/init``."""
    return pack(
        (
            Entry("bin", stat.S_IFDIR | 0o755),
            Entry("dev", stat.S_IFDIR | 0o755),
            Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
            Entry("bin/busybox", stat.S_IFREG | 0o755, busybox),
            Entry("init", stat.S_IFREG | 0o755, init),
        )
    )


def _record(inode: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    owner = group = time = check = device_major = device_minor = 0
    fields = (
        *(inode, entry.mode, owner, group, links, time, len(entry.data)),
        *(device_major, device_minor, *entry.device, len(name), check),
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
