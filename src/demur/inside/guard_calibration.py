"""From a guard's score to a decision: a threshold at a stated rate of false alarms, and probabilities.

Set on prompts the guard was not fitted on. Nothing here knows what the score is.
"""

from collections.abc import Sequence
from math import ceil
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from demur.core.errors import BadInputError
from demur.core.exchange import Frozen

Doubles = NDArray[np.float64]
Finite = Annotated[float, Field(allow_inf_nan=False)]
FLATTEST = 1e-6  # a slope below it would turn the ranking round
_STEPS = 60
_SHARPNESS = np.exp(np.linspace(np.log(0.5), np.log(500.0), 60))


class Calibration(Frozen):
    """How a score is read.

    Attributes:
        threshold: Score from which a prompt counts as harmful.
        rate: Share of false alarms it was set for.
        slope: Of the log-odds, above 0.
        intercept: Log-odds at score 0.
        sharpness: Of the softmax that shares the probability among categories.
        n_benign: Harmless prompts it was set on.
        n_look_alikes: Those among them that look harmful.
        n_harmful: Harmful prompts it was set on.
    """

    threshold: Finite
    rate: Annotated[float, Field(gt=0, lt=1)]
    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    intercept: Finite
    sharpness: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    n_benign: int
    n_look_alikes: int
    n_harmful: int

    def probability(self, scores: ArrayLike) -> Doubles:
        """Probability of harmful, as if both sides were equally frequent; (n,)."""
        odds = self.slope * np.asarray(scores, dtype=np.float64) + self.intercept
        return np.asarray(0.5 * (1.0 + np.tanh(odds / 2)))

    def shares(self, scores: ArrayLike) -> Doubles:
        """How the probability divides among categories; (n, n_categories), rows sum to 1."""
        return _softmax(self.sharpness * np.asarray(scores, dtype=np.float64))

    def sharpened(self, scores: ArrayLike, category: NDArray[np.int64]) -> "Calibration":
        """The same with the sharpness that makes known categories likeliest.

        Args:
            scores: Of harmful prompts against each category; (n, n_categories).
            category: Column each belongs to; (n,).
        """
        rows = np.asarray(scores, dtype=np.float64)
        if not len(rows):
            return self
        losses = [
            -np.log(np.maximum(_softmax(s * rows)[np.arange(len(rows)), category], 1e-12)).mean() for s in _SHARPNESS
        ]
        return self.model_copy(update={"sharpness": float(_SHARPNESS[int(np.argmin(losses))])})


def calibrate(
    scores: ArrayLike, harmful: Sequence[bool], *, rate: float, look_alike: Sequence[bool] | None = None
) -> Calibration:
    """Set threshold and probabilities.

    The threshold is the smallest score that keeps the promise for one more harmless prompt like these, not only for
    these: its rank among n scores is ceil((n + 1)(1 - rate)).

    Args:
        scores: Of prompts the guard was not fitted on; (n,).
        harmful: Their sides.
        rate: False alarms allowed among harmless prompts.
        look_alike: Harmless prompts that look harmful.

    Raises:
        BadInputError: A rate outside (0, 1), too few harmless prompts for it, or no harmful ones.

    Source:
        Vovk, Gammerman and Shafer (2005), "Algorithmic Learning in a Random World", section 2.2 (the rank); Platt
        (1999), "Probabilistic outputs for support vector machines" (smoothed targets).
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(harmful, dtype=bool)
    if not 0 < rate < 1:
        raise BadInputError(f"--fpr: expected a share between 0 and 1, got {rate}; 0.05 means 5%")
    benign, n_harmful = np.sort(s[~y]), int(y.sum())
    rank = ceil((len(benign) + 1) * (1 - rate) - 1e-9)
    if rank > len(benign) or not n_harmful:
        fewest = ceil(1 / rate) - 1
        raise BadInputError(
            f"guard: expected at least {fewest} harmless prompts to keep false alarms at {rate:.1%}, and a harmful "
            f"one, got {len(benign)} and {n_harmful}; add prompts or raise --fpr"
        )
    slope, intercept = _logistic(s, y)
    return Calibration(
        threshold=float(np.nextafter(benign[rank - 1], np.inf)),
        rate=rate,
        slope=slope,
        intercept=intercept,
        n_benign=len(benign),
        n_look_alikes=0 if look_alike is None else int((np.asarray(look_alike, dtype=bool) & ~y).sum()),
        n_harmful=n_harmful,
    )


def _logistic(scores: Doubles, harmful: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of the log-odds; both sides weigh alike, targets are smoothed, the slope never falls."""
    up, down = int(harmful.sum()), int((~harmful).sum())
    target = np.where(harmful, (up + 1) / (up + 2), 1 / (down + 2))
    weight = np.where(harmful, 0.5 / up, 0.5 / down)
    middle, spread = float(scores.mean()), float(scores.std()) or 1.0
    x = np.stack([(scores - middle) / spread, np.ones_like(scores)], axis=1)
    found = np.zeros(2)
    loss = _loss(x @ found, target, weight)
    for _ in range(_STEPS):
        p = 0.5 * (1 + np.tanh(x @ found / 2))
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, x.T @ (weight * (target - p)))
        share = next(
            (q for q in (1.0, 0.5, 0.25, 0.1, 0.01) if _loss(x @ (found + q * step), target, weight) < loss), 0
        )
        found, before = found + share * step, loss
        loss = _loss(x @ found, target, weight)
        if before - loss < 1e-12:
            break
    slope = max(float(found[0]) / spread, FLATTEST)
    return slope, float(found[1]) - slope * middle


def _loss(odds: Doubles, target: Doubles, weight: Doubles) -> float:
    return float((weight * (np.logaddexp(0.0, odds) - target * odds)).sum())


def _softmax(rows: Doubles) -> Doubles:
    whole = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(whole / whole.sum(axis=1, keepdims=True))
