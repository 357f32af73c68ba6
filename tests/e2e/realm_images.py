"""Tiny Realm images, hand-assembled: the arm64 Image header and a few instructions."""

from __future__ import annotations

import struct
from pathlib import Path

MAGIC = 0x644D5241
_HEADER_SIZE = 64

BRANCH_TO_SELF = 0x1400_0000
SMC_0 = 0xD400_0003
SYSTEM_OFF = 0x8400_0008
SYSTEM_RESET = 0x8400_0009


def psci(function: int) -> list[int]:
    """Instructions that call the PSCI FUNCTION, and spin should it return."""
    return [0x5280_0000 | (function & 0xFFFF) << 5, 0x72A0_0000 | (function >> 16) << 5, SMC_0, BRANCH_TO_SELF]


#: Never stops.
SPIN = [BRANCH_TO_SELF]
POWER_OFF = psci(SYSTEM_OFF)
RESET = psci(SYSTEM_RESET)


def image(instructions: list[int], size: int = 4096) -> bytes:
    """An arm64 Image of SIZE bytes that runs INSTRUCTIONS."""
    branch_over_header = 0x1400_0000 | _HEADER_SIZE // 4
    header = struct.pack("<IIQQQ24xII", branch_over_header, 0, 0, size, 0xA, MAGIC, 0)
    code = struct.pack(f"<{len(instructions)}I", *instructions)
    return (header + code).ljust(size, b"\0")


def write_realm(
    directory: Path, name: str, instructions: list[int], *, memory: int = 16, extra: str = "", vuart: bool = True
) -> Path:
    """An image and a configuration for it in DIRECTORY; the configuration's path. MEMORY in MiB."""
    kernel = directory / f"{name}.img"
    kernel.write_bytes(image(instructions))
    console = 'vuart = "sbsa_uart"' if vuart else ""
    path = directory / f"{name}.cfg"
    path.write_text(
        f'name = "{name}"\ntype = "pvh"\nrealm = 1\ngic_version = "v3"\nkernel = "{kernel}"\nmemory = {memory}\n'
        f"{console}\n{extra}\n"
    )
    return path
