"""The initial measurement is the hash chain that the specification describes, in the order of the commands."""

from __future__ import annotations

import hashlib
import os

import pytest
from rmi_host import PAGE, Host

from rmm.abi.registers import HashAlgorithm
from rmm.measurement import HASHES

IPA = 0x4000_0000


def realm_with_ram(host: Host, **params: int) -> int:
    rd = host.realm(s2sz=48, **params)
    host.tables(rd, IPA)
    return rd


def test_the_worked_example_of_the_reference() -> None:
    """Parameters, a measured zero page, an unmeasured page, a runnable REC; then a REC that is not runnable."""
    host = Host()
    rd = realm_with_ram(host, num_bps=5, num_wps=3)
    assert host.rim(rd) == "8960d56826370aaa6fc9b3a041d4240689582ba41e2ad8bb8f9adf6d2a0cd5e7"
    host.map_init(rd, IPA, b"", 1)
    assert host.rim(rd) == "59df7e9a00f5656704d1e5779259077e1c5c48171df3e0a5849e63af49b8cc20"
    host.map_init(rd, IPA + PAGE, b"whatever", 0)
    assert host.rim(rd) == "603d67a0738ccc6476761f6052b3a44690897b9ac1207aafc98166a3e35cc6e2"
    host.rec(rd, pc=IPA, gprs=(0x4800_0000, 0, 0, 0, 0, 0, 0, 0))
    assert host.rim(rd) == "36c65cdf1e70969ee4bf09e74dd7e49362f1f3f6a307262f2194fea8aef0a597"
    host.rec(rd, index=1, flags=0)
    host.ok("RTT_INIT_RIPAS", rd, IPA + 2 * PAGE, IPA + 4 * PAGE)
    host.ok("REALM_ACTIVATE", rd)
    assert host.rim(rd) == "36c65cdf1e70969ee4bf09e74dd7e49362f1f3f6a307262f2194fea8aef0a597"


def test_the_same_chain_from_zeros_when_parameters_are_not_measured() -> None:
    host = Host(measure_params=False)
    rd = realm_with_ram(host, num_bps=5, num_wps=3)
    assert host.rim(rd) == "00" * 32
    host.map_init(rd, IPA, b"", 1)
    host.map_init(rd, IPA + PAGE, b"whatever", 0)
    host.rec(rd, pc=IPA, gprs=(0x4800_0000, 0, 0, 0, 0, 0, 0, 0))
    assert host.rim(rd) == "7b05f241cb7d7883ccddc23c396d84f3b87d997ac65095e9cb0fad942450edf3"


@pytest.mark.parametrize("algorithm", list(HashAlgorithm))
def test_known_zero_and_written_zero_pages_measure_the_same(algorithm: HashAlgorithm) -> None:
    host = Host()
    rims = []
    for content in (b"", bytes(PAGE)):
        rd = realm_with_ram(host, hash_algo=algorithm)
        host.map_init(rd, IPA, content)
        rims.append(host.rim(rd))
    assert rims[0] == rims[1]
    assert len(rims[0]) == 2 * {0: 32, 1: 64, 2: 48}[algorithm]


@pytest.mark.parametrize("algorithm", list(HashAlgorithm))
def test_every_algorithm_hashes_the_same_block(algorithm: HashAlgorithm) -> None:
    host = Host()
    rd = realm_with_ram(host, hash_algo=algorithm)
    new = {0: hashlib.sha256, 1: hashlib.sha512, 2: hashlib.sha384}[algorithm]
    content = os.urandom(PAGE)
    block = bytearray(256)
    block[8:16] = (0x100).to_bytes(8, "little")
    rim = bytes.fromhex(host.rim(rd))
    block[0x10 : 0x10 + len(rim)] = rim
    block[0x50:0x58] = IPA.to_bytes(8, "little")
    block[0x58] = 1
    digest = new(content).digest()
    block[0x60 : 0x60 + len(digest)] = digest
    host.map_init(rd, IPA, content)
    assert host.rim(rd) == new(block).hexdigest()
    realm = host.rmm.realm(rd)
    assert realm is not None
    assert realm.measurement(0)[len(rim) :] == bytes(64 - len(rim))


def test_the_order_of_pages_matters() -> None:
    host = Host()
    rims = []
    for order in ((0, 1), (1, 0)):
        rd = realm_with_ram(host)
        for n in order:
            host.map_init(rd, IPA + n * PAGE, b"page %d" % n)
        rims.append(host.rim(rd))
    assert rims[0] != rims[1]


def test_neither_the_rpv_nor_the_tables_are_measured() -> None:
    host = Host()
    rims = {
        host.rim(host.realm(s2sz=42, rpv=rpv, roots=roots, rtt_level_start=level))
        for rpv, level, roots in ((bytes(64), 0, 1), (os.urandom(64), 0, 1), (bytes(64), 1, 8))
    }
    assert len(rims) == 1


def test_a_refused_page_does_not_extend_the_measurement() -> None:
    host = Host()
    rd = realm_with_ram(host)
    host.map_init(rd, IPA)
    before = host.rim(rd)
    assert host.status("RTT_DATA_MAP_INIT", rd, host.delegated(), IPA, host.source(b"again"), 1) == "ERROR_RTT(3)"
    assert host.rim(rd) == before


def test_an_extendable_measurement_hashes_itself_and_the_value() -> None:
    extended = HASHES[HashAlgorithm.SHA_256].extend(bytes(64), bytes(range(32)))
    assert extended.hex() == "bb2275c49f28ad52cae6d55e34a974a58c7a3ba26f976e8ecbbe7a536918dc73"
