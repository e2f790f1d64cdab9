"""The best that any predictor of refusals could do: how far the target model's own chance and wrong labels limit it.

A model that samples its replies refuses a prompt with some rate. Whoever knew every prompt's true rate would still
be wrong on single replies, and that is the ceiling. It can be estimated from prompts with several replies.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_PROMPTS = 20  # with two or more replies, before a distribution of rates is fitted
N_RESAMPLES = 200
_GRID = 4001


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One figure of the oracle with its 95 % bootstrap interval over prompts; all fractions."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What an oracle that knows each prompt's true refusal rate would reach on single replies.

    Attributes:
        accuracy: Expected accuracy.
        auroc: Expected area under the ROC curve.
        brier: Expected Brier score: the floor that nobody gets below.
        dispersion: Correlation of two replies to the same prompt, in [0, 1]: 1 means that the model always does the
            same, 0 that the prompt does not matter.
        n_prompts: Prompts with two or more replies.
        n_replies: Their replies.
        label_accuracy: Most that a perfect predictor of the model's conduct can agree with labels of the stated
            sensitivity and specificity; None if neither was stated.
        method: 'beta-binomial', or 'none' where nothing could be estimated.
        note: What the reader must know.
    """

    accuracy: Bound | None
    auroc: Bound | None
    brier: Bound | None
    dispersion: Bound | None
    n_prompts: int
    n_replies: int
    label_accuracy: float | None
    method: str
    note: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def estimate_ceiling(
    n_refused: NDArray[np.float64],
    n_replies: NDArray[np.float64],
    *,
    sensitivity: float | None = None,
    specificity: float | None = None,
    seed: int = 0,
) -> Ceiling:
    """Estimate the ceiling from replies counted by prompt.

    The true rates are taken as Beta(a, b) over prompts, so the counts are beta-binomial; a and b are fitted by
    maximum likelihood on the prompts with two or more replies. Then, with p ~ Beta(a, b) and m = a / (a + b):
    accuracy = E[max(p, 1 - p)]; Brier = E[p (1 - p)] = a b / ((a + b)(a + b + 1)); dispersion = 1 / (a + b + 1);
    AUROC = P(q+ > q-) for q+ ~ Beta(a + 1, b), q- ~ Beta(a, b + 1), the rates of prompts behind a refused and an
    answered reply. Errors of the labels that are independent of each other are part of these figures, since the
    counts are counts of labels. Errors that repeat for a prompt are not; nor is anything when every prompt has one
    reply, where chance and pattern cannot be told apart.

    Args:
        n_refused: Replies labelled refused, by prompt; (n,).
        n_replies: Labelled replies by prompt; (n,).
        sensitivity: Of whatever made the labels, if known. With the specificity, and t the share of refusals
            corrected for both, `label_accuracy` = t * sensitivity + (1 - t) * specificity.
        specificity: The same for replies that were answers.
        seed: Of the bootstrap.

    Source:
        Skellam (1948), "A probability distribution derived from the binomial distribution by regarding the
        probability of success as variable between the sets of trials", JRSS B 10.
    """
    several = n_replies >= 2
    n_prompts, replies = int(several.sum()), int(n_replies[several].sum())
    rate = float(n_refused.sum() / max(1.0, n_replies.sum()))
    label_accuracy = _label_accuracy(rate, sensitivity, specificity)
    nothing: dict[str, Any] = dict.fromkeys(("accuracy", "auroc", "brier", "dispersion"))
    if n_prompts < FEWEST_PROMPTS:
        note = (
            f"{n_prompts} prompts have two or more replies and {FEWEST_PROMPTS} are needed: the model's own chance "
            "cannot be told from what the prompts do not show. Ask each prompt several times at the temperature of use."
        )
        return Ceiling(
            **nothing, n_prompts=n_prompts, n_replies=replies, label_accuracy=label_accuracy, method="none", note=note
        )
    pairs, repeats = np.unique(np.stack([n_refused[several], n_replies[several]]), axis=1, return_counts=True)
    point = _figures(*_fit(pairs, repeats.astype(float)))
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n_prompts, repeats / n_prompts, size=N_RESAMPLES).astype(float)
    low, high = np.quantile([_figures(*_fit(pairs, draw)) for draw in draws], (0.025, 0.975), axis=0)
    # The bootstrap of a fit at the edge may lie to one side of the estimate.
    bounds = [
        Bound(estimate=p, low=min(float(a), p), high=max(float(b), p)) for p, a, b in zip(point, low, high, strict=True)
    ]
    note = "Errors of the labels that repeat for a prompt are not part of it; a real ceiling may be lower."
    return Ceiling(
        accuracy=bounds[0],
        auroc=bounds[1],
        brier=bounds[2],
        dispersion=bounds[3],
        n_prompts=n_prompts,
        n_replies=replies,
        label_accuracy=label_accuracy,
        method="beta-binomial",
        note=note,
    )


