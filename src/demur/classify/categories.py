"""Which category of the taxonomy a prompt belongs to, by its words; 'ordinary' where none, 'unsure' where unclear."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from demur.classify.features import N_BUCKETS
from demur.classify.model import Floats, softmax
from demur.classify.sums import word_sums

UNSURE = "unsure"
SURE = 0.5  # probability of the best category under which nothing is said


def predict_categories(prompts: Sequence[str]) -> list[str]:
    """Category of each prompt.

    Returns:
        Keys of the taxonomy's categories, 'ordinary' for a prompt that should simply be answered, or 'unsure'.
    """
    names, rows, weights, bias = _shipped()
    if not len(prompts):
        return []
    p = softmax(word_sums(prompts, rows, weights)[0] + bias)
    best = p.argmax(axis=1)
    return [names[b] if share >= SURE else UNSURE for b, share in zip(best, p[np.arange(len(p)), best], strict=True)]


def save_categories(names: Sequence[str], weights: Floats, bias: Floats, least: float = 0.05) -> bytes:
    """The bytes of `categories.npz`: weights of hash buckets for each category, small ones left out."""
    used = np.flatnonzero(np.abs(weights).max(axis=1) >= least).astype(np.int32)
    buffer = BytesIO()
    np.savez_compressed(
        buffer, names=np.array(names), used=used, weights=weights[used].astype(np.float16), bias=np.asarray(bias)
    )
    return buffer.getvalue()


@cache
def _shipped() -> tuple[list[str], NDArray[np.int32], NDArray[np.float32], Floats]:
    with np.load(BytesIO(files("demur.classify").joinpath("categories.npz").read_bytes()), allow_pickle=False) as held:
        rows = np.full(N_BUCKETS, -1, dtype=np.int32)
        rows[held["used"]] = np.arange(len(held["used"]))
        return [str(n) for n in held["names"]], rows, held["weights"].astype(np.float32), held["bias"]
