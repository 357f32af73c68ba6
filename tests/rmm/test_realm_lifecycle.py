"""A realm is created out of granules, activated, terminated, and given back."""

from __future__ import annotations

import pytest
from rmi_host import PAGE, SINGLE, Host

from rmm.abi.registers import RealmFlags0, RealmFlags1
from rmm.realm import RealmState


@pytest.fixture
def host() -> Host:
    return Host()


def test_create_takes_the_rd_and_the_roots(host: Host) -> None:
    rd = host.realm(roots=2, s2sz=40, rtt_level_start=1)
    realm = host.rmm.realm(rd)
    assert realm is not None
    assert (host.state(rd), realm.state, realm.rtt_num_start) == ("RD", RealmState.NEW, 2)
    assert [host.state(realm.rtt_base + n * PAGE) for n in range(2)] == ["RTT", "RTT"]
    assert host.entry(rd, 0, 1) == (1, 0, 0, 0)


def test_the_default_realm_has_48_bits_and_walks_from_level_0(host: Host) -> None:
    rd = host.realm(s2sz=48)
    realm = host.rmm.realm(rd)
    assert realm is not None
    assert realm.vtcr & 0x3F == 16
    assert realm.vtcr >> 6 & 3 == 2
    assert realm.vtcr >> 16 & 7 == 5
    assert realm.vttbr & (1 << 48) - 1 == realm.rtt_base
    assert realm.vttbr >> 48 == realm.vmid > 0


def test_a_recycled_root_starts_out_empty(host: Host) -> None:
    page = host.source(b"\xff" * PAGE)
    host.delegate(page)
    rd = host.delegated()
    host.ok("REALM_CREATE", rd, host.params(rtt_base=page))
    assert host.memory.read(page, PAGE) == bytes(PAGE)


@pytest.mark.parametrize(
    ("s2sz", "level", "roots"),
    [(48, 0, 1), (40, 0, 1), (44, 0, 1), (36, 1, 1), (39, 1, 1), (42, 1, 8), (43, 1, 16), (32, 2, 4), (34, 2, 16)],
)
def test_widths_and_start_levels_that_go_together(host: Host, s2sz: int, level: int, roots: int) -> None:
    rd = host.realm(roots=roots, s2sz=s2sz, rtt_level_start=level)
    assert host.entry(rd, 0, level) == (level, 0, 0, 0)
    last = (1 << s2sz) - (1 << (39 - 9 * level))
    assert host.entry(rd, last, level) == (level, 0, 0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"s2sz": 31, "rtt_level_start": 1},
        {"s2sz": 49},
        {"s2sz": 0},
        {"s2sz": 39},
        {"rtt_level_start": 1},
        {"rtt_level_start": -1},
        {"rtt_level_start": 3},
        {"rtt_level_start": 4},
        {"rtt_num_start": 2},
        {"rtt_num_start": 0},
        {"num_bps": 0},
        {"num_bps": 6},
        {"num_wps": 0},
        {"num_wps": 4},
        {"hash_algo": 3},
        {"flags0": RealmFlags0.make(LPA2=1)},
        {"flags0": RealmFlags0.make(SVE=1)},
        {"flags0": RealmFlags0.make(PMU=1)},
        {"flags0": RealmFlags0.make(DA=1)},
        {"flags0": RealmFlags0.make(MEC_POLICY=1)},
        {"flags0": RealmFlags0.make(MEC_POLICY=2)},
        {"flags0": 1 << 5},
        {"flags1": RealmFlags1.make(S2AP_ENC=1)},
        {"flags1": 4},
        {"num_aux_planes": 1},
        {"ats_plane": 1},
        {"rtt_base": 0},
    ],
)
def test_parameters_that_do_not_fit_the_features_are_refused(host: Host, wrong: dict[str, int]) -> None:
    rd, root = host.delegated(), host.delegated()
    before = host.census()
    assert host.status("REALM_CREATE", rd, host.params(**({"rtt_base": root} | wrong))) == "ERROR_INPUT"
    assert host.census() == before
    host.ok("REALM_CREATE", rd, host.params(rtt_base=root))


