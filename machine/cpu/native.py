"""Loads the compiled part of the processing element (native.c) and declares its functions.

It is built when the package is installed; from a source tree, by ``python setup.py build_ext --inplace``.
"""

from __future__ import annotations

import ctypes
import os
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from machine.cpu import CpuError

_P, _U64, _I = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int
NOTHING_TAKEN: Final = -1


class Native(ctypes.Structure):
    """``struct element`` of native.c: what it needs of the library, the exception that ended a run, its stopper."""

    _fields_ = (
        ("uc", _P),
        ("cpu", _P),
        ("start", _P),
        ("stop", _P),
        ("enter_el1", _P),
        ("target_el", _P),
        ("pc", _P),
        ("entered_at_el1", _U64),
        ("taken", ctypes.c_int64),
        ("state", ctypes.c_uint32),
        ("kicked", ctypes.c_uint32),
        ("expired", ctypes.c_uint32),
        ("closing", ctypes.c_uint32),
        ("armed", _U64),
        ("run_timer", _I),
        ("wake", _I),
        ("waiter", _I),
        ("thread", ctypes.c_ulong),
    )


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
    )


def _load() -> tuple[ctypes.CDLL, ctypes.PyDLL]:
    path = Path(__file__).with_name("_native" + str(sysconfig.get_config_var("EXT_SUFFIX")))
    if not path.exists():
        raise CpuError(f"{path} is missing: install the package with pip, or run `python setup.py build_ext --inplace'")
    try:
        return ctypes.CDLL(str(path)), ctypes.PyDLL(str(path))
    except OSError as error:
        raise CpuError(f"cannot load {path}: {error}") from None


class NativeLibrary:
    """The functions of native.c. ``run`` and ``wait`` let other Python threads run meanwhile; the rest is short."""

    def __init__(self) -> None:
        long, short = _load()
        self.open = self._bind(short, "element_open", _I, _P)
        self.close = self._bind(long, "element_close", None, _P)
        self.kick = self._bind(short, "element_kick", None, _P)
        self.take_kick = self._bind(short, "element_take_kick", _I, _P)
        self.stop_at = self._bind(short, "element_stop_at", None, _P, _U64)
        self.run = self._bind(long, "element_run", _I, _P, _U64)
        self.wait = self._bind(long, "element_wait", _I, _P, _U64)
        self.use_tlb = self._bind(short, "element_use_tlb", _I, _P, _P)
        #: Address of the UC_HOOK_INTR callback; its user data is a :class:`Native`.
        self.exception = ctypes.cast(short.element_exception, _P).value

    @staticmethod
    def _bind(dll: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        function = dll[name]
        function.restype = result
        function.argtypes = arguments
        return function


def check(code: int) -> None:
    """CpuError for the errno that ``element_open`` answered."""
    if code:
        raise CpuError(f"cannot start a processing element: {os.strerror(code)}")
