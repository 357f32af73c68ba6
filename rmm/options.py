"""Build options of the RMM: what ``boot`` takes as keywords, and the feature registers that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rmm.abi.registers import FeatureRegister0, FeatureRegister1
from rmm.rec import AUX_GRANULES, IMAGE_GRANULES

#: Maximum IPA width; a realm may be narrower down to MIN_S2SZ.
S2SZ = 48
MIN_S2SZ = 32
#: RECs per realm: 2^10 - 1.
MAX_RECS_ORDER = 10
#: Physical address width code (48 bits).
PPS = 5
_DA_FEATURES = 0xA1


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one boot; every process of a machine boots with the same ones. ValueError when one makes no sense.

    range_granules: how many granules one GRANULE_RANGE_* call converts at most.
    rec_aux_granules: granules that REC_CREATE asks the host to donate.
    sro_contexts: stateful operations that can be unfinished at a time.
    num_bps, num_wps: feature register 0, minus-one encoding (the Cortex-A72 has 6 and 4).
    lpa2, device_assignment: accept those realm flags (they enter the RIM; there are no 52-bit tables and no devices).
    mec_count: private memory encryption contexts; 0: only the shared policy.
    measure_params: the RIM starts as the hash of the realm parameters; off, as zeros (later betas).
    late_rec_checks: REC_CREATE checks its parameters only once memory was donated, as TF-RMM does.
    cancellable: REC_CREATE lets the host cancel while it waits for memory.
    """

    range_granules: int = 8192
    rec_aux_granules: int = 16
    sro_contexts: int = 160
    num_bps: int = 5
    num_wps: int = 3
    lpa2: bool = False
    device_assignment: bool = False
    mec_count: int = 0
    measure_params: bool = True
    late_rec_checks: bool = False
    cancellable: bool = False

    def __post_init__(self) -> None:
        for name, least, most in (
            ("range_granules", 1, 1 << 40),
            ("rec_aux_granules", IMAGE_GRANULES, AUX_GRANULES),
            ("sro_contexts", 1, 1 << 16),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"boot option {name} = {value} is not in {least}..{most}")

    def features(self) -> tuple[int, ...]:
        """Feature registers 0..4."""
        register0 = FeatureRegister0.make(S2SZ=S2SZ, LPA2=self.lpa2, NUM_BPS=self.num_bps, NUM_WPS=self.num_wps)
        register1 = FeatureRegister1.make(
            RMI_GRAN_SZ_4KB=1,
            HASH_SHA_256=1,
            HASH_SHA_384=1,
            HASH_SHA_512=1,
            MAX_RECS_ORDER=MAX_RECS_ORDER,
            PPS=PPS,
        )
        return int(register0), int(register1), _DA_FEATURES if self.device_assignment else 0, 0, self.mec_count


#: Options under which the RMM paces and checks as the TF-RMM build that measured the vectors did.
TF_RMM: dict[str, Any] = {
    "range_granules": 1,
    "num_bps": 1,
    "num_wps": 1,
    "lpa2": True,
    "device_assignment": True,
    "mec_count": 0xFFFE,
    "late_rec_checks": True,
}
