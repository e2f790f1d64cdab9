"""From votes to probabilities: a softmax over clipped votes; slope and class offsets are fitted to held-out rows.

Votes on the rows a machine learned from are far too sure (most sit at the threshold), so the classifier learns a
second machine without some of the rows, only to see how its votes on those rows relate to their labels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.tsetlin.arrays import Whole

Real = NDArray[np.float64]

PLAIN_SLOPE = 2.0  # near zero votes this gives (T + v) / 2T, the machine's own reading of its votes
SHRINKAGE = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """How votes become log-odds.

    `measured` says whether slope and offsets were fitted to held-out rows or are the machine's own reading.
    """

    threshold: float
    slope: float
    offsets: Real  # (n_classes,), the first is 0
    measured: bool

    def logits(self, votes: Whole) -> Real:
        """Unnormalised log-probabilities; (n_rows, n_classes)."""
        return self.slope * shares(votes, self.threshold) + self.offsets

    def probabilities(self, votes: Whole) -> Real:
        """Probabilities; (n_rows, n_classes)."""
        return _softmax(self.logits(votes))


def uncalibrated(threshold: float, n_classes: int) -> Calibration:
    """The machine's own reading of its votes."""
    return Calibration(threshold=threshold, slope=PLAIN_SLOPE, offsets=np.zeros(n_classes), measured=False)


def calibrate(votes: Whole, labels: Whole, *, threshold: float, n_classes: int) -> Calibration:
    """Fit slope and offsets by penalised maximum likelihood.

    Args:
        votes: Votes on rows that the machine has not learned from; (n_rows, n_banks).
        labels: Their class numbers; (n_rows,).
        threshold: Where votes are clipped.
        n_classes: Number of classes; some may be missing among the rows.
    """
    share = shares(votes, threshold)
    truth = np.eye(n_classes)[labels]
    slope, offsets = PLAIN_SLOPE, np.zeros(n_classes)
    # Offsets shrink to 0 and the slope to the plain reading: a handful of rows must not move the decision much.
    for _ in range(50):
        p = _softmax(slope * share + offsets)
        expected = (p * share).sum(axis=1, keepdims=True)
        gradient = np.append((p - truth).sum(axis=0) + SHRINKAGE * offsets, ((p - truth) * share).sum())
        gradient[-1] += SHRINKAGE * 0.1 * (slope - PLAIN_SLOPE)
        hessian = np.empty((n_classes + 1, n_classes + 1))
        hessian[:-1, :-1] = np.diag(p.sum(axis=0)) - p.T @ p + SHRINKAGE * np.eye(n_classes)
        hessian[:-1, -1] = hessian[-1, :-1] = (p * (share - expected)).sum(axis=0)
        hessian[-1, -1] = (p * (share - expected) ** 2).sum() + SHRINKAGE * 0.1
        step = np.linalg.solve(hessian, gradient)
        step *= min(1.0, 2.0 / np.abs(step).max(initial=1e-12))
        offsets, slope = offsets - step[:-1], float(slope - step[-1])
        if np.abs(step).max() < 1e-8:
            break
    slope = max(slope, 0.05)  # more votes never mean less
    return Calibration(threshold=threshold, slope=slope, offsets=offsets - offsets[0], measured=True)


def shares(votes: Whole, threshold: float) -> Real:
    """Clipped votes as a share of the threshold, one column per class; a single bank votes for its second class."""
    share = np.clip(votes / threshold, -1.0, 1.0)
    return np.hstack([-share, share]) / 2 if votes.shape[1] == 1 else share


def _softmax(logits: Real) -> Real:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
