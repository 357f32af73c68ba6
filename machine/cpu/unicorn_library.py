"""The Unicorn library: its functions, the private structures behind them, and the check that they are as expected.

Enter at :func:`load`, which verifies the platform and the shared object and answers a :class:`Library`. Everything here
is for :mod:`machine.cpu.engine` and :mod:`machine.cpu.unicorn_core` below it; no other module may use it.

Unicorn's public interface is not enough for a guest operating system (its generic timer drops writes, an exception
entry needs a dozen register writes, an asynchronous stop can leave in the middle of an instruction), so the engine also
uses exported private functions and fields of private structures. :class:`Layout` holds the offsets of those fields,
for one build: the x86-64 manylinux wheel of unicorn 2.1.4, recognised by its ELF build ID. :func:`verify` then probes a
scratch engine for each of them, reading memory only in ways that cannot fault, before anything is trusted.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from machine.cpu import CpuError
from machine.cpu.native import NativeLibrary, TlbLayout

VERSION: Final = "2.1.4"
BUILD_ID: Final = "44285d3e80527122e9e361928189385906ec813e"

_ARCH_ARM64: Final = 2
_MODE_ARM: Final = 0
_CPU_MODEL_A72: Final = 2
_PROT_ALL: Final = 7
#: uc_ctl: an operation with one argument that sets something.
_CTL_WRITE_1: Final = 1 << 26 | 1 << 30
_CTL_EXITS_ENABLED: Final = 4
_CTL_CPU_MODEL: Final = 7
_CTL_TCG_BUFFER_SIZE: Final = 13
_HOOK_INTR: Final = 1
#: Virtual memory that an engine's translated code may take (the default of 1 GiB forbids many engines a process).
TCG_BUFFER_SIZE: Final = 32 << 20

#: uc_reg_* identifiers of registers that are not system registers.
REG_X0: Final = 199
REG_PSTATE: Final = 265
REG_CP_REG: Final = 290
REG_FPCR: Final = 291
REG_FPSR: Final = 292


@dataclass(frozen=True, slots=True)
class Layout:
    """Byte offsets in Unicorn's private structures.

    ``uc_*`` in struct uc_struct, ``cpu_*`` in ARMCPU, ``env_*`` in CPUARMState.
    """

    uc_cpu: int = 440
    uc_target_page: int = 0x2A8
    uc_use_exits: int = 0x594
    uc_no_exit_request: int = 0x7F2
    uc_init_done: int = 0x7F3
    cpu_env_ptr: int = 296
    cpu_exception_index: int = 33184
    cpu_env: int = 41808
    cpu_cp_regs: int = 54544
    cpu_id_aa64pfr0: int = 0xD5E0
    cpu_id_aa64mmfr0: int = 0xD5F0
    env_xregs: int = 64
    env_pc: int = 320
    env_syndrome: int = 3024
    env_vaddress: int = 3032
    env_target_el: int = 3040
    env_exclusive_addr: int = 12032
    #: Everything before it is architectural state without host pointers; the next fields are features and pointers.
    env_features: int = 12336
    env_uc: int = 12728


LAYOUT: Final = Layout()

#: The TLB, read off tlb_reset_dirty_by_vaddr_aarch64 of this build. An entry is left alone when its write address has
#: TLB_INVALID, TLB_MMIO, TLB_DISCARD_WRITE or TLB_NOTDIRTY; the last is what the function sets.
TLB: Final = TlbLayout(
    cpu_env=LAYOUT.cpu_env_ptr,
    env_fast=-0xD0,
    env_victims=-0x2140,
    victim_stride=0x2B8,
    modes=12,
    victims=8,
    entry_size_log2=6,
    addr_write=8,
    clean_flags=0x390,
    not_dirty=0x100,
    page_bits=10,  # Arm's smallest page, not the granule
)


class RegInfo(ctypes.Structure):
    """ARMCPRegInfo: the definition of one system register."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("cp", ctypes.c_uint8),
        ("crn", ctypes.c_uint8),
        ("crm", ctypes.c_uint8),
        ("opc0", ctypes.c_uint8),
        ("opc1", ctypes.c_uint8),
        ("opc2", ctypes.c_uint8),
        ("state", ctypes.c_int),
        ("type", ctypes.c_int),
        ("access", ctypes.c_int),
        ("secure", ctypes.c_int),
        ("opaque", ctypes.c_uint64),
        ("resetvalue", ctypes.c_uint64),
        ("fieldoffset", ctypes.c_uint64),
        ("bank_fieldoffsets", ctypes.c_uint64 * 2),
        ("accessfn", ctypes.c_uint64),
        ("readfn", ctypes.c_uint64),
        ("writefn", ctypes.c_uint64),
        ("raw_readfn", ctypes.c_uint64),
        ("raw_writefn", ctypes.c_uint64),
        ("resetfn", ctypes.c_uint64),
        ("orig_readfn", ctypes.c_uint64),
        ("orig_writefn", ctypes.c_uint64),
    )


