"""A rate over many rows of which a judge one trusts has seen only a stratified sample.

Rows are sorted into strata by a cheap score that all of them have; a sample of each stratum is judged. How many
from each is `allocate`, what follows for all rows is `stratified_rate`, or `difference_rate` where the cheap score
says something about rows within a stratum as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from demur.core.profile import Interval
from demur.stats.rates import wilson_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """Rows of one stratum and what was found in its sample.

    Attributes:
        n_rows: Rows in the stratum.
        n_judged: Rows of its sample.
        n_refused: Of these, the refused ones.
        n_cheap: Rows of the whole stratum that the cheap judge called refused.
        n_cheap_judged: Rows of the sample that the cheap judge called refused.
        n_both: Rows of the sample that both called refused.
    """

    n_rows: int
    n_judged: int
    n_refused: int
    n_cheap: int = 0
    n_cheap_judged: int = 0
    n_both: int = 0


def allocate(n_rows: Sequence[int], spreads: Sequence[float], budget: int, *, floor: int = 2) -> NDArray[np.int64]:
    """How many rows of each stratum to judge: Neyman's shares, whole numbers, never more than there are.

    Args:
        n_rows: Rows in each stratum.
        spreads: Guess of the standard deviation of the answer within each stratum, e.g. sqrt(p (1 - p)).
        budget: Rows to judge in all; fewer are used only where there are not so many.
        floor: Rows every stratum gets first, as far as the budget reaches.

    Returns:
        Counts, (n_strata,); their sum is min(budget, sum of n_rows).

    Source:
        Neyman (1934), "On the two different aspects of the representative method", JRSS 97(4).
    """
    sizes = np.asarray(n_rows, dtype=np.int64)
    weights = sizes * np.maximum(np.asarray(spreads, dtype=float), 1e-6)
    given = np.zeros(len(sizes), dtype=np.int64)
    left = min(int(budget), int(sizes.sum()))
    for _ in range(floor):
        for i in np.argsort(-weights, kind="stable"):
            if left > 0 and given[i] < sizes[i]:
                given[i] += 1
                left -= 1
    while left > 0:  # strata that are full drop out, and what they cannot take goes to the others
        open_weights = np.where(given < sizes, weights, 0.0)
        wanted = open_weights * left / open_weights.sum()
        extra = np.minimum(np.floor(wanted).astype(np.int64), sizes - given)
        if not extra.any():
            order = np.argsort(-wanted, kind="stable")
            extra[[i for i in order if given[i] < sizes[i]][:left]] = 1
        given += extra
        left -= int(extra.sum())
    return given


def stratified_rate(strata: Sequence[Stratum], *, known_hits: int = 0, known_rows: int = 0) -> Interval:
    """Rate over all rows from a stratified sample, with a 95 % interval.

    A stratum without a sample joins its neighbour. The interval is Wilson's at the effective sample size; the variance
    is taken at shrunk shares, so that a stratum whose sample is all of one kind still counts as uncertain, and a
    stratum judged completely does not.

    Args:
        strata: In the order of the cheap score.
        known_hits: Refused rows among those whose answer needs no judge.
        known_rows: All such rows.

    Source:
        Cochran (1977), "Sampling Techniques", 3rd edition, sections 5.3 to 5.6.
    """
    merged = _merged(strata)
    hits, variance = float(known_hits), 0.0
    for s in merged:
        hits += s.n_rows * s.n_refused / s.n_judged
        share = _smoothed(s.n_refused, s.n_judged)
        variance += _variance(s, share * (1 - share))
    return _interval(hits, variance, merged, (known_hits, known_rows), "stratified")


def difference_rate(strata: Sequence[Stratum], *, known_hits: int = 0, known_rows: int = 0) -> Interval:
    """Rate over all rows: the cheap judge's count plus its sampled error, stratum by stratum.

    Better than `stratified_rate` where the cheap judge is mostly right and strata hold both of its answers; arguments
    are the same.

    Source:
        Cochran (1977), "Sampling Techniques", 3rd edition, sections 7.2 and 7.10 (difference estimator).
    """
    merged = _merged(strata)
    hits, variance = float(known_hits), 0.0
    for s in merged:
        missed, false = s.n_refused - s.n_both, s.n_cheap_judged - s.n_both
        hits += s.n_cheap + s.n_rows * (missed - false) / s.n_judged
        up, down = (missed + 0.25) / (s.n_judged + 1), (false + 0.25) / (s.n_judged + 1)
        variance += _variance(s, up + down - (up - down) ** 2)
    return _interval(hits, variance, merged, (known_hits, known_rows), "difference")


def _smoothed(hits: int, n: int) -> float:
    return (hits + 0.5) / (n + 1)


def _variance(s: Stratum, of_one_row: float) -> float:
    """Variance of the stratum's estimated count, with the correction for a finite stratum."""
    return s.n_rows**2 * (1 - s.n_judged / s.n_rows) * of_one_row / max(1, s.n_judged - 1)


def _merged(strata: Sequence[Stratum]) -> list[Stratum]:
    merged: list[Stratum] = []
    waiting: Stratum | None = None
    for s in strata:
        if s.n_rows == 0:
            continue
        whole = s if waiting is None else _sum(waiting, s)
        waiting = None
        if whole.n_judged:
            merged.append(whole)
        elif merged:
            merged[-1] = _sum(merged[-1], whole)
        else:
            waiting = whole
    if waiting is not None:
        raise ValueError("no stratum has a judged row")
    return merged


def _sum(a: Stratum, b: Stratum) -> Stratum:
    return Stratum(
        n_rows=a.n_rows + b.n_rows,
        n_judged=a.n_judged + b.n_judged,
        n_refused=a.n_refused + b.n_refused,
        n_cheap=a.n_cheap + b.n_cheap,
        n_cheap_judged=a.n_cheap_judged + b.n_cheap_judged,
        n_both=a.n_both + b.n_both,
    )


def _interval(hits: float, variance: float, parts: Sequence[Stratum], known: tuple[int, int], method: str) -> Interval:
    known_hits, known_rows = known
    total = known_rows + sum(s.n_rows for s in parts)
    if total == 0:
        return Interval(estimate=None, low=None, high=None, n=0, hits=0, method=method)
    estimate = min(1.0, max(0.0, hits / total))
    error = sqrt(variance) / total
    low = high = estimate
    if error > 0:
        # Size of a simple sample with this error, at the rate whose variance was taken.
        share = (known_hits + sum(s.n_rows * _smoothed(s.n_refused, s.n_judged) for s in parts)) / total
        n = max(1.0, share * (1 - share) / error**2)
        low, high = wilson_interval(n * estimate, n)
    n_judged = sum(s.n_judged for s in parts)
    return Interval(estimate=estimate, low=low, high=high, n=n_judged, hits=hits, method=method)
