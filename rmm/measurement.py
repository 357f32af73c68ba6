"""Realm measurements: the initial measurement's hash chain and the extendable ones (DEN0137 2.0-bet1, section on RIM).

Blocks are built as bytes and hashed in one go; :data:`HASHES` holds what is constant per algorithm.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

from rmm.abi.registers import HashAlgorithm
from rmm.abi.structures import RecParams

#: Bytes of a measurement slot; a shorter digest is zero padded.
SLOT_SIZE = 64
#: RIM, then REM0..REM3.
SLOTS = 5
_ZERO_PAGE = bytes(4096)
_DATA_HEADER = struct.pack("<QQ", 0, 0x100)
_REC_HEADER = struct.pack("<QQ", 1, 0x100)
_DATA_TAIL = bytes(0x60)
_REC_TAIL = bytes(0x70)
_IPA_FLAGS = struct.Struct("<QQ").pack


class Hash:
    """A measurement algorithm: ``new`` makes a hashlib object, ``words`` is the digest size in u64."""

    __slots__ = ("_new", "_pad", "algorithm", "no_content", "size", "unpack", "words", "zero_page")

    def __init__(self, algorithm: HashAlgorithm, new: Callable[..., Any]) -> None:
        self.algorithm = algorithm
        self._new = new
        self.size: int = new().digest_size
        self.words = self.size >> 3
        self.unpack = struct.Struct(f"<{self.words}Q").unpack
        self._pad = bytes(SLOT_SIZE - self.size)
        #: What stands for the content's hash when the content is not measured.
        self.no_content = bytes(SLOT_SIZE)
        #: Hash of a page of zeros, padded.
        self.zero_page = self.content(_ZERO_PAGE)

    def digest(self, data: bytes | memoryview) -> bytes:
        """The digest, unpadded."""
        result: bytes = self._new(data).digest()
        return result

    def content(self, page: bytes | memoryview) -> bytes:
        """Hash of a page, zero padded to a slot."""
        result: bytes = self._new(page).digest() + self._pad
        return result

    def extend_data(self, rim: bytes, ipa: int, flags: int, content: bytes) -> bytes:
        """The RIM's digest after RTT_DATA_MAP_INIT; ``rim`` and ``content`` are slots (64 bytes)."""
        block = _DATA_HEADER + rim + _IPA_FLAGS(ipa, flags) + content + _DATA_TAIL
        result: bytes = self._new(block).digest()
        return result

    def extend_rec(self, rim: bytes, flags: int, pc: int, gprs: Sequence[int]) -> bytes:
        """The RIM's digest after REC_CREATE of a runnable REC; ``rim`` is a slot. MPIDR is not measured."""
        params = RecParams.encode(flags=flags, pc=pc, gprs=tuple(gprs))
        return self.digest(_REC_HEADER + rim + self.content(params) + _REC_TAIL)

    def extend(self, slot: bytes, value: bytes) -> bytes:
        """The digest of an extendable measurement after RSI_MEASUREMENT_EXTEND; ``slot`` is its current slot."""
        return self.digest(slot[: self.size] + value)


HASHES: dict[int, Hash] = {
    HashAlgorithm.SHA_256: Hash(HashAlgorithm.SHA_256, hashlib.sha256),
    HashAlgorithm.SHA_512: Hash(HashAlgorithm.SHA_512, hashlib.sha512),
    HashAlgorithm.SHA_384: Hash(HashAlgorithm.SHA_384, hashlib.sha384),
}