class CpReg(ctypes.Structure):
    """uc_arm64_cp_reg: a system register access through uc_reg_read and uc_reg_write."""

    _fields_ = (
        ("crn", ctypes.c_uint32),
        ("crm", ctypes.c_uint32),
        ("op0", ctypes.c_uint32),
        ("op1", ctypes.c_uint32),
        ("op2", ctypes.c_uint32),
        ("val", ctypes.c_uint64),
    )


#: Callback types. The exception hook is called with a third argument, which it does not take.
EXCEPTION_HOOK = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint32)
READ_FN = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
WRITE_FN = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
ACCESS_FN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int)

_P, _I, _U64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64
#: symbol: (result, arguments). All but uc_emu_start keep the GIL: they are short, and one of them may be called by a
#: hook, where giving the GIL up could cost a whole switch interval.
_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "uc_version": (ctypes.c_uint, (_P, _P)),
    "uc_strerror": (ctypes.c_char_p, (_I,)),
    "uc_open": (_I, (_I, _I, _P)),
    "uc_close": (_I, (_P,)),
    "uc_emu_stop": (_I, (_P,)),
    "uc_mem_map": (_I, (_P, _U64, _U64, ctypes.c_uint32)),
    "uc_mem_map_ptr": (_I, (_P, _U64, _U64, ctypes.c_uint32, _P)),
    "uc_mem_write": (_I, (_P, _U64, _P, _U64)),
    "uc_vmem_read": (_I, (_P, _U64, ctypes.c_uint32, _P, ctypes.c_size_t)),
    "uc_reg_read": (_I, (_P, _I, _P)),
    "uc_reg_write": (_I, (_P, _I, _P)),
    "uc_reg_write_batch": (_I, (_P, _P, _P, _I)),
    "arm_cpu_do_interrupt_aarch64": (None, (_P,)),
    "arm_cpu_update_virq_aarch64": (None, (_P,)),
    "arm_cpu_update_vfiq_aarch64": (None, (_P,)),
    "arm_rebuild_hflags_aarch64": (None, (_P,)),
    "define_one_arm_cp_reg_with_opaque_aarch64": (None, (_P, _P, _P)),
    "get_arm_cp_reginfo_aarch64": (_U64, (_P, ctypes.c_uint32)),
    "tb_flush_aarch64": (None, (_P,)),
    "tb_invalidate_phys_range_aarch64": (None, (_P, _U64, _U64)),
    "tlb_flush_aarch64": (None, (_P,)),
}


