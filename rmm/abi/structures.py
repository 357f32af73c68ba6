"""Structures that cross the RMI and RSI in memory (DEN0137 2.0-bet1, B4 and B5), with their offsets."""

from __future__ import annotations

from rmm.abi.fields import Structure, i64, raw, u8, u16, u32, u64

PAGE = 0x1000


class RmmConfig(Structure):
    """RmiRmmConfig: what RMM_CONFIG_SET and RMM_CONFIG_GET carry."""

    SIZE = PAGE
    tracking_region_size = u8(0x0)
    rmi_granule_size = u8(0x8)


class RealmParams(Structure):
    """RmiRealmParams: input of REALM_CREATE."""

    SIZE = PAGE
    flags0 = u64(0x0)
    s2sz = u8(0x8)
    sve_vl = u8(0x10)
    num_bps = u8(0x18)
    num_wps = u8(0x20)
    pmu_num_ctrs = u8(0x28)
    hash_algo = u8(0x30)
    num_aux_planes = u64(0x38)
    rpv = raw(0x400, 64)
    ats_plane = u64(0x440)
    rtt_base = u64(0x808)
    rtt_level_start = i64(0x810)
    rtt_num_start = u32(0x818)
    flags1 = u64(0x820)
    aux_rtt_base = u64(0xF80, 3)


class RecParams(Structure):
    """RmiRecParams: input of REC_CREATE."""

    SIZE = PAGE
    flags = u64(0x0)
    mpidr = u64(0x100)
    pc = u64(0x200)
    gprs = u64(0x300, 8)


class RecRun(Structure):
    """RmiRecRun: the enter half at 0x0, the exit half at 0x800."""

    SIZE = PAGE
    enter_flags = u64(0x0)
    enter_gprs = u64(0x200, 31)
    exit_reason = u8(0x800)
    esr = u64(0x900)
    far = u64(0x908)
    hpfar = u64(0x910)
    rtt_tree = u64(0x918)
    rtt_level = u64(0x920)
    exit_gprs = u64(0xA00, 31)
    cntp_ctl = u64(0xC00)
    cntp_cval = u64(0xC08)
    cntv_ctl = u64(0xC10)
    cntv_cval = u64(0xC18)
    ripas_base = u64(0xD00)
    ripas_top = u64(0xD08)
    ripas_value = u8(0xD10)
    s2ap_base = u64(0xD20)
    s2ap_top = u64(0xD28)
    vdev_id_1 = u64(0xD30)
    vdev_id_2 = u64(0xD38)
    dev_mem_base = u64(0xD40)
    dev_mem_top = u64(0xD48)
    dev_mem_pa = u64(0xD50)
    imm = u16(0xE00)
    plane = u64(0xE08)
    pmu_ovf_status = u8(0xF00)
    vsmmu = u64(0xF10)


#: Offset of the exit half in a RecRun page.
REC_EXIT_OFFSET = 0x800


class RealmConfig(Structure):
    """RsiRealmConfig: what RSI_REALM_CONFIG writes."""

    SIZE = PAGE
    ipa_width = u64(0x0)
    hash_algo = u8(0x8)
    num_aux_planes = u64(0x10)
    gicv3_vtr = u32(0x18)
    ats_plane = u64(0x20)
    rpv = raw(0x200, 64)


class HostCall(Structure):
    """RsiHostCall: 256-byte aligned in realm memory."""

    SIZE = 0x100
    imm = u16(0x0)
    gprs = u64(0x8, 31)
