"""What a classifier's settings must be, and what they mean for the machine."""

from typing import Any

import numpy as np

from demur.tsetlin.arrays import Whole
from demur.tsetlin.machine import LearningRates
from demur.tsetlin.sizing import specificity_for

FEWEST_HELD_OUT = 30
LARGEST_BATCH = 64  # the kernel notes a batch's rows in one word


def check_settings(settings: dict[str, Any]) -> None:
    """Raise ValueError naming the first setting that cannot be, what it must be, and what it is."""
    sizes = {"n_clauses": 2, "n_epochs": 1, "literal_budget": 1}
    for name, least in sizes.items():
        value = settings[name]
        if value is not None and (not float(value).is_integer() or value < least):
            raise ValueError(f"{name} must be a whole number of at least {least} or None, not {value!r}")
    limits = {
        "specificity": (settings["specificity"] is None or settings["specificity"] > 1, "above 1 or None"),
        "threshold": (settings["threshold"] is None or settings["threshold"] > 0, "above 0 or None"),
        "clause_drop": (0 <= settings["clause_drop"] < 1, "at least 0 and below 1"),
        "calibration": (0 <= settings["calibration"] < 1, "at least 0 and below 1"),
        "batch_size": (
            settings["batch_size"] >= 1 and (settings["device"] or settings["batch_size"] <= LARGEST_BATCH),
            f"from 1 to {LARGEST_BATCH}",
        ),
    }
    for name, (holds, expected) in limits.items():
        if not holds:
            raise ValueError(f"{name} must be {expected}, not {settings[name]!r}")


def rates_of(settings: dict[str, Any], threshold: float) -> LearningRates:
    """The settings a pass over the rows needs."""
    names = ("boost_true_positive", "weighted", "literal_budget", "clause_drop", "batch_size")
    specificity = settings["specificity"] or specificity_for(negated_literals=settings["negated_literals"])
    return LearningRates(threshold=threshold, specificity=specificity, **{name: settings[name] for name in names})


def hold_out(labels: Whole, share: float, generator: np.random.Generator) -> Whole:
    """Rows to calibrate with: this share of every class, or none where that makes too few to learn anything from."""
    chosen = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: round(share * len(rows))])
    rows = np.sort(np.concatenate(chosen))
    return rows if len(rows) >= FEWEST_HELD_OUT else rows[:0]
