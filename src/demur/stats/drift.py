"""A rate that moves: where it changed, and between two periods, what did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import erfc, log, sqrt

import numpy as np
from numpy.typing import NDArray

from demur.stats.rates import wilson_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    """A place in a series where its rate changed.

    Attributes:
        index: First bucket after the change.
        rate_before: Rate from the previous change to here, a fraction.
        rate_after: Rate from here to the next change.
        p_value: Share of shuffled series whose best split was at least as good; smallest possible 1 / (n + 1).
    """

    index: int
    rate_before: float
    rate_after: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDifference:
    """A rate in two periods; `low` and `high` bound `difference` at the level adjusted for all looks.

    Attributes:
        key: What was compared.
        rate_a: Rate of the first period, a fraction; None without rows.
        rate_b: The same of the second.
        n_a: Rows of the first period.
        n_b: Rows of the second.
        difference: rate_b - rate_a; None where either is.
        low: Lower bound.
        high: Upper bound.
        p_value: Two-sided, pooled normal test, multiplied by the number of looks, at most 1.
    """

    key: str
    rate_a: float | None
    rate_b: float | None
    n_a: int
    n_b: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the adjusted interval excludes that nothing changed."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def change_points(
    hits: Sequence[int],
    n: Sequence[int],
    *,
    level: float = 0.99,
    shortest: int = 2,
    n_shuffles: int = 999,
    seed: int = 0,
) -> list[ChangePoint]:
    """Where a series of counted rates changed: binary segmentation with a likelihood ratio, tested by shuffling.

    A segment is split where two rates explain its counts best against one. The split stays if fewer than 1 - level of
    the series with the same buckets in random order have one as good: so a rate that merely wobbles more than counts
    would is not called changed, and no distribution is assumed. Buckets must be exchangeable under no change; strong
    weekly rhythms are not, so use days or weeks rather than hours for those.

    Args:
        hits: Refused rows in each bucket, in order.
        n: Judged rows in each bucket; empty buckets are allowed.
        level: 1 - share of false alarms accepted at each split.
        shortest: Fewest non-empty buckets on either side.
        n_shuffles: Shuffled series for each test.
        seed: Of the shuffles.

    Returns:
        Changes in order of time.

    Raises:
        ValueError: The sequences differ in length.

    Source:
        Scott and Knott (1974), "A cluster analysis method for grouping means", Biometrics 30(3); binary segmentation
        after Vostrikova (1981), "Detecting disorder in multidimensional random processes".
    """
    if len(hits) != len(n):
        raise ValueError(f"need two equally long sequences; got {len(hits)} and {len(n)}")
    counts, totals = np.asarray(hits, dtype=float), np.asarray(n, dtype=float)
    filled = np.flatnonzero(totals > 0)
    counts, totals = counts[filled], totals[filled]
    rng = np.random.default_rng(seed)
    found: dict[int, float] = {}
    todo = [(0, len(filled))]
    while todo:
        start, end = todo.pop()
        if end - start < 2 * shortest:
            continue
        at, p_value = _best_split(counts[start:end], totals[start:end], shortest, n_shuffles, rng)
        if p_value <= 1 - level:
            found[start + at] = p_value
            todo += [(start + at, end), (start, start + at)]
    edges = [0, *sorted(found), len(filled)]
    rates = [counts[a:b].sum() / max(1.0, totals[a:b].sum()) for a, b in pairwise(edges)]
    return [
        ChangePoint(
            index=int(filled[at]), rate_before=float(rates[i]), rate_after=float(rates[i + 1]), p_value=found[at]
        )
        for i, at in enumerate(edges[1:-1])
    ]


def _best_split(
    hits: NDArray[np.float64], n: NDArray[np.float64], shortest: int, n_shuffles: int, rng: np.random.Generator
) -> tuple[int, float]:
    gains = _gains(hits[None, :], n[None, :], shortest)[0]
    at = int(gains.argmax())
    best, as_good, tried = gains[at], 0, 0
    while tried < n_shuffles:  # in parts, so that long series need no large arrays
        size = min(n_shuffles - tried, max(1, 200_000 // len(hits)))
        order = rng.permuted(np.broadcast_to(np.arange(len(hits)), (size, len(hits))), axis=1)
        as_good += int((_gains(hits[order], n[order], shortest).max(axis=1) >= best - 1e-9).sum())
        tried += size
    return at + shortest, (as_good + 1) / (tried + 1)


def _gains(hits: NDArray[np.float64], n: NDArray[np.float64], shortest: int) -> NDArray[np.float64]:
    """Log likelihood won by splitting each series (a row) at each place."""
    left_hits, left_n = hits.cumsum(axis=1), n.cumsum(axis=1)
    all_hits, all_n = left_hits[:, -1:], left_n[:, -1:]
    inner = slice(shortest - 1, hits.shape[1] - shortest)
    left_hits, left_n = left_hits[:, inner], left_n[:, inner]
    both = _likelihood(left_hits, left_n) + _likelihood(all_hits - left_hits, all_n - left_n)
    return both - _likelihood(all_hits, all_n)


def _likelihood(hits: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
    share = np.clip(hits / n, 1e-12, 1 - 1e-12)
    return np.asarray(hits * np.log(share) + (n - hits) * np.log1p(-share))


def rate_differences(counts: Mapping[str, tuple[int, int, int, int]], *, level: float = 0.95) -> list[RateDifference]:
    """Rates of two periods, slice by slice, with intervals that hold for all slices together.

    Args:
        counts: For each slice: refused and judged rows of the first period, then of the second.
        level: Chance that all intervals cover, shared out by Bonferroni's rule.

    Source:
        Newcombe (1998), "Interval estimation for the difference between independent proportions", Statistics in
        Medicine 17(8), method 10.
    """
    looks = max(1, sum(n_a > 0 and n_b > 0 for _, n_a, _, n_b in counts.values()))
    return [_difference(key, *four, level=1 - (1 - level) / looks, looks=looks) for key, four in counts.items()]


def _difference(key: str, hits_a: int, n_a: int, hits_b: int, n_b: int, *, level: float, looks: int) -> RateDifference:
    rate_a, rate_b = (hits_a / n_a if n_a else None), (hits_b / n_b if n_b else None)
    if rate_a is None or rate_b is None:
        return RateDifference(key=key, rate_a=rate_a, rate_b=rate_b, n_a=n_a, n_b=n_b)
    low_a, high_a = wilson_interval(hits_a, n_a, level=level)
    low_b, high_b = wilson_interval(hits_b, n_b, level=level)
    difference = rate_b - rate_a
    pooled = (hits_a + hits_b) / (n_a + n_b)
    error = sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    p_value = erfc(abs(difference) / error / sqrt(2)) if error else 1.0
    return RateDifference(
        key=key,
        rate_a=rate_a,
        rate_b=rate_b,
        n_a=n_a,
        n_b=n_b,
        difference=difference,
        low=difference - sqrt((rate_b - low_b) ** 2 + (high_a - rate_a) ** 2),
        high=difference + sqrt((high_b - rate_b) ** 2 + (rate_a - low_a) ** 2),
        p_value=min(1.0, looks * p_value),
    )


def population_stability(a: Sequence[float], b: Sequence[float]) -> float:
    """Population stability index of two histograms over the same bins; 0 is equal, over 0.25 is usually called large.

    Half a row is added to each bin, so that an empty bin does not make the index infinite.

    Raises:
        ValueError: The histograms differ in length or one is empty.

    Source:
        Siddiqi (2006), "Credit Risk Scorecards", chapter 8; the symmetric divergence of Jeffreys (1946).
    """
    if len(a) != len(b) or not sum(a) or not sum(b):
        raise ValueError("need two non-empty histograms over the same bins")
    first, second = ([(value + 0.5) / (sum(h) + len(h) / 2) for value in h] for h in (a, b))
    return sum((q - p) * log(q / p) for p, q in zip(first, second, strict=True))
