"""Means, shares and differences over statements that come in clusters: the sources they were taken from.

Statements of one document resemble each other, so the intervals count documents: linearised variance between
sources, Student's t with as many degrees of freedom as there are sources less one.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import product
from math import sqrt
from statistics import NormalDist, fmean

import numpy as np

from demur.core.culture import Mean, Paired
from demur.core.profile import Interval
from demur.stats.rates import wilson_interval
from demur.stats.student import t_quantile

EXACT_SOURCES = 14  # up to here every exchange of the two forms is counted out
SHUFFLES = 9_999


def clustered_mean(values: Sequence[float], sources: Sequence[Hashable], *, level: float = 0.95) -> Mean:
    """Mean of values from 0 to 1 with its interval; bounds are None where a single source leaves nothing to compare.

    Source:
        Cochran (1977), "Sampling Techniques", 3rd edition, section 9A.2 (ratio to size, linearised variance).
    """
    n, groups = len(values), len(set(sources))
    if n == 0:
        return Mean(estimate=None, low=None, high=None, n=0, n_sources=0)
    mean = fmean(values)
    if groups < 2:
        return Mean(estimate=mean, low=None, high=None, n=n, n_sources=groups)
    half = t_quantile(level, groups - 1) * sqrt(_variance(values, sources))
    return Mean(estimate=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), n=n, n_sources=groups)


def clustered_share(
    flags: Sequence[bool | None], sources: Sequence[Hashable], *, degenerate: int = 0, level: float = 0.95
) -> Interval:
    """Share of true flags with a Wilson interval at the effective sample size; None flags count as unjudged.

    The effective size is what a simple sample would need for the variance found between sources, times the ratio of
    squared quantiles of the normal and of Student's t. Where all flags agree no variance can be found, and every
    source counts as one observation.

    Source:
        Korn and Graubard (1998), "Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data", Survey Methodology 24(2); with Wilson's interval as in Franco et al. (2019),
        "Comparative study of confidence intervals for proportions in complex sample surveys", JSSAM 7(3).
    """
    kept = [(bool(flag), source) for flag, source in zip(flags, sources, strict=True) if flag is not None]
    n, hits = len(kept), sum(flag for flag, _ in kept)
    unjudged = len(flags) - n
    if n == 0:
        return Interval(estimate=None, low=None, high=None, n=0, hits=0, unjudged=unjudged, degenerate=degenerate)
    groups = len({source for _, source in kept})
    share = hits / n
    size = float(groups)
    if groups > 1 and 0 < hits < n:
        variance = _variance([float(flag) for flag, _ in kept], [source for _, source in kept])
        plain = share * (1 - share) / n
        simple = n if variance <= plain else n * plain / variance
        size = simple * (NormalDist().inv_cdf(0.5 + level / 2) / t_quantile(level, groups - 1)) ** 2
    low, high = wilson_interval(share * size, size, level=level)
    return Interval(
        estimate=share,
        low=min(low, share),
        high=max(high, share),
        n=n,
        hits=hits,
        unjudged=unjudged,
        degenerate=degenerate,
        method="wilson, clustered",
    )


def paired_difference(
    original: Sequence[float], translation: Sequence[float], sources: Sequence[Hashable], *, level: float = 0.95
) -> Paired:
    """Original minus translation of the same statements, with a test that exchanges the two source by source.

    Raises:
        ValueError: The sequences differ in length or are empty.
    """
    if not original or not len(original) == len(translation) == len(sources):
        raise ValueError(f"need equally long, non-empty sequences; got {len(original)} and {len(translation)}")
    change = [a - b for a, b in zip(original, translation, strict=True)]
    groups = len(set(sources))
    mean = fmean(change)
    half = t_quantile(level, groups - 1) * sqrt(_variance(change, sources)) if groups > 1 else None
    return Paired(
        original=fmean(original),
        translation=fmean(translation),
        difference=mean,
        low=None if half is None else max(-1.0, mean - half),
        high=None if half is None else min(1.0, mean + half),
        p_value=exchange_test(change, sources),
        n=len(change),
        n_sources=groups,
    )


def exchange_test(change: Sequence[float], sources: Sequence[Hashable], *, seed: int = 0) -> float:
    """Chance of a mean change at least as large if the sign of every source's changes were a coin's: two-sided.

    Exact up to 14 sources, by 9,999 draws beyond.
    """
    totals: dict[Hashable, float] = defaultdict(float)
    for value, source in zip(change, sources, strict=True):
        totals[source] += value
    sums = np.array([total for total in totals.values() if total != 0.0])
    if len(sums) == 0:
        return 1.0
    observed = abs(sums.sum()) - 1e-12
    if len(sums) <= EXACT_SOURCES:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(sums))))
        return float((np.abs(signs @ sums) >= observed).mean())
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(SHUFFLES, len(sums)))
    return float((1 + (np.abs(signs @ sums) >= observed).sum()) / (1 + SHUFFLES))


def _variance(values: Sequence[float], sources: Sequence[Hashable]) -> float:
    """Linearised variance of a mean over clusters, of which there are at least two."""
    mean, sums = fmean(values), defaultdict[Hashable, float](float)
    for value, source in zip(values, sources, strict=True):
        sums[source] += value - mean
    groups = len(sums)
    return groups / (groups - 1) * sum(total**2 for total in sums.values()) / len(values) ** 2
