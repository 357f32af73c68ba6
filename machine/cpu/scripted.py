"""A processing element that plays a script: recorded exits for replays, and exits that the engine cannot produce.

Enter at :class:`ScriptedCpu`. A script is a queue of what EL1 does. Each :meth:`ScriptedCpu.run` plays one step: it
loads the step's registers into X0.. and answers the step's exception; with nothing queued it answers FIQ. After an SMC,
the next run first records what EL1 then sees in X0..X17 (:meth:`ScriptedCpu.take_saw`).

No instruction is executed and no memory is read: stage 2, TLBs and translated code do not exist here, and the timers
raise no IRQ by themselves.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from machine import clock
from machine.cpu import CONTEXT_SIZE, CpuError, CpuExit, ExitKind, Regime, TimerState
from machine.cpu.sysregs import ENCODINGS
from machine.generic_timer import istatus
from machine.ich import IchRegisters

_MASK64: Final = (1 << 64) - 1
#: X0..X17, the registers of an SMC call and its results.
SEEN_REGISTERS: Final = 18
_RESET_PSTATE: Final = 0x3C5
#: Registers of a context, in the order of its image.
_NAMES: Final = (*ENCODINGS, "PSTATE", "FPCR", "FPSR")
_MAGIC: Final = b"SCRIPT\0\1"
_IMAGE: Final = struct.Struct(f"<8sB7x31QQ{len(_NAMES)}Q")


@dataclass(frozen=True, slots=True)
class _Step:
    exit: CpuExit
    registers: tuple[int, ...] = ()
    is_smc: bool = False


class ScriptedCpu:
    """An implementation of :class:`machine.cpu.Cpu` that does what it is told.

    ``regime`` is the regime of the last run, ``runs`` their number.
    """

    def __init__(self, ich: IchRegisters | None = None) -> None:
        self.ich = ich if ich is not None else IchRegisters()
        self.regime: Regime | None = None
        self.runs = 0
        self._queue: deque[_Step] = deque()
        self._saw: list[tuple[int, ...]] = []
        self._wakeup = threading.Condition()
        self._kicked = False
        self._deadline: int | None = None
        #: The last exit was an SMC whose results EL1 has not seen yet.
        self._returning = False
        self.reset()

    # The script.

    def smc(self, registers: Sequence[int], immediate: int = 0) -> None:
        """EL1 loads X0.. and executes SMC."""
        esr = 0x17 << 26 | 1 << 25 | immediate
        self._queue.append(_Step(CpuExit(ExitKind.SYNC, esr), tuple(registers), is_smc=True))

    def sync(self, esr: int, far: int = 0, hpfar: int = 0, registers: Sequence[int] = ()) -> None:
        """EL1 loads X0.. and takes a synchronous exception to EL2."""
        self._queue.append(_Step(CpuExit(ExitKind.SYNC, esr, far, hpfar), tuple(registers)))

    def irq(self) -> None:
        """A physical IRQ is taken."""
        self._queue.append(_Step(CpuExit(ExitKind.IRQ)))

    def fiq(self) -> None:
        """A physical FIQ is taken."""
        self._queue.append(_Step(CpuExit(ExitKind.FIQ)))

    def serror(self, esr: int) -> None:
        """An SError is taken."""
        self._queue.append(_Step(CpuExit(ExitKind.SERROR, esr)))

    def play(self, steps: Iterable[Sequence[Any]]) -> None:
        """Queue steps given as ("smc", registers), ("sync", esr, far, hpfar, registers), ("irq",), ("fiq",) and
        ("serror", esr). CpuError for another name."""
        kinds: dict[str, Callable[..., None]] = {
            "smc": self.smc, "sync": self.sync, "irq": self.irq, "fiq": self.fiq, "serror": self.serror,
        }
        for name, *arguments in steps:
            if name not in kinds:
                raise CpuError(f"no scripted step {name!r}")
            kinds[name](*arguments)

    @property
    def pending(self) -> int:
        """Steps not played yet."""
        return len(self._queue)

    def take_saw(self) -> list[tuple[int, ...]]:
        """X0..X17 as EL1 saw them after each SMC since the last call of this method."""
        saw, self._saw = self._saw, []
        return saw

    # The element.

    def run(self, regime: Regime) -> CpuExit:
        """Play the next step. A kick is answered first, as IRQ, without playing anything."""
        self.regime = regime
        if self._take_kick():
            return CpuExit(ExitKind.IRQ)
        if self._deadline is not None and clock.now() >= self._deadline:
            return CpuExit(ExitKind.IRQ)
        self.runs += 1
        if self._returning:
            self._returning = False
            self._saw.append(tuple(self._gprs[:SEEN_REGISTERS]))
        if not self._queue:
            return CpuExit(ExitKind.FIQ)
        step = self._queue.popleft()
        self._gprs[: len(step.registers)] = step.registers
        self._returning = step.is_smc
        return step.exit

    def reset(self) -> None:
        self._gprs = [0] * 31
        self._pc = 0
        self._sysregs = dict.fromkeys(_NAMES, 0)
        self._sysregs["PSTATE"] = _RESET_PSTATE
        self._sysregs["CNTFRQ_EL0"] = clock.COUNTER_FREQUENCY
        self._returning = False

    def save(self, into: memoryview) -> None:
        if len(into) < CONTEXT_SIZE:
            raise CpuError(f"a context needs {CONTEXT_SIZE} bytes, not {len(into)}")
        values = (self._sysregs[name] for name in _NAMES)
        image = _IMAGE.pack(_MAGIC, self._returning, *self._gprs, self._pc, *values)
        into[: len(image)] = image

    def restore(self, image: memoryview) -> None:
        if len(image) < CONTEXT_SIZE or bytes(image[: len(_MAGIC)]) != _MAGIC:
            raise CpuError("not a context of a scripted processing element")
        _, returning, *words = _IMAGE.unpack(image[: _IMAGE.size])
        self._returning = bool(returning)
        self._gprs = words[:31]
        self._pc = words[31]
        self._sysregs = dict(zip(_NAMES, words[32:], strict=True))

    def gprs(self, count: int = 31) -> Sequence[int]:
        return self._gprs[:count]

    def set_gprs(self, values: Sequence[int], first: int = 0) -> None:
        if first + len(values) > 31:
            raise CpuError(f"X{first + len(values) - 1} does not exist")
        self._gprs[first : first + len(values)] = values

    def gpr(self, n: int) -> int:
        return self._gprs[n] if n != 31 else 0

    def set_gpr(self, n: int, value: int) -> None:
        if n != 31:
            self._gprs[n] = value

    @property
    def pc(self) -> int:
        return self._pc

    @pc.setter
    def pc(self, value: int) -> None:
        self._pc = value

    def sysreg(self, name: str) -> int:
        if name not in self._sysregs:
            raise CpuError(f"no system register {name!r}")
        if name == "CNTP_CTL_EL0":
            return self.timers().cntp_ctl
        if name == "CNTV_CTL_EL0":
            return self.timers().cntv_ctl
        return self._sysregs[name]

    def set_sysreg(self, name: str, value: int) -> None:
        if name not in self._sysregs:
            raise CpuError(f"no system register {name!r}")
        self._sysregs[name] = value & _MASK64

    def timers(self) -> TimerState:
        now, regs = clock.now(), self._sysregs
        p_cval, v_cval = regs["CNTP_CVAL_EL0"], regs["CNTV_CVAL_EL0"]
        return TimerState(
            istatus(regs["CNTP_CTL_EL0"], p_cval, now), p_cval, istatus(regs["CNTV_CTL_EL0"], v_cval, now), v_cval
        )

    def take_exception_el1(self, esr: int, far: int | None = None) -> None:
        regs = self._sysregs
        pstate = regs["PSTATE"]
        from_el0 = pstate & 0xC == 0
        if from_el0 and esr >> 26 in (0x21, 0x25):
            esr -= 1 << 26
        offset = 0x400 if from_el0 else 0x200 if pstate & 1 else 0
        regs["ELR_EL1"], regs["SPSR_EL1"], regs["ESR_EL1"] = self._pc, pstate, esr
        if far is not None:
            regs["FAR_EL1"] = far
        regs["PSTATE"] = _RESET_PSTATE
        self._pc = regs["VBAR_EL1"] + offset

    def flush_tlb(self) -> None:
        """Nothing to flush."""

    def invalidate_code(self, pa: int, size: int) -> None:
        """Nothing to invalidate."""

    def set_deadline(self, counter: int | None) -> None:
        self._deadline = counter

    def kick(self) -> None:
        with self._wakeup:
            self._kicked = True
            self._wakeup.notify_all()

    def _take_kick(self) -> bool:
        with self._wakeup:
            kicked, self._kicked = self._kicked, False
        return kicked

    def wait(self, counter: int | None) -> None:
        with self._wakeup:
            while not self._kicked:
                timeout = None
                if counter is not None:
                    timeout = clock.ticks_to_ns(counter - clock.now()) / 1e9
                    if timeout <= 0:
                        return
                self._wakeup.wait(timeout)
            self._kicked = False

    def close(self) -> None:
        """Nothing to release."""
