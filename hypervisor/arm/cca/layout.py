"""How a Realm is laid out: its IPA space, the tables that cover its RAM, the order of its RECs, its work pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

#: Bytes that one table at a level spans.
TABLE_SPAN: Final = {1: 1 << 39, 2: 1 << 30, 3: 1 << 21}
#: Start level and number of root tables for a 48-bit IPA space.
START_LEVEL: Final = 0
ROOT_TABLES: Final = 1

#: Work pages: an address list, parameters, a page of zeros, and the source pages of measured DATA.
LIST_PAGE: Final = 0
PARAMS_PAGE: Final = 1
ZERO_PAGE: Final = 2
SCRATCH_PAGES: Final = 3
#: Pages of a DATA chunk: what one level-3 table maps.
CHUNK_PAGES: Final = 512
WORK_PAGES: Final = SCRATCH_PAGES + CHUNK_PAGES


class Table(NamedTuple):
    """A translation table: the first address it spans, and the level of its entries."""

    ipa: int
    level: int


def tables(base: int, size: int) -> Iterator[Table]:
    """Every table below the root that RAM at [base, base + size) needs, level by level, ascending."""
    for level, span in TABLE_SPAN.items():
        for ipa in range(base & -span, base + size, span):
            yield Table(ipa, level)


def rec_mpidr(vcpu_id: int) -> int:
    """The affinity of a vCPU's REC: 16 vCPUs share an Aff1."""
    return vcpu_id & 0xF | vcpu_id >> 4 << 8
