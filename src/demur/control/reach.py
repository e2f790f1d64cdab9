"""Why a target is out of reach, and how far it could go with the others as they are."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil, floor

from demur.control.problem import Problem
from demur.control.targets import Target
from demur.core.errors import OutOfRangeError
from demur.stats.binomial import fewest_hits, fewest_trials, lower_bound, most_hits, upper_bound

Feasible = Callable[[Problem], bool]
STEPS = 12  # halvings: rates are told to three digits
GRID = 50  # values of an '=' target that are tried


def too_few(problem: Problem) -> OutOfRangeError | None:
    """The error for a target that so few prompts cannot show, whatever the signal; None if all can be shown."""
    for target in problem.targets:
        n, delta = int(problem.chosen(target).sum()), problem.delta_of(target)
        if target.relation == "<=" and most_hits(n, target.value, delta) < 0:
            best, clean = f"from {_up(upper_bound(0, n, delta))} up", "declined"
            needed = fewest_trials(1 - target.value, delta) if target.value > 0 else None
        elif target.relation == ">=" and fewest_hits(n, target.value, delta) > n:
            best, clean = f"up to {_down(lower_bound(n, n, delta))}", "answered"
            needed = fewest_trials(target.value, delta) if target.value < 1 else None
        else:
            continue
        remedy = f"{needed} prompts would do" if needed else "no number of prompts would do"
        return OutOfRangeError(
            f"--target {target.text}: out of reach: {n} prompts cannot show it at delta {delta:.3g} even if none were "
            f"{clean}; reachable: {best}; {remedy}"
        )
    return None


def out_of_reach(problem: Problem, feasible: Feasible) -> OutOfRangeError:
    """The error for targets that no thresholds meet.

    Args:
        problem: The problem without a solution.
        feasible: Whether another problem has one.
    """
    for target in reversed(problem.targets):
        found = _range(problem, target, feasible)
        if found is not None:
            others = [other.text for other in problem.targets if other != target]
            beside = f" beside {', '.join(others)}" if others else ""
            return OutOfRangeError(
                f"--target {target.text}: out of reach for this signal{beside} "
                f"({int(problem.chosen(target).sum())} prompts, delta {problem.delta_of(target):.3g}); "
                f"reachable: {found}; loosen a target, or calibrate on more prompts"
            )
    named = ", ".join(target.text for target in problem.targets)
    return OutOfRangeError(
        f"--target {named}: out of reach together for this signal, whichever of them is loosened; drop one"
    )


def _range(problem: Problem, target: Target, feasible: Feasible) -> str | None:
    """Values of a target that can be met with the others as they are."""

    def works(value: float) -> bool:
        changed = target.model_copy(update={"value": value})
        return feasible(replace(problem, targets=tuple(changed if t == target else t for t in problem.targets)))

    if target.relation == "=":
        good = [i / GRID for i in range(GRID + 1) if works(i / GRID)]
        return f"{min(good):.2f} to {max(good):.2f}" if good else None
    near, far = target.value, 1.0 if target.relation == "<=" else 0.0
    # Nothing can be shown about 0 and 1 themselves.
    far = abs(far - 0.5**STEPS)
    if not works(far):
        return None
    for _ in range(STEPS):
        middle = (near + far) / 2
        near, far = (near, middle) if works(middle) else (middle, far)
    return f"from {_up(far)} up" if target.relation == "<=" else f"up to {_down(far)}"


def _up(rate: float) -> str:
    return f"{ceil(1000 * rate) / 1000:g}"


def _down(rate: float) -> str:
    return f"{floor(1000 * rate) / 1000:g}"
