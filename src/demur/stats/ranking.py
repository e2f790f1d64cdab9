"""How well a score ranks one kind of row above the other, with an interval."""

from collections.abc import Sequence
from math import sqrt

import numpy as np


def auroc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Chance that a positive row is scored above a negative one, ties counting half; None with one kind only."""
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if y.all() or not y.any():
        return None
    _, inverse, counts = np.unique(s, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mid-ranks, from 1
    n_positive, n_negative = int(y.sum()), int((~y).sum())
    return float((ranks[y].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def auroc_interval(
    scores: Sequence[float], positive: Sequence[bool], *, z: float = 1.959964
) -> tuple[float, float] | None:
    """Interval of the AUROC from DeLong's variance, cut at 0 and 1; None with one kind only.

    Source:
        DeLong, DeLong and Clarke-Pearson (1988), "Comparing the areas under two or more correlated receiver operating
        characteristic curves", Biometrics 44(3).
    """
    estimate = auroc(scores, positive)
    if estimate is None:
        return None
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    up, down = np.sort(s[y]), np.sort(s[~y])
    # Of each positive row, the share of negative ones below it; and the other way round.
    wins = (np.searchsorted(down, s[y], "left") + np.searchsorted(down, s[y], "right")) / (2 * len(down))
    losses = 1 - (np.searchsorted(up, s[~y], "left") + np.searchsorted(up, s[~y], "right")) / (2 * len(up))
    variance = sum(float(np.var(part, ddof=1)) / len(part) for part in (wins, losses) if len(part) > 1)
    half = z * sqrt(variance)
    return max(0.0, estimate - half), min(1.0, estimate + half)
