"""Rates and differences of rates whose observations come in clusters, with intervals that know it.

Prompts of one seed, and images of one prompt, resemble each other: counting them as independent makes intervals too
narrow. The variance is taken between clusters, turned into an effective number of observations, and put into
Wilson's interval, which stays honest near 0 and 1.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

from demur.core.profile import Interval
from demur.stats.rates import wilson_interval
from demur.stats.student import t_quantile

Counts = tuple[float, int]  # hits and trials of one cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """First rate minus second, a fraction in [-1, 1], with its interval; None where a side has no observations."""

    estimate: float | None
    low: float | None
    high: float | None
    n_clusters: int


def clustered(counts: Iterable[tuple[Hashable, float, int]]) -> dict[Hashable, Counts]:
    """Hits and trials added up by cluster; clusters without trials are left out."""
    sums: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for cluster, hits, n in counts:
        if n:
            sums[cluster][0] += hits
            sums[cluster][1] += n
    return {cluster: (hits, int(n)) for cluster, (hits, n) in sums.items()}


def clustered_share(clusters: Mapping[Hashable, Counts], *, unjudged: int = 0, level: float = 0.95) -> Interval:
    """A rate over clusters.

    Effective size n* = p(1 - p) / v with v the linearised variance of a ratio over m clusters, no larger than the
    number of observations, rescaled by the quantiles of Student's t with m - 1 degrees of freedom; where every
    observation agrees, and clustering cannot be seen, n* = m.

    Source:
        Korn and Graubard (1998), "Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data", Survey Methodology 24(2), with Wilson's interval in place of the exact one.
    """
    hits = sum(h for h, _ in clusters.values())
    n = sum(k for _, k in clusters.values())
    if not n:
        return Interval(estimate=None, low=None, high=None, n=0, hits=0, unjudged=unjudged, method="wilson-clustered")
    size = _effective(clusters, level)
    low, high = wilson_interval(hits / n * size, size, level=level)
    return Interval(estimate=hits / n, low=low, high=high, n=n, hits=hits, unjudged=unjudged, method="wilson-clustered")


def clustered_difference(
    first: Mapping[Hashable, Counts], second: Mapping[Hashable, Counts], *, level: float = 0.95
) -> Difference:
    """First rate minus second, where both may share clusters.

    Recovers the variance from the two intervals, with the correlation of the clusters' residuals, so that twins of one
    seed count as a pair and a difference of 0 or 1 still has an interval.

    Source:
        Newcombe (1998), "Improved confidence intervals for the difference between binomial proportions based on paired
        data", Statistics in Medicine 17(22); Zou and Donner (2008), Statistics in Medicine 27(10).
    """
    a, b = clustered_share(first, level=level), clustered_share(second, level=level)
    shared = len(set(first) | set(second))
    if a.estimate is None or b.estimate is None:
        return Difference(estimate=None, low=None, high=None, n_clusters=shared)
    rho = _correlation(first, second, a.estimate, b.estimate)
    p, q = a.estimate, b.estimate
    down = (p - _known(a.low), _known(b.high) - q)
    up = (_known(a.high) - p, q - _known(b.low))
    return Difference(
        estimate=p - q,
        low=max(-1.0, p - q - _joined(*down, rho)),
        high=min(1.0, p - q + _joined(*up, rho)),
        n_clusters=shared,
    )


def _effective(clusters: Mapping[Hashable, Counts], level: float) -> float:
    m = len(clusters)
    n = sum(k for _, k in clusters.values())
    p = sum(h for h, _ in clusters.values()) / n
    if p in (0.0, 1.0) or m < 2:
        size = float(m)
    else:
        variance = m / (m - 1) * sum((h - p * k) ** 2 for h, k in clusters.values()) / n**2
        size = min(float(n), p * (1 - p) / variance) if variance > 0 else float(n)
    if m < 2:
        return size
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return size * (z / t_quantile(level, m - 1)) ** 2


def _joined(first: float, second: float, rho: float) -> float:
    return sqrt(max(0.0, first**2 + second**2 - 2 * rho * first * second))


def _correlation(first: Mapping[Hashable, Counts], second: Mapping[Hashable, Counts], p: float, q: float) -> float:
    both = set(first) & set(second)
    if len(both) < 8:  # too few to trust a correlation: as if independent, which is wider
        return 0.0
    pairs = [(first[c][0] - p * first[c][1], second[c][0] - q * second[c][1]) for c in both]
    xx, yy = sum(x * x for x, _ in pairs), sum(y * y for _, y in pairs)
    xy = sum(x * y for x, y in pairs)
    share = len(both) / len(set(first) | set(second))
    return max(-1.0, min(1.0, xy / sqrt(xx * yy))) * share if xx > 0 and yy > 0 else 0.0


def _known(value: float | None) -> float:
    return 0.0 if value is None else value
