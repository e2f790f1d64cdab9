"""Sums of weights over the hashed features of texts: in Python for a few, in the Numba kernel for many."""

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from demur.classify.features import MAX_CHARS, buckets, folded, piece_buckets, piece_points, tokens
from demur.classify.plainness import glance

KERNEL_FROM = 400  # fewer texts than this are read sooner than Numba is imported
_KERNEL = "demur.classify.kernel"


def word_sums(
    texts: Sequence[str], rows: NDArray[np.int32], weights: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Sums of the weights of n-grams over the square root of their number, (n, n_columns), and `glance`, (n,).

    Args:
        texts: The texts.
        rows: Row of `weights` for each hash bucket, -1 for one without weight; (N_BUCKETS,).
        weights: (n_rows, n_columns).
    """
    if len(texts) >= KERNEL_FROM:
        try:
            from demur.classify import kernel
        except ImportError:
            pass
        else:
            return kernel.first_stage(*packed(texts), rows, weights)
    sums, glances = np.zeros((len(texts), weights.shape[1])), np.zeros(len(texts), dtype=np.uint8)
    for number, text in enumerate(texts):
        words = tokens(text)
        found = buckets(words)
        kept = rows[found]
        total = weights[kept[kept >= 0]].sum(axis=0, dtype=np.float64)
        sums[number], glances[number] = total / np.sqrt(max(1, len(found))), glance(words)
    return sums, glances


def piece_sums(texts: Sequence[str], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same for runs of characters; `weights` has a row for each bucket, (N_PIECES, n_columns)."""
    if _KERNEL in sys.modules and len(texts):  # only where it has been needed already
        points = [piece_points(text) for text in texts]
        sums: NDArray[np.float64] = sys.modules[_KERNEL].piece_sums(
            np.concatenate(points), starts([len(part) for part in points]), weights
        )
        return sums
    out = np.zeros((len(texts), weights.shape[1]))
    for number, text in enumerate(texts):
        found = piece_buckets(text)
        out[number] = weights[found].sum(axis=0, dtype=np.float64) / np.sqrt(max(1, len(found)))
    return out


def packed(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts end to end as the kernel reads them, and where each begins."""
    encoded = [
        text.encode() if text.isascii() and len(text) <= 2 * MAX_CHARS else folded(text).encode("utf-8", "ignore")
        for text in texts
    ]
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), starts([len(part) for part in encoded])


def starts(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Where each part begins that lies end to end with the others, and where the last ends; (n + 1,)."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
