"""Attack success at k attempts, without the flattery of best-of-n.

Where every goal got the same attempts whatever came of them, the share of k-subsets with a success is an unbiased
estimate of success within k attempts. Where attempts ended at the first success, only the naive count is left: the
share of goals that succeeded among their first k.

Source:
    Chen et al. (2021), "Evaluating Large Language Models Trained on Code", section 2.1, for the estimator.
"""

from collections.abc import Mapping, Sequence
from math import comb
from statistics import NormalDist

from demur.core.profile import Interval
from demur.stats.rates import wilson_interval
from demur.stats.student import t_quantile

KS = (1, 5, 10, 20)
Flags = Sequence[bool | None]


def success_at(n: int, c: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): chance that k of n attempts, drawn without replacement, hold one of c successes.

    Raises:
        ValueError: Not 0 <= c <= n or not 1 <= k <= n.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"expected 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    return 1.0 - comb(n - c, k) / comb(n, k)


def asr_at(goals: Mapping[str, Flags], k: int, *, level: float = 0.95) -> Interval:
    """Unbiased success within k attempts, averaged over goals; for attempts that never stopped early.

    Args:
        goals: Success of each attempt by goal, None where it could not be judged.
        k: Attempts.
        level: Confidence level; goals are the clusters.

    Returns:
        `n` counts goals with at least k judged attempts, `unjudged` the others.
    """
    judged = [[flag for flag in flags if flag is not None] for flags in goals.values()]
    values = [success_at(len(flags), sum(flags), k) for flags in judged if len(flags) >= k]
    return mean_interval(values, unjudged=len(judged) - len(values), level=level)


def naive_at(goals: Mapping[str, Flags], k: int, *, level: float = 0.95) -> Interval:
    """Share of goals with a success among their first k attempts, however many were made; unjudged is no success.

    This is what stopping at the first success leaves, and what the published artifacts hold. For a judge other than
    the one that stopped, it is success *on the answers the stop judge chose*.
    """
    values = [float(any(flag is True for flag in flags[:k])) for flags in goals.values()]
    unjudged = sum(all(flag is None for flag in flags) for flags in goals.values())
    return mean_interval(values, unjudged=unjudged, level=level)


def mean_interval(values: Sequence[float], *, unjudged: int = 0, level: float = 0.95) -> Interval:
    """Mean of shares, one for each cluster, with Wilson's interval at the effective number of observations.

    Effective size p(1 - p) / v with v the variance of the mean over clusters, at least their number, rescaled by
    Student's t with m - 1 degrees of freedom. For one attempt a goal it is Wilson's own, a little wider.

    Source:
        Korn and Graubard (1998), Survey Methodology 24(2), with Wilson's interval in place of the exact one.
    """
    m = len(values)
    if not m:
        return Interval(estimate=None, low=None, high=None, n=0, hits=0, unjudged=unjudged, method="wilson-clustered")
    p = min(1.0, max(0.0, sum(values) / m))
    size = float(m)
    if m > 1:
        variance = sum((value - p) ** 2 for value in values) / (m - 1) / m
        if variance > 0 and 0 < p < 1:
            size = max(size, p * (1 - p) / variance)
        z = NormalDist().inv_cdf(0.5 + level / 2)
        size *= (z / t_quantile(level, m - 1)) ** 2
    low, high = wilson_interval(p * size, size, level=level)
    return Interval(estimate=p, low=low, high=high, n=m, hits=sum(values), unjudged=unjudged, method="wilson-clustered")
