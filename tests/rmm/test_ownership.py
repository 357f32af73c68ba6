"""Whatever the host calls, in whatever order: granules are partitioned among their owners, and a refused command
changes nothing."""

from __future__ import annotations

import hashlib

import ownership
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rmi_host import LIST, PAGE, SINGLE, Host

from rmm.abi import rmi
from rmm.abi.registers import AddrRangeDesc, UnprotMapFlags
from rmm.abi.rmi import Status

#: The granules that commands are aimed at; the last 16 of memory are a contiguous run for donations.
POOL = 24
IPAS = (0, PAGE, 2 * PAGE, 1 << 21, 1 << 30, (1 << 39) - PAGE, 1 << 39, (1 << 39) + PAGE, 1 << 40)
NOT_MEASURED_HERE = {"RMI_REC_ENTER", "RMI_PSCI_COMPLETE"}

granules = st.integers(0, POOL - 1)
ipas = st.sampled_from(IPAS)
levels = st.integers(0, 4)


class RmiMachine(RuleBasedStateMachine):
    """Guided steps, so that realms come about, between arbitrary calls."""

    def __init__(self) -> None:
        super().__init__()
        self.host = Host(dram=2 << 20, sro_contexts=3, range_granules=4)
        self.pool = self.host.ns(POOL)
        self.params = self.host.params(rtt_base=self.pool + PAGE)
        self.rec_params = self.host.rec_params()
        self.aux = self.host.ns(16)
        assert self.aux + 16 * PAGE <= self.host.memory.dram_base + 64 * PAGE

    def pa(self, n: int) -> int:
        return self.pool + n * PAGE

    def fingerprint(self) -> bytes:
        """Everything the host or a realm could tell apart: the DRAM in use here, granule states, GPT."""
        memory = self.host.memory
        digest = hashlib.blake2b(memory.buf[: 64 * PAGE])
        digest.update(self.host.rmm.granules.states)
        digest.update(memory.gpt)
        return digest.digest()

    def call(self, name: str, *args: int) -> tuple[int, ...]:
        before = self.fingerprint()
        answer = self.host.call(name, *args)
        refused = answer[0] & 0xFF not in (Status.SUCCESS, Status.INCOMPLETE)
        # A donation that fails keeps what it took and says how much; the failure of an operation frees its granule.
        if refused and not (name == "OP_MEM_DONATE" and answer[1]) and name != "OP_CONTINUE":
            assert self.fingerprint() == before, (name, args, rmi.describe(answer[0]))
        return answer

    @initialize(delegated=st.integers(2, POOL), built=st.booleans())
    def start(self, delegated: int, built: bool) -> None:
        self.host.delegate(self.pool, delegated)
        self.host.delegate(self.aux, 16)
        if built and delegated > 12:
            self.create_realm()
            self.create_tables(0, 2)
            self.create_tables(1 << 39, 5)
            self.populate(8, 0)

    @rule()
    def create_realm(self) -> None:
        self.call("REALM_CREATE", self.pool, self.params)

    @rule(ipa=ipas, first=st.integers(2, POOL - 3))
    def create_tables(self, ipa: int, first: int) -> None:
        for level in (1, 2, 3):
            self.call("RTT_CREATE", self.pool, self.pa(first + level - 1), ipa & -(1 << (48 - 9 * level)), level)

    @rule(data=granules, ipa=ipas)
    def populate(self, data: int, ipa: int) -> None:
        self.call("RTT_DATA_MAP_INIT", self.pool, self.pa(data), ipa, self.params, 1)

    @rule(data=granules, ipa=ipas, count=st.integers(1, 4))
    def map_run(self, data: int, ipa: int, count: int) -> None:
        desc = int(AddrRangeDesc.of(self.pa(data), count))
        self.call("RTT_DATA_MAP", self.pool, ipa, ipa + count * PAGE, SINGLE, desc)

    @rule(data=granules, ipa=ipas, count=st.integers(1, 4))
    def map_shared(self, data: int, ipa: int, count: int) -> None:
        flags = int(UnprotMapFlags.make(OADDR_TYPE=SINGLE, MEMATTR=6, S2AP=3))
        desc = int(AddrRangeDesc.of(self.pa(data), count, state=1))
        self.call("RTT_UNPROT_MAP", self.pool, ipa, ipa + count * PAGE, flags, desc)

    @rule(ipa=ipas, count=st.integers(1, 512), kind=st.sampled_from([0, SINGLE, LIST | 2 << 2]))
    def unmap(self, ipa: int, count: int, kind: int) -> None:
        name = "RTT_DATA_UNMAP" if ipa < 1 << 39 else "RTT_UNPROT_UNMAP"
        self.call(name, self.pool, ipa, ipa + count * PAGE, kind, self.host.list if kind & 3 == LIST else 0)

    @rule(rec=granules)
    def start_rec(self, rec: int) -> None:
        self.call("REC_CREATE", self.pool, self.pa(rec), self.rec_params)

    @rule(handle=st.integers(0, 3), first=st.integers(0, 15), count=st.integers(0, 17))
    def donate(self, handle: int, first: int, count: int) -> None:
        page = self.host.write_list(int(AddrRangeDesc.of(self.aux + first * PAGE, count)))
        self.call("OP_MEM_DONATE", handle, page, 1)

    @rule(handle=st.integers(0, 3), capacity=st.integers(0, 32))
    def reclaim_and_continue(self, handle: int, capacity: int) -> None:
        self.call("OP_MEM_RECLAIM", handle, self.host.list, capacity)
        self.call("OP_CONTINUE", handle, 0)

    @rule(name=st.sampled_from(["REALM_ACTIVATE", "REALM_TERMINATE", "REALM_DESTROY"]))
    def realm_step(self, name: str) -> None:
        self.call(name, self.pool)

    @rule(ipa=ipas, level=st.integers(1, 3), name=st.sampled_from(["RTT_DESTROY", "RTT_FOLD"]))
    def remove_table(self, ipa: int, level: int, name: str) -> None:
        self.call(name, self.pool, ipa & -(1 << (48 - 9 * level)), level)

    @rule(first=granules, count=st.integers(1, 6), back=st.booleans())
    def range(self, first: int, count: int, back: bool) -> None:
        name = "GRANULE_RANGE_UNDELEGATE" if back else "GRANULE_RANGE_DELEGATE"
        self.call(name, self.pa(first), self.pa(first + count))

    @rule(data=st.data())
    def anything(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from([row for row in rmi.COMMANDS.values() if row.name not in NOT_MEASURED_HERE]))
        values = {
            "ipa": ipas,
            "level": levels,
            "handle": st.integers(0, 3),
            "flags": st.sampled_from([0, 1, 2, 6, 1 << 32]),
            "int": st.integers(0, 20),
        }
        anywhere = st.one_of(granules.map(self.pa), st.sampled_from([0, 1, self.params, self.host.list, 1 << 48]))
        args = [data.draw(values.get(argument.kind, anywhere), argument.name) for argument in row.arguments]
        self.call(row.name.removeprefix("RMI_"), *args)

    @invariant()
    def granules_are_partitioned(self) -> None:
        ownership.check(self.host.rmm)


RmiMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestOwnership = RmiMachine.TestCase
