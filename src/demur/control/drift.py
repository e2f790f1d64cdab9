"""Drift: do the scores that are served still look like those the policy was calibrated on?

The distribution of each category's probability over the last requests is held against its quantiles on the calibration
prompts (Kolmogorov-Smirnov distance). The bound is that of Dvoretzky, Kiefer and Wolfowitz for both samples, which
holds for any distribution, ties included, and any sample size; the chance of a false alarm is shared out over
categories and looks. The sampling error of the reference counts once, since it is the same at every look.

Source:
    Massart (1990), "The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality", Annals of Probability 18(3).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log, sqrt

import numpy as np
from pydantic import JsonValue

from demur.core.policy import Policy
from demur.core.signal import ANY, Floats, SignalScores

BINS = 32
# Where a policy does not say on how many prompts its reference rests.
FEWEST_REFERENCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One comparison of the window with the reference.

    Attributes:
        distance: Largest difference of the shares below any quantile, by category; a fraction.
        bound: Distance beyond which it is drift.
        n: Requests in the window.
        number: Which look this is, from 1.
    """

    distance: Mapping[str, float]
    bound: float
    n: int
    number: int

    @property
    def drifted(self) -> tuple[str, ...]:
        """Categories whose scores have moved."""
        return tuple(name for name, value in self.distance.items() if value > self.bound)


def reference_of(scores: SignalScores) -> dict[str, tuple[float, ...]]:
    """Quantiles 0, 1/32 ... 1 of each category's posterior, and under 'any' of their sum."""
    n = len(scores)
    at = [max(0, ceil(n * i / BINS) - 1) for i in range(BINS + 1)]
    return {name: tuple(float(v) for v in np.sort(column)[at]) for name, column in _columns(scores).items()}


class DriftMonitor:
    """Watches served scores with bounded memory: the last `window` requests and a few counts.

    Attributes:
        alarm: Whether the last look found drift; cleared by a look that does not.
        n_alarms: Looks that found drift.
        n_seen: Requests seen.
        last: The last look; None before the first.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        n_reference: int | None = None,
        window: int = 1024,
        every: int = 256,
        alpha: float = 0.01,
        looks: int = 10_000,
    ) -> None:
        """Watch against the reference of a policy.

        Args:
            policy: A calibrated policy; without a reference nothing is watched.
            n_reference: Calibration prompts of the reference; by default what the certificates rest on, which is a
                lower limit and errs towards silence.
            window: Requests that are compared; nothing is said before so many were seen.
            every: Requests between looks.
            alpha: Chance of any false alarm in `looks` looks.
            looks: Looks that alpha is shared out over; alpha is anew for the next so many.

        Raises:
            ValueError: A window shorter than a step, or not positive.
        """
        if not 0 < every <= window or not 0 < alpha < 1 or looks < 1:
            raise ValueError(f"expected 0 < every <= window and 0 < alpha < 1, got {every}, {window}, {alpha}")
        self._names = tuple(policy.reference)
        self._cuts = {name: _brackets(values) for name, values in policy.reference.items()}
        self._recent = np.zeros((window, len(self._names)))
        self._every = every
        n = n_reference or max([FEWEST_REFERENCE, *(certificate.n for certificate in policy.certificates)])
        self._bound = bound(n, window, n_categories=len(self._names), alpha=alpha, looks=looks)
        self.alarm = False
        self.n_alarms = self.n_seen = 0
        self.last: Look | None = None

    def observe(self, scores: SignalScores) -> None:
        """Take note of served requests, one row each."""
        if not self._names:
            return
        columns = _columns(scores)
        known = np.column_stack([columns.get(name, np.zeros(len(scores))) for name in self._names])
        for row in known:
            self._recent[self.n_seen % len(self._recent)] = row
            self.n_seen += 1
            if self.n_seen >= len(self._recent) and self.n_seen % self._every == 0:
                self._look()

    def _look(self) -> None:
        distance = {name: _distance(self._recent[:, i], *self._cuts[name]) for i, name in enumerate(self._names)}
        number = 1 if self.last is None else self.last.number + 1
        self.last = Look(distance=distance, bound=self._bound, n=len(self._recent), number=number)
        self.alarm = bool(self.last.drifted)
        self.n_alarms += self.alarm

    def summary(self) -> dict[str, JsonValue]:
        """The state as plain values for JSON."""
        last = self.last
        return {
            "alarm": self.alarm,
            "n_alarms": self.n_alarms,
            "n_seen": self.n_seen,
            "window": len(self._recent),
            "looks": last.number if last else 0,
            "bound": self._bound if self._names else None,
            "distance": {name: round(value, 6) for name, value in last.distance.items()} if last else {},
            "drifted": list(last.drifted) if last else [],
        }


def bound(n_reference: int, window: int, *, n_categories: int, alpha: float, looks: int) -> float:
    """Distance that two samples of one distribution exceed, in any category at any look, with chance alpha at most.

    Half of alpha goes to the reference, which is drawn once, half to the windows.
    """
    k = max(1, n_categories)
    of_reference = sqrt(log(4 * k / alpha) / (2 * n_reference))
    of_window = sqrt(log(4 * k * looks / alpha) / (2 * window))
    return of_reference + of_window


def _columns(scores: SignalScores) -> dict[str, Floats]:
    p = scores.p()
    named = {name: p[:, i] for i, name in enumerate(scores.categories)}
    return {**named, ANY: scores.p_any}


def _brackets(quantiles: tuple[float, ...]) -> tuple[Floats, Floats, Floats]:
    """Distinct quantiles; the share of the reference surely at or below each; the share surely not below it."""
    values = np.asarray(quantiles)
    cuts, first = np.unique(values, return_index=True)
    last = np.append(first[1:], len(values)) - 1
    return cuts, last / BINS, first / BINS


def _distance(values: Floats, cuts: Floats, at_or_below: Floats, below: Floats) -> float:
    """Largest difference of shares that the quantiles prove, which is at most the Kolmogorov-Smirnov distance."""
    ordered = np.sort(values)
    lacking = at_or_below - np.searchsorted(ordered, cuts, side="right") / len(values)
    beyond = np.searchsorted(ordered, cuts, side="left") / len(values) - below
    return float(np.maximum(lacking, beyond).max(initial=0.0))
