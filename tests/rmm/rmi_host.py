"""A host that calls RMI by name: granules from a bump allocator, and the few sequences that every scenario needs."""

from __future__ import annotations

from typing import Any

from machine.board import Board
from machine.memory import DRAM_BASE, PhysicalMemory
from rmm.abi import rmi
from rmm.abi.registers import AddrRangeDesc, MemReq
from rmm.abi.rmi import Status
from rmm.abi.structures import RealmParams, RecParams
from rmm.granules import GranuleState
from rmm.monitor import Monitor

PAGE = 4096
SINGLE = 1
LIST = 2
Answer = tuple[int, int, int, int, int]


class Host:
    """A machine with an active RMM. ``call("RTT_CREATE", ...)`` answers x0..x4, ``ok`` also insists on success."""

    def __init__(self, dram: int = 64 << 20, activate: bool = True, **options: Any) -> None:
        self.memory = PhysicalMemory.create(dram)
        self.board = Board(self.memory)
        self.board.load_firmware("rmm.monitor", **options)
        self._next = DRAM_BASE
        self.list = self.ns()
        if activate:
            self.ok("RMM_ACTIVATE")

    @property
    def rmm(self) -> Monitor:
        """The monitor, for looking at what the RMI does not show."""
        monitor = self.board.smc.__self__  # type: ignore[attr-defined]
        assert isinstance(monitor, Monitor)
        return monitor

    def call(self, name: str, *args: int) -> Answer:
        """One command."""
        return self.board.smc(rmi.BY_NAME[f"RMI_{name}"].fid, *args)

    def status(self, name: str, *args: int) -> str:
        """x0 of one command, in words."""
        return rmi.describe(self.call(name, *args)[0])

    def ok(self, name: str, *args: int) -> Answer:
        """One command that has to succeed."""
        answer = self.call(name, *args)
        assert answer[0] == Status.SUCCESS, f"{name}: {rmi.describe(answer[0])}"
        return answer

    def state(self, pa: int) -> str:
        """The granule's state by name."""
        return self.rmm.granules.state(pa).name

    def ns(self, count: int = 1, align: int = 1) -> int:
        """Address of fresh host granules, aligned to ``align`` granules."""
        size = align * PAGE
        base = -(-self._next // size) * size
        self._next = base + count * PAGE
        return base

    def delegated(self, count: int = 1, align: int = 1) -> int:
        """Address of fresh DELEGATED granules."""
        base = self.ns(count, align)
        self.delegate(base, count)
        return base

    def delegate(self, base: int, count: int = 1) -> None:
        """Delegate a range, however many calls it takes."""
        top = base + count * PAGE
        while base < top:
            base = self.ok("GRANULE_RANGE_DELEGATE", base, top)[1]

    def undelegate(self, base: int, count: int = 1) -> None:
        """Undelegate a range, however many calls it takes."""
        top = base + count * PAGE
        while base < top:
            base = self.ok("GRANULE_RANGE_UNDELEGATE", base, top)[1]

    def params(self, **values: Any) -> int:
        """A host granule with realm parameters."""
        defaults: dict[str, Any] = {"s2sz": 40, "num_bps": 1, "num_wps": 1, "rtt_num_start": 1}
        page = self.ns()
        self.board.ns.write(page, RealmParams.encode(**(defaults | values)))
        return page

    def realm(self, roots: int = 1, **values: Any) -> int:
        """A realm in state NEW; answers its RD."""
        rd = self.delegated()
        root = self.delegated(roots, align=roots)
        self.ok("REALM_CREATE", rd, self.params(rtt_base=root, rtt_num_start=roots, **values))
        return rd

    def tables(self, rd: int, ipa: int = 0, start: int = 0, to: int = 3) -> list[int]:
        """Tables from below the start level down to ``to``, for ``ipa``; answers their granules."""
        made = []
        for level in range(start + 1, to + 1):
            table = self.delegated()
            self.ok("RTT_CREATE", rd, table, ipa & -(1 << (48 - 9 * level)), level)
            made.append(table)
        return made

    def source(self, content: bytes = b"") -> int:
        """A host granule with some content."""
        page = self.ns()
        if content:
            self.board.ns.write(page, content.ljust(PAGE, b"\0"))
        return page

    def map_init(self, rd: int, ipa: int, content: bytes = b"code", flags: int = 1) -> int:
        """A measured page; answers its granule."""
        data = self.delegated()
        self.ok("RTT_DATA_MAP_INIT", rd, data, ipa, self.source(content), flags)
        return data

    def map(self, rd: int, ipa: int, count: int = 1) -> int:
        """Unmeasured pages, contiguous; answers the first granule."""
        data = self.delegated(count)
        assert self.ok("RTT_DATA_MAP", rd, ipa, ipa + count * PAGE, SINGLE, data | count << 2)[1] == ipa + count * PAGE
        return data

    def write_list(self, *descriptors: int) -> int:
        """The list page, holding these descriptors."""
        self.board.ns.write(self.list, b"".join(item.to_bytes(8, "little") for item in descriptors))
        return self.list

    def read_list(self, count: int) -> list[int]:
        """``count`` descriptors of the list page."""
        return [self.board.ns.read_u64(self.list + 8 * n) for n in range(count)]

    def rec_params(self, index: int = 0, **values: Any) -> int:
        """A host granule with REC parameters; runnable unless told."""
        page = self.ns()
        defaults = {"flags": 1, "mpidr": index & 0xF | index >> 4 << 8, "pc": 0x1000}
        self.board.ns.write(page, RecParams.encode(**(defaults | values)))
        return page

    def start_rec(self, rd: int, rec: int, **values: Any) -> int:
        """REC_CREATE up to the request for memory; answers the handle."""
        x0, handle, request, *_ = self.call("REC_CREATE", rd, rec, self.rec_params(**values))
        assert rmi.describe(x0) == "INCOMPLETE(mem=DONATE,cancel=0)"
        assert request == 16 << 2
        return handle

    def rec(self, rd: int, **values: Any) -> int:
        """A REC; answers its granule."""
        rec = self.delegated()
        handle = self.start_rec(rd, rec, **values)
        aux = self.delegated(16)
        assert self.call("OP_MEM_DONATE", handle, self.write_list(int(AddrRangeDesc.of(aux, 16))), 1)[:2] == (0xD, 16)
        self.ok("OP_CONTINUE", handle, 0)
        return rec

    def drain(self, handle: int) -> list[int]:
        """OP_MEM_RECLAIM until there is no more; answers the granules that came back."""
        granules: list[int] = []
        while True:
            x0, count, *_ = self.call("OP_MEM_RECLAIM", handle, self.list, 512)
            assert x0 & 0xFF == Status.INCOMPLETE
            for descriptor in map(AddrRangeDesc, self.read_list(count)):
                granules += range(descriptor.address, descriptor.address + descriptor.COUNT * PAGE, PAGE)
            if x0 >> 8 & 3 == MemReq.NONE:
                return granules

    def destroy_rec(self, rec: int) -> list[int]:
        """REC_DESTROY to its end; answers the auxiliary granules."""
        x0, handle, *_ = self.call("REC_DESTROY", rec)
        assert rmi.describe(x0) == "INCOMPLETE(mem=RECLAIM,cancel=0)"
        aux = self.drain(handle)
        self.ok("OP_CONTINUE", handle, 0)
        return aux

    def rim(self, rd: int) -> str:
        """The realm's initial measurement, in hex, unpadded."""
        realm = self.rmm.realm(rd)
        assert realm is not None
        return realm.measurement(0)[: realm.hash.size].hex()

    def entry(self, rd: int, ipa: int, level: int = 3) -> tuple[int, int, int, int]:
        """RTT_READ_ENTRY: (level, HIPAS, descriptor, RIPAS)."""
        return self.ok("RTT_READ_ENTRY", rd, ipa, level)[1:]

    def census(self) -> dict[str, int]:
        """Number of DRAM granules per state."""
        states = bytes(self.rmm.granules.states)
        return {state.name: states.count(state) for state in GranuleState if states.count(state)}
