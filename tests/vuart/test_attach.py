"""Attaching to a console: what the user sees and types, and the terminal afterwards."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vuart.attach import Outcome, Reason, attach, parse_escape

PROGRAM = Path(__file__).with_name("scripted_console.py")
ROOT = Path(__file__).parents[2]
SECONDS = 20


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.005)


class Client:
    """The attached program on a terminal of its own (or pipes), with the guest's side in ``directory``."""

    def __init__(self, directory: Path, *, on_terminal: bool = True, stdin: int = subprocess.PIPE) -> None:
        self.directory = directory
        (directory / "output").touch()
        (directory / "input").touch()
        self.screen = b""
        self.master = -1
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(PROGRAM), str(directory)]
        if on_terminal:
            self.master, slave = pty.openpty()
            self.terminal = os.open(os.ttyname(slave), os.O_RDWR | os.O_NOCTTY)
            self.before = termios.tcgetattr(self.terminal)
            self.process = subprocess.Popen(
                command,
                stdin=slave,
                stdout=slave,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
            os.close(slave)
        else:
            self.process = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
            )

    def guest_prints(self, data: bytes) -> None:
        with (self.directory / "output").open("ab") as file:
            file.write(data)

    def guest_ends(self) -> None:
        (self.directory / "ended").touch()

    @property
    def guest_got(self) -> bytes:
        return (self.directory / "input").read_bytes()

    def shows(self, text: bytes) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.screen:
            ready, _, _ = select.select((self.master,), (), (), max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} never shown, only {self.screen!r}"
            self.screen += os.read(self.master, 65536)

    def types(self, data: bytes) -> None:
        os.write(self.master, data)

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.terminal)[3] & termios.ICANON

    @property
    def sane(self) -> bool:
        return termios.tcgetattr(self.terminal) == self.before

    def outcome(self) -> str:
        """What attach answered; waits for the program's end."""
        _, errors = self.process.communicate(timeout=SECONDS)
        return errors.decode().strip()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        if self.master >= 0:
            os.close(self.terminal)
            os.close(self.master)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    yield client
    client.close()


@pytest.fixture
def attached(client: Client) -> Client:
    client.guest_prints(b"Booting\r\n")
    client.shows(b"Booting\r\n")
    return client


def test_everything_printed_before_is_shown_on_attach_and_then_what_comes(attached: Client) -> None:
    attached.guest_prints(b"\x1b[1mready\x1b[0m")
    attached.shows(b"\x1b[1mready\x1b[0m")


def test_what_the_guest_asked_the_terminal_before_is_not_asked_again_on_attach(tmp_path: Path) -> None:
    (tmp_path / "output").write_bytes(b"# \x1b[6nls\r\n\x1b[c\x1b[>0c\x1bZ\x1b[1mfile\x1b[0m\r\n# \x1b[6n")
    client = Client(tmp_path)
    try:
        client.shows(b"\x1b[1mfile\x1b[0m\r\n# ")
        # What it asks from now on is asked: the reader has found the end of what was there.
        for count in range(1, 100):
            client.guest_prints(b"%d \x1b[6n" % count)
            client.shows(b"%d " % count)
            if b"\x1b[6n" in client.screen:
                break
        assert client.screen.startswith(b"# ls\r\n\x1b[1mfile\x1b[0m\r\n# 1 ")
        client.shows(b"\x1b[6n")
    finally:
        client.close()


def test_every_typed_byte_reaches_the_guest_control_characters_included_and_nothing_is_echoed(
    attached: Client,
) -> None:
    until(lambda: attached.raw, "raw mode")
    typed = bytes(b for b in range(256) if b != 0x1D)
    attached.types(typed)
    until(lambda: attached.guest_got == typed, "input arrives")
    attached.guest_prints(b"done")
    attached.shows(b"done")
    assert attached.screen == b"Booting\r\ndone"


def test_the_escape_character_leaves_at_once_and_what_was_typed_before_it_still_arrives(attached: Client) -> None:
    until(lambda: attached.raw, "raw mode")
    attached.types(b"last\r\x1dnot sent")
    assert attached.outcome() == "ESCAPE 0 None"
    assert attached.sane and attached.guest_got == b"last\r"


def test_the_end_of_the_domain_is_reported_after_the_rest_of_its_output(attached: Client) -> None:
    attached.guest_prints(b"x" * 200_000 + b"Power down\r\n")
    attached.guest_ends()
    attached.shows(b"Power down\r\n")
    assert attached.outcome() == "DOMAIN_ENDED 0 None"
    assert attached.sane and len(attached.screen) == len(b"Booting\r\nPower down\r\n") + 200_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_the_terminal_is_sane_after_a_signal(attached: Client, number: signal.Signals) -> None:
    until(lambda: attached.raw, "raw mode")
    attached.process.send_signal(number)
    assert attached.outcome() == f"SIGNAL {int(number)} None"
    assert attached.sane


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_terminal_is_sane_even_after_a_death_that_cannot_be_caught(
    attached: Client, number: signal.Signals
) -> None:
    until(lambda: attached.raw, "raw mode")
    attached.process.send_signal(number)
    assert attached.process.wait(SECONDS) == -number
    until(lambda: attached.sane, "terminal sane again")


