"""Look for better settings than the suggested ones: a small search by successive halving on held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import train_test_split

from demur.tsetlin.estimator import TsetlinMachineClassifier
from demur.tsetlin.sizing import clauses_for, epochs_for, threshold_for

Settings = dict[str, float | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a search found.

    `best` can be given to the classifier as keyword arguments; `trials` lists, for each setting, the settings, the
    passes made and the accuracy on the held-out rows, best first. The best of many is flattered by the choice: judge
    the chosen settings on rows that took no part.
    """

    best: Settings
    trials: tuple[tuple[Settings, int, float], ...]


def tune(
    X: Any,
    y: Any,
    *,
    classifier: TsetlinMachineClassifier | None = None,
    specificities: Sequence[float] | None = None,
    margins: Sequence[float] = (0.25, 0.5, 1.0, 2.0),
    held_out: float = 0.25,
    random_state: int = 0,
) -> Tuned:
    """Search specificity and threshold around the suggested ones.

    Every pair is tried for a quarter of the passes; the better third of them goes on to all passes, with two seeds.

    Args:
        X: As for the classifier's `fit`.
        y: Class labels.
        classifier: Its other settings are kept.
        specificities: Values of s; by default 1.5 to 10, or 10 to 100 without negated literals.
        margins: Thresholds, as multiples of the suggested one.
        held_out: Share of the rows that settings are compared on.
        random_state: Seed of the split and of every machine.
    """
    base = clone(classifier or TsetlinMachineClassifier()).set_params(calibration=0.0)
    split = train_test_split(X, np.asarray(y), test_size=held_out, stratify=y, random_state=random_state)
    n_classes, (n_rows, n_features) = len(np.unique(y)), split[0].shape
    n_clauses = base.n_clauses or clauses_for(n_rows, n_features, n_classes)
    suggested = threshold_for(n_clauses, n_classes, negated_literals=base.negated_literals)
    tried = specificities or ((1.5, 2.0, 4.0, 10.0) if base.negated_literals else (10.0, 30.0, 100.0))
    grid: list[Settings] = [
        {"n_clauses": n_clauses, "specificity": specificity, "threshold": margin * suggested}
        for specificity, margin in product(tried, margins)
    ]
    passes = base.n_epochs or epochs_for(n_rows)
    short = max(1, passes // 4)
    first = _ranked([(setting, short, _accuracy(base, setting, short, [random_state], split)) for setting in grid])
    seeds = [random_state + 1, random_state + 2]
    kept = [setting for setting, _, _ in first[: max(2, len(first) // 3)]]
    last = _ranked([(setting, passes, _accuracy(base, setting, passes, seeds, split)) for setting in kept])
    return Tuned(best={**last[0][0], "n_epochs": passes}, trials=(*last, *first[len(kept) :]))


def _ranked(trials: list[tuple[Settings, int, float]]) -> list[tuple[Settings, int, float]]:
    return sorted(trials, key=lambda trial: -trial[2])


def _accuracy(base: Any, setting: Settings, passes: int, seeds: Sequence[int], split: list[Any]) -> float:
    fit_rows, test_rows, fit_labels, test_labels = split
    machines = [clone(base).set_params(**setting, n_epochs=passes, random_state=seed) for seed in seeds]
    return float(np.mean([machine.fit(fit_rows, fit_labels).score(test_rows, test_labels) for machine in machines]))
