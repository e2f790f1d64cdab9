"""Which rows are alike, and in what random order they are drawn: the same for every engine and shard size."""

from __future__ import annotations

from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from demur.data.logs import LogBatch
    from demur.scan.verdicts import Judged

EDGES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
_BOUNDS = (0.0, *EDGES, 1.0)
SETTLED, UNREAD = 0, 1
_FIRST_BIN = 2
N_STRATA = _FIRST_BIN + 2 * (len(EDGES) + 1)
_STRATUM_BITS = 5
_STRATUM_MASK = np.uint64((1 << _STRATUM_BITS) - 1)


def names() -> list[str]:
    """Name of each stratum, in order of `p_refused`."""
    bins = [f"{low:g}–{high:g}" for low, high in pairwise(_BOUNDS)]
    return ["settled without reading", "not read", *(name for b in bins for name in (b, f"{b}, unsure"))]


def is_uncertain(stratum: int) -> bool:
    """Whether the rows of a stratum are those the first judge wants looked at again."""
    return stratum == UNREAD or (stratum >= _FIRST_BIN and (stratum - _FIRST_BIN) % 2 == 1)


def spread(stratum: int) -> float:
    """Guess of the standard deviation of the true answer within a stratum."""
    if stratum < _FIRST_BIN:
        return 0.5
    low, high = _BOUNDS[(stratum - _FIRST_BIN) // 2 :][:2]
    middle = (low + high) / 2
    return float(max(0.1, np.sqrt(middle * (1 - middle))))


def strata_of(judged: Judged) -> NDArray[np.uint8]:
    """Stratum of each row: settled, not read, or a bin of `p_refused`, unsure ones apart; (n,)."""
    bins = np.searchsorted(np.array(EDGES, dtype=np.float32), np.nan_to_num(judged.p_refused), side="right")
    stratum = _FIRST_BIN + 2 * bins + judged.is_uncertain
    stratum = np.where(np.isnan(judged.p_refused), UNREAD, stratum)
    return np.where(judged.stage == 0, SETTLED, stratum).astype(np.uint8)


def priorities(batch: LogBatch) -> NDArray[np.uint64]:
    """A number for each row that looks random and depends on its file and line alone; (n,)."""
    encoded = batch.rows["source_file"].dictionary_encode()
    files = encoded.dictionary.to_pylist()
    seeds = np.array([_seed(name) for name in files], dtype=np.uint64)
    lines = batch.rows["line"].to_numpy(zero_copy_only=False).astype(np.uint64)
    return mixed(seeds[encoded.indices.to_numpy(zero_copy_only=False)] + lines * np.uint64(0x9E3779B97F4A7C15))


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of SplitMix64, element by element.

    Source:
        Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators", OOPSLA.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def packed(priority: NDArray[np.uint64], stratum: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Both in one number: the order in the high bits, the stratum in the low ones."""
    return np.asarray((priority & ~_STRATUM_MASK) | stratum.astype(np.uint64))


def unpacked(codes: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[Any]]:
    """Order and stratum of packed numbers."""
    return codes & ~_STRATUM_MASK, (codes & _STRATUM_MASK).astype(np.int64)


def _seed(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "little")
