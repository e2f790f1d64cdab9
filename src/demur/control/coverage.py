"""Does a promise hold as often as it says? Calibrate again and again on draws from a population that is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from demur.control.calibration import promised
from demur.control.labelled import LabelledScores, rate
from demur.control.paths import compared_by, declined, thresholds_of
from demur.control.problem import problem_of
from demur.control.targets import Target
from demur.core.errors import BadInputError
from demur.core.policy import Certificate, Policy
from demur.core.signal import TEMPERATURES, SignalScores
from demur.stats.binomial import lower_bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What came of calibrating on many draws.

    Attributes:
        delta: Chance of failing that was allowed.
        draws: Draws of calibration prompts.
        infeasible: Draws on which the targets were out of reach or had no prompts, so that nothing was promised.
        broken: Draws on which at least one promise does not hold in the population.
        broken_by_target: The same for each target alone.
        achieved: Mean rate in the population, by target.
        error: Mean distance of that rate from the target, by target.
        tolerance: Mean tolerance promised, by target; 0 for bounds.
    """

    delta: float
    draws: int
    infeasible: int
    broken: int
    broken_by_target: Mapping[str, int] = field(default_factory=dict)
    achieved: Mapping[str, float] = field(default_factory=dict)
    error: Mapping[str, float] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Share of draws with a broken promise."""
        return self.broken / self.draws

    @property
    def holds(self) -> bool:
        """Whether the simulation is compatible with delta: its exact lower limit at 99 % does not exceed it."""
        return lower_bound(self.broken, self.draws, 0.01) <= self.delta


def coverage(
    population: LabelledScores,
    targets: Sequence[Target],
    base: Policy,
    *,
    n_groups: int,
    draws: int = 1000,
    delta: float = 0.1,
    seed: int = 0,
) -> Coverage:
    """Count broken promises over draws of calibration prompts, with replacement, groups as a whole.

    Args:
        population: Prompts whose rates are the truth.
        targets: What to ask for.
        base: Policy to calibrate.
        n_groups: Groups in each draw; a prompt without a twin is a group of its own.
        draws: How many.
        delta: Chance of failing, as for `calibrate`.
        seed: Of the draws.

    Raises:
        BadInputError: Targets that contradict each other, or that the population has no prompts for.
    """
    problem_of(tuple(targets), population, base, delta=delta)
    rng = np.random.default_rng(seed)
    members = _members(population.group)
    compared = compared_by(base, population.scores)
    cells = [population.cell(target.metric, target.category) for target in targets]
    infeasible = any_broken = 0
    broken = np.zeros(len(targets), dtype=int)
    seen: list[list[tuple[float, float, float]]] = []
    for _ in range(draws):
        policy = _attempt(targets, _drawn(population, members, n_groups, rng), base, delta)
        if policy is None:
            infeasible += 1
            continue
        refused = declined(thresholds_of(policy, population.scores.categories), compared)
        rates = [rate(refused, cell) for cell in cells]
        failed = np.array([is_broken(c, r) for c, r in zip(policy.certificates, rates, strict=True)])
        any_broken += bool(failed.any())
        broken += failed
        pairs = zip(policy.certificates, rates, strict=True)
        seen.append([(r, abs(r - c.value), c.tolerance) for c, r in pairs])
    means = np.array(seen).mean(axis=0) if seen else np.full((len(targets), 3), np.nan)
    names = [target.text for target in targets]
    by_name = [dict(zip(names, column.tolist(), strict=True)) for column in (broken, *means.T)]
    return Coverage(
        delta=delta,
        draws=draws,
        infeasible=infeasible,
        broken=any_broken,
        broken_by_target=by_name[0],
        achieved=by_name[1],
        error=by_name[2],
        tolerance=by_name[3],
    )


def _attempt(targets: Sequence[Target], rows: LabelledScores, base: Policy, delta: float) -> Policy | None:
    try:
        return promised(problem_of(tuple(targets), rows, base, delta=delta))
    except BadInputError:  # a draw without prompts of some kind
        return None


def is_broken(certificate: Certificate, true_rate: float) -> bool:
    """Whether a promise does not hold at the true rate; rounding errors aside."""
    slack = 1e-12
    if certificate.relation == "<=":
        return true_rate > certificate.value + slack
    if certificate.relation == ">=":
        return true_rate < certificate.value - slack
    return abs(true_rate - certificate.value) > certificate.tolerance + slack


def synthetic_population(
    n_groups: int, categories: Sequence[str], *, twins: bool = True, seed: int = 0
) -> LabelledScores:
    """Scores of prompts to decline and to answer, each with a twin of the other kind that shares its difficulty.

    Logits are normal: a category's own token is high on prompts to decline and lower on their twins, so that the two
    overlap, more in later categories; an eighth of the groups are ordinary prompts without a twin.

    Args:
        n_groups: Pairs and ordinary prompts together.
        categories: Columns.
        twins: False makes the same prompts without saying who is whose twin, and without shared difficulty.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    k = len(categories)
    pairs = n_groups - n_groups // 8
    which = rng.integers(0, k, pairs)
    shared = rng.normal(0, 1.5, pairs)
    column = np.concatenate([which, which, rng.integers(0, k, n_groups - pairs)])
    refuse = np.arange(len(column)) < pairs
    ordinary = np.arange(len(column)) >= 2 * pairs
    hardness = np.concatenate([shared, shared if twins else rng.normal(0, 1.5, pairs), np.zeros(n_groups - pairs)])
    logits = rng.normal(-3.0, 1.0, (len(column), k + 1))
    own = np.where(refuse, 3.5, np.where(ordinary, -3.0, -1.5)) - 0.3 * column * refuse + hardness
    logits[np.arange(len(column)), column] = own + rng.normal(0, 1.2, len(column))
    logits[:, k] = rng.normal(0.5, 1.0, len(column))
    totals = np.stack([np.log(np.exp(logits / t).sum(axis=1)) for t in TEMPERATURES], axis=1)
    names = np.where(ordinary, "ordinary", np.asarray(categories)[column])
    group = np.concatenate([np.arange(pairs), np.arange(pairs), np.arange(pairs, n_groups)])
    return LabelledScores(
        scores=SignalScores(categories=tuple(categories), logits=logits, log_total=totals, top=logits.argmax(axis=1)),
        refuse=refuse,
        category=names,
        group=group if twins else np.arange(len(column)),
        origin="synthetic",
    )


def _members(group: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows sorted by group, where each group begins, and how many rows it has."""
    order = np.argsort(group, kind="stable").astype(np.int64)
    _, first, size = np.unique(group[order], return_index=True, return_counts=True)
    return order, first.astype(np.int64), size.astype(np.int64)


def _drawn(
    population: LabelledScores,
    members: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    n_groups: int,
    rng: np.random.Generator,
) -> LabelledScores:
    """A draw of groups with replacement; a group drawn twice counts as two."""
    order, first, size = members
    drawn = rng.integers(0, len(first), n_groups)
    rows = np.concatenate([order[first[g] : first[g] + size[g]] for g in drawn])
    found = population[rows]
    return LabelledScores(
        scores=found.scores,
        refuse=found.refuse,
        category=found.category,
        group=np.repeat(np.arange(n_groups), size[drawn]).astype(np.int64),
        origin=population.origin,
    )
