"""A device tree blob as source text (DTS), for reading, and for dtc, which makes the same tree of it again.

Enter at :func:`to_dts`. How a value is shown does not change its bytes: text where the bytes are text, cells where they
are whole words, else bytes. ``reg`` and ``interrupts`` are grouped by entry. A comment at the end of the line says what
a number means where that is known (interrupt numbers, sizes).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from toolstack.dtb.blob import Blob, NodeStart, PropertyToken

_BYTES = frozenset({"rng-seed", "kaslr-seed", "local-mac-address", "mac-address"})
_TEXT = frozenset(
    {"bootargs", "compatible", "device_type", "enable-method", "method", "model", "status", "stdout-path"}
)
_ADDRESSES = frozenset({"linux,initrd-start", "linux,initrd-end"})
_TRIGGERS = {1: "edge rising", 2: "edge falling", 4: "level high", 8: "level low"}
_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x09: "\\t", 0x0D: "\\r"}
_BYTES_A_LINE = 16
#: Cells of an interrupt specifier of the GIC.
_GIC_CELLS = 3


@dataclass(slots=True)
class _Node:
    """A node on its way to text. CELLS is (#address-cells, #size-cells) for its children."""

    path: str
    name: str
    properties: list[tuple[str, bytes]] = field(default_factory=list)
    children: list[_Node] = field(default_factory=list)
    cells: tuple[int, int] = (2, 1)


def to_dts(blob: bytes) -> str:
    """The text of BLOB, ending with a newline. Raises BlobError (a ValueError) when BLOB is no device tree.

    In the text of a node its properties come first, whatever their order in the blob: the language wants it so.
    """
    tree = Blob(blob)
    lines = ["/dts-v1/;", ""]
    lines += [f"/memreserve/ {address:#x} {size:#x};" for address, size in tree.reservations()]
    _print(_read(tree), (2, 1), 0, lines)
    return "\n".join(lines) + "\n"


def _read(tree: Blob) -> _Node:
    root = _Node("/", "/")
    open_nodes: list[_Node] = []
    for token in tree.walk():
        if isinstance(token, NodeStart):
            node = _Node(token.path, token.name) if open_nodes else root
            if open_nodes:
                open_nodes[-1].children.append(node)
            open_nodes.append(node)
        elif isinstance(token, PropertyToken):
            node = open_nodes[-1]
            node.properties.append((token.name, token.value))
            if len(token.value) == 4:
                number = int.from_bytes(token.value, "big")
                if token.name == "#address-cells":
                    node.cells = (number, node.cells[1])
                elif token.name == "#size-cells":
                    node.cells = (node.cells[0], number)
        else:
            open_nodes.pop()
    return root


def _print(node: _Node, cells: tuple[int, int], depth: int, lines: list[str]) -> None:
    indent = "\t" * depth
    lines.append(f"{indent}{node.name} {{")
    for name, value in node.properties:
        lines.append(f"{indent}\t{_statement(name, value, cells, indent)}")
    for child in node.children:
        if node.properties or child is not node.children[0]:
            lines.append("")
        _print(child, node.cells, depth + 1, lines)
    lines.append(f"{indent}}};")


def _statement(name: str, value: bytes, cells: tuple[int, int], indent: str) -> str:
    if not value:
        return f"{name};"
    if name not in _BYTES:
        if _is_text(value) or (name in _TEXT and value.endswith(b"\0")):
            texts = value[:-1].split(b"\0")
            return f"{name} = " + ", ".join(f'"{_escape(text)}"' for text in texts) + ";"
        if len(value) % 4 == 0:
            return _cells_statement(name, value, cells)
    rows = [value[start : start + _BYTES_A_LINE].hex(" ") for start in range(0, len(value), _BYTES_A_LINE)]
    return f"{name} = [" + f"\n{indent}\t\t".join(rows) + "];"


def _cells_statement(name: str, value: bytes, cells: tuple[int, int]) -> str:
    words = struct.unpack(f">{len(value) // 4}I", value)
    group, comment = len(words), ""
    if name == "reg":
        group = sum(cells)
        comment = _ranges(words, cells)
    elif name == "interrupts":
        group = _GIC_CELLS
        comment = _interrupts(words)
    elif name in _ADDRESSES and len(words) == 2:
        comment = f"{words[0] << 32 | words[1]:#x}"
    if not 0 < group <= len(words) or len(words) % group:
        group, comment = len(words), ""
    groups = [words[start : start + group] for start in range(0, len(words), group)]
    text = ", ".join("<" + " ".join(f"{word:#x}" for word in entry) + ">" for entry in groups)
    return f"{name} = {text};" + (f" /* {comment} */" if comment else "")


def _ranges(words: tuple[int, ...], cells: tuple[int, int]) -> str:
    """Sizes of the entries of a reg with an address and a size of two cells each, in words."""
    if cells != (2, 2) or len(words) % 4:
        return ""
    return ", ".join(_size(words[start + 2] << 32 | words[start + 3]) for start in range(0, len(words), 4))


def _size(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def _interrupts(words: tuple[int, ...]) -> str:
    """What the specifiers of a GIC mean; empty when they are none."""
    if len(words) % _GIC_CELLS:
        return ""
    meanings = []
    for start in range(0, len(words), _GIC_CELLS):
        kind, number, flags = words[start : start + _GIC_CELLS]
        trigger = _TRIGGERS.get(flags & 0xF)
        if kind not in (0, 1) or trigger is None:
            return ""
        meanings.append(f"{'PPI' if kind else 'SPI'} {number + (16 if kind else 32)}, {trigger}")
    return "; ".join(meanings)


def _is_text(value: bytes) -> bool:
    """NUL-terminated, and each string of it neither empty nor with anything but printable ASCII."""
    if not value.endswith(b"\0"):
        return False
    return all(text and all(0x20 <= byte < 0x7F for byte in text) for text in value[:-1].split(b"\0"))


def _escape(text: bytes) -> str:
    """The inside of a string literal. UTF-8 that can be printed stays; any other byte becomes ``\\xNN``."""
    try:
        readable = text.decode()
    except UnicodeDecodeError:
        readable = ""
    if text and (not readable or not readable.isprintable()):
        return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in _ESCAPES else _byte(byte) for byte in text)
    return "".join(_ESCAPES.get(ord(character), character) for character in readable)


def _byte(byte: int) -> str:
    return _ESCAPES.get(byte) or f"\\x{byte:02x}"
