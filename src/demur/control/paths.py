"""Thresholds as one number: a path from declining everything to declining nothing, every threshold rising along it.

Whatever a policy declines at one place of the path, it declines at every stricter place; so one binomial tail at one
place speaks for the whole rest of the path.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from demur.control.labelled import Flags, logit
from demur.core.policy import Policy
from demur.core.signal import Floats, SignalScores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Path:
    """Thresholds along a path, and the rows that walk along it.

    Attributes:
        base: Log-odds of the thresholds at place 0; (n_thresholds,).
        cap: Highest value of each threshold; (n_thresholds,).
        compared: What thresholds are compared with; (n, n_thresholds), -1 where a category is switched off.
        places: Shifts of the log-odds, rising: the first is the strictest; no row's value lies on one of them.
    """

    base: Floats
    cap: Floats
    compared: Floats
    places: Floats

    def thresholds(self, place: int) -> Floats:
        """Thresholds at a place; (n_thresholds,)."""
        with np.errstate(over="ignore"):
            return np.asarray(np.minimum(1.0 / (1.0 + np.exp(-(self.base + self.places[place]))), self.cap))

    def count(self, place: int, rows: Flags) -> int:
        """How many of some rows are declined at a place."""
        return int(declined(self.thresholds(place), self.compared[rows]).sum())

    def strictest(self, rows: Flags, most: int) -> int | None:
        """First place at which at most so many rows are declined; None if there is none."""
        place = _first(len(self.places), lambda i: self.count(i, rows) <= most)
        return place if place < len(self.places) else None

    def laxest(self, rows: Flags, fewest: int) -> int | None:
        """Last place at which at least so many rows are declined; None if there is none."""
        place = _first(len(self.places), lambda i: self.count(i, rows) < fewest) - 1
        return place if place >= 0 else None

    def last_below(self, limits: Floats) -> int | None:
        """Last place at which no threshold exceeds its limit; None if there is none."""
        place = _first(len(self.places), lambda i: bool((self.thresholds(i) > limits).any())) - 1
        return place if place >= 0 else None


def path_through(base: Floats, compared: Floats, cap: Floats) -> Path:
    """The path through thresholds with these log-odds, with a place between any two rows that it can tell apart."""
    odds = np.where(compared < 0, -np.inf, logit(np.clip(compared, 0.0, 1.0)))
    values = np.unique((odds - base).max(axis=1))
    values = values[np.isfinite(values)]
    between = (values[:-1] + values[1:]) / 2
    first = values[:1] - 0.1
    return Path(base=base, cap=cap, compared=compared, places=np.concatenate([[-np.inf], first, between, [np.inf]]))


def compared_by(policy: Policy, scores: SignalScores) -> Floats:
    """What a policy of kind 'per_category' or 'sum' compares with its thresholds; (n, n_categories) or (n, 1)."""
    p = scores.p(policy.view, temperature=policy.temperature)[:, :-1]
    on = np.array([policy.rule(c).action != "answer" for c in scores.categories])
    if policy.kind == "per_category":
        return np.asarray(np.where(on, p, -1.0))
    total = np.clip(np.where(on, p, 0.0).sum(axis=1), 0.0, 1.0)
    return np.asarray(total[:, None] if on.any() else np.full((len(p), 1), -1.0))


def thresholds_of(policy: Policy, categories: Sequence[str]) -> Floats:
    """Thresholds of such a policy, in the order of what `compared_by` returns."""
    if policy.kind == "sum":
        return np.array([policy.threshold])
    return np.array([policy.threshold_of(name) for name in categories])


def declined(thresholds: Floats, compared: Floats) -> Flags:
    """Rows that some threshold declines; (n,)."""
    return np.asarray((compared >= thresholds).any(axis=1))


def gap_below(values: Floats, k: int) -> float | None:
    """A threshold at or above which exactly the k largest values lie, ties aside: between the k-th and the next.

    Args:
        values: Probabilities; infinite where a row is declined anyhow.
        k: How many, from 0.

    Returns:
        The threshold, or None where none in [0, 1] does it.
    """
    ordered = np.sort(values)[::-1]
    upper = float(ordered[k - 1]) if k else np.inf
    lower = float(ordered[k]) if k < len(ordered) else 0.95 * min(upper, 1.0)
    if np.isinf(lower) or (np.isinf(upper) and lower >= 1.0):
        return None
    middle = (lower + min(upper, 1.0)) / 2
    return middle if lower < middle else min(upper, 1.0)


def _first(n: int, holds: Callable[[int], bool]) -> int:
    """First of 0 ... n - 1 from which on a condition holds; n if it never does."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
