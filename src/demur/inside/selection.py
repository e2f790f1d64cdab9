"""Selection of one direction that carries refusal: removing it must stop refusals, adding it cause them, nothing break.

Every candidate is tried plain and, where it has loud coordinates, with those zeroed. Filters never hide anything: each
candidate keeps its numbers and the reasons it was rejected for, and that none survives is a result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from demur.activations.direction import Direction
from demur.core.direction_study import Attrition, Candidate, RandomTrial
from demur.core.errors import BadInputError
from demur.inside.honesty import FEWEST_DRAWS, random_like
from demur.inside.loudness import LoudCoordinate, Peaks, loud_coordinates, loudness, masked

KL_LIMIT = 0.1
HIGHEST_LAYER = 0.8  # of the blocks: later directions write the answer rather than decide it
SCREENED_SHARE = 0.25
Floats = NDArray[np.float64]
Variant = Literal["plain", "masked"]


class Trial(Protocol):
    """What selection needs to know of a model; every method is over the first `n` selection prompts of a side."""

    def bypass(self, direction: Direction, n: int, /) -> Floats:
        """Refusal metric of harmful prompts with the direction projected out everywhere; (n,)."""
        ...

    def induce(self, direction: Direction, n: int, /) -> Floats:
        """Refusal metric of harmless prompts with the raw direction added at its own layer; (n,)."""
        ...

    def divergence(self, direction: Direction, n: int, /) -> Floats:
        """KL(untouched || projected out) of the next token on harmless prompts; (n,)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A candidate with the direction it stands for."""

    direction: Direction
    candidate: Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The filters.

    Attributes:
        kl: Largest divergence on harmless prompts.
        highest_layer: Share of the blocks above which candidates are dropped.
        n_layers: Blocks of the model.
    """

    n_layers: int
    kl: float = KL_LIMIT
    highest_layer: float = HIGHEST_LAYER

    @property
    def top(self) -> int:
        """First residual index that is too late; a model of two or three blocks keeps at least index 1."""
        return max(2, int(self.highest_layer * self.n_layers))

    def rejections(self, candidate: Candidate, *, kl: float | None = None) -> tuple[str, ...]:
        """Why a candidate falls; empty if it survives. `kl` replaces the limit on divergence."""
        limit, found = self.kl if kl is None else kl, []
        numbers = (candidate.bypass, candidate.induce, candidate.kl)
        if any(number is None or not isfinite(number) for number in numbers):
            found.append("not a number")
        if candidate.layer >= self.top:
            found.append(f"layer {candidate.layer} is not below {self.top}")
        if candidate.kl is not None and candidate.kl > limit:
            found.append(f"kl {candidate.kl:.3f} above {limit:.3f}")
        if candidate.induce is not None and candidate.induce < 0:
            found.append(f"induce {candidate.induce:.2f} below 0")
        return tuple(found)


def candidates(directions: Sequence[Direction], peaks: Peaks | None, *, limits: Limits) -> list[Tried]:
    """Every direction plain, and once more with its loud coordinates zeroed if it has any.

    Layers above the limit are left out here, unmeasured: the filter would drop them whatever they do.
    """
    found = []
    for direction in directions:
        if direction.residual_index >= limits.top:
            continue
        loud = loud_coordinates(direction.vector, peaks) if peaks is not None else ()
        loudest = float(loudness(direction.vector, peaks).max()) if peaks is not None else 0.0
        found.append(_unmeasured(direction, "plain", loudest, ()))
        if loud:
            assert peaks is not None
            quiet = _quiet(direction, loud)
            found.append(_unmeasured(quiet, "masked", float(loudness(quiet.vector, peaks).max()), loud))
    return found


def measure(tried: Tried, trial: Trial, n: int) -> Tried:
    """The candidate with its three numbers on `n` prompts of each side."""
    measured = {
        "bypass": _mean(trial.bypass(tried.direction, n)),
        "induce": _mean(trial.induce(tried.direction, n)),
        "kl": _mean(trial.divergence(tried.direction, n)),
        "n": n,
    }
    return Tried(direction=tried.direction, candidate=tried.candidate.model_copy(update=measured))


def search(
    found: Sequence[Tried],
    trial: Trial,
    *,
    n: int,
    n_screen: int | None = None,
    remembered: Callable[[Tried, int], Tried | None] = lambda *_: None,
    done: Callable[[Tried], None] = lambda _: None,
) -> list[Tried]:
    """Measure all candidates: all of them on a few prompts, the best quarter on all.

    Args:
        found: Candidates.
        trial: The model.
        n: Prompts of each side.
        n_screen: Prompts for the first look; None measures everything on `n`.
        remembered: Numbers of an earlier run, if there are any.
        done: Told of each measured candidate.
    """

    def one(tried: Tried, n: int) -> Tried:
        measured = remembered(tried, n) or measure(tried, trial, n)
        done(measured)
        return measured

    if n_screen is None or n_screen >= n:
        return [one(t, n) for t in found]
    screened = [one(t, n_screen) for t in found]
    best = sorted(range(len(screened)), key=lambda i: _promise(screened[i].candidate))
    again = set(best[: max(1, round(SCREENED_SHARE * len(best)))]) if best else set()
    return [one(t, n) if i in again else t for i, t in enumerate(screened)]


