"""The console log: absolute offsets, private files, full disks, bounded size."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vuart.history import ConsoleLog, ConsoleReader


def no_error(message: str) -> None:
    raise AssertionError(message)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "console" / "guest-r1-vuart0.log"


def test_log_and_directory_are_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        ConsoleLog(path, no_error).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_symbolic_link_in_place_of_the_log_is_refused(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        ConsoleLog(path, no_error)
    assert not (tmp_path / "elsewhere").exists()


def test_a_reader_sees_each_append_at_once_at_its_absolute_offset(path: Path) -> None:
    log = ConsoleLog(path, no_error)
    with ConsoleReader(path) as reader:
        assert reader.size == 0 and reader.read(0, 100) == (0, b"")
        assert log.append(b"hello ") == 6
        log.append(b"realm")
        assert reader.size == log.end == 11
        assert reader.read(0, 100) == (0, b"hello realm")
        assert reader.read(6, 3) == (6, b"rea")
        assert reader.read(11, 3) == (11, b"") and reader.read(400, 3) == (400, b"")
    log.close()


def test_a_log_opened_again_continues_where_it_ended(path: Path) -> None:
    for text in (b"one ", b"two"):
        log = ConsoleLog(path, no_error)
        log.append(text)
        log.close()
    with ConsoleReader(path) as reader:
        assert reader.read(0, 100).data == b"one two"


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, -1)])
def test_negative_offsets_and_sizes_are_refused(path: Path, offset: int, size: int) -> None:
    ConsoleLog(path, no_error).close()
    with ConsoleReader(path) as reader, pytest.raises(ValueError, match="must not be negative"):
        reader.read(offset, size)


def test_reading_the_log_of_an_unknown_guest_says_so(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ConsoleReader(path)


def test_a_killed_writer_loses_nothing(path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from vuart.history import ConsoleLog
log = ConsoleLog(Path(sys.argv[1]), print)
for byte in b"last words":
    log.append(bytes((byte,)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script, str(path)], timeout=30, check=False)
    assert killed.returncode == -signal.SIGKILL
    with ConsoleReader(path) as reader:
        assert reader.read(0, 100).data == b"last words"


class FullDisk:
    """os.write with a given number of bytes of room."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._write = os.write

    def __call__(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, bytes(data[: self.room]))
        self.room -= written
        return written


def test_a_full_disk_is_reported_once_and_what_waited_is_written_when_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[str] = []
    log = ConsoleLog(path, errors.append)
    disk = FullDisk(room=4)
    monkeypatch.setattr("vuart.history.os.write", disk)
    for _ in range(100):
        assert log.append(b"abcdef") == 6
    assert errors == [f"{path}: cannot write the console log: No space left on device; the guest goes on"]
    assert path.read_bytes() == b"abcd"
    disk.room = 1 << 20
    log.append(b"!")
    assert path.read_bytes() == b"abcdef" * 100 + b"!"
    assert log.end == 601


def test_output_beyond_what_memory_holds_during_an_outage_leaves_a_note_in_its_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ConsoleLog(path, lambda _: None)
    disk = FullDisk(room=0)
    monkeypatch.setattr("vuart.history.os.write", disk)
    log.append(b"x" * (1 << 20))
    log.append(b"lost")
    disk.room = 4 << 20
    assert log.flush()
    log.append(b"after")
    note = b"\r\n[4 bytes of console output lost: no room for the log]\r\n"
    assert path.read_bytes() == b"x" * (1 << 20) + note + b"after"


def test_closing_during_an_outage_says_how_much_was_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[str] = []
    log = ConsoleLog(path, errors.append)
    monkeypatch.setattr("vuart.history.os.write", FullDisk(room=0))
    log.append(b"12345")
    log.close()
    assert errors[1:] == [f"{path}: 5 bytes of console output lost"]


def test_a_guest_that_prints_without_end_uses_bounded_disk_and_offsets_stay_true(path: Path) -> None:
    log = ConsoleLog(path, no_error, keep=2 << 20)
    line = b"%015d\n"
    for start in range(0, 8 << 20, 64 << 10):
        log.append(b"".join(line % at for at in range(start, start + (64 << 10), 16)))
    assert log.end == 8 << 20 == path.stat().st_size
    assert path.stat().st_blocks * 512 <= 3 << 20
    with ConsoleReader(path) as reader:
        offset, data = reader.read(0, 16)
        assert offset >= 4 << 20 and data == line % offset
        assert reader.read((8 << 20) - 16, 100) == ((8 << 20) - 16, line % ((8 << 20) - 16))
    log.close()
