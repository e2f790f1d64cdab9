"""Diverse prompts from good ones: farthest first on TF-IDF of character n-grams, evenly over the seeds.

Source:
    Gonzalez (1985), "Clustering to minimize the maximum intercluster distance": the greedy choice is within a factor
    of two of the best covering radius.
"""

import zlib
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.synthesis.copies import folded

SIZES = (3, 4, 5)
COLUMNS = 4096
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How different the chosen texts are, beside a random choice of the same size.

    Attributes:
        nearest: Mean cosine distance of a chosen text to its nearest chosen neighbour, 0 to 1.
        nearest_random: The same for random choices, mean of 20; both None where there was nothing to choose.
    """

    nearest: float | None
    nearest_random: float | None


def tfidf(texts: Sequence[str]) -> Rows:
    """Unit rows of hashed character 3- to 5-grams, (n_texts, 4096), weighted by log counts and rarity."""
    counts = np.zeros((len(texts), COLUMNS), dtype=np.float32)
    for at, text in enumerate(texts):
        padded = f" {folded(text)} "
        found = Counter(padded[i : i + n] for n in SIZES for i in range(len(padded) - n + 1))
        for gram, n in found.items():
            counts[at, zlib.crc32(gram.encode("utf-8", "replace")) % COLUMNS] += n
    held = (counts > 0).sum(axis=0)
    weighted = np.log1p(counts) * (np.log((1 + len(texts)) / (1 + held)) + 1).astype(np.float32)
    norms = np.linalg.norm(weighted, axis=1, keepdims=True)
    rows: Rows = (weighted / np.where(norms == 0, 1, norms)).astype(np.float32)
    return rows


def farthest_first(rows: Rows, seeds: Sequence[Hashable], n: int) -> list[int]:
    """Positions of `n` rows, each as far as can be from those before it; seeds are used evenly.

    The first is the most ordinary row. Among seeds that were used least, the row farthest from all chosen ones
    comes next, so that no seed stands for a category.
    """
    n = min(n, len(rows))
    if not n:
        return []
    similar = np.full(len(rows), -np.inf, dtype=np.float32)
    used: Counter[Hashable] = Counter()
    free = set(range(len(rows)))
    at = int(np.argmax(rows @ rows.mean(axis=0)))
    chosen: list[int] = []
    while True:
        chosen.append(at)
        free.discard(at)
        used[seeds[at]] += 1
        if len(chosen) == n:
            return chosen
        np.maximum(similar, rows @ rows[at], out=similar)
        least = min(used[seeds[i]] for i in free)
        at = min((i for i in free if used[seeds[i]] == least), key=lambda i: (similar[i], i))


def spread(rows: Rows, chosen: Sequence[int], *, seed: int = 0) -> Spread:
    """How far apart the chosen rows are, and random ones would be."""
    if len(chosen) < 2 or len(chosen) == len(rows):
        return Spread(nearest=_nearest(rows[list(chosen)]), nearest_random=None)
    rng = np.random.default_rng(seed)
    draws = [_nearest(rows[rng.choice(len(rows), size=len(chosen), replace=False)]) or 0.0 for _ in range(20)]
    return Spread(nearest=_nearest(rows[list(chosen)]), nearest_random=float(np.mean(draws)))


def _nearest(rows: Rows) -> float | None:
    if len(rows) < 2:
        return None
    similar = rows @ rows.T
    np.fill_diagonal(similar, -np.inf)
    return float(np.mean(1 - similar.max(axis=1)))
