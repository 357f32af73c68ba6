"""REALM_CREATE, REALM_ACTIVATE, REALM_TERMINATE and REALM_DESTROY (B3.2)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from rmm import rtt
from rmm.abi.registers import RealmFlags0, RealmFlags1
from rmm.abi.rmi import Status
from rmm.abi.structures import RealmParams
from rmm.carveout import VMIDS
from rmm.granules import GranuleState
from rmm.measurement import HASHES, SLOT_SIZE, SLOTS
from rmm.options import MIN_S2SZ, S2SZ
from rmm.realm import RealmDescriptor, RealmState
from rmm.rmi import command

if TYPE_CHECKING:
    from rmm.commit import Transaction
    from rmm.monitor import Monitor

#: Extents of the realm parameters that enter the initial measurement, as TF-RMM hashes them.
_MEASURED = ((0x00, 8), (0x08, 4), (0x10, 4), (0x18, 4), (0x20, 4), (0x28, 4), (0x30, 1))
_MAX_ROOTS = 16


class _Params(NamedTuple):
    """Realm parameters that passed validation; ``page`` is the copy they were read from."""

    page: bytes
    flags0: int
    flags1: int
    s2sz: int
    sve_vl: int
    num_bps: int
    num_wps: int
    pmu_num_ctrs: int
    hash_algo: int
    rtt_base: int
    level: int
    roots: int


def root_count(s2sz: int, level: int) -> int:
    """Number of concatenated root tables for an IPA width and a start level; 0 when the two do not go together."""
    if not 0 <= level <= 3:
        return 0
    least = (3 - level) * 9 + 13
    most = least + 8 + (4 if level else 0)
    if not least <= s2sz <= min(most, S2SZ):
        return 0
    return 1 << max(0, s2sz - (least + 8))


def _u32(page: bytes, offset: int) -> int:
    return int.from_bytes(page[offset : offset + 4], "little")


def _validate(rmm: Monitor, page: bytes) -> _Params | None:
    """The parameters, or None when they are malformed or ask for what the feature registers do not offer."""
    options = rmm.options
    flags0 = RealmFlags0(RealmParams.flags0.read(page))
    flags1 = RealmFlags1(RealmParams.flags1.read(page))
    params = _Params(
        page,
        int(flags0),
        int(flags1),
        # Byte fields are read with the reserved bytes beside them, so that a value cannot hide there.
        _u32(page, RealmParams.s2sz.offset),
        _u32(page, RealmParams.sve_vl.offset),
        _u32(page, RealmParams.num_bps.offset),
        _u32(page, RealmParams.num_wps.offset),
        _u32(page, RealmParams.pmu_num_ctrs.offset),
        RealmParams.hash_algo.read(page),
        RealmParams.rtt_base.read(page),
        RealmParams.rtt_level_start.read(page),
        RealmParams.rtt_num_start.read(page),
    )
    reserved = flags0 & ~RealmFlags0.defined_mask() or flags1 & ~RealmFlags1.defined_mask()
    if reserved or flags0.MEC_POLICY > 1 or params.hash_algo not in HASHES:
        return None
    unsupported = (
        flags0.SVE
        or flags0.PMU
        or (flags0.LPA2 and not options.lpa2)
        or (flags0.DA and not options.device_assignment)
        or (flags0.MEC_POLICY and not options.mec_count)
        or flags1.S2AP_ENC
        or RealmParams.num_aux_planes.read(page)
    )
    if unsupported or not MIN_S2SZ <= params.s2sz <= S2SZ:
        return None
    if not (1 <= params.num_bps <= options.num_bps and 1 <= params.num_wps <= options.num_wps):
        return None
    return params


@command("RMI_REALM_CREATE")
def realm_create(rmm: Monitor, rd: int, params_pa: int) -> int:
    """Make a realm in state NEW out of an RD granule and its root tables."""
    granules = rmm.granules
    page = rmm.read_ns(params_pa, RealmParams.SIZE)
    params = _validate(rmm, page) if page is not None else None
    if params is None:
        return Status.ERROR_INPUT
    base, roots = params.rtt_base, params.roots
    if base <= rd < base + (min(roots, _MAX_ROOTS) << 12):
        return Status.ERROR_INPUT
    refused = granules.refusal(rd, GranuleState.DELEGATED)
    if refused:
        return refused
    if not roots or roots != root_count(params.s2sz, params.level) or base % (roots << 12):
        return Status.ERROR_INPUT
    if not all(granules.has_state(base + (n << 12), GranuleState.DELEGATED) for n in range(roots)):
        return Status.ERROR_INPUT
    # ats_plane <= num_aux_planes, and there are no auxiliary planes.
    if RealmParams.ats_plane.read(params.page):
        return Status.ERROR_INPUT
    vmid = _free_vmid(rmm)
    if vmid is None:
        return Status.ERROR_GLOBAL
    serial_word = rmm.carveout.global_word("serial")
    serial = rmm.words[serial_word] + 1
    rmm.fill_granule(rd, _descriptor(rmm, params, vmid, serial))
    for n in range(roots):
        rmm.zero_granule(base + (n << 12))
    with rmm.commit() as txn:
        txn.store_word(serial_word, serial)
        _store_vmid(rmm, txn, vmid, taken=True)
        txn.set_state(rd, GranuleState.RD)
        txn.set_states(base, roots, GranuleState.RTT)
    return Status.SUCCESS


def _descriptor(rmm: Monitor, params: _Params, vmid: int, serial: int) -> bytes:
    """The bytes of the new RD granule."""
    rim = b""
    if rmm.options.measure_params:
        block = bytearray(RealmParams.SIZE)
        for offset, size in _MEASURED:
            block[offset : offset + size] = params.page[offset : offset + size]
        rim = HASHES[params.hash_algo].digest(bytes(block))
    return RealmDescriptor.encode(
        serial=serial,
        state=RealmState.NEW,
        # Serial numbers are unique: an engine that ran a realm at the same address drops what it holds.
        generation=serial << 32,
        flags0=params.flags0,
        s2sz=params.s2sz,
        hash_algo=params.hash_algo,
        rtt_base=params.rtt_base,
        rtt_level_start=params.level,
        rtt_num_start=params.roots,
        vmid=vmid,
        num_bps=params.num_bps,
        num_wps=params.num_wps,
        sve_vl=params.sve_vl,
        pmu_num_ctrs=params.pmu_num_ctrs,
        flags1=params.flags1,
        rpv=RealmParams.rpv.read(params.page),
        measurements=rim.ljust(SLOT_SIZE * SLOTS, b"\0"),
        instance_id=os.urandom(32),
    )


def _free_vmid(rmm: Monitor) -> int | None:
    """The lowest VMID that is not taken; 0 is never given out."""
    offset = rmm.carveout.vmids_pa - rmm.base
    taken = int.from_bytes(rmm.memory.buf[offset : offset + VMIDS // 8], "little") | 1
    vmid = (~taken & (taken + 1)).bit_length() - 1
    return vmid if vmid < VMIDS else None


def _store_vmid(rmm: Monitor, txn: Transaction, vmid: int, *, taken: bool) -> None:
    word = rmm.carveout.word(rmm.carveout.vmids_pa) + (vmid >> 6)
    bit = 1 << (vmid & 63)
    txn.store_word(word, rmm.words[word] & ~bit | (bit if taken else 0))


@command("RMI_REALM_ACTIVATE")
def realm_activate(rmm: Monitor, rd: int) -> int:
    """From NEW to ACTIVE; the RIM is final."""
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    if realm.state != RealmState.NEW:
        return Status.ERROR_REALM
    if realm.operations:
        return Status.BLOCKED
    with rmm.commit() as txn:
        txn.store_word(realm.state_word, RealmState.ACTIVE)
    return Status.SUCCESS


@command("RMI_REALM_TERMINATE")
def realm_terminate(rmm: Monitor, rd: int) -> int:
    """To ZOMBIE, from any state, once no REC runs: none can be entered any more."""
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    if rmm.running.any_running(rd):
        return Status.ERROR_REALM
    with rmm.commit() as txn:
        txn.store_word(realm.state_word, RealmState.ZOMBIE)
    return Status.SUCCESS


@command("RMI_REALM_DESTROY")
def realm_destroy(rmm: Monitor, rd: int) -> int:
    """Free the RD and the root tables of a terminated realm that is not live."""
    realm = rmm.realm(rd)
    if realm is None:
        return rmm.granules.refusal(rd, GranuleState.RD)
    if realm.state != RealmState.ZOMBIE:
        return Status.ERROR_REALM
    if realm.operations:
        return Status.BLOCKED
    if realm.rec_count:
        return Status.ERROR_REALM
    if any(rtt.is_live(rmm.memory, realm.root + n * rtt.ENTRIES) for n in range(realm.rtt_num_start)):
        return Status.ERROR_REALM
    with rmm.commit() as txn:
        _store_vmid(rmm, txn, realm.vmid, taken=False)
        txn.store_word(realm.serial_word, 0)
        txn.set_state(rd, GranuleState.DELEGATED)
        txn.set_states(realm.rtt_base, realm.rtt_num_start, GranuleState.DELEGATED)
    return Status.SUCCESS
