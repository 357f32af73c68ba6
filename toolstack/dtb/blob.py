"""A device tree blob: reading it, and changing it in place as libfdt does.

Enter at :class:`Blob`. :meth:`Blob.walk` gives the tokens of the structure; :meth:`Blob.find` a property or node;
the three changes are :meth:`Blob.overwrite`, :meth:`Blob.shrink` and :meth:`Blob.erase`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from toolstack.dtb.flatten import BEGIN_NODE, END, END_NODE, HEADER, LAST_COMPATIBLE_VERSION, MAGIC, NOP, PROP

#: Deepest nesting of nodes that is read.
DEPTH_LIMIT = 64

_WORD = struct.Struct(">I")
_TOTAL_SIZE, _OFF_STRINGS, _SIZE_STRUCTURE = 4, 12, 36


class BlobError(ValueError):
    """The bytes are not a device tree blob of version 16 or 17, or are damaged."""


@dataclass(frozen=True, slots=True)
class NodeStart:
    """A node begins. PATH is ``/`` for the root; OFFSET is that of its token in the blob."""

    path: str
    name: str
    offset: int


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """The node opened last ends; END is the offset after its token."""

    path: str
    end: int


@dataclass(frozen=True, slots=True)
class PropertyToken:
    """A property of the open node. OFFSET is that of its value in the blob."""

    path: str
    name: str
    offset: int
    value: bytes


Token = NodeStart | NodeEnd | PropertyToken


class Blob:
    """The bytes of a device tree. Raises BlobError when the header is not one, or the parts lie outside."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        if len(data) < HEADER.size:
            raise BlobError(f"{len(data)} bytes are less than the header of a device tree blob ({HEADER.size})")
        (
            magic,
            self.total_size,
            self.structure_offset,
            self.strings_offset,
            self.reservation_offset,
            version,
            compatible,
            self.boot_cpu,
            self.strings_size,
            self.structure_size,
        ) = HEADER.unpack_from(self.data)
        if magic != MAGIC:
            raise BlobError(f"magic is {magic:#x}; a device tree blob has {MAGIC:#x}")
        if version < 17 or compatible > LAST_COMPATIBLE_VERSION + 1:
            raise BlobError(f"version {version} (compatible with {compatible}); 17 is needed")
        if self.total_size > len(data):
            raise BlobError(f"the header says {self.total_size} bytes, but there are only {len(data)}")
        for what, end in (
            ("structure", self.structure_offset + self.structure_size),
            ("strings", self.strings_offset + self.strings_size),
            ("memory reservation map", self.reservation_offset + 16),
        ):
            if end > self.total_size:
                raise BlobError(f"the {what} end at {end}, after the end of the blob at {self.total_size}")

    def reservations(self) -> list[tuple[int, int]]:
        """Address and size of each entry of the memory reservation map."""
        entries: list[tuple[int, int]] = []
        offset = self.reservation_offset
        while offset + 16 <= self.total_size:
            address, size = struct.unpack_from(">QQ", self.data, offset)
            if not address and not size:
                return entries
            entries.append((address, size))
            offset += 16
        raise BlobError("the memory reservation map has no end")

    def walk(self) -> Iterator[Token]:
        """The structure, token by token; NOPs are left out. Raises BlobError where it is damaged."""
        offset = self.structure_offset
        path: list[str] = []
        while True:
            start, token = offset, self._word(offset)
            offset += 4
            if token == BEGIN_NODE:
                name = self._name(offset, self.structure_offset + self.structure_size)
                if len(path) == DEPTH_LIMIT:
                    raise BlobError(f"the node at {start} is nested more than {DEPTH_LIMIT} deep")
                path.append(name)
                yield NodeStart(_join(path), name, start)
                offset += (len(name) + 4) & ~3
            elif token == PROP:
                length, name_offset = self._word(offset), self._word(offset + 4)
                offset += 8
                if not path or offset + length > self.structure_offset + self.structure_size:
                    raise BlobError(f"the property at {start} is outside of every node or too long ({length} bytes)")
                name = self._name(self.strings_offset + name_offset, self.strings_offset + self.strings_size)
                yield PropertyToken(_join(path), name, offset, bytes(self.data[offset : offset + length]))
                offset += (length + 3) & ~3
            elif token == END_NODE:
                if not path:
                    raise BlobError(f"a node ends at {start} that did not begin")
                yield NodeEnd(_join(path), offset)
                path.pop()
            elif token == END:
                if path:
                    raise BlobError(f"the structure ends at {start} inside the node {_join(path)}")
                return
            elif token != NOP:
                raise BlobError(f"unknown token {token:#x} at {start}")

    def find(self, path: str, name: str) -> PropertyToken:
        """The property NAME of the node PATH. Raises KeyError when there is none."""
        for token in self.walk():
            if isinstance(token, PropertyToken) and token.name == name and token.path == path:
                return token
        raise KeyError(f"{path}:{name}")

    def overwrite(self, path: str, name: str, value: bytes) -> None:
        """Give a property a value of the same length. Raises ValueError for another length."""
        found = self.find(path, name)
        if len(found.value) != len(value):
            raise ValueError(f"{path}:{name} has {len(found.value)} bytes, not {len(value)}")
        self.data[found.offset : found.offset + len(value)] = value

    def shrink(self, path: str, name: str, value: bytes) -> None:
        """Give a property a shorter value, of whole words. What follows in the blob moves down; the blob keeps its
        size, and its last bytes stay as they were. Raises ValueError for a longer value."""
        found = self.find(path, name)
        gap = len(found.value) - len(value)
        if gap < 0 or gap % 4 or len(value) % 4:
            raise ValueError(f"{path}:{name} cannot shrink from {len(found.value)} to {len(value)} bytes")
        end = self.strings_offset + self.strings_size
        moved = self.data[found.offset + len(found.value) : end]
        self.data[found.offset : found.offset + len(value) + len(moved)] = value + moved
        _WORD.pack_into(self.data, found.offset - 8, len(value))
        self.structure_size -= gap
        self.strings_offset -= gap
        _WORD.pack_into(self.data, _SIZE_STRUCTURE, self.structure_size)
        _WORD.pack_into(self.data, _OFF_STRINGS, self.strings_offset)

    def erase(self, path: str) -> None:
        """Overwrite the node PATH, all of it, with NOPs. Raises KeyError when there is none."""
        start = None
        for token in self.walk():
            if isinstance(token, NodeStart) and token.path == path:
                start = token.offset
            elif isinstance(token, NodeEnd) and token.path == path and start is not None:
                self.data[start : token.end] = _WORD.pack(NOP) * ((token.end - start) // 4)
                return
        raise KeyError(path)

    def _word(self, offset: int) -> int:
        if offset + 4 > self.structure_offset + self.structure_size:
            raise BlobError(f"the structure has no end: it breaks off at {offset}")
        value: int = _WORD.unpack_from(self.data, offset)[0]
        return value

    def _name(self, offset: int, limit: int) -> str:
        end = self.data.find(0, offset, limit)
        if end < 0:
            raise BlobError(f"the name at {offset} has no end")
        name = bytes(self.data[offset:end]).decode("latin-1")
        if not (name.isascii() and name.isprintable()) or " " in name:
            raise BlobError(f"the name at {offset} has characters that no name can have: {name!r}")
        return name


def _join(path: list[str]) -> str:
    return "/" + "/".join(path[1:])
