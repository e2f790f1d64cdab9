"""Where a gate should open: a border set on labelled prompts, with the rates it had there."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.core.errors import BadInputError
from demur.stats.ranking import auroc


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """A threshold and what it did to the prompts it was set on, which flatters it.

    Attributes:
        threshold: Scores from it on are inside.
        hits: Share of prompts to decline that are inside.
        false_alarms: Share of the others that are.
        auroc: Of the scores.
        n_positive: Prompts to decline.
        n_negative: The others.
    """

    threshold: float
    hits: float
    false_alarms: float
    auroc: float
    n_positive: int
    n_negative: int

    def __str__(self) -> str:
        return (
            f"{self.threshold:.4g}: {self.hits:.0%} of {self.n_positive} prompts to decline are inside, "
            f"{self.false_alarms:.0%} of {self.n_negative} others; AUROC {self.auroc:.2f}, on the prompts it was set on"
        )


def best_border(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], *, most_false_alarms: float | None = None
) -> Border:
    """The border with most hits less false alarms (Youden), or with most hits under a ceiling on false alarms.

    Args:
        scores: A number for each prompt; (n,).
        positive: Prompts that should be inside; (n,).
        most_false_alarms: Largest share of the others that may be inside.

    Raises:
        BadInputError: A side without prompts.
    """
    positive = np.asarray(positive, dtype=bool)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not (n_positive and n_negative):
        raise BadInputError(
            f"gate: expected prompts to decline and others to set its threshold on, got {n_positive} and {n_negative}"
        )
    values = np.unique(scores)
    # Halfway between neighbours, so that rounding on another machine moves nobody across.
    borders = np.concatenate([[values[0]], (values[:-1] + values[1:]) / 2, [np.nextafter(values[-1], np.inf)]])
    hits = np.array([(scores[positive] >= b).mean() for b in borders])
    alarms = np.array([(scores[~positive] >= b).mean() for b in borders])
    worth = hits - alarms if most_false_alarms is None else np.where(alarms <= most_false_alarms, hits, -1.0)
    best = int(np.flatnonzero(worth == worth.max())[-1])
    return Border(
        threshold=float(borders[best]),
        hits=float(hits[best]),
        false_alarms=float(alarms[best]),
        auroc=auroc(scores.tolist(), positive.tolist()) or 0.5,
        n_positive=n_positive,
        n_negative=n_negative,
    )
