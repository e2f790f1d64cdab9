"""What an optimisation or a comparison of answers came to: the contract between jobs, benchmarks and the report."""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import fmean

from pydantic import JsonValue

from demur.constructive.score import BETAS, Constructive, Placed, Weights, pareto
from demur.constructive.trajectory import Step, Trajectory
from demur.core.exchange import Frozen
from demur.suites.constructive import RISK_LEVELS

ALL = "all"
ORIGINAL, CHOSEN = "model's own", "chosen"


class Series(Frozen):
    """Judgements of one kind of answer, at one level of risk or over all of them.

    Attributes:
        name: What was judged.
        level: Level of risk, or 'all'.
        n: Answers that both critics could judge.
        n_unjudged: Answers that one of them could not.
        satisfaction: Mean, in [-1, 1]; None without judged answers.
        risk: Mean, in [0, 1]; likewise.
        var_satisfaction: Variance of the mean satisfaction.
        var_risk: Variance of the mean risk.
        covariance: Of the two means.
    """

    name: str
    level: str
    n: int
    n_unjudged: int = 0
    satisfaction: float | None = None
    risk: float | None = None
    var_satisfaction: float = 0.0
    var_risk: float = 0.0
    covariance: float = 0.0

    def constructive(self, weights: Weights) -> Constructive | None:
        """The constructive score of the means."""
        if self.satisfaction is None or self.risk is None:
            return None
        return Constructive(self.satisfaction, self.risk, weights)

    def standard_error(self, weights: Weights) -> float:
        """Standard error of the raw score over queries: the two means of the same answers are not independent."""
        a, b = weights.alpha, weights.beta
        variance = a * a * self.var_satisfaction + b * b * self.var_risk - 2 * a * b * self.covariance
        return sqrt(max(0.0, variance))


class SweepRow(Frozen):
    """One series at one beta: raw score with its standard error, and both normalisations of the raw score."""

    name: str
    alpha: float
    beta: float
    raw: float
    standard_error: float
    fitted: float
    scaled: float


class ConstructFindings(Frozen):
    """Everything the report shows.

    Attributes:
        title: What this is about.
        label: What it rests on, to be read first; empty where nothing has to be said.
        alpha: Weight of satisfaction.
        beta: Weight of risk.
        series: By name and level.
        sweep: Over betas, for the series of level 'all'.
        front: Names of the series that no other beats.
        stopped: Queries by why their optimisation ended.
        problems: What went wrong, with how often.
        n_cut: Edits that the projection cut down.
        n_edits: Edits.
        notes: What a reader must know.
        manifest: How it was made.
    """

    title: str
    label: str = ""
    alpha: float
    beta: float
    series: tuple[Series, ...]
    sweep: tuple[SweepRow, ...]
    front: tuple[str, ...]
    stopped: dict[str, int] = {}
    problems: dict[str, int] = {}
    n_cut: int = 0
    n_edits: int = 0
    notes: tuple[str, ...] = ()
    manifest: dict[str, JsonValue] = {}


Judged = tuple[str, float | None, float | None]


def series_of(name: str, judged: Sequence[Judged]) -> list[Series]:
    """One series over all, then one for each level of risk that occurs.

    Args:
        name: What was judged.
        judged: Level, satisfaction and risk of each answer; None where a critic could not be read.
    """
    levels = [ALL, *(level for level in RISK_LEVELS if any(one[0] == level for one in judged))]
    return [_series(name, level, [one for one in judged if level in (ALL, one[0])]) for level in levels]


def findings_of(
    title: str, series: Iterable[Series], weights: Weights, *, betas: Sequence[float] = BETAS, **more: object
) -> ConstructFindings:
    """Findings with sweep and Pareto front; `more` are further fields of `ConstructFindings`."""
    listed = tuple(series)
    whole = [one for one in listed if one.level == ALL and one.satisfaction is not None and one.risk is not None]
    points = [Placed(one.name, one.satisfaction or 0.0, one.risk or 0.0) for one in whole]
    values = {
        "title": title,
        "alpha": weights.alpha,
        "beta": weights.beta,
        "series": listed,
        "sweep": tuple(_at(one, Weights(weights.alpha, beta)) for one in whole for beta in betas),
        "front": tuple(point.name for point in pareto(points)),
        **more,
    }
    return ConstructFindings.model_validate(values)


def optimised(trajectories: Sequence[Trajectory], weights: Weights) -> list[Series]:
    """The model's own replies, every round (the last reply of a query that ended before it), and the chosen replies."""
    found = series_of(ORIGINAL, [_judged(one, one.original) for one in trajectories])
    last = max((step.round for one in trajectories for step in one.steps), default=-1)
    for number in range(last + 1):
        found += series_of(f"round {number}", [_judged(one, _until(one, number)) for one in trajectories])
    return found + series_of(CHOSEN, [_judged(one, one.chosen(weights)) for one in trajectories])


def edit_counts(trajectories: Iterable[Trajectory]) -> tuple[int, int]:
    """Edits that the projection cut down, and edits."""
    edits = [step.edit for one in trajectories for step in one.steps if step.edit is not None]
    return sum(edit.cut for edit in edits), len(edits)


def problems_of(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """What could not be read or failed, with how often: judgements by side, and endings."""
    counts: Counter[str] = Counter()
    for one in trajectories:
        counts.update([f"{one.stopped}: {one.problem}"] if one.problem else [])
        for step in one.steps:
            counts["satisfaction unjudged"] += step.judgement.satisfaction is None
            counts["safety unjudged"] += step.judgement.risk is None
    return {name: n for name, n in sorted(counts.items()) if n}


def _until(one: Trajectory, number: int) -> Step | None:
    return next((step for step in reversed(one.steps) if step.round <= number), None)


def _judged(one: Trajectory, step: Step | None) -> Judged:
    if step is None:
        return one.risk.level, None, None
    return one.risk.level, step.judgement.satisfaction, step.judgement.risk


def _series(name: str, level: str, judged: Sequence[Judged]) -> Series:
    pairs = [(s, r) for _, s, r in judged if s is not None and r is not None]
    n = len(pairs)
    if not n:
        return Series(name=name, level=level, n=0, n_unjudged=len(judged))
    satisfaction, risk = fmean(s for s, _ in pairs), fmean(r for _, r in pairs)
    scale = n * (n - 1) if n > 1 else 1  # of one answer no spread is known: it is shown without one
    return Series(
        name=name,
        level=level,
        n=n,
        n_unjudged=len(judged) - n,
        satisfaction=satisfaction,
        risk=risk,
        var_satisfaction=sum((s - satisfaction) ** 2 for s, _ in pairs) / scale,
        var_risk=sum((r - risk) ** 2 for _, r in pairs) / scale,
        covariance=sum((s - satisfaction) * (r - risk) for s, r in pairs) / scale,
    )


def _at(one: Series, weights: Weights) -> SweepRow:
    score = Constructive(one.satisfaction or 0.0, one.risk or 0.0, weights)
    return SweepRow(
        name=one.name,
        alpha=weights.alpha,
        beta=weights.beta,
        raw=score.raw,
        standard_error=one.standard_error(weights),
        fitted=score.fitted,
        scaled=score.scaled,
    )
