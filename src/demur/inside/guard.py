"""Latent Guard: a prompt is harmful if its state, where the user's text ends, lies nearer to harmful prompts' mean.

Zhao et al. compare cosines with two mean states, average over layers and cut at 0. That is one of four geometries here
(`demur.inside.guard_geometry`); and 0 promises nothing, so a guard carries a threshold set at a stated rate of false
alarms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demur.core.errors import BadInputError
from demur.core.signal import ANY
from demur.inside.estimators import checked_states
from demur.inside.guard_calibration import Calibration, calibrate
from demur.inside.guard_geometry import Geometry, Metric, geometry, unit_rows

if TYPE_CHECKING:
    from demur.activations.record import Activations

PUBLISHED_THRESHOLD = 0.0
SPAN = "t_inst"
FEWEST = 5  # prompts behind a mean
Doubles = NDArray[np.float64]
_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardOptions:
    """What kind of guard to fit.

    Attributes:
        span: Template span whose states are compared.
        layers: Residual indices; None takes all that were recorded, the embedding's included, as published.
        metric: How states are compared; see `demur.inside.guard_geometry`.
        augment: Let the rows marked as extra join the means: harmful prompts that the model answers, harmless ones
            that look harmful.
        nearest: Score by the nearest category's mean rather than by the mean of all harmful prompts.
    """

    span: str = SPAN
    layers: tuple[int, ...] | None = None
    metric: Metric = "cosine"
    augment: bool = False
    nearest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatentGuard:
    """Mean states of harmful and harmless prompts, and how a score becomes a decision. Made by `fit`.

    Attributes:
        model: Identity of the model.
        options: What kind of guard; `layers` is never None here.
        harmful: Mean state of the harmful side at each layer; float64 (n_layers, d).
        harmless: The same of the harmless side.
        categories: Harmful kinds with a mean of their own.
        by_category: Their means; (n_categories, n_layers, d).
        geometry: How states are compared.
        n_harmful: Prompts behind the harmful mean.
        n_harmless: Prompts behind the harmless mean.
        data_hash: Hash of what it was fitted on.
        calibration: Thresholds and probabilities; None until `calibrated`.
    """

    model: str
    options: GuardOptions
    harmful: Doubles
    harmless: Doubles
    categories: tuple[str, ...]
    by_category: Doubles
    geometry: Geometry
    n_harmful: int
    n_harmless: int
    data_hash: str = ""
    calibration: Calibration | None = None
    _aims: tuple[Doubles, ...] = field(init=False, default=())  # harmless, harmful; harmless mean, those of categories

    def __post_init__(self) -> None:
        down, up, *own = (self.geometry.placed(mean) for mean in (self.harmless, self.harmful, *self.by_category))
        aims = (down, up)
        if len(self.geometry.normals):
            normals = unit_rows(self.geometry.normals)
            aims = (-normals, normals)
        object.__setattr__(self, "_aims", (*aims, down, *own))

    @classmethod
    def fit(
        cls,
        found: "Activations",
        harmful: Sequence[bool],
        *,
        extra: Sequence[bool] | None = None,
        categories: Sequence[str] | None = None,
        options: GuardOptions = GuardOptions(),
        data_hash: str = "",
    ) -> "LatentGuard":
        """Fit on recorded states.

        Args:
            found: States of the residual stream at the span, as `demur.activations.record` gives them.
            harmful: Side of each prompt.
            extra: Prompts that only an augmented guard's means include; none by default.
            categories: Kind of each prompt; kinds of enough harmful prompts get a mean of their own.
            options: What kind of guard.
            data_hash: Hash of the prompts.

        Raises:
            BadInputError: Too few prompts of a side, states that are not finite, or sides that coincide.

        Source:
            Zhao et al. (2025), "LLMs Encode Harmfulness and Refusal Separately", equation 3 and section 5.1.
        """
        layers = found.layers if options.layers is None else tuple(options.layers)
        states = _at(found, options.span, layers)
        up, down = _sides(harmful, extra, options, len(states))
        kinds = np.asarray(categories if categories is not None else [""] * len(states))
        names = tuple(
            sorted(k for k in set(kinds[up].tolist()) if k and int((kinds[up] == k).sum()) >= FEWEST)
        )  # fmt: skip
        means = (_mean(states, up), _mean(states, down))
        own = [_mean(states, up[kinds[up] == name]) for name in names]
        if options.nearest and options.metric == "learned":
            raise BadInputError("guard: expected a geometry of means to score by category, got 'learned'")
        if options.nearest and not names:
            raise BadInputError(
                f"guard: expected a category with at least {FEWEST} harmful prompts to compare with, got none; "
                "fill in the column 'category'"
            )
        return cls(
            model=found.model,
            options=replace(options, layers=layers),
            harmful=means[0],
            harmless=means[1],
            categories=names,
            by_category=np.stack(own) if own else np.zeros((0, *means[0].shape)),
            geometry=geometry(states, up, down, options.metric),
            n_harmful=len(up),
            n_harmless=len(down),
            data_hash=data_hash,
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """Residual indices it looks at."""
        assert self.options.layers is not None
        return self.options.layers

    @property
    def threshold(self) -> float:
        """Score from which a prompt counts as harmful: the calibrated one, or the published 0."""
        return self.calibration.threshold if self.calibration else PUBLISHED_THRESHOLD

    @property
    def columns(self) -> tuple[str, ...]:
        """Categories of its probabilities: its own if it scores by the nearest one, else just 'any'."""
        return self.categories if self.options.nearest else (ANY,)

    def states(self, found: "Activations") -> Doubles:
        """The states it needs out of a recording; (n, n_layers, d).

        Raises:
            BadInputError: A recording of another model, or without its span or layers.
        """
        if found.model != self.model:
            raise BadInputError(
                f"guard: this guard was fitted on {self.model}, the states are of {found.model}; "
                "fit one on that model with 'demur guard fit'"
            )
        return _at(found, self.options.span, self.layers)

    def transform(self, states: ArrayLike) -> Doubles:
        """How much nearer states are to the harmful mean than to the harmless one; (n, n_layers, d) -> (n, n_layers).

        Within [-2, 2]; positive is harmful.
        """
        return self._toward(states, self._aims[1:2], away=self._aims[0])[:, 0]

    def score(self, states: ArrayLike) -> Doubles:
        """The guard's score, averaged over layers: the published Δ_harm, or the nearest category's; (n,)."""
        if self.options.nearest:
            return np.asarray(self.category_scores(states).max(axis=1))
        return np.asarray(self.transform(states).mean(axis=1))

    def category_scores(self, states: ArrayLike) -> Doubles:
        """Scores against each category, averaged over layers; (n, n_categories)."""
        return np.asarray(self._toward(states, self._aims[3:], away=self._aims[2]).mean(axis=2))

    def predict(self, states: ArrayLike, *, threshold: float | None = None) -> NDArray[np.bool_]:
        """Which prompts count as harmful; the guard's own threshold by default; (n,)."""
        return np.asarray(self.score(states) >= (self.threshold if threshold is None else threshold))

    def predict_proba(self, states: ArrayLike) -> Doubles:
        """Probability of harmless and harmful, as if both sides were equally frequent; (n, 2).

        Raises:
            BadInputError: The guard is not calibrated.
        """
        p = self._checked().probability(self.score(states))
        return np.stack([1.0 - p, p], axis=1)

    def column_proba(self, states: ArrayLike) -> Doubles:
        """Probability of each of `columns`; rows sum to that of harmful; (n, n_columns).

        Raises:
            BadInputError: The guard is not calibrated.
        """
        calibration = self._checked()
        if not self.options.nearest:
            return calibration.probability(self.score(states))[:, None]
        scores = self.category_scores(states)
        return calibration.probability(scores.max(axis=1))[:, None] * calibration.shares(scores)

    def calibrated(
        self,
        found: "Activations",
        harmful: Sequence[bool],
        *,
        rate: float = 0.05,
        look_alike: Sequence[bool] | None = None,
        categories: Sequence[str] | None = None,
    ) -> "LatentGuard":
        """The guard with a threshold and probabilities, set on prompts it was not fitted on.

        Args:
            found: Their states.
            harmful: Their sides.
            rate: False alarms allowed among harmless prompts.
            look_alike: Harmless prompts that look harmful; only counted.
            categories: Kinds of the harmful ones, for guards that score by category.

        Raises:
            BadInputError: Too few harmless prompts for the rate, or no harmful ones.
        """
        states = self.states(found)
        calibration = calibrate(self.score(states), harmful, rate=rate, look_alike=look_alike)
        if self.options.nearest and categories is not None:
            known = [i for i, kind in enumerate(categories) if harmful[i] and kind in self.categories]
            wanted = np.array([self.categories.index(categories[i]) for i in known], dtype=np.int64)
            calibration = calibration.sharpened(self.category_scores(states[known]), wanted)
        return replace(self, calibration=calibration)

    def _toward(self, states: ArrayLike, aims: Sequence[Doubles], *, away: Doubles) -> Doubles:
        rows = np.asarray(states)
        if rows.ndim != 3 or rows.shape[1:] != self.harmful.shape:
            raise BadInputError(
                f"guard: expected states (n, {len(self.layers)}, {self.harmful.shape[1]}), got {rows.shape}"
            )
        found = np.empty((len(rows), len(aims), len(self.layers)))
        for start in range(0, len(rows), _ROWS):
            placed = self.geometry.placed(np.asarray(rows[start : start + _ROWS], dtype=np.float64))
            from_harmless = np.einsum("nld,ld->nl", placed, away)
            for k, aim in enumerate(aims):
                found[start : start + _ROWS, k] = np.einsum("nld,ld->nl", placed, aim) - from_harmless
        return found

    def _checked(self) -> Calibration:
        if self.calibration is None:
            raise BadInputError(
                "guard: expected a calibrated guard; call `calibrated` with prompts it was not fitted on"
            )
        return self.calibration