def test_reserved_bytes_beside_the_width_are_not_ignored(host: Host) -> None:
    params = host.params(rtt_base=host.delegated())
    host.board.ns.write(params + 9, b"\x01")
    assert host.status("REALM_CREATE", host.delegated(), params) == "ERROR_INPUT"


def test_create_refuses_granules_in_the_wrong_state(host: Host) -> None:
    rd, root = host.delegated(), host.delegated()
    params = host.params(rtt_base=root)
    for wrong in (rd + 8, host.ns(), host.memory.firmware_base, root):
        assert host.status("REALM_CREATE", wrong, params) == "ERROR_INPUT"
    assert host.status("REALM_CREATE", 0x4000_0000, params) == "ERROR_TRACKING(0x4000001)"
    for page in (params + 8, rd, 0, host.memory.firmware_base):
        assert host.status("REALM_CREATE", rd, page) == "ERROR_INPUT"
    assert host.status("REALM_CREATE", rd, host.params(rtt_base=host.ns())) == "ERROR_INPUT"


def test_create_refuses_roots_that_are_misaligned_or_partly_undelegated(host: Host) -> None:
    rd = host.delegated()
    misaligned = host.delegated(3, align=2) + PAGE
    partly = host.delegated(1, align=2)
    for base in (misaligned, partly):
        params = host.params(rtt_base=base, rtt_level_start=1, rtt_num_start=2)
        assert host.status("REALM_CREATE", rd, params) == "ERROR_INPUT"


def test_an_rd_among_its_own_roots_is_refused(host: Host) -> None:
    root = host.delegated(2, align=2)
    params = host.params(rtt_base=root, rtt_level_start=1, rtt_num_start=2)
    assert host.status("REALM_CREATE", root + PAGE, params) == "ERROR_INPUT"


def test_activate_happens_once_and_only_to_an_rd(host: Host) -> None:
    rd = host.realm()
    host.ok("REALM_ACTIVATE", rd)
    assert host.status("REALM_ACTIVATE", rd) == "ERROR_REALM"
    for wrong in (rd + 1, host.delegated(), host.ns(), host.memory.firmware_base):
        for name in ("REALM_ACTIVATE", "REALM_TERMINATE", "REALM_DESTROY"):
            assert host.status(name, wrong) == "ERROR_INPUT"


def test_activate_waits_for_unfinished_operations(host: Host) -> None:
    rd = host.realm()
    handle = host.start_rec(rd, host.delegated())
    assert host.status("REALM_ACTIVATE", rd) == "BLOCKED"
    assert host.status("OP_MEM_DONATE", handle, host.list + 4, 1) == "ERROR_INPUT"
    assert host.status("OP_CONTINUE", handle, 0) == "ERROR_INPUT"
    host.ok("REALM_ACTIVATE", rd)


def test_terminate_works_from_every_state_and_again(host: Host) -> None:
    new, active = host.realm(), host.realm()
    host.ok("REALM_ACTIVATE", active)
    for rd in (new, active, new):
        host.ok("REALM_TERMINATE", rd)
        assert host.status("REALM_ACTIVATE", rd) == "ERROR_REALM"


def test_terminate_is_refused_while_a_rec_runs(host: Host) -> None:
    rd = host.realm()
    host.rec(rd)
    host.ok("REALM_ACTIVATE", rd)
    assert host.rmm.running.claim(rd, 0).start()
    assert host.status("REALM_TERMINATE", rd) == "ERROR_REALM"
    host.rmm.running.claim(rd, 0).stop()
    host.ok("REALM_TERMINATE", rd)


