"""A board just large enough for hello-realm, straight on Unicorn: RAM, the UART, a GIC that knows one interrupt, RSI.

It shares no code with the hypervisor or the RMM, so that the guest is checked against the specifications and not
against our own reading of them twice.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import unicorn
from unicorn import arm64_const as arm64

from vuart.sbsa_uart import SbsaUart

RAM = 0x4000_0000
UART, GICD, GICR = 0x2200_0000, 0x0300_1000, 0x0302_0000
UART_INTID = 32
RSI_VERSION, RSI_MEASUREMENT_READ, RSI_REALM_CONFIG = 0xC400_0190, 0xC400_0192, 0xC400_0196
PSCI_SYSTEM_OFF = 0x8400_0008
_unicorn: Any = unicorn  # its type hints are incomplete
_UNDEFINED, _HVC, _SMC = 1, 11, 13
_WFI = 0xD503_207F
_X = [getattr(arm64, f"UC_ARM64_REG_X{i}") for i in range(31)]
_SRE, _PMR, _IGRPEN1, _IAR1, _EOIR1 = 0xC665, 0xC230, 0xC667, 0xC660, 0xC661  # op0:op1:CRn:CRm:op2 of ICC_*_EL1


class GuestGaveUp(AssertionError):
    """The guest did something that this board cannot answer."""


class BareBoard:
    """Runs one image. ``realm`` chooses RSI answers; ``hash_algorithm`` and ``ipa_width`` go into the realm config."""

    def __init__(self, image: Path, *, realm: bool, ipa_width: int = 40, hash_algorithm: int = 0) -> None:
        self.realm = realm
        self.ipa_width = ipa_width
        self.hash_algorithm = hash_algorithm
        self.measurement = bytes(range(0x80, 0xC0))
        self.printed = b""
        self.stray: list[str] = []
        self.gicd: dict[int, int] = {}
        self.powered_off_by = ""
        self.acknowledged = 0
        self._active = False
        self._system: dict[int, int] = {_SRE: 0}
        self.uart = SbsaUart(self._print, log=self.stray.append)
        self.cpu: Any = _unicorn.Uc(_unicorn.UC_ARCH_ARM64, _unicorn.UC_MODE_ARM)
        self.cpu.ctl_set_cpu_model(arm64.UC_CPU_ARM64_A72)
        self.cpu.ctl_exits_enabled(True)
        if not realm:
            self.cpu.cpr_write(3, 6, 1, 1, 0, 0x501)  # SCR_EL3: NS, HCE (or HVC is undefined), RW
            self.cpu.cpr_write(3, 4, 1, 1, 0, 1 << 31)  # HCR_EL2: RW
        self.cpu.mem_map(RAM, 1 << 20)
        self.cpu.mem_write(RAM, image.read_bytes())
        alias = 1 << (ipa_width - 1) if realm else 0
        self.cpu.mmio_map(alias | UART, 0x1000, self._uart_read, None, self._uart_write, None)
        self.cpu.mmio_map(alias | GICD, 0x10000, self._gicd_read, None, self._gicd_write, None)
        self.cpu.mmio_map(alias | GICR, 0x20000, lambda *_: 0, None, lambda *_: None, None)
        self.cpu.hook_add(_unicorn.UC_HOOK_INTR, self._exception)
        self._pc = RAM

    def run(self) -> None:
        """Until the guest waits for input or is off."""
        while not self.powered_off_by:
            self.cpu.emu_start(self._pc, 0, count=0)
            self._pc = self.cpu.reg_read(arm64.UC_ARM64_REG_PC)
            if self.powered_off_by:
                return
            before = struct.unpack("<I", self.cpu.mem_read(self._pc - 4, 4))[0]
            if before != _WFI:
                raise GuestGaveUp(f"stopped at {self._pc:#x}; printed {self.printed!r}")
            if not self._interrupt_pending:
                return

    def type_in(self, data: bytes) -> bytes:
        """Give it input and answer what it prints until it waits again."""
        start = len(self.printed)
        assert self.uart.receive(data) == len(data)
        self.run()
        return self.printed[start:]

    @property
    def _interrupt_pending(self) -> bool:
        enabled = self.gicd.get(0x104, 0) & 1 and self.gicd.get(0, 0) & 2 and self._system.get(_IGRPEN1, 0) & 1
        return bool(enabled and self.uart.irq_level and not self._active and self._system.get(_PMR, 0) > 0xA0)

    def _print(self, data: bytes) -> int:
        self.printed += data
        return len(data)

    def _uart_read(self, _: object, offset: int, size: int, __: object) -> int:
        value = self.uart.read(offset, size)
        if value is None:
            raise GuestGaveUp(f"UART load at {offset:#x} would abort")
        return value

    def _uart_write(self, _: object, offset: int, size: int, value: int, __: object) -> None:
        if not self.uart.write(offset, size, value):
            raise GuestGaveUp(f"UART store at {offset:#x} would abort")

    def _gicd_read(self, _: object, offset: int, __: int, ___: object) -> int:
        return self.gicd.get(offset, 0)

    def _gicd_write(self, _: object, offset: int, size: int, value: int, __: object) -> None:
        self.gicd[offset] = value

    def _exception(self, cpu: Any, number: int, _: object) -> None:
        if number == _UNDEFINED:
            self._system_register(cpu)
        elif number == _SMC and self.realm:
            self._answer(cpu, "smc")
        elif number in (_SMC, _HVC):
            self._answer_plain(cpu, "smc" if number == _SMC else "hvc")
        else:
            self._stop(cpu, f"exception {number}")

    def _system_register(self, cpu: Any) -> None:
        pc = cpu.reg_read(arm64.UC_ARM64_REG_PC)
        (instruction,) = struct.unpack("<I", cpu.mem_read(pc, 4))
        if instruction >> 22 != 0b1101010100:
            self._stop(cpu, f"undefined instruction {instruction:#010x} at {pc:#x}")
            return
        register, target = instruction >> 5 & 0xFFFF, instruction & 31
        if instruction >> 21 & 1:
            value = self._system.get(register, 0)
            if register == _IAR1:
                value = UART_INTID if self._interrupt_pending else 1023
                self._active |= value == UART_INTID
                self.acknowledged += value == UART_INTID
            if target != 31:
                cpu.reg_write(_X[target], value)
        else:
            value = cpu.reg_read(_X[target])
            if register == _EOIR1:
                assert value == UART_INTID and self._active
                self._active = False
            self._system[register] = value
        cpu.reg_write_batch([(arm64.UC_ARM64_REG_PC, pc + 4)])

    def _answer_plain(self, cpu: Any, conduit: str) -> None:
        function = cpu.reg_read(_X[0]) & 0xFFFF_FFFF
        if function == PSCI_SYSTEM_OFF and conduit == "hvc":
            self._stop(cpu, conduit)
        else:
            cpu.reg_write(_X[0], (1 << 64) - 1)

    def _answer(self, cpu: Any, conduit: str) -> None:
        function, argument = cpu.reg_read(_X[0]), cpu.reg_read(_X[1])
        handlers: dict[int, Callable[[int], tuple[int, ...]]] = {
            RSI_VERSION: lambda requested: (0, requested, 0x10001),
            RSI_REALM_CONFIG: self.realm_config,
            RSI_MEASUREMENT_READ: lambda index: (int(index != 0), *struct.unpack("<8Q", self.measurement)),
        }
        if function == PSCI_SYSTEM_OFF:
            self._stop(cpu, conduit)
        elif function in handlers:
            for register, value in zip(_X, handlers[function](argument), strict=False):
                cpu.reg_write(register, value)
        else:
            cpu.reg_write(_X[0], (1 << 64) - 1)

    def realm_config(self, address: int) -> tuple[int, ...]:
        if address % 4096:
            return (1,)
        config = struct.pack("<QB", self.ipa_width, self.hash_algorithm)
        self.cpu.mem_write(address, config.ljust(4096, b"\0"))
        return (0,)

    def _stop(self, cpu: Any, why: str) -> None:
        self.powered_off_by = why
        cpu.emu_stop()