class Library:
    """The functions of the shared object at ``path``, as attributes named like their symbols.

    Raises CpuError when a symbol is missing.
    """

    uc_emu_start: Callable[..., int]

    def __init__(self, path: str) -> None:
        self.path = path
        self.native = NativeLibrary()
        self._short = ctypes.PyDLL(path)
        self._long = ctypes.CDLL(path)
        for name, (result, arguments) in _FUNCTIONS.items():
            setattr(self, name, self._bind(self._short, name, result, arguments))
        self.uc_emu_start = self._bind(self._long, "uc_emu_start", _I, (_P, _U64, _U64, _U64, ctypes.c_size_t))
        # Variadic: each call passes ctypes objects.
        self._uc_ctl = self._bind(self._short, "uc_ctl", _I, None)
        self._uc_hook_add = self._bind(self._short, "uc_hook_add", _I, None)

    def _bind(self, dll: ctypes.CDLL, name: str, result: Any, arguments: tuple[Any, ...] | None) -> Callable[..., Any]:
        try:
            function = dll[name]
        except AttributeError:
            raise CpuError(f"unicorn: {self.path} does not export {name}") from None
        function.restype = result
        if arguments is not None:
            function.argtypes = arguments
        return function

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(name)

    def check(self, code: int, what: str) -> None:
        """Raise CpuError when a uc_* function answered an error."""
        if code:
            raise CpuError(f"unicorn: {what}: {self.uc_strerror(code).decode()}")

    def open(self) -> int:
        """A new Cortex-A72 engine, not initialised yet; the answer is its uc_engine pointer."""
        handle = ctypes.c_void_p()
        self.check(self.uc_open(_ARCH_ARM64, _MODE_ARM, ctypes.byref(handle)), "uc_open")
        assert handle.value is not None
        for control, value in (
            (_CTL_CPU_MODEL, _CPU_MODEL_A72),
            (_CTL_TCG_BUFFER_SIZE, TCG_BUFFER_SIZE),
        ):
            code = self._uc_ctl(handle, ctypes.c_int(control | _CTL_WRITE_1), ctypes.c_int(value))
            self.check(code, f"uc_ctl {control}")
        return handle.value

    def hook_exceptions(self, handle: int, hook: Any, opaque: int = 0) -> None:
        """Have ``hook`` (an EXCEPTION_HOOK, kept alive by the caller) called for every exception the guest takes.

        The hook's arguments are the uc_engine, the exception's number and ``opaque``.
        """
        identifier = ctypes.c_size_t()
        code = self._uc_hook_add(
            ctypes.c_void_p(handle), ctypes.byref(identifier), ctypes.c_int(_HOOK_INTR), hook, ctypes.c_void_p(opaque),
            ctypes.c_uint64(1), ctypes.c_uint64(0),
        )
        self.check(code, "uc_hook_add")

    def enable_exits(self, handle: int) -> None:
        """Use the (empty) set of exit addresses in place of uc_emu_start's ``until``."""
        code = self._uc_ctl(
            ctypes.c_void_p(handle), ctypes.c_int(_CTL_EXITS_ENABLED | _CTL_WRITE_1), ctypes.c_int(1)
        )
        self.check(code, "uc_ctl exits")


def peek(address: int, size: int) -> bytes:
    """Read this process's memory through the kernel: CpuError, not a crash, when nothing is mapped there."""
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            data = os.pread(memory.fileno(), size, address)
    except (OSError, OverflowError) as error:
        raise CpuError(f"unicorn: a structure is not where it is expected ({address:#x}: {error})") from None
    if len(data) != size:
        raise CpuError(f"unicorn: a structure is not where it is expected ({address:#x})")
    return data


def _peek_u64(address: int) -> int:
    return int.from_bytes(peek(address, 8), "little")


def build_id(path: str) -> str:
    """The GNU build ID of an ELF64 file in hexadecimal; empty when it has none. CpuError when it is no ELF64 file."""
    try:
        with open(path, "rb") as file:
            header = file.read(64)
            if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
                raise CpuError(f"unicorn: {path} is not a little-endian ELF64 file")
            table, entry_size, entries = *struct.unpack_from("<Q", header, 32), *struct.unpack_from("<HH", header, 54)
            file.seek(table)
            segments = file.read(entry_size * entries)
            for at in range(0, len(segments) - 55, entry_size):
                kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", segments, at)
                if kind == 4:  # PT_NOTE
                    file.seek(offset)
                    found = _gnu_build_id(file.read(size))
                    if found:
                        return found
    except OSError as error:
        raise CpuError(f"unicorn: cannot read {path}: {error.strerror}") from None
    return ""


def _gnu_build_id(notes: bytes) -> str:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        start = at + 12 + (name_size + 3 & ~3)
        if kind == 3 and name == b"GNU\0":
            return notes[start : start + size].hex()
        at = start + (size + 3 & ~3)
    return ""


