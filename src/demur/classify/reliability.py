"""How good predicted probabilities are: accuracy, ranking, Brier score, calibration, with intervals over prompts.

Every figure is about single replies: a prompt with k replies counts as k trials of which some were refused.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.stats.rates import wilson_interval

N_BINS = 10
N_RESAMPLES = 500
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """An estimate with its 95 % bootstrap interval over prompts (or groups of prompts); None if undefined."""

    estimate: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """One bar of the reliability diagram: predicted and observed share of refusals, with a Wilson interval."""

    predicted: float
    observed: float
    low: float
    high: float
    n_replies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of some predictions.

    Attributes:
        n_prompts: Prompts.
        n_replies: Labelled replies.
        refused: Share of replies refused.
        majority: Accuracy of always saying the commoner of the two.
        accuracy: Share of replies on the predicted side of 1/2.
        auroc: Chance that a refused reply's prompt was rated above an answered one's.
        brier: Mean squared error of the probability against the reply.
        ece: Expected calibration error, ten bins of equal width.
        rate_error: Mean absolute error of the rate over prompts with two or more replies; None without such.
        bins: The reliability diagram.
    """

    n_prompts: int
    n_replies: int
    refused: float
    majority: float
    accuracy: Figure
    auroc: Figure
    brier: Figure
    ece: float
    rate_error: float | None
    bins: tuple[Bin, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def figures_of(
    p_refused: Array, n_refused: Array, n_replies: Array, *, groups: NDArray[Any] | None = None, seed: int = 0
) -> Figures:
    """Measure predictions against replies.

    Args:
        p_refused: Predicted probabilities; (n,).
        n_refused: Refused replies of each prompt; (n,).
        n_replies: Labelled replies of each prompt, at least one; (n,).
        groups: Groups that are resampled together, e.g. templates; each prompt on its own by default.
        seed: Of the bootstrap.
    """
    p, y, k = (np.asarray(values, dtype=float) for values in (p_refused, n_refused, n_replies))
    share = float(y.sum() / k.sum())
    several = k >= 2
    intervals = _intervals(p, y, k, groups, seed)
    return Figures(
        n_prompts=len(p),
        n_replies=int(k.sum()),
        refused=share,
        majority=max(share, 1 - share),
        accuracy=Figure(estimate=accuracy(p, y, k), low=intervals[0][0], high=intervals[0][1]),
        auroc=Figure(estimate=auroc(p, y, k), low=intervals[1][0], high=intervals[1][1]),
        brier=Figure(estimate=brier(p, y, k), low=intervals[2][0], high=intervals[2][1]),
        ece=calibration_error(p, y, k),
        rate_error=float(np.abs(p - y / k)[several].mean()) if several.any() else None,
        bins=reliability(p, y, k),
    )


def accuracy(p: Array, y: Array, k: Array) -> float:
    """Share of replies on the predicted side of 1/2."""
    return float(np.where(p >= 0.5, y, k - y).sum() / k.sum())


def brier(p: Array, y: Array, k: Array) -> float:
    """Mean squared error of the probability against single replies."""
    return float((y * (1 - p) ** 2 + (k - y) * p**2).sum() / k.sum())


def auroc(p: Array, y: Array, k: Array) -> float | None:
    """Chance that a refused reply's prompt was rated above an answered one's, ties half; None with one kind only."""
    order = np.argsort(p, kind="stable")
    _, first = np.unique(p[order], return_index=True)
    positive, negative = np.add.reduceat(y[order], first), np.add.reduceat((k - y)[order], first)
    n_positive, n_negative = positive.sum(), negative.sum()
    if n_positive == 0 or n_negative == 0:
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (n_positive * n_negative))


def roc_curve(p: Array, y: Array, k: Array, *, n_points: int = 101) -> list[tuple[float, float]]:
    """Points (answered replies above the threshold, refused replies above it), both shares, thinned for a plot."""
    order = np.argsort(-p, kind="stable")
    last = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    positive, negative = np.cumsum(y[order])[last], np.cumsum((k - y)[order])[last]
    x = np.concatenate([[0.0], negative / max(1.0, negative[-1])])
    up = np.concatenate([[0.0], positive / max(1.0, positive[-1])])
    kept = np.unique(np.linspace(0, len(x) - 1, min(n_points, len(x))).astype(int))
    return [(round(float(a), 4), round(float(b), 4)) for a, b in zip(x[kept], up[kept], strict=True)]


def _bins_of(p: Array) -> NDArray[np.int64]:
    return np.minimum((p * N_BINS).astype(np.int64), N_BINS - 1)


def calibration_error(p: Array, y: Array, k: Array) -> float:
    """Expected calibration error over ten bins of equal width, weighted by replies."""
    bins = _bins_of(p)
    predicted = np.bincount(bins, p * k, N_BINS)
    observed = np.bincount(bins, y, N_BINS)
    return float(np.abs(predicted - observed).sum() / k.sum())


def reliability(p: Array, y: Array, k: Array) -> tuple[Bin, ...]:
    """The reliability diagram: one bin for each tenth that holds a prompt."""
    bins, found = _bins_of(p), []
    for number in range(N_BINS):
        inside = bins == number
        n = float(k[inside].sum())
        if n:
            hits = float(y[inside].sum())
            low, high = wilson_interval(hits, n)
            predicted = float((p * k)[inside].sum() / n)
            found.append(Bin(predicted=predicted, observed=hits / n, low=low, high=high, n_replies=int(n)))
    return tuple(found)


def _intervals(
    p: Array, y: Array, k: Array, groups: NDArray[Any] | None, seed: int
) -> list[tuple[float | None, float | None]]:
    rng = np.random.default_rng(seed)
    _, group = np.unique(np.arange(len(p)) if groups is None else groups, return_inverse=True)
    n_groups = int(group.max()) + 1
    draws: list[tuple[float, float, float]] = []
    for _ in range(N_RESAMPLES):
        times = np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups)[group]
        kept = times > 0
        a, b, c = p[kept], (y * times)[kept], (k * times)[kept]
        draws.append((accuracy(a, b, c), _or_nan(auroc(a, b, c)), brier(a, b, c)))
    return [_quantiles(column) for column in np.array(draws).T]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _quantiles(values: Array) -> tuple[float | None, float | None]:
    known = values[~np.isnan(values)]
    if len(known) < N_RESAMPLES / 2:
        return None, None
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


def paired_interval(
    first: Sequence[float], second: Sequence[float], *, groups: NDArray[Any] | None = None, n_resamples: int = 4000
) -> tuple[float, float, float]:
    """Mean of `second - first` over prompts with its 95 % bootstrap interval: (difference, low, high)."""
    change = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    _, group = np.unique(np.arange(len(change)) if groups is None else groups, return_inverse=True)
    totals, sizes = np.bincount(group, change), np.bincount(group)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(totals), (n_resamples, len(totals)))
    means = totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(change.mean()), float(low), float(high)
