"""Guest images from files: the arm64 kernel Image (raw or gzip) and the ramdisk.

Enter at :func:`load_kernel` and :func:`load_ramdisk`. The header of an arm64 Image is 64 bytes, little endian:

====== ==== ==========================================================================================
offset size field
====== ==== ==========================================================================================
0x00   4    code; 0x14000008 marks the oldest format, which has no other magic
0x08   8    text_offset: the Image is loaded this far above the start of RAM
0x10   8    image_size: memory that the kernel needs from its load address on, BSS included; 0 if unknown
0x18   8    flags
0x38   4    magic, 0x644d5241 ("ARM\\x64")
====== ==== ==========================================================================================

As in Xen, a kernel with a gzip magic is unpacked first, and a ramdisk never is: the guest does that.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from dataclasses import dataclass

from toolstack.build_error import INVALID_KERNEL, OUT_OF_MEMORY, BuildError

HEADER_SIZE = 64
MAGIC = 0x644D5241
MAGIC_V0 = 0x14000008
#: Largest kernel, packed or unpacked, that the builder accepts (bytes; libxenguest's limit).
KERNEL_LIMIT = 1 << 30
GZIP_MAGIC = b"\x1f\x8b"

_HEADER = struct.Struct("<I4xQQQ24xI4x")
_GZIP_WBITS = 31  # zlib: a gzip header and trailer, with a 32 KiB window
_CHUNK = 16 << 20


@dataclass(frozen=True, slots=True)
class KernelImage:
    """An arm64 kernel as the guest gets it."""

    path: str
    #: The Image file, unpacked.
    data: bytes
    #: Distance of its load address from the start of RAM, bytes.
    text_offset: int
    #: image_size of the header: memory needed from the load address on, BSS included; 0 when the header has none.
    image_size: int
    #: True when the file was gzip.
    packed: bool = False

    @property
    def memory_size(self) -> int:
        """Bytes that the running kernel occupies from its load address on."""
        return max(len(self.data), self.image_size)


def load_kernel(path: str, *, limit: int = KERNEL_LIMIT) -> KernelImage:
    """Read the kernel file PATH, unpack it when it is gzip, and check its header.

    Raises BuildError when the file cannot be read, is larger than LIMIT bytes (packed or not), is damaged gzip, or is
    not an arm64 Image.
    """
    step = "xc_dom_kernel_file"
    data = _read(path, "kernel", step, limit)
    packed = data.startswith(GZIP_MAGIC)
    if packed:
        data = _gunzip(data, path, step, limit)
    return parse_kernel(data, path, packed=packed)


def parse_kernel(data: bytes, path: str, *, packed: bool = False) -> KernelImage:
    """Check the header of an unpacked arm64 Image; PATH is for messages. Raises BuildError when it is none."""
    if len(data) < HEADER_SIZE:
        raise _no_loader(path, f"kernel image too small ({len(data)} bytes; the header alone is {HEADER_SIZE})")
    magic0, text_offset, image_size, _flags, magic1 = _HEADER.unpack_from(data)
    if magic1 != MAGIC and magic0 != MAGIC_V0:
        raise _no_loader(path, f"kernel is not an arm64 Image (expected {MAGIC:#x} at 0x38, found {magic1:#x})")
    if magic1 != MAGIC:
        image_size = 0  # the oldest format has no such field
    return KernelImage(path=path, data=data, text_offset=text_offset, image_size=image_size, packed=packed)


def load_ramdisk(path: str) -> bytes:
    """Read the ramdisk file PATH, as it is. Raises BuildError when it cannot be read or is empty."""
    return _read(path, "ramdisk", "xc_dom_ramdisk_file", None)


def _no_loader(path: str, why: str) -> BuildError:
    message = f"xc_dom_find_loader: no loader found for kernel '{path}': {why}"
    return BuildError(message, step="xc_dom_parse_image", kind=INVALID_KERNEL)


def _read(path: str, what: str, step: str, limit: int | None) -> bytes:
    """The bytes of a regular file; opened without blocking, so that a FIFO is refused and not waited for."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise BuildError(f"failed to open file '{path}': {reason}", step=step) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise BuildError(f"failed to map file '{path}': the {what} must be a regular file", step=step)
        if limit is not None and status.st_size > limit:
            message = f"{what} '{path}' is {status.st_size} bytes, more than the limit of {limit} bytes"
            raise BuildError(message, step=step, kind=OUT_OF_MEMORY)
        with os.fdopen(fd, "rb", buffering=0, closefd=False) as file:
            data = file.readall()
    except OSError as error:
        raise BuildError(f"failed to read file '{path}': {error.strerror}", step=step) from error
    except MemoryError as error:
        message = f"failed to read file '{path}': not enough memory on this host for {status.st_size} bytes"
        raise BuildError(message, step=step, kind=OUT_OF_MEMORY) from error
    finally:
        os.close(fd)
    if not data:
        raise BuildError(f"failed to map file '{path}': the {what} file is empty", step=step)
    return data


def _gunzip(packed: bytes, path: str, step: str, limit: int) -> bytes:
    """Unpack one gzip member that fills the whole file. Raises BuildError when it is damaged or unpacks beyond LIMIT.

    The trailer's size field bounds the memory used: a member that unpacks to anything else is damaged anyway.
    """
    stated = int.from_bytes(packed[-4:], "little")
    inflater = zlib.decompressobj(_GZIP_WBITS)
    try:
        if stated > limit:
            _explain_oversize(inflater, packed, path, step, limit)
        data = inflater.decompress(packed, stated + 1)
    except zlib.error as error:
        raise _bad_gzip(path, step, str(error)) from error
    except MemoryError as error:
        message = f"kernel '{path}': not enough memory on this host to unpack {stated} bytes"
        raise BuildError(message, step=step, kind=OUT_OF_MEMORY) from error
    if not inflater.eof:
        if len(data) > stated:
            raise _bad_gzip(path, step, "truncated, or its size field is wrong")
        raise _bad_gzip(path, step, "truncated")
    if inflater.unused_data:
        raise _bad_gzip(path, step, f"{len(inflater.unused_data)} bytes follow the end of the gzip data")
    return data


def _explain_oversize(inflater: zlib._Decompress, packed: bytes, path: str, step: str, limit: int) -> None:
    """The last four bytes say more than LIMIT: either it is so, or they are not the trailer. Always raises."""
    size, rest = 0, packed
    while size <= limit and not inflater.eof:
        chunk = inflater.decompress(rest, _CHUNK)
        rest = inflater.unconsumed_tail
        size += len(chunk)
        if not chunk and not rest:
            raise _bad_gzip(path, step, "truncated")
    if size > limit:
        message = f"kernel '{path}' unpacks to more than the limit of {limit} bytes"
        raise BuildError(message, step=step, kind=OUT_OF_MEMORY)
    raise _bad_gzip(path, step, f"{len(inflater.unused_data)} bytes follow the end of the gzip data")


def _bad_gzip(path: str, step: str, why: str) -> BuildError:
    return BuildError(f"kernel '{path}': inflate failed: {why}", step=step, kind=INVALID_KERNEL)