def check_platform(system: str, machine: str, libc: str) -> None:
    """Raise CpuError unless this is the platform whose build of Unicorn is known."""
    if system != "linux" or machine not in ("x86_64", "AMD64") or libc != "glibc":
        raise CpuError(
            f"the emulated CPU needs x86-64 Linux with glibc (unicorn's offsets are known for that build only);"
            f" this is {machine} {system} with {libc or 'an unknown C library'}"
        )


@lru_cache(maxsize=1)
def load() -> Library:
    """The verified library.

    Raises CpuError, saying in one line what differs, when the platform, the version, the build, a symbol or the layout
    of a private structure is not the expected one.
    """
    check_platform(sys.platform, platform.machine(), platform.libc_ver()[0])
    try:
        from unicorn.unicorn_py3.unicorn import uclib
    except ImportError as error:
        raise CpuError(f"unicorn {VERSION} is not installed: {error}") from None
    path = str(uclib._name)
    check_build(path)
    library = Library(path)
    check_version(library.uc_version(None, None))
    verify(library, LAYOUT)
    address = ctypes.cast(library.uc_open, _P).value  # type: ignore[arg-type]
    assert address is not None
    library.native.use_tlb(TLB, address)
    return library


def check_version(word: int) -> None:
    """Raise CpuError unless uc_version()'s word is the expected version."""
    found = f"{word >> 24}.{word >> 16 & 255}.{word >> 8 & 255}"
    if found != VERSION:
        raise CpuError(f"unicorn: version {found}, but this program knows the insides of {VERSION} only")


def check_build(path: str) -> None:
    """Raise CpuError unless the shared object is the known build."""
    found = build_id(path)
    if found != BUILD_ID:
        raise CpuError(
            f"unicorn: {path} is another build (ID {found or 'none'}) than the x86-64 wheel of {VERSION} from PyPI"
        )


def verify(library: Library, layout: Layout) -> None:
    """Probe a scratch engine for every offset of ``layout``; CpuError names the first that is wrong."""
    uc = library.open()
    try:
        _probe(library, layout, uc)
    finally:
        library.uc_close(uc)


def _expect(condition: bool, field: str) -> None:
    if not condition:
        raise CpuError(f"unicorn: self-test: {field} is not where this build should have it")


