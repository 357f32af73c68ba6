"""Tree to blob, in the layout of libfdt's sequential writer.

Enter at :func:`flatten`. That layout: the header, one empty entry of the memory reservation map at offset 48, the
structure at 64, the strings right behind it, nothing aligned at the end. A property name is put in *front* of the
strings written so far, unless it is already found in them, be it as the tail of another name; so the newest string
comes first, and ``method`` may be part of ``enable-method``.
"""

from __future__ import annotations

import struct
from collections.abc import Container

from fdt import Node, PropBytes, Property, PropStrings, PropWords

from toolstack.build_error import BuildError

MAGIC = 0xD00DFEED
VERSION = 17
LAST_COMPATIBLE_VERSION = 16
BEGIN_NODE, END_NODE, PROP, NOP, END = 1, 2, 3, 4, 9
HEADER = struct.Struct(">10I")
RESERVATION_OFFSET = 48
STRUCTURE_OFFSET = 64
#: Largest blob that libxl's writer makes room for, bytes.
SIZE_LIMIT = 1 << 20

_WORD = struct.Struct(">I")
_PROPERTY = struct.Struct(">III")


class SequentialWriter:
    """Writes a blob front to back, as libfdt's fdt_begin_node, fdt_property and fdt_end_node do."""

    def __init__(self) -> None:
        self._structure = bytearray()
        self._strings = b""
        #: Position in the structure, and distance of the name from the *end* of the strings, of each property.
        self._names: list[tuple[int, int]] = []
        self._known: dict[str, int] = {}

    def begin_node(self, name: str) -> None:
        """Open a node; the root's NAME is empty."""
        self._structure += _WORD.pack(BEGIN_NODE)
        self._pad(name.encode("ascii") + b"\0")

    def property(self, name: str, value: bytes) -> None:
        """Add a property to the node that is open."""
        self._names.append((len(self._structure) + 8, self._string(name)))
        self._structure += _PROPERTY.pack(PROP, len(value), 0)
        self._pad(value)

    def end_node(self) -> None:
        """Close the node opened last."""
        self._structure += _WORD.pack(END_NODE)

    def finish(self) -> bytes:
        """The blob. Raises BuildError when it is larger than libxl allows."""
        structure = self._structure + _WORD.pack(END)
        for position, from_end in self._names:
            _WORD.pack_into(structure, position, len(self._strings) - from_end)
        strings_offset = STRUCTURE_OFFSET + len(structure)
        total = strings_offset + len(self._strings)
        if total > SIZE_LIMIT:
            message = f"FDT: the device tree needs {total} bytes, more than {SIZE_LIMIT} (-3 = FDT_ERR_NOSPACE)"
            raise BuildError(message, step="libxl__arch_domain_init_hw_description")
        header = HEADER.pack(
            MAGIC,
            total,
            STRUCTURE_OFFSET,
            strings_offset,
            RESERVATION_OFFSET,
            VERSION,
            LAST_COMPATIBLE_VERSION,
            0,  # the boot CPU
            len(self._strings),
            len(structure),
        )
        return header.ljust(STRUCTURE_OFFSET, b"\0") + structure + self._strings

    def _pad(self, data: bytes) -> None:
        self._structure += data
        self._structure += bytes(-len(data) % 4)

    def _string(self, name: str) -> int:
        """Distance of NAME from the end of the strings, which stays when others are put in front."""
        found = self._known.get(name)
        if found is None:
            text = name.encode("ascii") + b"\0"
            position = self._strings.find(text)
            if position < 0:
                self._strings = text + self._strings
                position = 0
            found = self._known[name] = len(self._strings) - position
        return found


def property_value(item: Property) -> bytes:
    """The bytes of a property of an ``fdt`` tree."""
    if isinstance(item, PropBytes):
        return bytes(item.data)
    if isinstance(item, PropWords):
        return struct.pack(f">{len(item.data)}I", *item.data)
    if isinstance(item, PropStrings):
        return b"".join(text.encode("ascii") + b"\0" for text in item.data)
    return b""


def flatten(root: Node, *, after_nodes: Container[str] = ()) -> bytes:
    """The blob of the tree under ROOT, nodes and properties in their order there.

    In an ``fdt`` node the properties come before the sub-nodes; those named in AFTER_NODES are written after them.
    """
    writer = SequentialWriter()
    _write_node(writer, root, "", after_nodes)
    return writer.finish()


def _write_node(writer: SequentialWriter, node: Node, name: str, after_nodes: Container[str]) -> None:
    writer.begin_node(name)
    late = []
    for item in node.props:
        if item.name in after_nodes:
            late.append(item)
        else:
            writer.property(item.name, property_value(item))
    for child in node.nodes:
        _write_node(writer, child, child.name, after_nodes)
    for item in late:
        writer.property(item.name, property_value(item))
    writer.end_node()