def dispersion_of(n_refused: NDArray[np.float64], n_replies: NDArray[np.float64]) -> float:
    """Correlation of two replies to the same prompt by analysis of variance, in [0, 1]; 1 if no prompt has two.

    Source:
        Ridout, Demétrio & Firth (1999), "Estimating intraclass correlation for binary data", Biometrics 55(1).
    """
    several = n_replies >= 2
    y, k = n_refused[several], n_replies[several]
    n, total = len(k), float(k.sum())
    if n < 2:
        return 1.0
    within = float((y - y**2 / k).sum()) / (total - n)
    between = float(((y**2) / k).sum() - y.sum() ** 2 / total) / (n - 1)
    size = (total - float((k**2).sum()) / total) / (n - 1)
    spread = between + (size - 1) * within
    return 1.0 if spread <= 0 else float(np.clip((between - within) / spread, 0.0, 1.0))


def _label_accuracy(observed: float, sensitivity: float | None, specificity: float | None) -> float | None:
    if sensitivity is None or specificity is None:
        return None
    gain = sensitivity + specificity - 1
    true_rate = observed if gain <= 0 else min(1.0, max(0.0, (observed + specificity - 1) / gain))
    return true_rate * sensitivity + (1 - true_rate) * specificity


def _fit(pairs: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[float, float]:
    """Maximum likelihood of Beta(a, b) from (refused, replies) pairs, each with how many prompts show it."""
    from scipy.optimize import minimize
    from scipy.special import betaln

    y, k = pairs
    mean = float(np.clip((weight * y).sum() / (weight * k).sum(), 1e-3, 1 - 1e-3))

    def loss(at: NDArray[np.float64]) -> float:
        a, b = np.exp(np.clip(at, -7.0, 9.0))
        found = -(weight * (betaln(y + a, k - y + b) - betaln(a, b))).sum()
        return float(found + 1e-3 * (at**2).sum())  # keeps all-alike data from running off

    start = np.log([mean, 1 - mean])
    at = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-4}).x
    a, b = np.exp(np.clip(at, -7.0, 9.0))
    return float(a), float(b)


def _figures(a: float, b: float) -> tuple[float, float, float, float]:
    """Accuracy, AUROC, Brier score and dispersion of an oracle for rates from Beta(a, b)."""
    from scipy.special import betainc

    m = a / (a + b)
    # E[max(p, 1-p)] = E[p; p > 1/2] + E[1-p; p < 1/2], and p times the Beta density is that of Beta(a + 1, b).
    accuracy = m * (1 - betainc(a + 1, b, 0.5)) + (1 - m) * betainc(a, b + 1, 0.5)
    # Cells narrow towards both ends, where rates pile up.
    edges = (1 - np.cos(np.linspace(0, np.pi, _GRID))) / 2
    below_positive, below_negative = betainc(a + 1, b, edges), betainc(a, b + 1, edges)
    mass = np.diff(below_positive)
    auroc = float((mass * (below_negative[:-1] + below_negative[1:]) / 2).sum())
    return float(accuracy), auroc, a * b / ((a + b) * (a + b + 1)), 1 / (a + b + 1)
