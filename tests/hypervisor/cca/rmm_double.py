"""An RMM that answers from a table: what a test does not script succeeds; granules do change their PAS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from machine.memory import DRAM_BASE, Pas
from rmm.abi import rmi
from rmm.abi.registers import MemReq

Reply = Sequence[int] | Callable[..., Sequence[int]]

DONATE = rmi.incomplete(MemReq.DONATE)
DONATE_CANCELLABLE = rmi.incomplete(MemReq.DONATE, can_cancel=True)
RECLAIM = rmi.incomplete(MemReq.RECLAIM)
CONTINUE = rmi.incomplete(MemReq.NONE)


class RmmDouble:
    """An SMC handler. ``script[fid]`` is a list of replies for the next calls of that command, ``default[fid]`` what it
    answers otherwise; a reply is (x0, x1, ...) or a function of the arguments that gives one. ``calls`` remembers
    (name, args)."""

    def __init__(self, memory) -> None:
        self.memory = memory
        self.script: dict[int, list[Reply]] = {}
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.stuck: set[int] = set()
        self.default: dict[int, Reply] = {
            rmi.RMI_VERSION_FID: (0, rmi.RMI_VERSION, rmi.RMI_VERSION),
            rmi.FEATURES: lambda index: (0, (0x314030, 0x142A9)[index]),
            rmi.GRANULE_TRACKING_GET: lambda start, end: (0, 0, 2, end),
            rmi.GPT_L1_CREATE: (rmi.Status.ERROR_GPT,),
            rmi.GRANULE_RANGE_DELEGATE: lambda base, top: self._move(base, top, Pas.REALM),
            rmi.GRANULE_RANGE_UNDELEGATE: lambda base, top: self._move(base, top, Pas.NON_SECURE),
        }

    def __call__(self, fid: int, *args: int) -> tuple[int, int, int, int, int]:
        self.calls.append((rmi.COMMANDS[fid].name, args))
        queue = self.script.get(fid)
        reply = queue.pop(0) if queue else self.default.get(fid, (0,))
        if callable(reply):
            reply = reply(*args)
        return tuple([*reply, 0, 0, 0, 0][:5])

    def will(self, fid: int, *replies: Reply) -> None:
        """Script the next replies of a command."""
        self.script.setdefault(fid, []).extend(replies)

    def names(self) -> list[str]:
        """The commands so far, without RMI_."""
        return [name.removeprefix("RMI_") for name, _ in self.calls]

    def _move(self, base: int, top: int, pas: Pas) -> tuple[int, int]:
        for pa in range(base, top, 4096):
            index = (pa - DRAM_BASE) >> 12
            if self.memory.gpt[index] == pas or pa in self.stuck:
                return (0, pa) if pa > base else (rmi.Status.ERROR_INPUT, pa)
            self.memory.gpt[index] = pas
        return 0, top