def test_a_killed_client_does_not_disturb_a_shell_that_has_changed_the_terminal_already(attached: Client) -> None:
    until(lambda: attached.raw, "raw mode")
    os.kill(attached.process.pid, signal.SIGSTOP)
    shells = termios.tcgetattr(attached.terminal)
    shells[0] |= termios.ICRNL
    termios.tcsetattr(attached.terminal, termios.TCSANOW, shells)
    attached.process.kill()
    attached.outcome()  # stderr closes when the last process that holds it is gone; the guard does not hold it
    until(lambda: not guards_of(attached), "guard gone")
    assert termios.tcgetattr(attached.terminal) == shells


def guards_of(client: Client) -> list[str]:
    """Guard processes which have the client's terminal open."""
    name = os.ttyname(client.terminal)
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if b"termios_guard" in (directory / "cmdline").read_bytes() and any(
                os.readlink(fd) == name for fd in (directory / "fd").iterdir()
            ):
                found.append(directory.name)
        except OSError:
            continue
    return found


def test_no_guard_is_left_behind_after_an_ordinary_end(attached: Client) -> None:
    until(lambda: attached.raw and bool(guards_of(attached)), "raw mode under guard")
    attached.types(b"\x1d")
    attached.outcome()
    assert guards_of(attached) == []


def test_a_stop_gives_the_terminal_back_and_continuing_makes_it_raw_again(attached: Client) -> None:
    until(lambda: attached.raw, "raw mode")
    attached.process.send_signal(signal.SIGTSTP)
    os.waitid(os.P_PID, attached.process.pid, os.WSTOPPED | os.WNOWAIT)
    assert attached.sane
    attached.process.send_signal(signal.SIGCONT)
    until(lambda: attached.raw, "raw mode again")
    attached.types(b"still here\x1d")
    assert attached.outcome() == "ESCAPE 0 None"
    assert attached.guest_got == b"still here" and attached.sane


def test_a_terminal_that_hangs_up_ends_the_attachment(attached: Client) -> None:
    until(lambda: attached.raw, "raw mode")
    os.close(attached.master)
    attached.master = os.open("/dev/null", os.O_RDONLY)
    assert attached.outcome().split()[0] in ("SIGNAL", "STDIN_EOF", "STDOUT_CLOSED")


def test_a_terminal_that_nobody_reads_still_lets_go_on_escape(attached: Client) -> None:
    until(lambda: attached.raw, "raw mode")
    attached.guest_prints(b"y" * 500_000)
    time.sleep(0.3)  # until the terminal's own buffer is full there is no event to await
    attached.types(b"\x1d")
    assert attached.outcome() == "ESCAPE 0 None"
    assert attached.sane


def test_piped_input_is_sent_whole_and_output_is_shown_until_the_domain_ends(tmp_path: Path) -> None:
    client = Client(tmp_path, on_terminal=False)
    assert client.process.stdin is not None and client.process.stdout is not None
    text = b"echo \x1d hello\n" * 1000
    client.process.stdin.write(text)
    client.process.stdin.close()
    client.process.stdin = None
    until(lambda: client.guest_got == text, "input arrives, escape character and all")
    client.guest_prints(b"hello\r\n")
    assert client.process.stdout.read(7) == b"hello\r\n"
    assert client.process.poll() is None
    client.guest_prints(b"bye")
    client.guest_ends()
    output, errors = client.process.communicate(timeout=SECONDS)
    assert (output, errors) == (b"bye", b"DOMAIN_ENDED 0 None\n")
    client.close()


def test_without_input_it_just_shows_output(tmp_path: Path) -> None:
    client = Client(tmp_path, on_terminal=False, stdin=subprocess.DEVNULL)
    client.guest_prints(b"on its own")
    client.guest_ends()
    output, errors = client.process.communicate(timeout=SECONDS)
    assert (output, errors) == (b"on its own", b"DOMAIN_ENDED 0 None\n")
    client.close()


def test_a_pipe_whose_reader_left_ends_the_attachment_even_if_the_guest_is_silent(tmp_path: Path) -> None:
    client = Client(tmp_path, on_terminal=False)
    assert client.process.stdout is not None
    client.guest_prints(b"one line\n")
    assert client.process.stdout.readline() == b"one line\n"
    client.process.stdout.close()
    client.process.stdout = None
    assert client.outcome() == "STDOUT_CLOSED 0 None"
    client.close()


