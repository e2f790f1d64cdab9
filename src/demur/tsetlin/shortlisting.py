"""Keep the few rules that are worth reading, and weigh them anew.

A machine votes with hundreds of rules that mostly repeat one another. Which of them are enough is a problem that
linear models solve well: each rule is one column (does it fire?), a penalty on the size of its weight, in proportion
to the rule's length, drops most columns, and the rest are fitted again without that penalty.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from demur.tsetlin.arrays import Rows, Whole
from demur.tsetlin.calibration import Calibration
from demur.tsetlin.machine import Machine
from demur.tsetlin.presence import count_rows
from demur.tsetlin.voting import fired

PENALTIES = np.geomspace(1e-4, 1.0, 40)
LARGEST_WEIGHT = 100
TOLERANCE = 1e-6


def shortlist(machine: Machine, rows: Rows, labels: Whole, *, n_literals: int) -> tuple[Machine, Calibration]:
    """The rules chosen and how their votes become probabilities.

    Args:
        machine: A machine for two classes, pruned.
        rows: Rows to choose and weigh the rules by.
        labels: Class numbers, 0 or 1.
        n_literals: Literals to read at most, all rules together; at least those of the one best rule are kept.
    """
    ballot = machine.ballot()
    slots = np.flatnonzero(ballot.clause >= 0)
    clauses = ballot.clause[slots]
    fires = fired(ballot, rows, 0, count_rows(rows))[:, slots].astype(np.float64)
    present, absent = machine.literals()
    lengths = (present.sum(axis=1) + absent.sum(axis=1))[clauses]
    chosen = _choose(fires, labels, lengths, n_literals)
    model = LogisticRegression(max_iter=1000).fit(fires[:, chosen], labels)
    return _weighed(machine, clauses[chosen], model.coef_[0], float(model.intercept_[0]))


def _choose(fires: NDArray[np.float64], labels: Whole, lengths: NDArray[Any], n_literals: int) -> NDArray[np.int64]:
    short = np.flatnonzero(lengths <= max(n_literals, lengths.min(initial=1)))
    scaled = fires[:, short] / lengths[short]
    best = short[:1]
    for penalty in PENALTIES:
        model = LinearSVC(C=penalty, penalty="l1", dual=False, max_iter=2000, random_state=0)
        weights = np.abs(model.fit(scaled, labels).coef_[0])
        chosen = short[weights > TOLERANCE]
        if lengths[chosen].sum() > n_literals:
            break
        if len(chosen):
            best = chosen
    return best


def _weighed(
    machine: Machine, clauses: Whole, weights: NDArray[np.float64], intercept: float
) -> tuple[Machine, Calibration]:
    """Whole-number weights for the clauses, none for the others; votes are never clipped."""
    scale = LARGEST_WEIGHT / max(float(np.abs(weights).max()), TOLERANCE)
    whole = np.rint(weights * scale).astype(np.int64)
    weight, sign = np.zeros_like(machine.clauses.weight), machine.clauses.sign.copy()
    weight[clauses], sign[clauses] = np.abs(whole), np.where(whole < 0, -1, 1)
    threshold = float(max(1, weight.sum()))
    included = np.where(weight[:, None] > 0, machine.clauses.included, np.uint64(0))
    shorter = machine.with_literals(included, weight, sign)
    offsets = np.array([0.0, intercept])
    return shorter, Calibration(threshold=threshold, slope=threshold / scale, offsets=offsets, measured=True)
