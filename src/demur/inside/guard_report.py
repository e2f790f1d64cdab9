"""What a fitted guard does with prompts it has not seen, beside everything much simpler that it has to beat."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from demur.core.direction_study import ControlRow
from demur.core.exchange import Frozen
from demur.core.profile import Interval
from demur.inside.guard import PUBLISHED_THRESHOLD, GuardOptions, LatentGuard
from demur.inside.guard_geometry import METRICS, Metric, unit_rows
from demur.inside.honesty import N_DRAWS, drawn_row, scored_row, surface_rows, tfidf_row
from demur.stats.ranking import auroc
from demur.stats.rates import interval

Doubles = NDArray[np.float64]


class FlaggedRow(Frozen):
    """Share of one kind of prompts that a guard flags.

    Attributes:
        kind: Which prompts.
        published: At threshold 0, as published.
        calibrated: At the calibrated threshold.
    """

    kind: Literal["harmful", "harmless", "of these look-alikes", "harmless, to decline", "harmful, by category"]
    name: str = ""
    published: Interval
    calibrated: Interval


class VariantRow(Frozen):
    """One way to build a guard from the same prompts.

    Attributes:
        span: Where states are read.
        metric: How they are compared.
        augmented: Whether extra rows joined the means.
        checked: AUROC on the prompts thresholds were set on, which may choose among variants.
        ranking: The line of the table on the test prompts.
        recall: Share of harmful test prompts flagged at the calibrated threshold.
        false_alarms: The same of harmless ones.
    """

    span: str
    metric: Metric
    augmented: bool
    checked: float | None
    ranking: ControlRow
    recall: Interval
    false_alarms: Interval


class GuardReport(Frozen):
    """Everything `demur guard fit` measured, on prompts that took part in nothing.

    Attributes:
        model: Identity of the model.
        identity: Identity of the guard's signal.
        span: Template span read.
        span_text: What it decodes to in one prompt.
        layers: Residual indices.
        metric: Geometry.
        augmented: Whether extra rows joined the means.
        by_category: Whether the nearest category's mean decides.
        refused_by: How it was known what the model does; 'none' if it was not.
        threshold: Calibrated score.
        rate: False alarms it was set for.
        threshold_probability: The same threshold as a probability, for policies.
        sizes: Prompts of each part and side.
        flagged: Shares flagged.
        rows: How well harmful and harmless test prompts are told apart: the guard first, then its controls.
        layer_auroc: AUROC on the test prompts of each layer's score alone.
        variants: Other guards from the same prompts.
        telling_layer: Layer whose score alone ranked the checked prompts best.
        notes: What a reader must know.
        manifest: Versions, data hashes, settings.
    """

    schema_version: int = 1
    model: str
    identity: str
    span: str
    span_text: str
    layers: tuple[int, ...]
    metric: Metric
    augmented: bool
    by_category: bool
    refused_by: str
    threshold: float
    rate: float
    threshold_probability: float
    sizes: dict[str, dict[str, int]]
    flagged: tuple[FlaggedRow, ...]
    rows: tuple[ControlRow, ...]
    layer_auroc: tuple[float | None, ...]
    variants: tuple[VariantRow, ...]
    telling_layer: int
    notes: tuple[str, ...]
    manifest: dict[str, JsonValue]


def share_flagged(scores: Doubles, threshold: float) -> Interval:
    """Share of prompts whose score reaches a threshold."""
    return interval(int((scores >= threshold).sum()), len(scores))


def flagged_row(kind: str, scores: Doubles, guard: LatentGuard, *, name: str = "") -> FlaggedRow:
    """A line of shares flagged, at the published and at the calibrated threshold."""
    return FlaggedRow(
        kind=kind,
        name=name,
        published=share_flagged(scores, PUBLISHED_THRESHOLD),
        calibrated=share_flagged(scores, guard.threshold),
    )


def control_rows(
    guard: LatentGuard,
    fit: tuple[Doubles, Sequence[str], Sequence[bool]],
    test: tuple[Doubles, Sequence[str], Sequence[bool]],
    *,
    n_draws: int = N_DRAWS,
) -> list[ControlRow]:
    """The guard and what it has to beat, on the same test prompts.

    Args:
        guard: The guard.
        fit: States (n, n_layers, d), texts and sides of the prompts behind its means.
        test: The same of prompts it has not seen.
        n_draws: Random directions, and shuffles of labels.
    """
    fit_states, fit_texts, fit_sides = fit
    states, texts, sides = test
    rows = [scored_row("direction", "Latent Guard", guard.score(states), sides)]
    if 0 in guard.layers:
        at = guard.layers.index(0)
        rows.append(scored_row("layer 0", "embedding of the same token", guard.transform(states)[:, at], sides))
    rows += surface_rows(fit_texts, fit_sides, texts, sides)
    rows.append(tfidf_row(fit_texts, fit_sides, texts, sides))
    return [*rows, *_drawn(guard, fit_states, fit_sides, states, sides, n_draws)]


def layer_auroc(guard: LatentGuard, states: Doubles, harmful: Sequence[bool]) -> tuple[float | None, ...]:
    """AUROC of each layer's score alone."""
    return tuple(auroc(column.tolist(), list(harmful)) for column in guard.transform(states).T)


def _drawn(
    guard: LatentGuard, fit: Doubles, fit_sides: Sequence[bool], test: Doubles, sides: Sequence[bool], n_draws: int
) -> list[ControlRow]:
    """Random directions at every layer, each turned the right way on the fitted prompts; and shuffled sides."""
    rng, kinds = np.random.default_rng(0), np.asarray(fit_sides, dtype=bool)
    placed, known = guard.geometry.placed(test), guard.geometry.placed(fit)
    difference = known[kinds].mean(axis=0) - known[~kinds].mean(axis=0)
    random, shuffled = [], []
    for _ in range(n_draws):
        drawn = unit_rows(rng.standard_normal(difference.shape))
        turned = np.where(np.einsum("ld,ld->l", drawn, difference) < 0, -1.0, 1.0)[:, None] * drawn
        random.append(np.einsum("nld,ld->n", placed, turned))
        dealt = rng.permutation(kinds)
        shuffled.append(np.einsum("nld,ld->n", placed, known[dealt].mean(axis=0) - known[~dealt].mean(axis=0)))
    return [
        drawn_row("random directions", f"{n_draws} random directions", np.stack(random, axis=1), sides),
        drawn_row("shuffled labels", f"{n_draws} times with shuffled labels", np.stack(shuffled, axis=1), sides),
    ]


def variant_options(options: GuardOptions, spans: Sequence[str], *, has_extra: bool) -> list[GuardOptions]:
    """Every span and geometry, plain and, where there is something to add, augmented.

    Args:
        options: What kind of guard is wanted.
        spans: Spans that were recorded.
        has_extra: Whether any rows only join augmented guards.
    """
    augmented = (False, True) if has_extra else (options.augment,)
    return [
        replace(options, span=span, metric=metric, augment=extra)
        for span in spans
        for metric in METRICS
        if metric != "learned" or not options.nearest
        for extra in augmented
    ]
