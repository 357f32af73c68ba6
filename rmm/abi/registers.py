"""Values with bit fields that cross the RMI (DEN0137 2.0-bet1, B4), and their enumerations."""

from __future__ import annotations

from enum import IntEnum

from rmm.abi.fields import Register, bits


class HashAlgorithm(IntEnum):
    """RmiHashAlgorithm."""

    SHA_256 = 0
    SHA_512 = 1
    SHA_384 = 2


class MemReq(IntEnum):
    """RmiOpMemReq: what an incomplete operation needs next."""

    NONE = 0
    DONATE = 1
    RECLAIM = 2


class TrackingState(IntEnum):
    """RmiGranuleTrackingState."""

    RESERVED = 0
    NONE = 1
    FINE = 2
    COARSE = 3


class MemCategory(IntEnum):
    """RmiMemCategory."""

    CONVENTIONAL = 0
    DEV_NCOH = 1
    DEV_COH = 2


class BlockSize(IntEnum):
    """Size code in address descriptors and donate requests, 4 KiB granules."""

    L3 = 0
    L2 = 1
    L1 = 2
    L0 = 3


class MemState(IntEnum):
    """Granule state in address descriptors and donate requests."""

    DELEGATED = 0
    UNDELEGATED = 1


class AddrType(IntEnum):
    """How RTT_DATA_MAP and RTT_DATA_UNMAP pass addresses."""

    NONE = 0
    SINGLE = 1
    LIST = 2


class Ripas(IntEnum):
    """Realm IPA state."""

    EMPTY = 0
    RAM = 1
    DESTROYED = 2
    DEV = 3


class Hipas(IntEnum):
    """Host IPA state, as RTT_READ_ENTRY reports it."""

    UNASSIGNED = 0
    ASSIGNED = 1
    TABLE = 2
    ASSIGNED_DEV = 3


class ExitReason(IntEnum):
    """RmiRecExitReason."""

    SYNC = 0
    IRQ = 1
    FIQ = 2
    PSCI = 3
    RIPAS_CHANGE = 4
    HOST_CALL = 5
    SERROR = 6
    S2AP_CHANGE = 7
    VDEV_REQUEST = 8
    VDEV_VALIDATE_MAPPING = 9
    VSMMU_COMMAND = 10


class Response(IntEnum):
    """The host's answer to a request of the realm."""

    ACCEPT = 0
    REJECT = 1


class FeatureRegister0(Register):
    """RmiFeatureRegister0."""

    S2SZ = bits(7, 0)
    LPA2 = bits(8)
    SVE = bits(9)
    SVE_VL = bits(13, 10)
    NUM_BPS = bits(19, 14)
    NUM_WPS = bits(25, 20)
    PMU = bits(26)
    PMU_NUM_CTRS = bits(31, 27)


class FeatureRegister1(Register):
    """RmiFeatureRegister1."""

    RMI_GRAN_SZ_4KB = bits(0)
    RMI_GRAN_SZ_16KB = bits(1)
    RMI_GRAN_SZ_64KB = bits(2)
    HASH_SHA_256 = bits(3)
    HASH_SHA_384 = bits(4)
    HASH_SHA_512 = bits(5)
    MAX_RECS_ORDER = bits(9, 6)
    L0GPTSZ = bits(13, 10)
    PPS = bits(16, 14)


class RealmFlags0(Register):
    """RmiRealmFlags0."""

    LPA2 = bits(0)
    SVE = bits(1)
    PMU = bits(2)
    DA = bits(3)
    MEC_POLICY = bits(8, 7)


class RealmFlags1(Register):
    """RmiRealmFlags1."""

    RTT_TREE_PP = bits(0)
    S2AP_ENC = bits(1)


class RecCreateFlags(Register):
    """RmiRecCreateFlags."""

    RUNNABLE = bits(0)


class RecEnterFlags(Register):
    """RmiRecEnterFlags."""

    EMUL_MMIO = bits(0)
    INJECT_SEA = bits(1)
    TRAP_WFI = bits(2)
    TRAP_WFE = bits(3)
    RIPAS_RESPONSE = bits(4, enum=Response)
    S2AP_RESPONSE = bits(5, enum=Response)
    DEV_MEM_RESPONSE = bits(6, enum=Response)
    FORCE_P0 = bits(7)


class DataFlags(Register):
    """RmiDataFlags, input of RTT_DATA_MAP_INIT."""

    MEASURE = bits(0)


class ProtMapFlags(Register):
    """RmiRttProtMapFlags, input of RTT_DATA_MAP."""

    OADDR_TYPE = bits(1, 0, AddrType)
    LIST_COUNT = bits(15, 2)


class UnmapFlags(Register):
    """RmiRttUnmapFlags, input of RTT_DATA_UNMAP."""

    OADDR_TYPE = bits(1, 0, AddrType)
    LIST_COUNT = bits(15, 2)


class UnprotMapFlags(Register):
    """RmiRttUnprotMapFlags, input of RTT_UNPROT_MAP."""

    OADDR_TYPE = bits(1, 0, AddrType)
    LIST_COUNT = bits(15, 2)
    MEMATTR = bits(18, 16)
    S2AP = bits(22, 19)


class ContinueFlags(Register):
    """RmiContinueFlags, input of OP_CONTINUE."""

    STOP = bits(0)


class DonateReq(Register):
    """RmiOpMemDonateReq: how much memory, of what kind, an operation wants."""

    BLOCK_SIZE = bits(1, 0, BlockSize)
    COUNT = bits(15, 2)
    CONTIGUOUS = bits(16)
    STATE = bits(17, enum=MemState)


class AddrRangeDesc(Register):
    """RmiAddrRangeDesc, 4 KiB variant: ``COUNT`` blocks of one size from page number ``PAGE`` on."""

    BLOCK_SIZE = bits(1, 0, BlockSize)
    COUNT = bits(11, 2)
    PAGE = bits(51, 12)
    STATE = bits(63, enum=MemState)

    @classmethod
    def of(cls, pa: int, count: int = 1, block: int = BlockSize.L3, state: int = MemState.DELEGATED) -> AddrRangeDesc:
        """The descriptor of ``count`` blocks from ``pa``."""
        return cls.make(BLOCK_SIZE=block, COUNT=count, PAGE=pa >> 12, STATE=state)

    @property
    def address(self) -> int:
        """Physical address of the first block."""
        return int(self) & 0x000F_FFFF_FFFF_F000


#: Most blocks that one descriptor names.
MAX_DESC_COUNT = 1023
#: Most descriptors in an address list (one granule).
MAX_LIST_COUNT = 512


class RsiIpaStateFlags(Register):
    """Flags of RSI_IPA_STATE_SET."""

    CHANGE_DESTROYED = bits(0)