def _probe(library: Library, layout: Layout, uc: int) -> None:
    # Turning the exit set on changes use_exits and nothing else; the byte after no_exit_request is init_done.
    _expect(layout.uc_init_done == layout.uc_no_exit_request + 1, "uc.no_exit_request")
    size = layout.uc_init_done + 1
    before = peek(uc, size)
    library.enable_exits(uc)
    after = peek(uc, size)
    changed = [at for at in range(size) if before[at] != after[at]]
    _expect(changed == [layout.uc_use_exits], "uc.use_exits")
    _expect(after[layout.uc_no_exit_request] == 0 and after[layout.uc_init_done] == 0, "uc.no_exit_request")
    library.check(library.uc_mem_map(uc, 0x1000, 0x1000, _PROT_ALL), "uc_mem_map")
    started = peek(uc, size)
    _expect(started[layout.uc_no_exit_request] == 0 and started[layout.uc_init_done] == 1, "uc.no_exit_request")

    cpu = _peek_u64(uc + layout.uc_cpu)
    env = cpu + layout.cpu_env
    _expect(_peek_u64(cpu + layout.cpu_env_ptr) == env, "cpu.env")
    _expect(_peek_u64(env + layout.env_uc) == uc, "env.uc")
    # TargetPageBits: decided, bits, mask.
    page_bits = struct.unpack_from("<i", peek(_peek_u64(uc + layout.uc_target_page), 8), 4)[0]
    _expect(page_bits == TLB.page_bits, "uc.target_page")
    for mode in range(TLB.modes):
        # A mode's table has a power of two of entries, each of them empty: all ones.
        mask, table = struct.unpack("<QQ", peek(env + TLB.env_fast + 16 * mode, 16))
        entries = (mask >> TLB.entry_size_log2) + 1
        _expect(mask & 63 == 0 and entries & entries - 1 == 0 and entries <= 1 << 22, "env.tlb.fast")
        _expect(peek(table + (entries - 1 << TLB.entry_size_log2), 24) == b"\xff" * 24, "env.tlb.table")
        victim = env + TLB.env_victims + TLB.victim_stride * mode
        _expect(peek(victim + (TLB.victims - 1 << TLB.entry_size_log2), 24) == b"\xff" * 24, "env.tlb.victims")
    _expect(_peek_u64(cpu + layout.cpu_id_aa64mmfr0) == 0x1124, "cpu.id_aa64mmfr0")
    _expect(_peek_u64(cpu + layout.cpu_id_aa64pfr0) == 0x2222, "cpu.id_aa64pfr0")
    # The fields that follow the feature bits belong to PMSA, which this core has not.
    features = _peek_u64(env + layout.env_features)
    _expect(bool(features) and not any(peek(env + layout.env_features + 8, 128)), "env.features")
    _expect(_peek_u64(env + layout.env_exclusive_addr) == (1 << 64) - 1, "env.exclusive_addr")
    # A GHashTable begins with its size (a power of two), a prime, its mask and its number of nodes.
    buckets, _, mask, nodes = struct.unpack("<4i", peek(_peek_u64(cpu + layout.cpu_cp_regs), 16))
    _expect(buckets == mask + 1 and buckets & mask == 0 and 100 < nodes < buckets, "cpu.cp_regs")

    # svc #0x1234; ldxr x2, [x1]; svc #0x5678: exceptions with a known number, syndrome and target, and a monitor.
    code = struct.pack("<III", 0xD4000001 | 0x1234 << 5, 0xC85F7C22, 0xD4000001 | 0x5678 << 5)
    library.check(library.uc_mem_write(uc, 0x1000, code, len(code)), "uc_mem_write")
    for n in range(29):
        value = ctypes.c_uint64(0x1100 + 8 * n)
        library.check(library.uc_reg_write(uc, REG_X0 + n, ctypes.byref(value)), "uc_reg_write")
    seen: list[tuple[int, bytes, bytes]] = []

    def on_exception(_uc: int, number: int) -> None:
        # No exception may leave a callback: a failed peek shows as a missing record.
        try:
            seen.append((number, peek(cpu + layout.cpu_exception_index, 4), peek(env, layout.env_features)))
        finally:
            library.uc_emu_stop(uc)

    hook = EXCEPTION_HOOK(on_exception)
    library.hook_exceptions(uc, hook)
    library.check(library.uc_emu_start(uc, 0x1000, 0, 0, 0), "uc_emu_start")
    library.check(library.uc_emu_start(uc, 0x1004, 0, 0, 0), "uc_emu_start")
    _expect([number for number, _, _ in seen] == [2, 2], "the exception hook")
    for (_, index, state), immediate, pc in zip(seen, (0x1234, 0x5678), (0x1004, 0x100C), strict=True):
        _expect(index == b"\2\0\0\0", "cpu.exception_index")
        syndrome = struct.unpack_from("<I", state, layout.env_syndrome)[0]
        target = struct.unpack_from("<I", state, layout.env_target_el)[0]
        _expect(syndrome == 0x15 << 26 | 1 << 25 | immediate, "env.exception.syndrome")
        _expect(target == 1 and layout.env_target_el == layout.env_syndrome + 16, "env.exception.target_el")
        _expect(layout.env_vaddress == layout.env_syndrome + 8, "env.exception.vaddress")
        _expect(struct.unpack_from("<Q", state, layout.env_pc)[0] == pc, "env.pc")
        values = struct.unpack_from("<29Q", state, layout.env_xregs)
        _expect(all(v == 0x1100 + 8 * n for n, v in enumerate(values) if n != 2), "env.xregs")
    _expect(struct.unpack_from("<Q", seen[1][2], layout.env_exclusive_addr)[0] == 0x1108, "env.exclusive_addr")


def register_key(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """The key of an AArch64 system register in the table of definitions."""
    return 1 << 28 | 0x13 << 16 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
