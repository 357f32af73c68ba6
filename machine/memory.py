"""Physical memory: one memfd that holds the address space and the granule protection table.

Enter at :meth:`PhysicalMemory.create` (the daemon) or :meth:`PhysicalMemory.attach` (its other processes, which get the
descriptor). What runs at NS-EL2 gets a :class:`NonSecureView` and nothing else; only R-EL2 and the processing element
use the raw accessors.

Layout of the memfd, offsets from 0::

    DRAM                dram_size bytes, physical address DRAM_BASE
    firmware carve-out  firmware_size bytes, right above DRAM; Realm PAS from power-on, not host RAM; the RMM's state
    GPT                 one byte per granule of the two above: its :class:`Pas`
    touched             one byte per granule: 0 while the granule is known to read as zero

Pages are reserved by :meth:`PhysicalMemory.populate`, so that a shortage is :class:`OutOfMemory` there and not a SIGBUS
at the first access, and given back by :meth:`PhysicalMemory.punch`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref
from enum import IntEnum

GRANULE_SIZE = 4096
GRANULE_SHIFT = 12
DRAM_BASE = 0x8000_0000

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_ONE = b"\x01"


class Pas(IntEnum):
    """The physical address space that the granule protection table assigns to a granule."""

    NON_SECURE = 0
    REALM = 1


class MemoryFault(Exception):
    """An access that physical memory refuses; ``pa`` is the first refused address."""

    def __init__(self, text: str, pa: int) -> None:
        super().__init__(text)
        self.pa = pa


class GranuleProtectionFault(MemoryFault):
    """Raised when a non-secure access touches a granule in another physical address space."""


class BusError(MemoryFault):
    """Raised when an access lies outside DRAM (for the non-secure view) or outside all memory."""


class OutOfMemory(MemoryError):
    """Raised when the machine running the emulation has no memory left for a page that is being populated."""


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


class PhysicalMemory:
    """The machine's memory as hardware sees it, without protection checks.

    ``buf`` is a byte view of [dram_base, top), ``words`` the same as little-endian u64 (index: offset >> 3); ``gpt``
    and ``touched`` have one byte per granule of that range. ``address`` is the host virtual address of ``dram_base``.
    """

    def __init__(self, fd: int, dram_size: int, firmware_size: int) -> None:
        self.fd = fd
        self.dram_base = DRAM_BASE
        self.dram_size = dram_size
        self.dram_top = DRAM_BASE + dram_size
        self.firmware_base = self.dram_top
        self.firmware_size = firmware_size
        self.top = self.dram_top + firmware_size
        self._size = dram_size + firmware_size
        self.granules = self._size >> GRANULE_SHIFT
        self._map = mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        whole = memoryview(self._map)
        self.buf = whole[: self._size]
        self.words = self.buf.cast("Q")
        self.gpt = whole[self._size : self._size + self.granules]
        touched = _round_up(self._size + self.granules, GRANULE_SIZE)
        self.touched = whole[touched : touched + self.granules]
        self._anchor = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)

    @classmethod
    def create(cls, dram_size: int, firmware_size: int | None = None) -> PhysicalMemory:
        """Power on: fresh memory, DRAM in the Non-secure PAS and the carve-out in the Realm PAS.

        ``dram_size`` is rounded up to 2 MiB; the carve-out defaults to what an RMM needs for 8 bytes of metadata per
        granule and 4 MiB of its own. The descriptor is closed when the object goes. Raises OSError when the host
        refuses the memfd.
        """
        dram_size = _round_up(dram_size, 1 << 21)
        if firmware_size is None:
            firmware_size = (dram_size >> GRANULE_SHIFT) * 8 + (4 << 20)
        firmware_size = _round_up(firmware_size, 1 << 21)
        granules = (dram_size + firmware_size) >> GRANULE_SHIFT
        fd = os.memfd_create("physical-memory", os.MFD_CLOEXEC)
        tables = _round_up(granules, GRANULE_SIZE)
        os.ftruncate(fd, dram_size + firmware_size + 2 * tables + GRANULE_SIZE)
        # The sizes travel with the descriptor: the last granule is a header that attach() reads.
        header = dram_size.to_bytes(8, "little") + firmware_size.to_bytes(8, "little")
        os.pwrite(fd, header, dram_size + firmware_size + 2 * tables)
        memory = cls(fd, dram_size, firmware_size)
        weakref.finalize(memory, os.close, fd)
        first = dram_size >> GRANULE_SHIFT
        memory.gpt[first:] = bytes([Pas.REALM]) * (granules - first)
        return memory

    @classmethod
    def attach(cls, fd: int) -> PhysicalMemory:
        """Map a memory made by :meth:`create`, from its descriptor (which stays the caller's to inherit and close)."""
        header = os.pread(fd, 16, os.fstat(fd).st_size - GRANULE_SIZE)
        return cls(fd, int.from_bytes(header[:8], "little"), int.from_bytes(header[8:], "little"))

    def offset(self, pa: int, size: int = 1) -> int:
        """Offset of ``pa`` in ``buf``; BusError unless [pa, pa + size) is memory."""
        if pa < DRAM_BASE or pa + size > self.top:
            raise BusError(f"no memory at [{pa:#x}, {pa + size:#x})", pa)
        return pa - DRAM_BASE

    def _whole(self, pa: int, size: int) -> int:
        """Offset of ``pa``; ValueError unless the range is whole granules."""
        if (pa | size) & (GRANULE_SIZE - 1):
            raise ValueError(f"[{pa:#x}, {pa + size:#x}) is not whole granules")
        return self.offset(pa, size)

    def _mark(self, offset: int, size: int) -> None:
        first = offset >> GRANULE_SHIFT
        count = ((offset + size - 1) >> GRANULE_SHIFT) - first + 1
        if count == 1:
            self.touched[first] = 1
        else:
            self.touched[first : first + count] = _ONE * count

    def read(self, pa: int, size: int) -> bytes:
        """``size`` bytes at ``pa``; BusError outside memory."""
        offset = self.offset(pa, size)
        return bytes(self.buf[offset : offset + size])

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at ``pa``; BusError outside memory."""
        size = len(data)
        if size:
            offset = self.offset(pa, size)
            self.buf[offset : offset + size] = data
            self._mark(offset, size)

    def read_u64(self, pa: int) -> int:
        """The little-endian u64 at ``pa`` (8-byte aligned)."""
        return self.words[self.offset(pa, 8) >> 3]

    def write_u64(self, pa: int, value: int) -> None:
        """Store a little-endian u64 at ``pa`` (8-byte aligned)."""
        offset = self.offset(pa, 8)
        self.words[offset >> 3] = value
        self.touched[offset >> GRANULE_SHIFT] = 1

    def zero(self, pa: int, size: int) -> None:
        """Fill whole granules with zeros, skipping those known to be zero; ValueError when they are not whole."""
        offset = self._whole(pa, size)
        first = offset >> GRANULE_SHIFT
        for index in range(first, first + (size >> GRANULE_SHIFT)):
            if self.touched[index]:
                ctypes.memset(self.address + (index << GRANULE_SHIFT), 0, GRANULE_SIZE)
                self.touched[index] = 0

    def known_zero(self, pa: int) -> bool:
        """Whether the granule at ``pa`` is known to read as zero (False only means: not known)."""
        return not self.touched[self.offset(pa) >> GRANULE_SHIFT]

    def populate(self, pa: int, size: int) -> None:
        """Reserve host memory for [pa, pa + size); OutOfMemory when there is none."""
        if _libc.fallocate(self.fd, 0, self.offset(pa, size), size):
            code = ctypes.get_errno()
            if code in (errno.ENOMEM, errno.ENOSPC):
                raise OutOfMemory(f"no memory for {size} bytes at {pa:#x}: {os.strerror(code)}")
            raise OSError(code, os.strerror(code))

    def punch(self, pa: int, size: int) -> None:
        """Give the host memory of granules back; they read as zero from now on. ValueError when they are not whole."""
        offset = self._whole(pa, size)
        if _libc.fallocate(self.fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, size):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        first = offset >> GRANULE_SHIFT
        count = size >> GRANULE_SHIFT
        self.touched[first : first + count] = bytes(count)


class NonSecureView:
    """What the Non-secure world may do with memory: DRAM granules that the GPT has in the Non-secure PAS.

    Every access raises GranuleProtectionFault when it touches a granule of another PAS, and BusError outside DRAM.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._buf = memory.buf
        self._words = memory.words
        self._gpt = memory.gpt
        self._top = memory.dram_top
        self.dram_base = memory.dram_base
        self.dram_size = memory.dram_size

    def _check(self, pa: int, size: int) -> int:
        if pa < DRAM_BASE or size < 0 or pa + size > self._top:
            raise BusError(f"no DRAM at [{pa:#x}, {pa + size:#x})", pa)
        offset = pa - DRAM_BASE
        first = offset >> GRANULE_SHIFT
        last = (offset + max(size, 1) - 1) >> GRANULE_SHIFT
        if first == last:
            if self._gpt[first]:
                self._refuse(first)
        else:
            table = bytes(self._gpt[first : last + 1])
            if table.count(0) != len(table):
                self._refuse(first + next(i for i, pas in enumerate(table) if pas))
        return offset

    def _refuse(self, granule: int) -> None:
        pa = DRAM_BASE + (granule << GRANULE_SHIFT)
        raise GranuleProtectionFault(f"granule {pa:#x} is not in the Non-secure PAS", pa)

    def accessible(self, pa: int, size: int) -> bool:
        """Whether the Non-secure world may access all of [pa, pa + size)."""
        try:
            self._check(pa, size)
        except MemoryFault:
            return False
        return True

    def read(self, pa: int, size: int) -> bytes:
        """``size`` bytes at ``pa``."""
        offset = self._check(pa, size)
        return bytes(self._buf[offset : offset + size])

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at ``pa``."""
        size = len(data)
        offset = self._check(pa, size)
        if size:
            self._buf[offset : offset + size] = data
            self._memory._mark(offset, size)

    def copy(self, destination: int, source: int, size: int) -> None:
        """Copy ``size`` bytes between two non-overlapping ranges; granules known to be zero stay untouched."""
        to, start = self._check(destination, size), self._check(source, size)
        if (to | start | size) & (GRANULE_SIZE - 1):
            self._buf[to : to + size] = self._buf[start : start + size]
            self._memory._mark(to, size)
            return
        touched, address = self._memory.touched, self._memory.address
        for at in range(0, size, GRANULE_SIZE):
            here, there = (to + at) >> GRANULE_SHIFT, (start + at) >> GRANULE_SHIFT
            if touched[there]:
                ctypes.memmove(address + to + at, address + start + at, GRANULE_SIZE)
                touched[here] = 1
            elif touched[here]:
                ctypes.memset(address + to + at, 0, GRANULE_SIZE)
                touched[here] = 0

    def read_u64(self, pa: int) -> int:
        """The little-endian u64 at ``pa`` (8-byte aligned)."""
        return self._words[self._check(pa, 8) >> 3]

    def write_u64(self, pa: int, value: int) -> None:
        """Store a little-endian u64 at ``pa`` (8-byte aligned)."""
        offset = self._check(pa, 8)
        self._words[offset >> 3] = value
        self._memory.touched[offset >> GRANULE_SHIFT] = 1

    def zero(self, pa: int, size: int) -> None:
        """Fill whole granules with zeros."""
        self._check(pa, size)
        self._memory.zero(pa, size)

    def window(self, pa: int, size: int) -> memoryview:
        """A writable view of [pa, pa + size), checked now and marked as touched.

        For pages that the caller owns and never delegates while it holds the view (a RecRun page).
        """
        offset = self._check(pa, size)
        self._memory._mark(offset, size)
        return self._buf[offset : offset + size]

    def known_zero(self, pa: int) -> bool:
        """Whether the granule at ``pa`` is known to read as zero."""
        self._check(pa, 1)
        return self._memory.known_zero(pa)

    def populate(self, pa: int, size: int) -> None:
        """Reserve host memory for the range; OutOfMemory when there is none."""
        self._check(pa, size)
        self._memory.populate(pa, size)

    def punch(self, pa: int, size: int) -> None:
        """Give the host memory of whole granules back; they read as zero."""
        self._check(pa, size)
        self._memory.punch(pa, size)
