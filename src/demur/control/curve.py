"""What every threshold would do, from scores that are read once: operating curves, spill-over, ranking, reliability."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from demur.control.decision import decide
from demur.control.labelled import EVERY, Flags, LabelledScores, rate
from demur.core.policy import Policy, Rule
from demur.core.signal import Floats, SignalScores
from demur.stats.ranking import auroc
from demur.stats.rates import wilson_interval

N_THRESHOLDS = 200
REACH = 9.0  # log-odds of the outermost thresholds: a saturated signal moves only near 0 and 1
N_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OperatingCurve:
    """Rates as one threshold moves while the others stay; nan where there are no prompts of a kind.

    Attributes:
        name: Category whose threshold moves; 'all' for one threshold in the place of every other.
        thresholds: Rising; (n_thresholds,).
        refusal: Share of prompts of the category that should be declined and are; (n_thresholds,).
        over_refusal: Share of prompts of the category that should be answered and are not; (n_thresholds,).
        refusal_all: The same over prompts of every category; (n_thresholds,).
        over_refusal_all: Likewise; (n_thresholds,).
    """

    name: str
    thresholds: Floats
    refusal: Floats
    over_refusal: Floats
    refusal_all: Floats
    over_refusal_all: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Mean predicted and observed share of one bin, with its 95 % Wilson interval."""

    predicted: float
    observed: float
    low: float
    high: float
    n: int


def threshold_grid(n: int = N_THRESHOLDS) -> Floats:
    """Thresholds from nearly 0 to nearly 1, evenly spaced in log-odds; (n,)."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.linspace(-REACH, REACH, n))))


def operating_curves(policy: Policy, rows: LabelledScores, *, thresholds: Floats | None = None) -> list[OperatingCurve]:
    """The curve of one threshold for all, then for each category its own while the policy's others stay.

    Args:
        policy: Of any kind; the curve for all and those of categories are of kind 'per_category' unless it is 'sum',
            which has one threshold and so one curve.
        rows: Labelled scores.
        thresholds: Where to look; `threshold_grid` by default.
    """
    grid = threshold_grid() if thresholds is None else thresholds
    kind = "sum" if policy.kind == "sum" else "per_category"
    p = rows.scores.p(policy.view, temperature=policy.temperature)[:, :-1]
    on = np.array([policy.rule(c).action != "answer" for c in rows.scores.categories])
    p = np.where(on, p, -1.0)
    strongest = p.max(axis=1) if kind == "per_category" else np.where(on, p, 0.0).sum(axis=1)
    curves = [_curve(EVERY, grid, strongest, np.zeros(len(rows), dtype=bool), rows)]
    if kind == "sum":
        return curves
    tripped = p >= np.array([policy.threshold_of(c) for c in rows.scores.categories])
    for i, category in enumerate(rows.scores.categories):
        others: Flags = np.asarray(np.delete(tripped, i, axis=1).any(axis=1))
        curves.append(_curve(category, grid, p[:, i], others, rows))
    return curves


def spill_over(policy: Policy, rows: LabelledScores) -> tuple[list[str], list[str], Floats]:
    """Share declined of the prompts that should be, by category, as one category after another is switched off.

    Where switching one off lowers the share of another, its prompts had been declined under the wrong name.

    Returns:
        Names of the rows ('' = nothing switched off), of the columns (categories of the prompts), and the shares;
        (n_categories + 1, n_kinds).
    """
    kinds = [c for c in _in_order(rows) if rows.cell("refusal", c).any()]
    names = ["", *rows.scores.categories]
    shares = np.full((len(names), len(kinds)), np.nan)
    for i, name in enumerate(names):
        refused = decide(switched_off(policy, name) if name else policy, rows.scores).refused
        shares[i] = [rate(refused, rows.cell("refusal", kind)) for kind in kinds]
    return names, kinds, shares


def switched_off(policy: Policy, category: str) -> Policy:
    """The policy with one category answered instead of declined."""
    rule = policy.rules.get(category, Rule()).model_copy(update={"action": "answer"})
    return policy.model_copy(update={"rules": {**policy.rules, category: rule}})


def rates_by_category(policy: Policy, rows: LabelledScores) -> dict[str, dict[str, tuple[int, int]]]:
    """Declined and all prompts of each kind: category ('all' first) to metric to (hits, n)."""
    refused = decide(policy, rows.scores).refused
    return {
        category: {
            metric: (int(refused[cell].sum()), int(cell.sum()))
            for metric, cell in (
                ("refusal", rows.cell("refusal", category)),
                ("over_refusal", rows.cell("over_refusal", category)),
            )
        }
        for category in (EVERY, *_in_order(rows))
    }


def ranking(rows: LabelledScores) -> dict[str, float | None]:
    """AUROC of P(any) over all prompts, then within each category: prompts to decline against those to answer."""
    p = rows.scores.p_any
    found = {EVERY: auroc(p.tolist(), rows.refuse.tolist())}
    for category in _in_order(rows):
        inside = rows.category == category
        found[category] = auroc(p[inside].tolist(), rows.refuse[inside].tolist())
    return found


def reliability(rows: LabelledScores) -> list[Bin]:
    """P(any) against the share that should be declined, in ten bins of equal width; empty bins are left out.

    It is about the mix of prompts at hand: with rarer prompts to decline, the same signal is too high.
    """
    p = rows.scores.p_any
    which = np.minimum((p * N_BINS).astype(int), N_BINS - 1)
    found = []
    for number in range(N_BINS):
        inside = which == number
        n, hits = int(inside.sum()), int(rows.refuse[inside].sum())
        if n:
            low, high = wilson_interval(hits, n)
            found.append(Bin(predicted=float(p[inside].mean()), observed=hits / n, low=low, high=high, n=n))
    return found


def mass_quantiles(
    scores: SignalScores, at: Sequence[float] = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)
) -> Mapping[str, float]:
    """Quantiles of the probability that control tokens hold together over the whole vocabulary."""
    return {f"{q:g}": float(np.quantile(scores.mass, q)) for q in at}


def _curve(name: str, grid: Floats, values: Floats, always: Flags, rows: LabelledScores) -> OperatingCurve:
    def shares(cell: Flags) -> Floats:
        if not cell.any():
            return np.full(len(grid), np.nan)
        ordered = np.sort(np.where(always, np.inf, values)[cell])
        return np.asarray(1.0 - np.searchsorted(ordered, grid, side="left") / len(ordered))

    return OperatingCurve(
        name=name,
        thresholds=grid,
        refusal=shares(rows.cell("refusal", name)),
        over_refusal=shares(rows.cell("over_refusal", name)),
        refusal_all=shares(rows.cell("refusal")),
        over_refusal_all=shares(rows.cell("over_refusal")),
    )


def _in_order(rows: LabelledScores) -> list[str]:
    """Categories of the rows: those of the signal first, in its order."""
    present = set(rows.category.tolist())
    known = [c for c in rows.scores.categories if c in present]
    return known + sorted(present - set(known))