def test_only_a_terminated_realm_without_tables_and_recs_is_destroyed(host: Host) -> None:
    rd = host.realm()
    tables = host.tables(rd, to=1)
    rec = host.rec(rd)
    assert host.status("REALM_DESTROY", rd) == "ERROR_REALM"
    host.ok("REALM_TERMINATE", rd)
    assert host.status("REALM_DESTROY", rd) == "ERROR_REALM"
    host.destroy_rec(rec)
    assert host.status("REALM_DESTROY", rd) == "ERROR_REALM"
    assert host.ok("RTT_DESTROY", rd, 0, 1)[1] == tables[0]
    host.ok("REALM_DESTROY", rd)
    assert host.state(rd) == "DELEGATED"
    assert host.status("REALM_DESTROY", rd) == "ERROR_INPUT"


def test_a_realm_is_not_destroyed_under_an_unfinished_operation(host: Host) -> None:
    rd = host.realm()
    rec = host.rec(rd)
    host.ok("REALM_TERMINATE", rd)
    handle = host.call("REC_DESTROY", rec)[1]
    assert host.status("REALM_DESTROY", rd) == "BLOCKED"
    host.drain(handle)
    host.ok("OP_CONTINUE", handle, 0)
    host.ok("REALM_DESTROY", rd)


def test_after_a_whole_life_every_granule_is_the_hosts_again(host: Host) -> None:
    before = host.census()
    rd = host.realm()
    root = host.rmm.realm(rd)
    assert root is not None
    tables = host.tables(rd)
    pages = [host.map_init(rd, ipa) for ipa in (0, PAGE)]
    rec = host.rec(rd)
    host.ok("REALM_ACTIVATE", rd)
    host.ok("REALM_TERMINATE", rd)
    for n, page in enumerate(pages):
        assert host.ok("RTT_DATA_UNMAP", rd, n * PAGE, (n + 1) * PAGE, SINGLE, 0)[1:3] == ((n + 1) * PAGE, page | 4)
        host.undelegate(page)
    for level, table in zip((3, 2, 1), reversed(tables), strict=True):
        assert host.ok("RTT_DESTROY", rd, 0, level)[1] == table
        host.undelegate(table)
    for granule in [*host.destroy_rec(rec), rec]:
        host.undelegate(granule)
    host.ok("REALM_DESTROY", rd)
    host.undelegate(rd)
    host.undelegate(root.rtt_base)
    assert host.census() == before


def test_a_realm_at_a_recycled_address_is_another_realm(host: Host) -> None:
    rd = host.realm()
    first = host.rmm.realm(rd)
    assert first is not None
    generation, serial, base = first.generation, first.serial, first.rtt_base
    host.ok("REALM_TERMINATE", rd)
    host.ok("REALM_DESTROY", rd)
    host.ok("REALM_CREATE", rd, host.params(rtt_base=base, s2sz=44))
    again = host.rmm.realm(rd)
    assert again is not None
    assert again.s2sz == 44
    assert again.serial != serial
    assert again.generation != generation


def test_there_are_as_many_realms_as_vmids(host: Host) -> None:
    for _ in range(255):
        last = host.realm()
    rd = host.delegated()
    params = host.params(rtt_base=host.delegated())
    assert host.status("REALM_CREATE", rd, params) == "ERROR_GLOBAL"
    host.ok("REALM_TERMINATE", last)
    host.ok("REALM_DESTROY", last)
    host.ok("REALM_CREATE", rd, params)


def test_vmids_are_not_shared_and_are_given_back(host: Host) -> None:
    realms = [host.realm() for _ in range(3)]
    vmids = [host.rmm.realm(rd).vmid for rd in realms]  # type: ignore[union-attr]
    assert len(set(vmids)) == 3
    host.ok("REALM_TERMINATE", realms[1])
    host.ok("REALM_DESTROY", realms[1])
    assert host.rmm.realm(host.realm()).vmid == vmids[1]  # type: ignore[union-attr]
