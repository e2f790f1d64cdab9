"""Proportions with intervals that stay honest at small n and near 0 or 1."""

from collections.abc import Iterable
from math import asin, sin, sqrt
from statistics import NormalDist

from demur.core.profile import Interval
from demur.core.verdict import Outcome


def wilson_interval(hits: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion; (nan, nan) when `n` is 0.

    Source:
        Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22(158).
    """
    if n <= 0:
        return float("nan"), float("nan")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = hits / n
    centre = p + z * z / (2 * n)
    spread = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and 1 rounding would put the bound past the estimate itself.
    return max(0.0, min(p, (centre - spread) / scale)), min(1.0, max(p, (centre + spread) / scale))


def share(flags: Iterable[bool | None], outcomes: Iterable[Outcome] = (), *, level: float = 0.95) -> Interval:
    """Share of true flags; None flags are left out of the proportion and counted as unjudged.

    Args:
        flags: One for each exchange.
        outcomes: Their outcomes, to count degenerate replies; these stay in the proportion.
        level: Confidence level of the Wilson interval.
    """
    known = list(flags)
    judged = [flag for flag in known if flag is not None]
    return interval(
        sum(judged),
        len(judged),
        unjudged=len(known) - len(judged),
        degenerate=sum(o == "degenerate" for o in outcomes),
        level=level,
    )


def interval(hits: int, n: int, *, unjudged: int = 0, degenerate: int = 0, level: float = 0.95) -> Interval:
    """A counted proportion with its Wilson interval.

    Args:
        hits: Rows of the kind.
        n: Judged rows.
        unjudged: Rows beside them.
        degenerate: Degenerate rows among `n`.
        level: Confidence level.
    """
    low, high = wilson_interval(hits, n, level=level)
    return Interval(
        estimate=hits / n if n else None,
        low=low if n else None,
        high=high if n else None,
        n=n,
        hits=hits,
        unjudged=unjudged,
        degenerate=degenerate,
    )


def minimum_detectable_effect(p: float, n: int, *, power: float = 0.8, level: float = 0.95) -> float:
    """Smallest change of a rate that two independent runs of `n` prompts each would find.

    Uses the arcsine transformation, towards 0.5 so that the answer is the larger one.

    Args:
        p: Rate of the first run, a fraction.
        n: Judged prompts in each run.
        power: Wanted chance of finding it.
        level: Confidence level of the two-sided test.

    Returns:
        A difference of fractions, at most 1; 1.0 when `n` is 0.

    Source:
        Cohen (1988), "Statistical Power Analysis for the Behavioral Sciences", chapter 6 (effect size h).
    """
    if n <= 0:
        return 1.0
    normal = NormalDist()
    h = (normal.inv_cdf(0.5 + level / 2) + normal.inv_cdf(power)) * sqrt(2 / n)
    phi = 2 * asin(sqrt(min(max(p, 0.0), 1.0)))
    top = 2 * asin(1.0)
    shifted = [abs(sin(min(max(phi + sign * h, 0.0), top) / 2) ** 2 - p) for sign in (1, -1)]
    return max(shifted)
