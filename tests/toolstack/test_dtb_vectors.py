"""Device trees against libxl's: byte for byte, for Realms and for plain guests."""

from __future__ import annotations

import pytest
from dtb_vectors import Case, cases

from toolstack.build_error import BuildError

ACCEPTED = [case for case in cases() if case.blob is not None]
REFUSED = [case for case in cases() if case.blob is None]
PLACED = [case for case in ACCEPTED if "dtb_seg" in case.facts and "--prefinal" not in case.args]


def test_the_vectors_are_all_there() -> None:
    families = [case.family for case in ACCEPTED]
    assert (families.count("realm"), families.count("pvh"), len(REFUSED)) == (129, 126, 5)


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_the_blob_is_libxls_to_the_last_stale_byte(case: Case) -> None:
    assert case.make().blob == case.blob


@pytest.mark.parametrize("case", PLACED, ids=str)
def test_banks_ramdisk_and_device_tree_lie_where_libxenguest_puts_them(case: Case) -> None:
    placement = case.make().placement
    assert placement is not None
    ramdisk = placement.ramdisk
    assert [bank.size // 4096 for bank in placement.banks] == [case.facts["bank0_pages"], case.facts["bank1_pages"]]
    assert ([ramdisk.base, ramdisk.end] if ramdisk else [0, 0]) == case.facts["initrd"]
    assert [placement.dtb.base, placement.dtb.end] == case.facts["dtb_seg"]


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_libxl_refuses_is_refused(case: Case) -> None:
    assert case.facts["rc"] != 0
    with pytest.raises(BuildError):
        case.make()
