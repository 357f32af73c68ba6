"""What a stage-2 walk finds for an intermediate physical address: the fault status that hardware would report.

Enter at :func:`fault_status`. The emulated MMU walks stage 2 itself; this second walk exists because Unicorn reports
the wrong status for a stage-2 fault on the walk of stage 1 (ESR.S1PTW). VMSAv8-64, 4 KiB granule (Arm ARM D8.2, D8.6).
"""

from __future__ import annotations

from typing import Final

from machine.memory import BusError, PhysicalMemory

FSC_ADDRESS_SIZE: Final = 0x00
FSC_TRANSLATION: Final = 0x04
FSC_ACCESS_FLAG: Final = 0x08
FSC_PERMISSION: Final = 0x0C
FSC_EXTERNAL_ON_WALK: Final = 0x14

_ADDRESS: Final = 0x0000_FFFF_FFFF_F000
_ACCESS_FLAG: Final = 1 << 10
_READ: Final = 1 << 6
_WRITE: Final = 1 << 7


def start_level(vtcr: int) -> int:
    """The level that VTCR_EL2.SL0 selects for the 4 KiB granule."""
    return 2 - (vtcr >> 6 & 3)


def fault_status(memory: PhysicalMemory, vttbr: int, vtcr: int, ipa: int, write: bool) -> int | None:
    """The DFSC/IFSC (with its level) of a data access to ``ipa``; None when stage 2 permits the access."""
    width = 64 - (vtcr & 0x3F)
    level = start_level(vtcr)
    if ipa >> width:
        return FSC_TRANSLATION
    table = vttbr & _ADDRESS
    # The start level may be up to 16 concatenated tables: its index takes every remaining bit.
    index = ipa >> (39 - 9 * level)
    while True:
        try:
            entry = memory.read_u64(table + 8 * index)
        except BusError:
            return FSC_EXTERNAL_ON_WALK | level
        if not entry & 1 or (not entry & 2 and level in (0, 3)):
            return FSC_TRANSLATION | level
        if level == 3 or not entry & 2:
            break
        table = entry & _ADDRESS
        level += 1
        index = ipa >> (39 - 9 * level) & 0x1FF
    if not entry & _ACCESS_FLAG:
        return FSC_ACCESS_FLAG | level
    if not entry & (_WRITE if write else _READ):
        return FSC_PERMISSION | level
    return None