def random_trials(
    trial: Trial, like: Sequence[Direction], *, n: int, n_draws: int = FEWEST_DRAWS, seed: int = 0
) -> list[RandomTrial]:
    """The same three numbers for random directions, of the raw length of a candidate each, at its layer.

    Raises:
        BadInputError: Fewer draws than a null distribution needs.
    """
    if n_draws < FEWEST_DRAWS:
        raise BadInputError(f"random directions: expected at least {FEWEST_DRAWS} draws, got {n_draws}")
    if not like:
        return []
    return [
        RandomTrial(
            layer=direction.residual_index,
            bypass=_mean(trial.bypass(direction, n)),
            induce=_mean(trial.induce(direction, n)),
            kl=_mean(trial.divergence(direction, n)),
        )
        for direction in random_like(like, n=n_draws, seed=seed)
    ]


def relative_limit(random: Sequence[RandomTrial]) -> float | None:
    """Largest divergence that a random direction caused: no candidate should be asked to be gentler than that."""
    found = [r.kl for r in random if r.kl is not None and isfinite(r.kl)]
    return max(found) if found else None


def filtered(
    measured: Sequence[Tried], limits: Limits, *, relative: float | None
) -> tuple[list[Tried], int | None, int | None]:
    """Candidates with their reasons, the best survivor, and the best under the larger of both limits.

    Only candidates measured on all prompts can be chosen; the others keep the reason that they were screened out.
    """
    most = max((t.candidate.n for t in measured), default=0)
    judged = []
    for t in measured:
        screened = () if t.candidate.n == most else (f"screened out on {t.candidate.n} prompts",)
        strict = limits.rejections(t.candidate) + screened
        loose = strict if relative is None else limits.rejections(t.candidate, kl=max(relative, limits.kl)) + screened
        update = {"rejected": strict, "rejected_relative": loose}
        judged.append(Tried(direction=t.direction, candidate=t.candidate.model_copy(update=update)))
    return judged, _best(judged, "rejected"), _best(judged, "rejected_relative")


def candidate_attrition(measured: Sequence[Candidate]) -> Attrition:
    """How many candidates survive, and what the others fell to, commonest first."""
    reasons: dict[str, int] = {}
    for candidate in measured:
        for reason in candidate.rejected:
            kind = reason.split(" ")[0] if not reason.startswith("not a") else "not a number"
            reasons[kind] = reasons.get(kind, 0) + 1
    listed = ", ".join(f"{k}: {n}" for k, n in sorted(reasons.items(), key=lambda item: -item[1]))
    return Attrition(name="candidates", n=len(measured), kept=sum(not c.rejected for c in measured), reason=listed)


def _best(tried: Sequence[Tried], reasons: str) -> int | None:
    alive = [i for i, t in enumerate(tried) if not getattr(t.candidate, reasons) and t.candidate.bypass is not None]
    return min(alive, key=lambda i: tried[i].candidate.bypass or 0.0) if alive else None


def _promise(candidate: Candidate) -> tuple[float, float]:
    """Small for candidates worth a second look: little divergence first in classes, then the lower bypass."""
    kl = candidate.kl if candidate.kl is not None and isfinite(candidate.kl) else float("inf")
    induced = candidate.induce is not None and candidate.induce >= 0
    # A low bypass at a divergence of several nats is a broken model.
    rank = 0 if kl <= KL_LIMIT and induced else 1 if kl <= 5 * KL_LIMIT and induced else 2 if kl <= 5 * KL_LIMIT else 3
    return rank, candidate.bypass if candidate.bypass is not None else float("inf")


def _unmeasured(direction: Direction, variant: Variant, loudest: float, loud: Sequence[LoudCoordinate]) -> Tried:
    return Tried(
        direction=direction,
        candidate=Candidate(
            span=direction.span,
            layer=direction.residual_index,
            variant=variant,
            bypass=None,
            induce=None,
            kl=None,
            n=0,
            loudest=loudest,
            masked=tuple(c.index for c in loud),
        ),
    )


def _quiet(direction: Direction, loud: Sequence[LoudCoordinate]) -> Direction:
    vector = masked(direction.vector, loud)
    kept = float(np.linalg.norm(np.delete(direction.vector.astype(np.float64), [c.index for c in loud])))
    return replace(direction, vector=vector, raw_norm=direction.raw_norm * kept, method=f"{direction.method}, masked")


def _mean(values: Floats) -> float | None:
    mean = float(np.mean(values)) if len(values) else float("nan")
    return mean if isfinite(mean) else None
