"""One prompt seen from inside: where it lies along both directions at every layer, and what a guard makes of it."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from demur.activations.direction import Direction, DirectionMap
from demur.core.direction_study import Axis
from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.inside.guard import PUBLISHED_THRESHOLD, LatentGuard
from demur.inside.guard_examples import Neighbour

if TYPE_CHECKING:
    from demur.activations.record import Activations


class AxisView(Frozen):
    """One direction at every layer.

    Attributes:
        axis: Which direction.
        span: Where it is read.
        layers: Residual indices.
        cosines: Signed cosine of the prompt's state with the direction; None where there is no direction.
        layer: Residual index of the direction chosen by the study; None if only maps were saved.
        projection: Length of the state along it there, in units of the usual length of states.
        threshold: The same for the border the study calibrated; None if it has none.
        above: Whether the projection reaches the border.
    """

    axis: Axis
    span: str
    layers: tuple[int, ...]
    cosines: tuple[float | None, ...]
    layer: int | None = None
    projection: float | None = None
    threshold: float | None = None
    above: bool | None = None


class GuardView(Frozen):
    """A guard's word on one prompt.

    Attributes:
        span: Where the prompt is read.
        layers: Residual indices.
        by_layer: Its score at each.
        score: Mean over layers, or that of the nearest category.
        published: The published border.
        threshold: The calibrated border.
        rate: False alarms it was calibrated for; None without calibration.
        p_harmful: Probability; None without calibration.
        flagged: Whether the score reaches the guard's border.
        categories: Score against each category's mean.
    """

    span: str
    layers: tuple[int, ...]
    by_layer: tuple[float, ...]
    score: float
    published: float = PUBLISHED_THRESHOLD
    threshold: float
    rate: float | None
    p_harmful: float | None
    flagged: bool
    categories: dict[str, float]


class RuleView(Frozen):
    """A rule of a Tsetlin machine that fires on the prompt."""

    text: str
    label: str
    weight: int
    support: int
    precision: float | None


class PredictorView(Frozen):
    """What a fitted predictor says, and which n-grams speak most: (view, n-gram, log-odds)."""

    p_refused: float
    baseline: float
    views: dict[str, float]
    grams: tuple[tuple[str, str, float], ...]


class TriggerView(Frozen):
    """The smallest part of the prompt that is still refused, or flagged.

    Attributes:
        by: 'model' or 'guard'.
        refused: Whether the whole prompt is.
        text: The part.
        is_minimal: Whether no single word of it can be left out.
        n_words: Its words.
        n_words_prompt: Words of the prompt.
        n_calls: Texts asked.
    """

    by: str
    refused: bool
    text: str
    is_minimal: bool
    n_words: int
    n_words_prompt: int
    n_calls: int


class PromptView(Frozen):
    """Everything `demur explain prompt` shows.

    Attributes:
        model: Identity of the model.
        prompt: Its text.
        tokens: What the spans read decode to.
        axes: Harmfulness and refusal directions, where a study was given.
        guard: A guard's word.
        guard_from: Where the guard came from.
        nearest: Prompts the guard was fitted on whose states are most alike.
        nearest_layer: Residual index they were compared at.
        predictor: What a fitted predictor says.
        rules: Rules of a fitted Tsetlin machine that fire, heaviest first.
        triggers: Smallest parts.
        notes: What a reader must know.
    """

    model: str
    prompt: str
    tokens: dict[str, str]
    axes: tuple[AxisView, ...] = ()
    guard: GuardView | None = None
    guard_from: str = ""
    nearest: tuple[Neighbour, ...] = ()
    nearest_layer: int | None = None
    predictor: PredictorView | None = None
    rules: tuple[RuleView, ...] = ()
    triggers: tuple[TriggerView, ...] = ()
    notes: tuple[str, ...] = ()


def axis_view(found: "Activations", axis: Axis, places: DirectionMap, span: str, chosen: Direction | None) -> AxisView:
    """One direction at every layer.

    Args:
        found: States of the prompt; spans and layers those of the map at least.
        axis: Which direction.
        places: The study's map.
        span: Where the direction is read.
        chosen: The direction that the study chose.

    Raises:
        BadInputError: A span or layer that was not recorded.
    """
    cosines: list[float | None] = []
    for layer in places.layers:
        try:
            cosines.append(float(places.at(span, layer).cosines(found.at(span, layer))[0]))
        except BadInputError:  # the two sides coincide there: at the template's tokens all embeddings are equal
            cosines.append(None)
    view = AxisView(axis=axis, span=span, layers=places.layers, cosines=tuple(cosines))
    if chosen is None:
        return view
    unit = chosen.local_norm
    projection = float(chosen.project(found.at(chosen.span, chosen.residual_index))[0]) / unit
    border = None if chosen.threshold is None else chosen.threshold / unit
    return view.model_copy(
        update={
            "layer": chosen.residual_index,
            "projection": projection,
            "threshold": border,
            "above": None if border is None else projection >= border,
        }
    )


def guard_view(guard: LatentGuard, states: NDArray[np.float64]) -> GuardView:
    """A guard's word on one prompt; states (1, n_layers, d)."""
    score = float(guard.score(states)[0])
    calibrated = guard.calibration is not None
    return GuardView(
        span=guard.options.span,
        layers=guard.layers,
        by_layer=tuple(guard.transform(states)[0].tolist()),
        score=score,
        threshold=guard.threshold,
        rate=guard.calibration.rate if guard.calibration else None,
        p_harmful=float(guard.predict_proba(states)[0, 1]) if calibrated else None,
        flagged=score >= guard.threshold,
        categories=dict(zip(guard.categories, guard.category_scores(states)[0].tolist(), strict=True)),
    )
