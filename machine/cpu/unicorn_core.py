"""The emulated core at rest: its registers, its state as bytes, its TLB and its translated code.

Enter at :class:`Core`, the part of :class:`machine.cpu.engine.Engine` below running. It opens a Unicorn engine over
physical memory, makes it the core that a guest is to see, and reads and writes its registers in place, through the
offsets that :mod:`machine.cpu.unicorn_library` has verified.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal

from machine import clock
from machine.cpu import HCR, CpuError
from machine.cpu import unicorn_library as unicorn
from machine.cpu.sysregs import encoding
from machine.generic_timer import ENABLE, IMASK, istatus
from machine.memory import PhysicalMemory

_LAYOUT: Final = unicorn.LAYOUT
#: Bytes of the core's state: the architectural part of CPUARMState, which holds no host pointers.
STATE_SIZE: Final = _LAYOUT.env_features
_MASK64: Final = (1 << 64) - 1

# QEMU's exception numbers.
EXCP_UDEF, EXCP_DATA_ABORT = 1, 4

#: SCR_EL3: RW, NS, RES1.
SCR_BASE: Final = 1 << 10 | 1 << 0 | 3 << 4
_SCR_EL3, _HCR_EL2, _CNTHCTL_EL2 = (3, 6, 1, 1, 0), (3, 4, 1, 1, 0), (3, 4, 14, 1, 0)
_PROT_ALL: Final = 7
_PROT_EXEC: Final = 4
_PSTATE_EL_SPSEL: Final = 0xD
_RESET_PSTATE: Final = 0x3C5  # EL1h; D, A, I and F masked
#: Above this many bytes invalidate_code drops everything instead of looking page by page.
_INVALIDATE_LIMIT: Final = 4 << 20

_PLAIN_REGISTERS: Final = {
    "PSTATE": unicorn.REG_PSTATE,
    "FPCR": unicorn.REG_FPCR,
    "FPSR": unicorn.REG_FPSR,
}


def writes_back(word: int) -> bool:
    """Whether an A64 instruction is a single-register load or store with pre-index or post-index write-back."""
    return word & 0x3B200400 == 0x38000400


class Core:
    """A Cortex-A72 over ``memory``, non-secure, in AArch64, with nothing loaded.

    Raises CpuError when the Unicorn library or the platform is not the one this was written for.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._lib = lib = unicorn.load()
        self._uc = uc = lib.open()
        #: Callbacks that the library calls, and what they are made of.
        self._keep: list[Any] = []
        lib.enable_exits(uc)
        size = memory.top - memory.dram_base
        lib.check(lib.uc_mem_map_ptr(uc, memory.dram_base, size, _PROT_ALL, memory.address), "uc_mem_map_ptr")
        # The mapping has initialised the engine; nothing is translated yet.
        ctypes.c_uint8.from_address(uc + _LAYOUT.uc_no_exit_request).value = 1

        self._cpu = cpu = ctypes.c_uint64.from_address(uc + _LAYOUT.uc_cpu).value
        self._env = env = cpu + _LAYOUT.cpu_env
        self._cp_regs = ctypes.c_uint64.from_address(cpu + _LAYOUT.cpu_cp_regs).value
        self._state = self._view("B", env, STATE_SIZE)
        self._words = self._view("Q", env, STATE_SIZE)
        self._xregs = self._view("Q", env + _LAYOUT.env_xregs, 32 * 8)
        self._pc = self._view("Q", env + _LAYOUT.env_pc, 8)
        self._syndrome = self._view("I", env + _LAYOUT.env_syndrome, 4)
        self._vaddress = self._view("Q", env + _LAYOUT.env_vaddress, 8)
        self._target_el = self._view("I", env + _LAYOUT.env_target_el, 4)
        self._index = self._view("I", cpu + _LAYOUT.cpu_exception_index, 4)
        self._fetched = ctypes.c_uint32()
        self._fetched_at = ctypes.addressof(self._fetched)

        self._sp_at = (self._field(*encoding("SP_EL0")), self._field(*encoding("SP_EL1")))
        self._p_ctl_at = self._field(*encoding("CNTP_CTL_EL0"))
        self._p_cval_at = self._field(*encoding("CNTP_CVAL_EL0"))
        self._v_ctl_at = self._field(*encoding("CNTV_CTL_EL0"))
        self._v_cval_at = self._field(*encoding("CNTV_CVAL_EL0"))

        self._set_identification()
        self._disarm_debug_registers()
        self._words[self._field(*_SCR_EL3)] = SCR_BASE
        self._words[self._field(*_HCR_EL2)] = HCR.RW
        self._words[self._field(*_CNTHCTL_EL2)] = 3  # EL1PCTEN, EL1PCEN
        self._set_plain("PSTATE", _RESET_PSTATE)
        lib.arm_rebuild_hflags_aarch64(env)
        self._reset_state = bytes(self._state)

    # Construction.

    @staticmethod
    def _view(code: Literal["B", "I", "Q"], address: int, size: int) -> memoryview:
        """``size`` bytes of host memory at ``address`` as unsigned integers."""
        return memoryview((ctypes.c_uint8 * size).from_address(address)).cast("B").cast(code)

    def _info(self, op0: int, op1: int, crn: int, crm: int, op2: int) -> unicorn.RegInfo | None:
        key = unicorn.register_key(op0, op1, crn, crm, op2)
        address = self._lib.get_arm_cp_reginfo_aarch64(self._cp_regs, key)
        return unicorn.RegInfo.from_address(address) if address else None

    def _known(self, op0: int, op1: int, crn: int, crm: int, op2: int) -> unicorn.RegInfo:
        info = self._info(op0, op1, crn, crm, op2)
        if info is None:
            raise CpuError(f"unicorn: system register S{op0}_{op1}_C{crn}_C{crm}_{op2} does not exist")
        return info

    def _field(self, op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
        """Index in ``_words`` of the register's 64-bit field."""
        offset: int = self._known(op0, op1, crn, crm, op2).fieldoffset
        if not 0 < offset < STATE_SIZE or offset & 7:
            raise CpuError(f"unicorn: system register S{op0}_{op1}_C{crn}_C{crm}_{op2} has no field")
        return offset >> 3

    def _callback(self, kind: Any, function: Callable[..., Any]) -> int:
        """The address of a C function that calls ``function``, kept alive with the engine."""
        callback = kind(function)
        self._keep.append(callback)
        address = ctypes.cast(callback, ctypes.c_void_p).value
        assert address is not None
        return address

    def _set_identification(self) -> None:
        isar_mmfr0 = ctypes.c_uint64.from_address(self._cpu + _LAYOUT.cpu_id_aa64mmfr0)
        isar_mmfr0.value = isar_mmfr0.value & ~0xF | 5  # PARange: 48 bits
        self._known(*encoding("ID_AA64MMFR0_EL1")).resetvalue = isar_mmfr0.value
        # EL0 and EL1: AArch64 only (AArch32 translation would switch no_exit_request off); GIC: system registers.
        isar_pfr0 = ctypes.c_uint64.from_address(self._cpu + _LAYOUT.cpu_id_aa64pfr0)
        isar_pfr0.value = isar_pfr0.value & ~(0xFF | 0xF << 24) | 0x11 | 1 << 24

    def _disarm_debug_registers(self) -> None:
        for n in range(16):
            for op2 in (4, 5, 6, 7):
                info = self._info(2, 0, 0, n, op2)
                if info is not None:
                    info.writefn = 0

    # State.

    def _load(self, state: bytes | memoryview) -> None:
        """Replace the core's state, and drop what belonged to the previous one."""
        self._state[:] = state
        self._words[_LAYOUT.env_exclusive_addr >> 3] = _MASK64
        self._lib.tlb_flush_aarch64(self._cpu)

    # Registers.

    def gprs(self, count: int = 31) -> Sequence[int]:
        return self._xregs[:count].tolist()

    def set_gprs(self, values: Iterable[int], first: int = 0) -> None:
        words = array("Q", values)
        if first + len(words) > 31:
            raise CpuError(f"X{first + len(words) - 1} does not exist")
        self._xregs[first : first + len(words)] = memoryview(words)

    def gpr(self, n: int) -> int:
        return self._xregs[n] if n != 31 else 0

    def set_gpr(self, n: int, value: int) -> None:
        if n != 31:
            self._xregs[n] = value

    @property
    def pc(self) -> int:
        value: int = self._pc[0]
        return value

    @pc.setter
    def pc(self, value: int) -> None:
        self._pc[0] = value

    def sysreg(self, name: str) -> int:
        """Also PSTATE, FPCR and FPSR. CpuError for an unknown name."""
        if name in _PLAIN_REGISTERS:
            return self._plain(name)
        if name in ("SP_EL0", "SP_EL1"):
            number = int(name == "SP_EL1")
            value: int = self._xregs[31] if self._current_sp() == number else self._words[self._sp_at[number]]
            return value
        if name == "CNTP_CTL_EL0":
            return istatus(self._words[self._p_ctl_at], self._words[self._p_cval_at], clock.now())
        if name == "CNTV_CTL_EL0":
            return istatus(self._words[self._v_ctl_at], self._words[self._v_cval_at], clock.now())
        access = self._access(name)
        code = self._lib.uc_reg_read(self._uc, unicorn.REG_CP_REG, ctypes.addressof(access))
        self._lib.check(code, f"read {name}")
        result: int = access.val
        return result

    def set_sysreg(self, name: str, value: int) -> None:
        """Also PSTATE, FPCR and FPSR. CpuError for an unknown name."""
        if name == "PSTATE":
            self._set_pstate(value)
        elif name in _PLAIN_REGISTERS:
            self._set_plain(name, value)
        elif name in ("SP_EL0", "SP_EL1"):
            number = int(name == "SP_EL1")
            if self._current_sp() == number:
                self._xregs[31] = value
            else:
                self._words[self._sp_at[number]] = value
        elif name in ("CNTP_CTL_EL0", "CNTV_CTL_EL0"):
            # In place: the registers' own write functions belong to a running guest.
            self._words[self._field(*encoding(name))] = value & (ENABLE | IMASK)
        elif name in ("CNTP_CVAL_EL0", "CNTV_CVAL_EL0"):
            self._words[self._field(*encoding(name))] = value
        else:
            info = self._known(*encoding(name))
            if not info.fieldoffset and not info.writefn:
                raise CpuError(f"system register {name} is read-only")
            access = self._access(name)
            access.val = value
            code = self._lib.uc_reg_write(self._uc, unicorn.REG_CP_REG, ctypes.addressof(access))
            self._lib.check(code, f"write {name}")
            # This way of writing leaves out what a guest's write would flush.
            self._lib.tlb_flush_aarch64(self._cpu)

    def _access(self, name: str) -> unicorn.CpReg:
        op0, op1, crn, crm, op2 = encoding(name)
        return unicorn.CpReg(crn, crm, op0, op1, op2, 0)

    def _plain(self, name: str) -> int:
        value = ctypes.c_uint32()
        code = self._lib.uc_reg_read(self._uc, _PLAIN_REGISTERS[name], ctypes.addressof(value))
        self._lib.check(code, f"read {name}")
        return value.value

    def _set_plain(self, name: str, value: int) -> None:
        word = ctypes.c_uint32(value)
        code = self._lib.uc_reg_write(self._uc, _PLAIN_REGISTERS[name], ctypes.addressof(word))
        self._lib.check(code, f"write {name}")

    def _current_sp(self) -> int:
        """Which stack pointer is the one in use: SP_EL0 or SP_EL1."""
        return int(self._plain("PSTATE") & _PSTATE_EL_SPSEL == 5)

    def _set_pstate(self, value: int) -> None:
        self._words[self._sp_at[self._current_sp()]] = self._xregs[31]
        self._set_plain("PSTATE", value)
        self._xregs[31] = self._words[self._sp_at[self._current_sp()]]
        self._lib.arm_rebuild_hflags_aarch64(self._env)

    def take_exception_el1(self, esr: int, far: int | None = None) -> None:
        """See :meth:`machine.cpu.Cpu.take_exception_el1`; the library enters it, as it does the guest's own."""
        if self._plain("PSTATE") & 0xC == 0 and esr >> 26 in (0x21, 0x25):
            esr -= 1 << 26
        self._syndrome[0] = esr
        self._target_el[0] = 1
        self._index[0] = EXCP_UDEF
        if far is not None:
            self._index[0] = EXCP_DATA_ABORT
            self._vaddress[0] = far
        self._lib.arm_cpu_do_interrupt_aarch64(self._cpu)

    # Caches.

    def flush_tlb(self) -> None:
        self._lib.tlb_flush_aarch64(self._cpu)

    def invalidate_code(self, pa: int, size: int) -> None:
        if size > _INVALIDATE_LIMIT:
            self._lib.tb_flush_aarch64(self._cpu)
        elif size > 0:
            # The function takes offsets from the start of the (first) mapped block.
            start = self._memory.offset(pa, size)
            self._lib.tb_invalidate_phys_range_aarch64(self._uc, start, start + size)

    def _writes_back(self) -> bool:
        """Whether the instruction at PC is a write-back load or store (also when it cannot be read)."""
        if self._lib.uc_vmem_read(self._uc, self._pc[0], _PROT_EXEC, self._fetched_at, 4):
            return True
        return writes_back(self._fetched.value)

    def _close(self) -> None:
        # A released view raises ValueError; a kept one would read freed memory.
        for view in (self._state, self._words, self._xregs, self._pc, self._syndrome, self._vaddress, self._target_el,
                     self._index):
            view.release()
        self._lib.uc_close(self._uc)
