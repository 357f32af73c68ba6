"""The Realm Descriptor: its layout in the RD granule, and a view of it.

:class:`RealmDescriptor` declares the fields. A :class:`Realm` decodes once what never changes in a realm's life and
reads the rest from the granule at every access; :meth:`rmm.monitor.Monitor.realm` caches the views and checks the
serial number, which no two realms share, so a view never outlives its realm.
"""

from __future__ import annotations

from enum import IntEnum

from machine.memory import GRANULE_SIZE, PhysicalMemory
from rmm.abi.fields import Structure, i64, raw, u64
from rmm.abi.registers import RealmFlags0
from rmm.lock import MAX_RECS, RUNNERS_OFFSET
from rmm.measurement import HASHES, SLOT_SIZE, SLOTS

#: VTCR_EL2 without T0SZ and SL0: 4 KiB granule, inner shareable, write-back walks, 48-bit output, RES1 (D19.2.161).
_VTCR_BASE = 1 << 31 | 5 << 16 | 3 << 12 | 1 << 10 | 1 << 8


class RealmState(IntEnum):
    """Realm state; ZOMBIE is the state after REALM_TERMINATE."""

    NEW = 0
    ACTIVE = 1
    SYSTEM_OFF = 2
    ZOMBIE = 3


class RealmDescriptor(Structure):
    """The RD granule.

    ``generation`` changes when a translation of the realm was removed or redirected; ``entered_generation`` is what the
    engine of the realm had taken up at its last entry. ``rec_count`` counts live RECs, ``rec_index_next`` never goes
    down. ``operations`` counts unfinished stateful operations on the realm.
    """

    SIZE = GRANULE_SIZE
    serial = u64(0x00)
    state = u64(0x08)
    generation = u64(0x10)
    entered_generation = u64(0x18)
    flags0 = u64(0x20)
    s2sz = u64(0x28)
    hash_algo = u64(0x30)
    rtt_base = u64(0x38)
    rtt_level_start = i64(0x40)
    rtt_num_start = u64(0x48)
    rec_index_next = u64(0x50)
    rec_count = u64(0x58)
    vmid = u64(0x60)
    num_bps = u64(0x68)
    num_wps = u64(0x70)
    sve_vl = u64(0x78)
    pmu_num_ctrs = u64(0x80)
    operations = u64(0x88)
    flags1 = u64(0x90)
    rpv = raw(0x0C0, 64)
    measurements = raw(0x100, SLOT_SIZE * SLOTS)
    instance_id = raw(0x240, 32)
    #: The runner of each REC that runs (:class:`rmm.lock.RunningRecs`), by REC index.
    runners = raw(RUNNERS_OFFSET, 2 * MAX_RECS)


def _at(name: str) -> int:
    return RealmDescriptor.FIELDS[name].offset >> 3


_SERIAL, _STATE, _GENERATION = _at("serial"), _at("state"), _at("generation")
_MEASUREMENTS = RealmDescriptor.measurements.offset


class Realm:
    """View of the RD granule at ``rd``.

    Constant: ``rd``, ``serial``, ``s2sz`` (IPA width), ``par_size`` (size of the protected half), ``rtt_base``,
    ``rtt_level_start``, ``rtt_num_start``, ``root`` (word index of the first root entry), ``start_shift`` (log2 of what
    a root entry maps), ``hash``, ``vttbr``, ``vtcr``, ``vmid``. Word indices for stores: ``word(name)``.
    """

    __slots__ = (
        "_buf",
        "_words",
        "flags0",
        "hash",
        "ipa_size",
        "num_bps",
        "num_wps",
        "par_size",
        "rd",
        "rim_word",
        "root",
        "rtt_base",
        "rtt_level_start",
        "rtt_num_start",
        "s2sz",
        "serial",
        "serial_word",
        "start_shift",
        "state_word",
        "vmid",
        "vtcr",
        "vttbr",
    )

    def __init__(self, memory: PhysicalMemory, rd: int) -> None:
        self._words = memory.words
        self._buf = memory.buf
        self.rd = rd
        base = (rd - memory.dram_base) >> 3
        self.serial_word = base + _SERIAL
        self.state_word = base + _STATE
        self.rim_word = base + (_MEASUREMENTS >> 3)
        fields = RealmDescriptor.parse(memory.buf, rd - memory.dram_base)
        self.serial: int = fields["serial"]
        self.flags0: int = fields["flags0"]
        self.s2sz: int = fields["s2sz"]
        self.ipa_size: int = 1 << self.s2sz
        self.par_size: int = 1 << (self.s2sz - 1)
        self.hash = HASHES[fields["hash_algo"]]
        self.rtt_base: int = fields["rtt_base"]
        self.root = (self.rtt_base - memory.dram_base) >> 3
        self.rtt_level_start: int = fields["rtt_level_start"]
        self.rtt_num_start: int = fields["rtt_num_start"]
        self.start_shift = 39 - 9 * self.rtt_level_start
        self.num_bps: int = fields["num_bps"]
        self.num_wps: int = fields["num_wps"]
        self.vmid: int = fields["vmid"]
        self.vttbr = self.vmid << 48 | self.rtt_base
        self.vtcr = _VTCR_BASE | (2 - self.rtt_level_start) << 6 | (64 - self.s2sz)

    def word(self, name: str) -> int:
        """Index in ``PhysicalMemory.words`` of an 8-byte field of :class:`RealmDescriptor`."""
        return self.serial_word + _at(name)

    def field_pa(self, name: str) -> int:
        """Physical address of a field of :class:`RealmDescriptor`."""
        return self.rd + RealmDescriptor.FIELDS[name].offset

    @property
    def state(self) -> int:
        """:class:`RealmState` now."""
        return self._words[self.state_word]

    @property
    def generation(self) -> int:
        """Translation generation: an engine that has taken up another one drops its TLB and translated code."""
        return self._words[self.serial_word + _GENERATION]

    @property
    def rec_count(self) -> int:
        """RECs that exist."""
        return self._words[self.word("rec_count")]

    @property
    def rec_index_next(self) -> int:
        """Index of the next REC; the number of RECs ever made."""
        return self._words[self.word("rec_index_next")]

    @property
    def operations(self) -> int:
        """Unfinished stateful operations."""
        return self._words[self.word("operations")]

    @property
    def rpv(self) -> bytes:
        """Realm personalisation value, 64 bytes."""
        return self._bytes("rpv")

    @property
    def instance_id(self) -> bytes:
        """Random identity of the realm for attestation, 32 bytes."""
        return self._bytes("instance_id")

    @property
    def mec_policy(self) -> int:
        """0 shared, 1 private."""
        return int(RealmFlags0(self.flags0).MEC_POLICY)

    def _bytes(self, name: str) -> bytes:
        item = RealmDescriptor.FIELDS[name]
        offset = (self.serial_word << 3) + item.offset
        return bytes(self._buf[offset : offset + item.size])

    def measurement(self, index: int) -> bytes:
        """Slot ``index`` (0 RIM, 1..4 REMs): 64 bytes, zero padded."""
        offset = (self.serial_word << 3) + _MEASUREMENTS + SLOT_SIZE * index
        return bytes(self._buf[offset : offset + SLOT_SIZE])

    def measurement_word(self, index: int) -> int:
        """Word index of slot ``index``."""
        return self.serial_word + ((_MEASUREMENTS + SLOT_SIZE * index) >> 3)

    def is_protected(self, ipa: int) -> bool:
        """Whether ``ipa`` lies in the protected half."""
        return ipa < self.par_size
