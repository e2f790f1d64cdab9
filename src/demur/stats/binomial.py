"""Exact binomial tails, and the bounds and counts that follow from them: no normal approximation, numpy only."""

from collections.abc import Callable
from functools import lru_cache
from math import ceil, log, log1p

import numpy as np
from numpy.typing import NDArray

_STEPS = 60  # halvings of [0, 1]: as fine as floats are


def lower_tail(k: int, n: int, p: float) -> float:
    """P(X <= k) for X binomial with n trials of probability p.

    Raises:
        ValueError: p outside [0, 1] or n below 0.
    """
    _check(n, p)
    if k < 0 or k >= n:
        return float(k >= n)
    if p in (0.0, 1.0):
        return 1.0 - p
    return _total(_log_terms(n, p)[: k + 1])


def upper_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) for X binomial with n trials of probability p.

    Raises:
        ValueError: p outside [0, 1] or n below 0.
    """
    return lower_tail(n - k, n, 1.0 - p)


def lower_bound(k: int, n: int, delta: float) -> float:
    """Largest rate that n trials with k hits rule out from below: the true rate is smaller with chance delta at most.

    Source:
        Clopper and Pearson (1934), "The use of confidence or fiducial limits illustrated in the case of the binomial",
        Biometrika 26(4).
    """
    return 0.0 if k <= 0 else _crossing(lambda p: upper_tail(k, n, p) >= delta)


def upper_bound(k: int, n: int, delta: float) -> float:
    """Smallest rate that n trials with k hits rule out from above; see `lower_bound`."""
    return 1.0 if k >= n else _crossing(lambda p: lower_tail(k, n, p) < delta)


def clopper_pearson(k: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a rate: each end misses with chance (1 - level) / 2; (0, 1) without trials."""
    if n == 0:
        return 0.0, 1.0
    return lower_bound(k, n, (1 - level) / 2), upper_bound(k, n, (1 - level) / 2)


def beta_quantile(q: float, a: int, b: int) -> float:
    """Quantile of the Beta distribution with whole parameters, which is that of order statistics.

    Of n uniform numbers the a-th smallest is Beta(a, n + 1 - a); its distribution function is a binomial tail.
    """
    return _crossing(lambda x: upper_tail(a, a + b - 1, x) >= q)


@lru_cache(maxsize=4096)
def most_hits(n: int, rate: float, delta: float) -> int:
    """Largest m with P(X <= m) <= delta at the rate: m hits or fewer show that the true rate is smaller; -1 if none."""
    below = _tails(n, rate)
    return int(np.searchsorted(below, delta, side="right")) - 1


@lru_cache(maxsize=4096)
def fewest_hits(n: int, rate: float, delta: float) -> int:
    """Smallest k with P(X >= k) <= delta at the rate: k hits or more show that it is larger; n + 1 if none."""
    return n - most_hits(n, 1.0 - rate, delta)


def fewest_trials(rate: float, delta: float) -> int:
    """Smallest n with rate ** n <= delta: so many trials without a miss show that misses are rarer than 1 - rate.

    Raises:
        ValueError: A rate of 1: no number of trials shows that misses never happen.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"expected a rate from 0 to below 1, got {rate}")
    return 1 if rate == 0 else max(1, ceil(log(delta) / log(rate) - 1e-12))


@lru_cache(maxsize=4096)
def nearest_count(n: int, rate: float, delta: float) -> tuple[int, float]:
    """Hits among n at which the true rate is provably nearest to a wanted one, and how near.

    Returns:
        Count k and tolerance: with k hits the interval that misses with chance delta lies within rate +- tolerance.
    """
    middle = round(rate * n)
    # Near 0 and 1 intervals are lopsided, and the best count lies a few beside the rate's own.
    counts = range(max(0, middle - 4), min(n, middle + 4) + 1)
    found = []
    for k in counts:
        low, high = clopper_pearson(k, n, level=1 - delta)
        found.append((max(high - rate, rate - low), k))
    tolerance, k = min(found)
    return k, tolerance


def _check(n: int, p: float) -> None:
    if not 0.0 <= p <= 1.0 or n < 0:
        raise ValueError(f"expected a probability in [0, 1] and trials from 0 on, got {p} and {n}")


def _log_terms(n: int, p: float) -> NDArray[np.float64]:
    """Logarithm of P(X = i) for i = 0 ... n."""
    return np.asarray(_log_choose(n) + n * log1p(-p) + np.arange(n + 1) * (log(p) - log1p(-p)))


@lru_cache(maxsize=64)
def _log_choose(n: int) -> NDArray[np.float64]:
    """Logarithm of n over i for i = 0 ... n."""
    i = np.arange(1, n + 1, dtype=np.float64)
    return np.concatenate([[0.0], np.cumsum(np.log((n - i + 1) / i))])


def _total(log_terms: NDArray[np.float64]) -> float:
    top = float(log_terms.max())
    return min(1.0, float(np.exp(top) * np.exp(log_terms - top).sum()))


def _tails(n: int, p: float) -> NDArray[np.float64]:
    """P(X <= i) for i = 0 ... n - 1."""
    _check(n, p)
    if p in (0.0, 1.0):
        return np.full(n, 1.0 - p)
    return np.cumsum(np.exp(_log_terms(n, p)[:-1]))


def _crossing(holds: Callable[[float], bool]) -> float:
    """Where on [0, 1] a condition that is false below and true above begins to hold."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
