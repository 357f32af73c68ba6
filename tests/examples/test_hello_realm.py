"""The hello-realm guest, from its committed Image."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from bare_board import BareBoard

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello-realm"
IMAGE = EXAMPLE / "Image"
BINUTILS = all(shutil.which(f"aarch64-linux-gnu-{tool}") for tool in ("as", "ld", "objcopy")) and shutil.which("make")


@pytest.mark.skipif(not BINUTILS, reason="needs make and binutils-aarch64-linux-gnu")
def test_the_committed_image_is_what_the_source_builds(tmp_path: Path) -> None:
    subprocess.run(["make", "-s", "-C", EXAMPLE, f"BUILD={tmp_path}"], check=True, timeout=60)
    assert (tmp_path / "Image").read_bytes() == IMAGE.read_bytes()


def test_it_is_an_arm64_image_that_holds_all_of_its_memory() -> None:
    image = IMAGE.read_bytes()
    text_offset, size, flags = struct.unpack_from("<QQQ", image, 8)
    assert image[0x38:0x3C] == b"ARM\x64"
    assert (text_offset, size, flags) == (0, len(image), 0xA)
    assert len(image) <= 16384


@pytest.fixture
def realm() -> BareBoard:
    board = BareBoard(IMAGE, realm=True)
    board.run()
    return board


def banner(board: BareBoard, digest_length: int) -> bytes:
    digest = board.measurement[:digest_length].hex()
    return f"hello-realm: RSI 1.0, ipa width {board.ipa_width}\r\nhello-realm: RIM {digest}\r\n> ".encode()


@pytest.mark.parametrize("ipa_width", [33, 40, 44, 48])
def test_a_realm_reports_its_rsi_version_and_ipa_width_through_the_unprotected_uart(ipa_width: int) -> None:
    board = BareBoard(IMAGE, realm=True, ipa_width=ipa_width)
    board.run()
    assert board.printed == banner(board, 32) and board.stray == []


@pytest.mark.parametrize(("algorithm", "length"), [(0, 32), (1, 64), (2, 48)])
def test_the_measurement_is_as_long_as_its_hash(algorithm: int, length: int) -> None:
    board = BareBoard(IMAGE, realm=True, hash_algorithm=algorithm)
    board.run()
    assert board.printed == banner(board, length)


def test_a_line_is_echoed_and_answered(realm: BareBoard) -> None:
    assert realm.type_in(b"hi there\r") == b"hi there\r\nhello-realm: you said: hi there\r\n> "


def test_it_sleeps_until_an_interrupt_announces_input(realm: BareBoard) -> None:
    for byte in b"abc":
        before = realm.acknowledged
        realm.type_in(bytes((byte,)))
        assert realm.acknowledged > before


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n"])
def test_each_kind_of_line_end_is_one(realm: BareBoard, end: bytes) -> None:
    answer = realm.type_in(b"a" + end + b"b" + end)
    said = [f"{c}\r\nhello-realm: you said: {c}\r\n> " for c in "ab"]
    assert answer == "".join(said).encode()


@pytest.mark.parametrize("erase", [b"\b", b"\x7f"])
def test_backspace_rubs_out_and_stops_at_the_start_of_the_line(realm: BareBoard, erase: bytes) -> None:
    assert realm.type_in(erase + b"x" + erase * 3) == b"x\b \b"
    assert realm.type_in(b"y\r").endswith(b"you said: y\r\n> ")


def test_a_line_longer_than_the_buffer_rings_the_bell_and_keeps_what_fits(realm: BareBoard) -> None:
    answer = realm.type_in(b"z" * 130 + b"\r")
    assert answer == b"z" * 120 + b"\a" * 10 + b"\r\nhello-realm: you said: " + b"z" * 120 + b"\r\n> "


def test_control_characters_are_ignored(realm: BareBoard) -> None:
    assert realm.type_in(b"a\x03\x1b\x00b") == b"ab"


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        (b"quit\r", b"quit\r\n"),
        (b"\x04", b"\r\n"),
        (b"half\x04", b"half\r\nhello-realm: you said: half\r\n"),
    ],
)
def test_quit_and_end_of_input_power_off_through_smc(realm: BareBoard, typed: bytes, printed: bytes) -> None:
    assert realm.type_in(typed) == printed
    assert realm.powered_off_by == "smc"


def test_quit_with_something_more_is_an_ordinary_line(realm: BareBoard) -> None:
    assert b"you said: quits" in realm.type_in(b"quits\r")
    assert realm.powered_off_by == ""


def test_an_ordinary_guest_says_so_and_powers_off_through_hvc() -> None:
    board = BareBoard(IMAGE, realm=False)
    board.run()
    assert board.printed == b"hello-realm: not a Realm\r\n> "
    assert board.type_in(b"quit\r") == b"quit\r\n"
    assert board.powered_off_by == "hvc"


def test_a_realm_that_cannot_learn_its_ipa_width_powers_off_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BareBoard, "realm_config", lambda *_: (1,))
    board = BareBoard(IMAGE, realm=True)
    board.run()
    assert (board.printed, board.powered_off_by) == (b"", "smc")
