"""What a calibration has to solve: the part each target plays, and which rows may be used for what.

A row that certifies an '=' target is used for nothing else wherever anything else could depend on it; contrast twins
count as one in this, since what holds for a prompt tells something about its twin.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from demur.control.labelled import EVERY, Flags, LabelledScores, logit
from demur.control.paths import compared_by, thresholds_of
from demur.control.targets import Target
from demur.core.errors import BadInputError
from demur.core.policy import Policy
from demur.core.signal import Floats

# "own": held by one category's own threshold; "pinned": sets one category's threshold; "path": moves all of them.
Part = Literal["own", "pinned", "path"]
# How much stricter than the rest the categories with targets of their own are tried, in log-odds.
SHAPES = (-2.0, 0.0, 2.0, 4.0, 7.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """Targets, rows, and the policy whose thresholds are to be set.

    Attributes:
        targets: What is asked for.
        rows: Calibration prompts.
        base: The policy; its own thresholds say where the path goes through.
        delta: Chance of failing that each single target may spend.
        compared: What thresholds are compared with; (n, n_thresholds).
        columns: Category of each threshold; '' for the single one of kind 'sum'.
        held: Rows that certify '=' targets and nothing else; (n,).
        half: The half of all rows that these are taken from; (n,), all False where none are held.
    """

    targets: tuple[Target, ...]
    rows: LabelledScores
    base: Policy
    delta: float
    compared: Floats
    columns: tuple[str, ...]
    held: Flags
    half: Flags

    def part(self, target: Target) -> Part:
        """The part a target plays."""
        return _part(target, self.columns)

    def playing(self, part: Part) -> list[Target]:
        """Targets that play a part."""
        return [target for target in self.targets if self.part(target) == part]

    @property
    def has_ceiling(self) -> bool:
        """Whether some target bounds over-refusal along the path."""
        return any(target.relation == "<=" for target in self.playing("path"))

    @property
    def shapes(self) -> list[Floats]:
        """How much stricter each threshold is on the paths to try, (n_thresholds,); each path spends its part of delta.

        Categories held by their own threshold are moved against the rest, with and without those that '=' pins.
        """
        own, pinned = (np.isin(self.columns, [t.category for t in self.playing(p)]) for p in ("own", "pinned"))
        if not self.has_ceiling or not (own | pinned).any():
            return [np.zeros(len(self.columns))]
        moved = {tuple((shift * group).tolist()) for shift in SHAPES for group in (own, own | pinned) if group.any()}
        return [np.array(shape) + 0.0 for shape in sorted(moved)]

    def delta_of(self, target: Target) -> float:
        """Chance of failing that one test of a target may spend."""
        return self.delta / len(self.shapes) if self.part(target) == "path" else self.delta

    def chosen(self, target: Target) -> Flags:
        """Rows on which thresholds are set for a target; (n,)."""
        away = self.half if target.category == EVERY else self.held
        return self.rows.cell(target.metric, target.category) & ~away

    def certifying(self, target: Target) -> Flags:
        """Rows that its certificate rests on; (n,)."""
        is_held = target.relation == "=" and bool(self.held.any())
        return self.rows.cell(target.metric, target.category) & self.held if is_held else self.chosen(target)

    @property
    def log_odds(self) -> Floats:
        """Log-odds of the thresholds of the base policy; (n_thresholds,)."""
        return logit(np.clip(self.thresholds, 1e-9, 1 - 1e-9))

    @property
    def thresholds(self) -> Floats:
        """Thresholds of the base policy; (n_thresholds,)."""
        return thresholds_of(self.base, self.rows.scores.categories)

    def column(self, target: Target) -> int:
        """Column of the threshold of a target's category."""
        return self.columns.index(target.category)


def problem_of(targets: tuple[Target, ...], rows: LabelledScores, base: Policy, *, delta: float) -> Problem:
    """Set a problem up.

    Args:
        targets: What is asked for.
        rows: Calibration prompts.
        base: Policy of kind 'per_category' or 'sum' whose thresholds are to be set.
        delta: Chance that some promise fails, over all targets.

    Raises:
        BadInputError: No rows for a target, or targets that contradict each other or the policy.
    """
    if base.kind not in ("per_category", "sum"):
        raise BadInputError(f"kind: expected per_category or sum to calibrate, got {base.kind}; choose one of them")
    if not 0 < delta < 1:
        raise BadInputError(f"--delta: expected a chance between 0 and 1, got {delta}; 0.1 means 10%")
    columns = rows.scores.categories if base.kind == "per_category" else ("",)
    for target in targets:
        _check_rows(target, rows)
        if target.metric == "refusal" and base.rule(target.category).action == "answer":
            raise BadInputError(
                f"--target {target.text}: expected a category that is declined, got the action 'answer' for "
                f"{target.category}; drop one of the two"
            )
    _check_pairs(targets, columns)
    held, half = _apart(targets, rows, columns)
    problem = Problem(
        targets=targets,
        rows=rows,
        base=base,
        delta=delta / len(targets),
        compared=compared_by(base, rows.scores),
        columns=columns,
        held=held,
        half=half,
    )
    for target in targets:
        if not problem.certifying(target).any() or not problem.chosen(target).any():
            raise BadInputError(f"--target {target.text}: expected rows on both sides of a split in two, got too few")
    return problem


def _part(target: Target, columns: tuple[str, ...]) -> Part:
    if target.category not in columns or target.relation == "<=":
        return "path"
    return "pinned" if target.relation == "=" else "own"


def _check_rows(target: Target, rows: LabelledScores) -> None:
    if not rows.cell(target.metric, target.category).any():
        side = "decline" if target.metric == "refusal" else "answer"
        where = "" if target.category == EVERY else f" of category {target.category}"
        raise BadInputError(
            f"--target {target.text}: expected prompts to {side}{where} in the calibration data, got none; add some"
        )


def _check_pairs(targets: tuple[Target, ...], columns: tuple[str, ...]) -> None:
    """One threshold cannot hit two numbers."""
    fixed: dict[str, Target] = {}
    for target in targets:
        if target.relation == "=":
            what = target.category if _part(target, columns) == "pinned" else ""
            other = fixed.setdefault(what, target)
            if other is not target:
                raise BadInputError(
                    f"--target {target.text}: expected one '=' target for each threshold, got {other.text} as well; "
                    "drop one or turn it into a bound"
                )


def _apart(targets: tuple[Target, ...], rows: LabelledScores, columns: tuple[str, ...]) -> tuple[Flags, Flags]:
    """Rows held back for '=' targets, and the half of all rows that these come from."""
    none = np.zeros(len(rows), dtype=bool)
    parts = {part: [t for t in targets if _part(t, columns) == part] for part in ("own", "pinned", "path")}
    equal = [target for target in targets if target.relation == "="]
    cells = none.copy()
    for target in equal:
        cells |= rows.cell(target.metric, target.category)
    touched = np.isin(rows.group, rows.group[cells])
    own_rows = none.copy()
    for target in parts["own"]:
        own_rows |= rows.cell(target.metric, target.category)
    entangled = (
        len(equal) > 1
        or (parts["pinned"] and parts["path"])
        or (equal and not parts["pinned"] and parts["own"])
        or bool((touched & own_rows).any())
    )
    if not equal or not entangled:
        return none, none
    groups = np.unique(rows.group)
    drawn = np.random.default_rng(0).permutation(groups)[: len(groups) // 2]
    half = np.isin(rows.group, drawn)
    return half & touched, half
