"""A host in a few lines: it builds one active realm through RMI and enters its RECs.

IPA layout (width 40): RAM at [0, 0x8000), of which [0x1000, 0x5000) is mapped, 0x1000 with ``code``; the rest of the
protected half is EMPTY. Nothing is mapped in the unprotected half, which starts at ``UNPROTECTED``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from machine.board import Board
from machine.cpu import Cpu
from machine.cpu.scripted import ScriptedCpu
from machine.memory import DRAM_BASE, GRANULE_SIZE, PhysicalMemory
from rmm.abi import rmi
from rmm.abi.registers import AddrRangeDesc
from rmm.abi.structures import RealmParams, RecParams, RecRun
from rmm.rec import Rec

S2SZ = 40
UNPROTECTED = 1 << (S2SZ - 1)
CODE = 0x1000
MAPPED_TOP = 0x5000
RAM_TOP = 0x8000


class RealmWorld:
    """One realm with ``recs`` RECs, the first of them runnable, on a processing element (scripted by default)."""

    def __init__(
        self,
        recs: int = 1,
        cpu: Cpu | None = None,
        code: bytes = b"",
        memory: PhysicalMemory | None = None,
        gprs: tuple[int, ...] = (0,) * 8,
        scattered: bool = False,
        **params: Any,
    ) -> None:
        self.memory = memory or PhysicalMemory.create(32 << 20)
        self.script = ScriptedCpu()
        self.cpu: Cpu = cpu or self.script
        self.board = Board(self.memory, self.cpu)
        self.board.load_firmware("rmm.monitor")
        self._next = DRAM_BASE
        self.smc(rmi.RMM_ACTIVATE)
        self.page = self.ns()
        self.list = self.ns()
        self.run = self.ns()
        self.rd = self.delegated()
        root = self.delegated()
        values = {"s2sz": S2SZ, "num_bps": 5, "num_wps": 3, "rtt_base": root, "rtt_num_start": 1} | params
        self.board.ns.write(self.page, RealmParams.encode(**values))
        self.smc(rmi.REALM_CREATE, self.rd, self.page)
        for level in (1, 2, 3):
            self.smc(rmi.RTT_CREATE, self.rd, self.delegated(), 0, level)
        self.smc(rmi.RTT_INIT_RIPAS, self.rd, 0, RAM_TOP)
        self.pa: dict[int, int] = {}
        for ipa in range(CODE, MAPPED_TOP, GRANULE_SIZE):
            self.board.ns.write(self.page, (code if ipa == CODE else b"").ljust(GRANULE_SIZE, b"\0"))
            self.pa[ipa] = self.delegated()
            self.smc(rmi.RTT_DATA_MAP_INIT, self.rd, self.pa[ipa], ipa, self.page, 1)
        self.recs = [self._create_rec(index, gprs, scattered) for index in range(recs)]
        self.smc(rmi.REALM_ACTIVATE, self.rd)

    def seen_by_another_process(self) -> RealmWorld:
        """The same machine with another processing element and its own firmware over the same memory."""
        other = copy.copy(self)
        other.script = other.cpu = ScriptedCpu()
        other.board = Board(self.memory, other.cpu)
        other.board.load_firmware("rmm.monitor")
        return other

    def smc(self, fid: int, *args: int) -> tuple[int, ...]:
        """A command that has to succeed (or to be incomplete)."""
        answer = self.board.smc(fid, *args)
        assert answer[0] & 0xFF in (rmi.Status.SUCCESS, rmi.Status.INCOMPLETE), (hex(fid), rmi.describe(answer[0]))
        return answer

    def ns(self) -> int:
        """A fresh host granule."""
        self._next += GRANULE_SIZE
        return self._next - GRANULE_SIZE

    def delegated(self) -> int:
        """A fresh DELEGATED granule."""
        pa = self.ns()
        self.smc(rmi.GRANULE_RANGE_DELEGATE, pa, pa + GRANULE_SIZE)
        return pa

    def _create_rec(self, index: int, gprs: tuple[int, ...], scattered: bool) -> int:
        rec = self.delegated()
        mpidr = index & 0xF | index >> 4 << 8
        self.board.ns.write(self.page, RecParams.encode(flags=index == 0, mpidr=mpidr, pc=CODE, gprs=gprs))
        _, handle, request, *_ = self.smc(rmi.REC_CREATE, self.rd, rec, self.page)
        pages = [self.delegated() for _ in range(request >> 2)]
        if scattered:
            pages.reverse()
        for n, pa in enumerate(pages):
            self.board.ns.write_u64(self.list + 8 * n, AddrRangeDesc.of(pa))
        self.smc(rmi.OP_MEM_DONATE, handle, self.list, len(pages))
        self.smc(rmi.OP_CONTINUE, handle, 0)
        return rec

    def rec(self, index: int = 0) -> Rec:
        """The RMM's view of a REC."""
        return Rec(self.memory, self.recs[index])

    def try_enter(self, index: int = 0, flags: int = 0, gprs: Mapping[int, int] | None = None) -> int:
        """REC_ENTER; x0. Nothing but the enter half of the run granule is written before."""
        self.board.ns.write(self.run, bytes(RecRun.exit_reason.offset))
        self.board.ns.write_u64(self.run, flags)
        for n, value in (gprs or {}).items():
            self.board.ns.write_u64(self.run + RecRun.enter_gprs.offset + 8 * n, value)
        return self.board.smc(rmi.REC_ENTER, self.recs[index], self.run)[0]

    def enter(self, index: int = 0, flags: int = 0, gprs: Mapping[int, int] | None = None) -> dict[str, Any]:
        """A REC_ENTER that has to succeed: the fields of the run granule."""
        x0 = self.try_enter(index, flags, gprs)
        assert x0 == rmi.Status.SUCCESS, rmi.describe(x0)
        return RecRun.parse(self.board.ns.read(self.run, RecRun.SIZE))

    def call(self, *registers: int) -> tuple[int, ...]:
        """The realm's SMC with X0..: X0..X17 after it, of a call that the RMM answers by itself."""
        self.script.smc(registers)
        self.enter()
        (seen,) = self.script.take_saw()
        return seen