def _at(found: "Activations", span: str, layers: Sequence[int]) -> Doubles:
    """States at one span and some layers; (n, n_layers, d)."""
    missing = [layer for layer in layers if layer not in found.layers]
    if found.site != "resid" or span not in found.spans or missing or not layers:
        raise BadInputError(
            f"guard: expected the residual stream at {span!r}, layers {list(layers)}; recorded: {found.site} at "
            f"{', '.join(found.spans)}, layers {list(found.layers)}"
        )
    chosen = [found.layers.index(layer) for layer in layers]
    return checked_states(found.values[:, found.spans.index(span)][:, chosen])


def _sides(
    harmful: Sequence[bool], extra: Sequence[bool] | None, options: GuardOptions, n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    side = np.asarray(harmful, dtype=bool)
    kept = np.ones(n, dtype=bool) if extra is None or options.augment else ~np.asarray(extra, dtype=bool)
    up, down = np.flatnonzero(side & kept), np.flatnonzero(~side & kept)
    if min(len(up), len(down)) < FEWEST:
        raise BadInputError(
            f"guard: expected at least {FEWEST} harmful and {FEWEST} harmless prompts, got {len(up)} and {len(down)}; "
            "add prompts" + ("" if options.augment else ", or fit with --augment")
        )
    return up, down


def _mean(states: Doubles, rows: NDArray[np.int64]) -> Doubles:
    return np.asarray(states[rows].mean(axis=0))