class MemoryConsole:
    """A transport in memory. ``accept`` is how many bytes of input the guest takes in total."""

    def __init__(self, output: bytes = b"", *, first: int = 0, accept: int = 1 << 30) -> None:
        self.output = output
        self.first = first
        self.accept = accept
        self.ended = threading.Event()
        self.failure: Exception | None = None
        self.refusal: Exception | None = None
        self.input = b""

    def read(self, offset: int, max_bytes: int, wait_ms: int) -> tuple[int, bytes, bool]:
        if self.failure:
            raise self.failure
        offset = max(offset, self.first)
        data = self.output[offset - self.first :][:max_bytes]
        if not data:
            self.ended.wait(min(wait_ms, 50) / 1000)
        return offset, data, self.ended.is_set()

    def write(self, data: bytes) -> int:
        if self.refusal:
            raise self.refusal
        taken = min(len(data), self.accept)
        self.accept -= taken
        self.input += data[:taken]
        return taken


class Pipes:
    """attach() in a thread, on two pipes."""

    def __init__(self, console: MemoryConsole, offset: int = 0) -> None:
        self.notices: list[str] = []
        self.outcome: Outcome | None = None
        stdin, self.keyboard = os.pipe()
        self.screen, stdout = os.pipe()

        def run() -> None:
            try:
                self.outcome = attach(console, stdin=stdin, stdout=stdout, offset=offset, notice=self.notices.append)
            finally:
                os.close(stdin)
                os.close(stdout)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def finish(self) -> tuple[bytes, Outcome | None]:
        self.thread.join(SECONDS)
        shown = b""
        while data := os.read(self.screen, 65536):
            shown += data
        os.close(self.screen)
        os.close(self.keyboard)
        return shown, self.outcome


def test_input_that_the_guest_has_no_room_for_is_offered_again() -> None:
    console = MemoryConsole(accept=3)
    pipes = Pipes(console)
    os.write(pipes.keyboard, b"abcdef")
    until(lambda: console.input == b"abc", "first part")
    console.accept = 100
    until(lambda: console.input == b"abcdef", "second part")
    console.ended.set()
    assert pipes.finish() == (b"", Outcome(Reason.DOMAIN_ENDED))


def test_a_pipe_is_not_read_further_than_the_guest_takes() -> None:
    console = MemoryConsole(accept=0)
    pipes = Pipes(console)
    os.set_blocking(pipes.keyboard, False)
    written = 0
    with pytest.raises(BlockingIOError):
        while written < 1 << 20:
            written += os.write(pipes.keyboard, b"z" * 4096)
            time.sleep(0.001)
    assert written < 1 << 18
    console.accept = 1 << 30
    until(lambda: len(console.input) == written, "all of it arrives in the end")
    console.ended.set()
    pipes.finish()


def test_attaching_at_an_offset_shows_only_what_came_after_it() -> None:
    console = MemoryConsole(b"old new")
    console.ended.set()
    assert Pipes(console, offset=4).finish() == (b"new", Outcome(Reason.DOMAIN_ENDED))


def test_history_that_is_no_longer_kept_is_mentioned() -> None:
    console = MemoryConsole(b"recent", first=1000)
    console.ended.set()
    pipes = Pipes(console)
    assert pipes.finish()[0] == b"recent"
    assert pipes.notices == ["1000 bytes of older output are no longer kept"]


def test_an_error_of_the_transport_is_the_outcome() -> None:
    console = MemoryConsole()
    console.failure = ConnectionResetError("daemon gone")
    assert Pipes(console).finish() == (b"", Outcome(Reason.ERROR, error=console.failure))


def test_input_refused_because_the_domain_just_ended_counts_as_its_end_not_as_an_error() -> None:
    console = MemoryConsole(b"bye")
    console.refusal = LookupError("no such domain")
    pipes = Pipes(console)
    os.write(pipes.keyboard, b"x")
    console.ended.set()
    assert pipes.finish() == (b"bye", Outcome(Reason.DOMAIN_ENDED))


def test_input_refused_while_the_domain_lives_is_an_error() -> None:
    console = MemoryConsole()
    console.refusal = PermissionError("not yours")
    pipes = Pipes(console)
    os.write(pipes.keyboard, b"x")
    assert pipes.finish() == (b"", Outcome(Reason.ERROR, error=console.refusal))


@pytest.mark.parametrize(("text", "code"), [("^]", 0x1D), ("^a", 1), ("^@", 0), ("x", 0x78), ("^", 0x5E)])
def test_escape_characters_are_written_as_in_xen(text: str, code: int) -> None:
    assert parse_escape(text) == code


@pytest.mark.parametrize("text", ["", "ab", "^é", "^1", "é"])
def test_other_escape_characters_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither one character nor"):
        parse_escape(text)
