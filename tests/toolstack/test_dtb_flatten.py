"""The blob's layout, and changes in place."""

from __future__ import annotations

import struct

import pytest
from fdt import Node, PropBytes, Property, PropStrings, PropWords

from toolstack.dtb.blob import Blob, PropertyToken
from toolstack.dtb.flatten import SequentialWriter, flatten


def written(*names: str) -> bytes:
    writer = SequentialWriter()
    writer.begin_node("")
    for name in names:
        writer.property(name, b"")
    writer.end_node()
    return writer.finish()


def strings(blob: bytes) -> bytes:
    tree = Blob(blob)
    return bytes(tree.data[tree.strings_offset : tree.strings_offset + tree.strings_size])


def test_the_newest_name_comes_first() -> None:
    assert strings(written("a", "bb", "ccc")) == b"ccc\0bb\0a\0"


def test_a_name_that_ends_another_one_is_shared() -> None:
    assert strings(written("enable-method", "method")) == b"enable-method\0"
    assert strings(written("method", "enable-method")) == b"enable-method\0method\0"


def test_a_name_written_twice_is_stored_once() -> None:
    writer = SequentialWriter()
    writer.begin_node("")
    for child in ("a", "b"):
        writer.begin_node(child)
        writer.property("reg", b"\0\0\0\1")
        writer.end_node()
    writer.end_node()
    assert strings(writer.finish()) == b"reg\0"


def test_the_header_is_that_of_version_17_and_the_parts_follow_without_gaps() -> None:
    blob = written("model")
    size = 4 + 4 + 12 + 4 + 4
    assert struct.unpack(">10I", blob[:40]) == (
        0xD00DFEED, 64 + size + 6, 64, 64 + size, 48, 17, 16, 0, 6, size,
    )  # fmt: skip
    assert blob[40:64] == bytes(24)
    assert len(blob) == 64 + size + 6


def test_each_kind_of_property_is_written_as_its_bytes() -> None:
    root = Node(
        "/",
        PropStrings("s", "one", "two"),
        PropWords("w", 1, 0xFFFFFFFF),
        PropBytes("b", data=b"\1\2\3"),
        Property("e"),
    )
    values = {token.name: token.value for token in Blob(flatten(root)).walk() if isinstance(token, PropertyToken)}
    assert values == {"s": b"one\0two\0", "w": b"\0\0\0\1\xff\xff\xff\xff", "b": b"\1\2\3", "e": b""}


def test_properties_can_be_written_after_the_children() -> None:
    root = Node("/", Property("late"), Property("early"), Node("child"))
    tokens = [getattr(token, "name", "end") for token in Blob(flatten(root, after_nodes={"late"})).walk()]
    assert tokens == ["", "early", "child", "end", "late", "end"]


def blob_with_value(value: bytes) -> Blob:
    writer = SequentialWriter()
    writer.begin_node("")
    writer.begin_node("node")
    writer.property("reg", value)
    writer.end_node()
    writer.begin_node("next")
    writer.property("x", b"tail")
    writer.end_node()
    writer.end_node()
    return Blob(writer.finish())


def test_a_property_that_shrinks_keeps_the_size_of_the_blob_and_its_last_bytes() -> None:
    blob = blob_with_value(bytes(range(64)))
    before = bytes(blob.data)
    blob.shrink("/node", "reg", b"\xaa" * 16)
    after = Blob(bytes(blob.data))
    assert after.find("/node", "reg").value == b"\xaa" * 16
    assert after.find("/next", "x").value == b"tail"
    assert after.total_size == len(before)
    assert bytes(after.data[-48:]) == before[-48:]
    assert after.structure_size == Blob(before).structure_size - 48


def test_an_erased_node_is_gone_and_the_rest_stays_where_it_was() -> None:
    blob = blob_with_value(bytes(8))
    offset = blob.find("/next", "x").offset
    blob.erase("/node")
    after = Blob(bytes(blob.data))
    assert after.find("/next", "x").offset == offset
    with pytest.raises(KeyError):
        after.find("/node", "reg")


def test_a_value_of_another_length_is_refused() -> None:
    blob = blob_with_value(bytes(8))
    with pytest.raises(ValueError, match="/node:reg has 8 bytes, not 4"):
        blob.overwrite("/node", "reg", bytes(4))
    with pytest.raises(ValueError, match="cannot shrink from 8 to 12 bytes"):
        blob.shrink("/node", "reg", bytes(12))
