"""A64 instruction words for tests: one function or constant an instruction, assembled by :func:`code`.

Registers are numbers (31 is XZR or SP, as the instruction has it); branch targets are instruction counts relative to
the branch itself. Encodings: Arm ARM C6.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from machine.cpu.sysregs import ENCODINGS
from machine.ich import ICC_REGISTERS

NOP = 0xD503201F
WFI = 0xD503207F
WFE = 0xD503205F
YIELD = 0xD503203F
ISB = 0xD5033FDF
DSB_SY = 0xD5033F9F
ERET = 0xD69F03E0
RET = 0xD65F03C0
TLBI_VMALLE1 = 0xD508871F
MASK_ALL = 0xD5034FDF  # msr daifset, #15
UNMASK_IRQ = 0xD50342FF  # msr daifclr, #2
UNMASK_FIQ = 0xD50341FF  # msr daifclr, #1
CLREX = 0xD5033F5F

_ICC = {row.name: (row.op0, row.op1, row.crn, row.crm, row.op2) for row in ICC_REGISTERS}


def code(*words: int | Iterable[int]) -> bytes:
    """Little-endian bytes of instruction words; nested sequences are laid out in place."""
    flat: list[int] = []
    for word in words:
        if isinstance(word, int):
            flat.append(word)
        else:
            flat.extend(word)
    return struct.pack(f"<{len(flat)}I", *flat)


def mov(rd: int, value: int) -> list[int]:
    """MOVZ and as many MOVK as a 64-bit value needs."""
    words = [0xD2800000 | (value & 0xFFFF) << 5 | rd]
    for shift in (1, 2, 3):
        part = value >> 16 * shift & 0xFFFF
        if part:
            words.append(0xF2800000 | shift << 21 | part << 5 | rd)
    return words


def add(rd: int, rn: int, imm: int) -> int:
    return 0x91000000 | imm << 10 | rn << 5 | rd


def sub(rd: int, rn: int, imm: int) -> int:
    return 0xD1000000 | imm << 10 | rn << 5 | rd


def cbz(rt: int, target: int) -> int:
    return 0xB4000000 | (target & 0x7FFFF) << 5 | rt


def cbnz(rt: int, target: int) -> int:
    return 0xB5000000 | (target & 0x7FFFF) << 5 | rt


def b(target: int = 0) -> int:
    return 0x14000000 | target & 0x3FFFFFF


def blr(rn: int) -> int:
    return 0xD63F0000 | rn << 5


def svc(imm: int = 0) -> int:
    return 0xD4000001 | imm << 5


def hvc(imm: int = 0) -> int:
    return 0xD4000002 | imm << 5


def smc(imm: int = 0) -> int:
    return 0xD4000003 | imm << 5


def brk(imm: int = 0) -> int:
    return 0xD4200000 | imm << 5


def ldr(rt: int, rn: int, offset: int = 0) -> int:
    return 0xF9400000 | offset // 8 << 10 | rn << 5 | rt


def str_(rt: int, rn: int, offset: int = 0) -> int:
    return 0xF9000000 | offset // 8 << 10 | rn << 5 | rt


def ldr_w(rt: int, rn: int) -> int:
    return 0xB9400000 | rn << 5 | rt


def str_w(rt: int, rn: int) -> int:
    return 0xB9000000 | rn << 5 | rt


def ldrb(rt: int, rn: int) -> int:
    return 0x39400000 | rn << 5 | rt


def ldrsb_w(rt: int, rn: int) -> int:
    return 0x39C00000 | rn << 5 | rt


def ldr_post(rt: int, rn: int, imm: int) -> int:
    return 0xF8400400 | (imm & 0x1FF) << 12 | rn << 5 | rt


def ldr_pre(rt: int, rn: int, imm: int) -> int:
    return 0xF8400C00 | (imm & 0x1FF) << 12 | rn << 5 | rt


def str_post(rt: int, rn: int, imm: int) -> int:
    return 0xF8000400 | (imm & 0x1FF) << 12 | rn << 5 | rt


def strb_pre(rt: int, rn: int, imm: int) -> int:
    return 0x38000C00 | (imm & 0x1FF) << 12 | rn << 5 | rt


def ldur(rt: int, rn: int, imm: int) -> int:
    return 0xF8400000 | (imm & 0x1FF) << 12 | rn << 5 | rt


def ldtr(rt: int, rn: int, imm: int) -> int:
    return 0xF8400800 | (imm & 0x1FF) << 12 | rn << 5 | rt


def ldr_reg(rt: int, rn: int, rm: int) -> int:
    return 0xF8606800 | rm << 16 | rn << 5 | rt


def stp(rt: int, rt2: int, rn: int) -> int:
    return 0xA9000000 | rt2 << 10 | rn << 5 | rt


def ldxr(rt: int, rn: int) -> int:
    return 0xC85F7C00 | rn << 5 | rt


def stxr(rs: int, rt: int, rn: int) -> int:
    return 0xC8007C00 | rs << 16 | rn << 5 | rt


def add_reg(rd: int, rn: int, rm: int) -> int:
    return 0x8B000000 | rm << 16 | rn << 5 | rd


def _system(rt: int, encoding: tuple[int, int, int, int, int]) -> int:
    op0, op1, crn, crm, op2 = encoding
    return 0xD5000000 | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5 | rt


def mrs(rt: int, name: str) -> int:
    return _system(rt, _ICC.get(name) or ENCODINGS[name]) | 1 << 21


def msr(name: str, rt: int) -> int:
    return _system(rt, _ICC.get(name) or ENCODINGS[name])


def sysreg_read(rt: int, op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    return _system(rt, (op0, op1, crn, crm, op2)) | 1 << 21
