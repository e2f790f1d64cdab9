"""Rows as lists of the features they have: the one form in which data enters a Tsetlin machine."""

from typing import Any

import numpy as np
from scipy import sparse

from demur.tsetlin.arrays import Bits, Rows


def presence(features: Any) -> Rows:
    """Binarise: a feature is present where its value is above 0.

    Args:
        features: Binary values or counts, dense or scipy-sparse; (n_rows, n_features).
    """
    if sparse.issparse(features):
        matrix = features.tocsr()
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        if matrix.nnz and not (matrix.data > 0).all():
            matrix = (matrix > 0).tocsr()
        indptr, indices = matrix.indptr, matrix.indices
    else:
        found = np.asarray(features) > 0
        indices = np.nonzero(found)[1]
        indptr = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
    return Rows(
        # writeable, though nothing writes: kernels are compiled anew for read-only arrays
        np.require(indptr, np.int64, ["C", "W"]),
        np.require(indices, np.int32, ["C", "W"]),
        int(features.shape[1]),
    )


def count_rows(rows: Rows) -> int:
    """Number of rows."""
    return len(rows.indptr) - 1


def frequencies(rows: Rows) -> np.ndarray[Any, np.dtype[np.int64]]:
    """In how many rows each feature is present; (n_features,)."""
    return np.bincount(rows.indices, minlength=rows.n_features).astype(np.int64)


def pick(rows: Rows, chosen: np.ndarray[Any, np.dtype[np.int64]]) -> Rows:
    """The chosen rows, in that order."""
    lengths = np.diff(rows.indptr)[chosen]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    within = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
    return Rows(indptr, rows.indices[np.repeat(rows.indptr[chosen], lengths) + within], rows.n_features)


def bits_of(flags: Any) -> Bits:
    """Pack the last axis, a multiple of 64 long, into words; bit k of word w is flag 64 w + k."""
    packed = np.packbits(np.asarray(flags, dtype=bool), axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u8").astype(np.uint64)


def flags_of(words: Bits) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Undo `bits_of`."""
    raw = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    return np.unpackbits(raw, axis=-1, bitorder="little").astype(bool)
