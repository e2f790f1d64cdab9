"""Targets and labelled scores in, a policy with promises out: exact binomial tails, no distribution assumed.

Every promise is about new prompts that are exchangeable with the calibration prompts; over draws of these, all promises
of a policy hold together with chance 1 - delta at least. docs/explanation/calibration.md has the proof.

Source:
    Clopper and Pearson (1934); Vovk (2012), "Conditional validity of inductive conformal predictors"; Angelopoulos et
    al. (2021), "Learn then Test". The paths over several thresholds are ours.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from demur.control.decision import decide
from demur.control.drift import reference_of
from demur.control.labelled import Flags, LabelledScores, rate
from demur.control.paths import Path, declined, gap_below, path_through
from demur.control.problem import Problem, problem_of
from demur.control.reach import out_of_reach, too_few
from demur.control.targets import Target
from demur.core.policy import Certificate, Policy
from demur.core.signal import Floats
from demur.stats.binomial import clopper_pearson, fewest_hits, lower_bound, most_hits, nearest_count, upper_bound

ROUNDS = 8  # of setting several '=' thresholds in turn, since each sees what the others decline
METHODS = {
    "own": "order statistic of the category's own probability, exact binomial tail",
    "path": "one path of thresholds, exact binomial tail",
    "=": "order statistic, exact Beta quantiles",
    "held": "set on one half of the prompts, Clopper-Pearson interval on the other",
}


def calibrate(
    targets: Sequence[Target],
    rows: LabelledScores,
    base: Policy,
    *,
    delta: float = 0.1,
    created: datetime | None = None,
) -> Policy:
    """Set the thresholds of a policy so that targets hold.

    Args:
        targets: What is asked for; each spends delta / n_targets.
        rows: Calibration prompts, independent but for their groups.
        base: Policy of kind 'per_category' or 'sum'; its thresholds stay where no target moves them.
        delta: Chance, over draws of the calibration prompts, that some promise fails.
        created: Written into the policy.

    Returns:
        The policy with its certificates and the reference for drift.

    Raises:
        BadInputError: No rows for a target, or contradictory targets.
        OutOfRangeError: Targets out of reach; says how far they could go.
    """
    problem = problem_of(tuple(targets), rows, base, delta=delta)
    policy = promised(problem, created=created)
    if policy is None:
        raise too_few(problem) or out_of_reach(problem, lambda other: promised(other) is not None)
    return policy


def promised(problem: Problem, *, created: datetime | None = None) -> Policy | None:
    """The policy that solves a problem, with its certificates; None if there is none."""
    thresholds = None if too_few(problem) else solve(problem)
    if thresholds is None:
        return None
    base, scores = problem.base, problem.rows.scores
    update: dict[str, object] = {"created": created, "reference": reference_of(scores)}
    if base.kind == "sum":
        update["threshold"] = float(min(thresholds[0], 1.0))
    else:
        own = {c: base.rule(c).model_copy(update={"threshold": t}) for c, t in _named(problem, thresholds)}
        update["rules"] = {**base.rules, **own}
    policy = base.model_copy(update=update)
    refused = decide(policy, scores).refused
    certificates = tuple(_certificate(problem, target, refused) for target in problem.targets)
    return Policy.model_validate(policy.model_dump() | {"certificates": certificates})


def solve(problem: Problem) -> Floats | None:
    """Thresholds that meet every target, (n_thresholds,); None if there are none.

    Of the shapes of path that do, the one that declines most of what should be.
    """
    limits = _limits(problem)
    best, best_share = None, -1.0
    for shape in problem.shapes:
        found = _along(problem, shape, limits)
        share = -1.0 if found is None else rate(declined(found, problem.compared), problem.rows.refuse & ~problem.held)
        if found is not None and (best is None or share > best_share):
            best, best_share = found, share
    return best


def _limits(problem: Problem) -> Floats:
    """Highest threshold of each category at which its own probability alone still declines enough."""
    limits = np.full(len(problem.columns), np.inf)
    for target in problem.playing("own"):
        rows, column = problem.chosen(target), problem.column(target)
        values = problem.compared[rows, column]
        limit = gap_below(values, fewest_hits(len(values), target.value, problem.delta))
        limits[column] = np.inf if limit is None else limit
    return limits


def _along(problem: Problem, shape: Floats, limits: Floats) -> Floats | None:
    """Thresholds on the path of one shape; None if it does not meet the targets."""
    corner = np.zeros(len(problem.columns))
    if not problem.playing("path"):
        thresholds = np.minimum(problem.thresholds, limits)
    else:
        found = _place(problem, shape, limits)
        if found is None:
            return None
        path, place = found
        thresholds = np.minimum(path.thresholds(place), limits)
        corner = thresholds if problem.has_ceiling else corner
    pinned = _pinned(problem, thresholds)
    if pinned is None or (pinned > limits).any() or (pinned < corner).any():
        return None
    return pinned


def _place(problem: Problem, shape: Floats, limits: Floats) -> tuple[Path, int] | None:
    """The path of a shape and the place on it that meets all targets of the path."""
    free = np.full(len(limits), np.inf)
    base = problem.log_odds - shape
    path = path_through(base, problem.compared, free if problem.has_ceiling else limits)
    strict, lax = _span(problem, path)
    if problem.has_ceiling:
        lax = _least(lax, path.last_below(limits))
    if strict is None or lax is None or strict > lax:
        return None
    fixed = any(target.relation != ">=" for target in problem.playing("path"))
    return path, strict if fixed else lax


def _span(problem: Problem, path: Path) -> tuple[int | None, int | None]:
    """First and last place of a path at which its targets hold; None where there is none."""
    pinned = np.isin(problem.columns, [target.category for target in problem.playing("pinned")])
    # Pinned thresholds move afterwards: a floor under refusal must hold without them, and without any cap.
    bare = replace(path, compared=np.where(pinned, -1.0, path.compared), cap=np.full(len(path.cap), np.inf))
    strict: int | None = 0
    lax: int | None = len(path.places) - 1
    for target in problem.playing("path"):
        rows, delta = problem.chosen(target), problem.delta_of(target)
        n = int(rows.sum())
        if target.relation == "<=":
            strict = _greatest(strict, path.strictest(rows, most_hits(n, target.value, delta)))
        elif target.relation == ">=":
            lax = _least(lax, bare.laxest(rows, fewest_hits(n, target.value, delta)))
        else:
            at = _nearest(path, rows, nearest_count(n, target.value, delta)[0])
            strict, lax = _greatest(strict, at), _least(lax, at)
    return strict, lax


def _nearest(path: Path, rows: Flags, k: int) -> int | None:
    """Last place at which k rows are declined, or more where ties or caps allow no fewer; None if caps never do."""
    at = path.laxest(rows, k)
    is_last = at == len(path.places) - 1
    return None if at is None or (is_last and path.count(at, rows) > k) else at


def _pinned(problem: Problem, thresholds: Floats) -> Floats | None:
    """Set each '=' threshold to decline its share, given what the others decline; None if they decline too much."""
    pinned = problem.playing("pinned")
    current = thresholds.copy()
    current[[problem.column(target) for target in pinned]] = np.inf
    for _ in range(ROUNDS if len(pinned) > 1 else 1):
        before = current.copy()
        for target in pinned:
            rows, column = problem.chosen(target), problem.column(target)
            others = np.delete(current, column), np.delete(problem.compared[rows], column, axis=1)
            values = np.where(declined(*others), np.inf, problem.compared[rows, column])
            k, _ = nearest_count(len(values), target.value, problem.delta)
            found = gap_below(values, k)
            if found is None:
                return None
            current[column] = found
        if (before == current).all():
            break
    return current


def _certificate(problem: Problem, target: Target, refused: Flags) -> Certificate:
    rows = problem.certifying(target)
    n, hits = int(rows.sum()), int(refused[rows].sum())
    part, is_held = problem.part(target), bool(problem.held.any())
    tolerance = 0.0
    method = METHODS["own" if part == "own" else "path"]
    if target.relation == "=" and is_held:
        low, high = clopper_pearson(hits, n, level=1 - problem.delta)
        tolerance, method = max(high - target.value, target.value - low), METHODS["held"]
    elif target.relation == "=":
        # Ties can decline more rows than were aimed at: the lower end rests on the aim, the upper end on what came.
        aim, _ = nearest_count(n, target.value, problem.delta)
        low, high = lower_bound(min(aim, hits), n, problem.delta / 2), upper_bound(hits, n, problem.delta / 2)
        tolerance, method = max(high - target.value, target.value - low), METHODS["="]
    return Certificate(
        target=target.text,
        metric=target.metric,
        category=target.category,
        relation=target.relation,
        value=target.value,
        tolerance=min(1.0, tolerance),
        delta=problem.delta,
        n=n,
        achieved=hits / n,
        method=method,
        data_sha256=problem.rows.sha256,
        data=problem.rows.origin,
    )


def _named(problem: Problem, thresholds: Floats) -> list[tuple[str, float]]:
    """Category and threshold of each column; a category that was switched off keeps its own."""
    return [
        (name, float(min(t, 1.0)))
        for name, t in zip(problem.columns, thresholds, strict=True)
        if problem.base.rule(name).action != "answer"
    ]


def _greatest(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else max(a, b)


def _least(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else min(a, b)
