"""The processing element on Unicorn: a Cortex-A72 whose EL1 and EL0 run translated, with EL2 in Python.

Enter at :class:`Engine`, an implementation of :class:`machine.cpu.Cpu`.

How it works. The physical address space is one mapping of the engine, at its true physical address, so stage-2 tables
in that memory are walked by the emulated MMU. The one hook is the exception hook: an exception to EL1 is entered by the
library itself (``arm_cpu_do_interrupt``), any other leaves ``uc_emu_start`` and is answered by :meth:`Engine.run`.
ICC_*_EL1 are registers that the library does not have; they are defined here over :class:`machine.ich.IchRegisters`.
The generic timers' registers exist but do nothing; their accessors are replaced here. HCR_EL2.VI and VF carry the
virtual interrupt lines, which the library delivers when the guest unmasks them.

What would corrupt a guest, and is solved here (each has its test in tests/machine/test_engine_hazards.py):

* Exits after each load and store (they would repeat the instruction) are turned off through ``no_exit_request``, before
  anything is translated; a stop then takes effect between translation blocks only.
* ``uc_reg_write`` of PC is not used: in a hook it makes a later stop use a stale PC. PC is a plain store here.
* Host writes do not invalidate translated code: :meth:`Engine.invalidate_code`.
* A stop request just before ``uc_emu_start`` is lost: :mod:`machine.cpu.stopper` repeats it.
* Write-back loads and stores fault with ISV set (completing them would lose the write-back): cleared, by instruction.
* The fault status of a stage-2 fault on a stage-1 walk is wrong: found by a second walk (:mod:`machine.cpu.stage2`).
* The TLB, the exclusive monitor and the pending lines are not part of a context: dropped or rewritten at a switch.
* Breakpoint and watchpoint registers only store: an enabled one would allocate host objects inside the context.
* Physical addresses are 48 bits (the A72 has 44), AArch32 is not implemented at any level that a guest can reach.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from machine import clock
from machine.cpu import CONTEXT_SIZE, HCR, CpuError, CpuExit, ExitKind, Regime, TimerState
from machine.cpu import unicorn_library as unicorn
from machine.cpu.native import NOTHING_TAKEN, ExceptionHook
from machine.cpu.stage2 import fault_status
from machine.cpu.stopper import Stopper
from machine.cpu.sysregs import encoding
from machine.cpu.unicorn_core import SCR_BASE, STATE_SIZE, Core
from machine.generic_timer import ENABLE, IMASK, ISTATUS, istatus, level
from machine.ich import ALWAYS_TRAPPED, ICC_REGISTERS, MAINTENANCE, VFIQ, VIRQ, IccRegister, IchRegisters
from machine.memory import PhysicalMemory

_MASK64: Final = (1 << 64) - 1

#: QEMU's numbers of the exceptions that arm_cpu_do_interrupt may enter at EL1 (undefined, SVC, instruction abort, data
#: abort, breakpoint instruction); it ends the process for a number that it does not know.
_ENTERED_AT_EL1: Final = frozenset((1, 2, 3, 4, 7))

# ESR_EL2.
_EC_WFX, _EC_INSTRUCTION_ABORT, _EC_DATA_ABORT = 0x01, 0x20, 0x24
_ESR_ISV: Final = 1 << 24
_ESR_S1PTW: Final = 1 << 7
#: The data abort fields that are RES0 while ISV is 0: ISV, SAS, SSE, SRT, SF, AR.
_ESR_ISV_FIELDS: Final = 0x1FF << 16 | 3 << 14
#: SError, asynchronous, from an access to a physical address with nothing behind it.
_ESR_BUS_ERROR: Final = 0x2F << 26 | 1 << 25 | 0x11

_HCR_VF, _HCR_VI = 1 << 6, 1 << 7
#: What the element always has on: AArch64 at EL1, virtual interrupts, and the two traps that run() relies on.
_HCR_ALWAYS: Final = HCR.RW | HCR.IMO | HCR.FMO | HCR.TSC | HCR.TWI
#: Bits that are not the caller's: PTW, VF, VI, VSE, TGE, E2H.
_HCR_NEVER: Final = 1 << 2 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 27 | 1 << 34
_SCR_HCE: Final = 1 << 8

_PL1_READ, _PL1_WRITE = 0xA8, 0x54
_CP_IO_NO_RAW: Final = 0x40 | 0x80
_STATE_AA64: Final = 1
_ACCESS_TRAP_EL2: Final = 3
_ICC_SRE: Final = 7  # SRE, DFB, DIB
_ICH_TRAP_BITS: Final = 0x5C00  # ICH_HCR_EL2.{TC, TALL0, TALL1, TDIR}

_MAGIC: Final = b"A72-PE\0\1" + bytes.fromhex(unicorn.BUILD_ID)[:8]
_HEADER: Final = 64
#: The header of a context, by the timer levels that EL2 knows of.
_HEADERS: Final = tuple((_MAGIC + bytes((told,))).ljust(_HEADER, b"\0") for told in range(4))
_CONTEXT_END: Final = _HEADER + STATE_SIZE


class Engine(Core):
    """A Cortex-A72 over ``memory``; ``ich`` is its virtual GIC interface (a new one by default).

    Raises CpuError when the Unicorn library or the platform is not the one this was written for. The engine belongs to
    the thread that makes it run, except :meth:`kick`. :meth:`close` it: it holds a thread, descriptors and host memory.
    """

    def __init__(self, memory: PhysicalMemory, ich: IchRegisters | None = None) -> None:
        super().__init__(memory)
        self.ich = ich if ich is not None else IchRegisters()
        self._hcr_at = self._field(3, 4, 1, 1, 0)
        self._scr_at = self._field(3, 6, 1, 1, 0)
        self._vttbr_at = self._field(3, 4, 2, 1, 0)
        self._vtcr_at = self._field(3, 4, 2, 1, 2)
        self._vmpidr_at = self._field(3, 4, 0, 0, 5)
        self._hpfar_at = self._field(3, 4, 6, 0, 4)
        #: What a callback raised, for the run to raise.
        self._failure: BaseException | None = None
        self._regime: Regime | None = None
        #: HCR_EL2.{VI,VF} as last given to the library.
        self._lines = 0
        #: The same as bits of :meth:`machine.ich.IchRegisters.signals`.
        self._signalled = 0
        #: Timer levels that EL2 knows of: bit 0 physical, bit 1 virtual.
        self._told = 0
        self._deadline: int | None = None
        #: The maintenance interrupt: asserted when the run began; came up at a moment when another exit was taken.
        self._maintenance = False
        self._maintenance_owed = False
        self._ich_trap_bits = 0
        self._trapped: frozenset[str] = frozenset()
        self._untrapped: dict[str, int] = {}
        self._trap = self._callback(unicorn.ACCESS_FN, lambda env, info, is_read: _ACCESS_TRAP_EL2)
        self._define_timer(2, self._p_ctl_at, self._p_cval_at)
        self._define_timer(3, self._v_ctl_at, self._v_cval_at)
        for row in ICC_REGISTERS:
            self._define_icc(row)
        self._hook = self._hook_exceptions()
        stop, uc = self._lib.uc_emu_stop, self._uc
        self._stopper = Stopper(lambda: stop(uc))
        self._closed = False

    # What the library calls.

    def _hook_exceptions(self) -> ExceptionHook:
        """Exceptions for EL1 are entered by the library at once; any other ends the run (in C: native.c)."""
        hook = ExceptionHook(
            cpu=self._cpu,
            stop=ctypes.cast(self._lib.uc_emu_stop, ctypes.c_void_p),  # type: ignore[arg-type]
            enter_el1=ctypes.cast(self._lib.arm_cpu_do_interrupt_aarch64, ctypes.c_void_p),  # type: ignore[arg-type]
            target_el=self._env + unicorn.LAYOUT.env_target_el,
            entered_at_el1=sum(1 << number for number in _ENTERED_AT_EL1),
            taken=NOTHING_TAKEN,
        )
        self._lib.hook_exceptions(
            self._uc, ctypes.c_void_p(self._lib.native.exception_hook), ctypes.addressof(hook)
        )
        return hook

    def _guarded(self, function: Callable[..., int]) -> Callable[..., int]:
        """``function`` for a callback: an exception ends the run, which raises it, instead of being lost."""

        def call(*args: int) -> int:
            try:
                return function(*args)
            except BaseException as error:
                self._failure = error
                self._lib.uc_emu_stop(self._uc)
                return 0

        return call

    def _define_icc(self, row: IccRegister) -> None:
        name = row.name
        read: Callable[..., int]
        if name == "ICC_SRE_EL1":
            read = lambda env, info: _ICC_SRE  # noqa: E731
            write = lambda env, info, value: 0  # noqa: E731
        else:
            # A register without a virtual view always traps, so its accessors are never called.
            def read(env: int, info: int) -> int:
                value = self.ich.icv_read(name)
                self._update_lines()
                return value

            def write(env: int, info: int, value: int) -> int:
                self.ich.icv_write(name, value)
                self._update_lines()
                return 0

        info = unicorn.RegInfo(
            name=name.encode(), crn=row.crn, crm=row.crm, opc0=row.op0, opc1=row.op1, opc2=row.op2,
            state=_STATE_AA64, type=_CP_IO_NO_RAW,
            access=(_PL1_READ if "r" in row.access else 0) | (_PL1_WRITE if "w" in row.access else 0),
        )
        info.readfn = self._callback(unicorn.READ_FN, self._guarded(read))
        info.writefn = self._callback(unicorn.WRITE_FN, self._guarded(write))
        if name in ALWAYS_TRAPPED and name != "ICC_SRE_EL1":
            info.accessfn = self._trap
        self._lib.define_one_arm_cp_reg_with_opaque_aarch64(self._cpu, ctypes.addressof(info), None)

    def _define_timer(self, crm: int, ctl_at: int, cval_at: int) -> None:
        words = self._words

        def read_ctl(env: int, info: int) -> int:
            return istatus(words[ctl_at], words[cval_at], clock.now())

        def write_ctl(env: int, info: int, value: int) -> int:
            words[ctl_at] = value & (ENABLE | IMASK)
            return self._timer_written()

        def write_cval(env: int, info: int, value: int) -> int:
            words[cval_at] = value
            return self._timer_written()

        def write_tval(env: int, info: int, value: int) -> int:
            value &= 0xFFFF_FFFF
            words[cval_at] = clock.now() + value - (value >> 31 << 32) & _MASK64
            return self._timer_written()

        tval, ctl, cval = (self._known(3, 3, 14, crm, op2) for op2 in range(3))
        ctl.readfn = self._callback(unicorn.READ_FN, self._guarded(read_ctl))
        ctl.writefn = self._callback(unicorn.WRITE_FN, self._guarded(write_ctl))
        cval.writefn = self._callback(unicorn.WRITE_FN, self._guarded(write_cval))
        tval.writefn = self._callback(unicorn.WRITE_FN, self._guarded(write_tval))

    # Running.

    def run(self, regime: Regime) -> CpuExit:
        """See :meth:`machine.cpu.Cpu.run`.

        The timers' levels are compared with those that the caller last learnt from :meth:`timers` or from an IRQ exit,
        so that a level that changes between two runs is not lost. A deadline in the past answers IRQ at once.
        """
        if regime is not self._regime:
            self._apply(regime)
        ich = self.ich
        if ich.hcr & _ICH_TRAP_BITS != self._ich_trap_bits:
            self._set_traps(regime)
        signals = ich.signals()
        self._maintenance = signals & MAINTENANCE != 0 and not self._maintenance_owed
        if signals & (VIRQ | VFIQ) != self._signalled:
            self._signal_lines(signals)
        hook = self._hook
        hook.taken = NOTHING_TAKEN
        stopper, pc, uc, emulate = self._stopper, self._pc, self._uc, self._lib.uc_emu_start
        while True:
            now = clock.now()
            levels = self._levels(now)
            deadline = self._deadline
            if (
                levels != self._told
                or (deadline is not None and now >= deadline)
                or (not self._maintenance and ich.signals() & MAINTENANCE)
                or stopper.take_kick()
            ):
                self._told = levels
                self._maintenance_owed = False
                return CpuExit(ExitKind.IRQ)
            following = self._next_event(now)
            if not stopper.begin(None if following is None else clock.ticks_to_ns(following)):
                continue
            code = emulate(uc, pc[0], 0, 0, 0)
            stopper.end()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if hook.taken != NOTHING_TAKEN:
                exit_ = self._synchronous_exit(regime)
                if exit_ is not None:
                    self._maintenance_owed = not self._maintenance and ich.signals() & MAINTENANCE != 0
                    return exit_
            elif code:
                return self._bus_error(code)

    def _synchronous_exit(self, regime: Regime) -> CpuExit | None:
        """The exit of the exception just taken; None when it was the element's own affair."""
        self._hook.taken = NOTHING_TAKEN
        esr = self._syndrome[0]
        ec = esr >> 26
        if ec in (_EC_DATA_ABORT, _EC_INSTRUCTION_ABORT):
            hpfar = self._words[self._hpfar_at]
            if esr & _ESR_ISV and self._writes_back():
                esr &= ~_ESR_ISV_FIELDS
            if esr & _ESR_S1PTW:
                status = fault_status(self._memory, regime.vttbr_el2, regime.vtcr_el2, hpfar >> 4 << 12, False)
                if status is not None:
                    esr = esr & ~0x3F | status
            return CpuExit(ExitKind.SYNC, esr, self._vaddress[0], hpfar)
        if ec == _EC_WFX and not regime.hcr_el2 & HCR.TWI:
            # The caller wants WFI to wait, not to trap.
            self._pc[0] += 4
            now = clock.now()
            if self._levels(now) == self._told:
                self._wait_for_event(now)
            return None
        return CpuExit(ExitKind.SYNC, esr)

    def _wait_for_event(self, now: int) -> None:
        following = self._next_event(now)
        if self._stopper.wait(None if following is None else clock.ticks_to_ns(following)):
            self._stopper.kick()

    def _bus_error(self, code: int) -> CpuExit:
        if code in (6, 7, 8):  # UC_ERR_{READ,WRITE,FETCH}_UNMAPPED
            return CpuExit(ExitKind.SERROR, _ESR_BUS_ERROR)
        text = self._lib.uc_strerror(code).decode()
        raise CpuError(f"unicorn: emulation ended at PC {self.pc:#x}: {text}")

    def _apply(self, regime: Regime) -> None:
        """Load the EL2 registers of ``regime``."""
        words = self._words
        hcr = regime.hcr_el2 & ~_HCR_NEVER | _HCR_ALWAYS | self._lines
        scr = SCR_BASE | (_SCR_HCE if regime.hvc else 0)
        if (
            words[self._vttbr_at] != regime.vttbr_el2
            or words[self._vtcr_at] != regime.vtcr_el2
            or (words[self._hcr_at] ^ hcr) & HCR.VM
        ):
            words[self._vttbr_at], words[self._vtcr_at] = regime.vttbr_el2, regime.vtcr_el2
            self._lib.tlb_flush_aarch64(self._cpu)
        words[self._hcr_at], words[self._scr_at] = hcr, scr
        words[self._vmpidr_at] = regime.vmpidr_el2
        self._lib.arm_rebuild_hflags_aarch64(self._env)
        self._regime = regime
        self._set_traps(regime)

    def _set_traps(self, regime: Regime) -> None:
        """Have the accesses that ``regime`` and ICH_HCR_EL2 name, and no others, trap to EL2."""
        self._ich_trap_bits = self.ich.hcr & _ICH_TRAP_BITS
        wanted = regime.sysreg_traps | self.ich.traps() if self._ich_trap_bits else regime.sysreg_traps
        if wanted == self._trapped:
            return
        for name in self._trapped - wanted:
            self._named(name).accessfn = self._untrapped.pop(name)
        for name in wanted - self._trapped:
            info = self._named(name)
            self._untrapped[name] = info.accessfn
            info.accessfn = self._trap
        self._trapped = frozenset(wanted)
        # Whether an access function is called at all is decided when an access is translated.
        self._lib.tb_flush_aarch64(self._cpu)

    def _named(self, name: str) -> unicorn.RegInfo:
        for row in ICC_REGISTERS:
            if row.name == name:
                return self._known(row.op0, row.op1, row.crn, row.crm, row.op2)
        return self._known(*encoding(name))

    # The virtual interrupt lines.

    def _update_lines(self) -> None:
        """Make HCR_EL2.{VI,VF} equal to the ICH registers' signals; stop for a new maintenance interrupt."""
        signals = self.ich.signals()
        if signals & (VIRQ | VFIQ) != self._signalled:
            self._signal_lines(signals)
        if not self._maintenance and signals & MAINTENANCE:
            self._lib.uc_emu_stop(self._uc)

    def _signal_lines(self, signals: int) -> None:
        """Give HCR_EL2.{VI,VF} the value of VIRQ and VFIQ."""
        self._signalled = signals & (VIRQ | VFIQ)
        self._lines = (_HCR_VI if signals & VIRQ else 0) | (_HCR_VF if signals & VFIQ else 0)
        words, at = self._words, self._hcr_at
        words[at] = words[at] & ~(_HCR_VI | _HCR_VF) | self._lines
        self._lib.arm_cpu_update_virq_aarch64(self._cpu)
        self._lib.arm_cpu_update_vfiq_aarch64(self._cpu)

    # The timers.

    def _levels(self, now: int) -> int:
        words = self._words
        return level(words[self._p_ctl_at], words[self._p_cval_at], now) | (
            level(words[self._v_ctl_at], words[self._v_cval_at], now) << 1
        )

    def _next_event(self, now: int) -> int | None:
        """The count at which a timer's line rises next, or EL2's deadline, whichever comes first."""
        following = self._deadline
        words = self._words
        for ctl_at, cval_at in ((self._p_ctl_at, self._p_cval_at), (self._v_ctl_at, self._v_cval_at)):
            if words[ctl_at] & 3 == ENABLE:
                cval = words[cval_at]
                if cval > now and (following is None or cval < following):
                    following = cval
        return following

    def _timer_written(self) -> int:
        """The guest wrote a timer register: stop if a level changed, or make sure to stop when it will."""
        now = clock.now()
        if self._levels(now) != self._told:
            self._lib.uc_emu_stop(self._uc)
        else:
            following = self._next_event(now)
            if following is not None:
                self._stopper.stop_at(clock.ticks_to_ns(following))
        return 0

    def timers(self) -> TimerState:
        """Both timers, with ISTATUS evaluated now; :meth:`run` answers IRQ when a level differs from this answer."""
        words, now = self._words, clock.now()
        state = TimerState(
            istatus(words[self._p_ctl_at], words[self._p_cval_at], now),
            words[self._p_cval_at],
            istatus(words[self._v_ctl_at], words[self._v_cval_at], now),
            words[self._v_cval_at],
        )
        asserted = ENABLE | ISTATUS
        self._told = int(state.cntp_ctl & 7 == asserted) | int(state.cntv_ctl & 7 == asserted) << 1
        return state

    def set_deadline(self, counter: int | None) -> None:
        self._deadline = counter

    # Stopping and waiting.

    def kick(self) -> None:
        self._stopper.kick()

    def wait(self, counter: int | None) -> None:
        self._stopper.wait(None if counter is None else clock.ticks_to_ns(counter))

    # Contexts.

    def reset(self) -> None:
        self._told = 0
        self._loaded(self._reset_state)

    def save(self, into: memoryview) -> None:
        if len(into) < CONTEXT_SIZE:
            raise CpuError(f"a context needs {CONTEXT_SIZE} bytes, not {len(into)}")
        into[:_HEADER] = _HEADERS[self._told]
        into[_HEADER:_CONTEXT_END] = self._state

    def restore(self, image: memoryview) -> None:
        if len(image) < CONTEXT_SIZE or bytes(image[: len(_MAGIC)]) != _MAGIC:
            raise CpuError("not a context of this processing element (or of another version of it)")
        self._told = image[len(_MAGIC)] & 3
        self._loaded(image[_HEADER : _HEADER + STATE_SIZE])

    def _loaded(self, state: bytes | memoryview) -> None:
        self._load(state)
        self._regime = None
        self._maintenance_owed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._stopper.close()
            self._close()
