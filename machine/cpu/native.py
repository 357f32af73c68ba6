"""Loads the compiled part of the processing element (native.c) and declares its functions.

It is built when the package is installed; from a source tree, by ``python setup.py build_ext --inplace``.
"""

from __future__ import annotations

import ctypes
import sysconfig
from pathlib import Path
from typing import Final

from machine.cpu import CpuError

_P, _U64 = ctypes.c_void_p, ctypes.c_uint64
NOTHING_TAKEN: Final = -1
#: ``element_interface`` of the native.c that this module was written with.
INTERFACE: Final = 2


class ExceptionHook(ctypes.Structure):
    """``struct element`` of native.c: the user data of the exception hook. ``taken`` is what ended a run, or -1."""

    _fields_ = (
        ("cpu", _P),
        ("stop", _P),
        ("enter_el1", _P),
        ("target_el", _P),
        ("entered_at_el1", _U64),
        ("taken", ctypes.c_int64),
    )
    taken: int


class TlbLayout(ctypes.Structure):
    """``struct tlb_layout`` of native.c."""

    _fields_ = (
        ("cpu_env", _U64),
        ("env_fast", ctypes.c_int64),
        ("env_victims", ctypes.c_int64),
        ("victim_stride", _U64),
        ("modes", _U64),
        ("victims", _U64),
        ("entry_size_log2", _U64),
        ("addr_write", _U64),
        ("clean_flags", _U64),
        ("not_dirty", _U64),
        ("page_bits", _U64),
    )


def _load() -> ctypes.PyDLL:
    path = Path(__file__).with_name("_native" + str(sysconfig.get_config_var("EXT_SUFFIX")))
    if not path.exists():
        raise CpuError(f"{path} is missing: install the package with pip, or run `python setup.py build_ext --inplace'")
    try:
        library = ctypes.PyDLL(str(path))
        interface = ctypes.c_uint32.in_dll(library, "element_interface").value
    except OSError as error:
        raise CpuError(f"cannot load {path}: {error}") from None
    except ValueError:
        interface = 0
    if interface != INTERFACE:
        raise CpuError(f"{path} was built from other sources: install the package again")
    return library


class NativeLibrary:
    """The functions of native.c; CpuError when it was not built."""

    def __init__(self) -> None:
        library = _load()
        library.element_use_tlb.argtypes = (_P, _P)
        library.element_reset_dirty.argtypes = (_P, _U64, _U64)
        library.element_reset_dirty.restype = None
        self._use_tlb = library.element_use_tlb
        #: (CPUState, virtual address, length): what the library calls in place of its own function.
        self.reset_dirty = library.element_reset_dirty
        address = ctypes.cast(library.element_exception, _P).value
        assert address is not None
        #: Address of the UC_HOOK_INTR callback; its user data is an :class:`ExceptionHook`.
        self.exception_hook = address

    def use_tlb(self, layout: TlbLayout, in_library: int) -> None:
        """Replace the library's marking of translated pages; ``in_library`` is the address of one of its functions."""
        if self._use_tlb(ctypes.byref(layout), in_library):
            raise CpuError("unicorn: tlb_reset_dirty_by_vaddr_aarch64 cannot be replaced")
