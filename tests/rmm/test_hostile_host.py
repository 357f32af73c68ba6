"""Whatever a host passes and a Realm asks for, a command answers, and one that is refused changes nothing.

:mod:`test_ownership` explores how realms come about; here is one that runs, so that every command has something to hit.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import pytest
from realm_world import RAM_TOP, UNPROTECTED, RealmWorld

from machine.ich import NUM_LRS
from machine.memory import DRAM_BASE, GRANULE_SIZE
from rmm.abi.psci import PsciFunction, PsciStatus
from rmm.abi.registers import AddrRangeDesc, UnprotMapFlags
from rmm.abi.rmi import COMMANDS, REC_ENTER, Command, Status, describe
from rmm.abi.rsi import RSI_COMMANDS
from rmm.monitor import Monitor

CALLS = 200
M64 = (1 << 64) - 1
DENIED = PsciStatus.DENIED & M64
SHARED_PAGE = int(UnprotMapFlags.make(OADDR_TYPE=1, MEMATTR=6, S2AP=3))
EDGES = (0, 1, 7, 8, 4095, 1 << 30, 1 << 47, (1 << 48) - GRANULE_SIZE, 1 << 48, 1 << 52, 1 << 63, M64 - 4095, M64)
IPAS = (0, 0x1000, 0x2000, 0x5000, RAM_TOP, 1 << 21, 1 << 30, UNPROTECTED, UNPROTECTED + 0x1000, 1 << 40, 1 << 41)


class Hostile:
    """A host of a world with two RECs that draws its calls, and what its Realm does, from ``chance``."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world = world = RealmWorld(recs=2)
        monitor = world.board.smc.__self__  # type: ignore[attr-defined]
        assert isinstance(monitor, Monitor)
        self.rmm = monitor
        self.host_pages = [world.page, world.list, world.run, world.ns(), world.ns()]
        self.unused = [world.delegated() for _ in range(6)]
        realm = monitor.realm(world.rd)
        assert realm is not None
        anything = [world.rd, realm.rtt_base, *world.recs, *world.pa.values(), *self.unused, *self.host_pages]
        self.kinds: dict[str, tuple[int, ...]] = {
            "rd": (world.rd,),
            "rec": tuple(world.recs),
            "ns": tuple(self.host_pages),
            "rtt": tuple(self.unused),
            "pa": (*anything, *(int(AddrRangeDesc.of(pa, state=n & 1)) for n, pa in enumerate(anything))),
            "ipa": IPAS,
            "level": (0, 1, 2, 3, 4, M64),
            "flags": (0, 1, 2, 6, 10, 3, SHARED_PAGE, 1 << 40),
            "handle": (0, 1, 2, 159, 160),
            "int": (0, 1, 2, 16, 512, 513, DENIED, 0x2_0000),
        }

    def fingerprint(self) -> bytes:
        """The DRAM in use, the granule table, the protection table."""
        memory = self.world.memory
        digest = hashlib.blake2b(memory.buf[: self.world._next - DRAM_BASE])
        digest.update(self.rmm.granules.states)
        digest.update(memory.gpt)
        return digest.digest()

    def scribble(self) -> None:
        """Write to the pages that commands read: flags, descriptors, anything."""
        chance, ns = self.chance, self.world.board.ns
        for page in self.host_pages:
            if ns.accessible(page, GRANULE_SIZE):
                descriptor = int(AddrRangeDesc.of(chance.choice(self.unused), chance.choice((0, 1, 2, 1023))))
                ns.write_u64(page, chance.choice((0, 0, 4, 0xC, 0x1F, descriptor)))
                ns.write_u64(page + 8 * chance.randrange(512), chance.choice((descriptor, chance.getrandbits(64))))

    def script(self) -> None:
        """What the Realm does if it is entered next."""
        chance, script = self.chance, self.world.script
        kind = chance.random()
        if kind < 0.5:
            fid = chance.choice((*RSI_COMMANDS, *PsciFunction, PsciFunction.CPU_ON | 1 << 30, 0))
            script.smc((fid, *(chance.choice((*IPAS, *EDGES, 2, 3)) for _ in range(10))))
        elif kind < 0.8:
            ec = chance.choice((0x00, 0x01, 0x16, 0x18, 0x20, 0x24, 0x24, 0x3C))
            hpfar = chance.choice((0x10, 0x20, UNPROTECTED >> 8, 1 << 32, chance.getrandbits(44)))
            script.sync(ec << 26 | chance.getrandbits(25), chance.getrandbits(64), hpfar)
        registers = [chance.getrandbits(64) for _ in range(NUM_LRS)] if chance.random() < 0.05 else [0] * NUM_LRS
        self.world.cpu.ich.lr = registers

    def arguments(self, row: Command) -> list[int]:
        """Mostly of the right kind."""
        chance = self.chance
        args = [
            chance.choice(self.kinds[item.kind]) if chance.random() < 0.9 else chance.choice(EDGES)
            for item in row.arguments
        ]
        names = [item.name for item in row.arguments]
        if "top" in names and chance.random() < 0.7:
            args[names.index("top")] = args[names.index("base")] + chance.choice((0x1000, 0x2000, 1 << 21)) & M64
        return args


@pytest.mark.parametrize("seed", range(20))
def test_no_command_raises_and_a_refused_one_changes_nothing(seed: int) -> None:
    hostile = Hostile(seed)
    world, chance = hostile.world, hostile.chance
    outcomes: Counter[bool] = Counter()
    for _ in range(CALLS):
        hostile.scribble()
        hostile.script()
        row = COMMANDS[REC_ENTER] if chance.random() < 0.3 else chance.choice(list(COMMANDS.values()))
        if row.name in ("RMI_REALM_TERMINATE", "RMI_REC_DESTROY") and chance.random() < 0.9:
            continue
        args = hostile.arguments(row)
        before = hostile.fingerprint()
        answer = world.board.smc(row.fid, *args)
        assert len(answer) == 5
        assert all(0 <= word <= M64 for word in answer), (row.name, args, answer)
        done = answer[0] & 0xFF in (Status.SUCCESS, Status.INCOMPLETE)
        outcomes[done] += 1
        # A donation keeps what it took and says so; an operation that fails frees its granule; a CPU_ON that the host
        # denies too late is completed all the same.
        reported = (row.name == "RMI_OP_MEM_DONATE" and answer[1]) or row.name == "RMI_OP_CONTINUE" or DENIED in args
        if not done and not reported:
            assert hostile.fingerprint() == before, (row.name, [hex(arg) for arg in args], describe(answer[0]))
    assert outcomes[True]
    assert outcomes[False]
