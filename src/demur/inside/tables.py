"""Honesty tables of a study: each direction at its chosen layer, its controls beside it; and controls by layer."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from demur.core.direction_study import Axis, ControlKind, ControlRow, Curve, HonestyTable, MapPoint
from demur.inside.buckets import Rows, bucket_of
from demur.inside.honesty import (
    N_DRAWS,
    over_seeds,
    random_directions,
    scored_row,
    shuffled_labels,
    surface_rows,
    tfidf_row,
)
from demur.inside.separation import Contrast, cluster_scores, layer_average, mean_state, projections
from demur.inside.study import SPAN, TASK, Fitted, curve

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
_DRAWN: dict[ControlKind, Callable[..., ControlRow]] = {
    "random directions": random_directions,
    "shuffled labels": shuffled_labels,
}
_SHOWN = 120  # characters of a prompt in the map


def honesty_table(
    runs: Sequence[Fitted], axis: Axis, layer: int, *, base: Sequence[Fitted] = (), n_draws: int = N_DRAWS
) -> HonestyTable | None:
    """One direction at its span and layer, with everything it has to beat, on the test rows; None without a task.

    Args:
        runs: Directions by seed.
        axis: Which one.
        layer: Residual index.
        base: The same fits under the base model.
        n_draws: Random directions, and shuffles of labels, for each seed.
    """
    prompts = runs[0].prompts
    task = prompts.tasks(prompts.parts["test"]).get(TASK[axis])
    if task is None:
        return None
    by_seed = [
        _rows(run, axis, layer, task, base=base[i] if base else None, n_draws=n_draws, seed=i)
        for i, run in enumerate(runs)
    ]
    rows = tuple(over_seeds([lines[i] for lines in by_seed]) for i in range(len(by_seed[0])))
    return HonestyTable(axis=axis, task=TASK[axis], span=SPAN[axis], layer=layer, rows=rows)


def control_curves(runs: Sequence[Fitted], axis: Axis, *, base: Sequence[Fitted] = (), n_draws: int) -> list[Curve]:
    """Controls by layer at the axis' own span and task: random directions, shuffled labels, the base model."""
    prompts, states, span = runs[0].prompts, runs[0].states, SPAN[axis]
    task = prompts.tasks(prompts.parts["test"]).get(TASK[axis])
    if task is None:
        return []
    rows, labels = task
    at, held_out = states.spans.index(span), states.at(span)
    found = []
    for kind, draw in _DRAWN.items():
        by_layer = []
        for place in range(len(states.layers)):
            fit, kinds = _fit_rows(runs[0].contrasts[axis])
            row = draw(held_out[fit, place], kinds, held_out[rows, place], labels, n=n_draws, seed=place)
            by_layer.append(row.draws or (float("nan"),) * n_draws)
        found.append(curve(kind, axis, span, TASK[axis], np.array(by_layer).T, kind=kind))
    if base:
        grids = np.stack([run.grid(axis, rows, labels)[at] for run in base])
        name = "base model, its own direction"
        found.append(curve(name, axis, span, TASK[axis], grids, kind="base model"))
    return found


def map_points(fitted: Fitted, *, layers: Sequence[int] | None = None) -> tuple[list[MapPoint], float | None]:
    """Held-out prompts in the plane of the two layer-averaged scores, and the correlation of the two.

    Args:
        fitted: Directions on all rows to fit on.
        layers: Residual indices to average; all by default, as published.
    """
    prompts, states = fitted.prompts, fitted.states
    test = prompts.parts["test"]
    chosen = None if layers is None else [states.layers.index(layer) for layer in layers]
    deltas = []
    for axis in SPAN:
        contrast, values = fitted.contrasts[axis], states.at(SPAN[axis])
        up, down = (_balanced_mean(values, contrast, side) for side in (0, 1))
        deltas.append(layer_average(cluster_scores(values[list(test)], up, down), layers=chosen))
    harm, refusal = deltas
    points = [
        MapPoint(
            prompt=" ".join(prompts.rows[i].prompt.split())[:_SHOWN],
            category=prompts.rows[i].category,
            bucket=bucket_of(prompts.rows[i]) or "",
            harm=float(harm[k]),
            refusal=float(refusal[k]),
        )
        for k, i in enumerate(test)
    ]
    flat = len(test) < 3 or not harm.std() or not refusal.std()
    return points, None if flat else float(np.corrcoef(harm, refusal)[0, 1])


def _balanced_mean(values: NDArray[np.float32], contrast: Contrast, side: int) -> Floats:
    """Centroid of one side, each stratum counting the same."""
    return np.asarray(np.mean([mean_state(values, stratum[side]) for stratum in contrast.strata], axis=0))


def _rows(
    run: Fitted,
    axis: Axis,
    layer: int,
    task: tuple[Rows, Booleans],
    *,
    base: Fitted | None,
    n_draws: int,
    seed: int,
) -> list[ControlRow]:
    """The lines of one seed."""
    rows, labels = task
    states, span = run.states, SPAN[axis]
    at, place = states.spans.index(span), states.layers.index(layer)
    fit, kinds = _fit_rows(run.contrasts[axis])
    values = states.at(span)
    here = (values[fit, place], kinds, values[rows, place], labels)
    texts = [run.prompts.rows[i].prompt for i in fit], kinds.tolist()
    held_out = [run.prompts.rows[i].prompt for i in rows], labels.tolist()
    scores = run.scores(axis, rows)[:, at]
    lines = [scored_row("direction", f"{axis} direction", scores[:, place], labels)]
    if 0 in states.layers:
        first = scores[:, states.layers.index(0)]
        lines.append(scored_row("layer 0", "same, on embeddings", first, labels))
    lines += surface_rows(*texts, *held_out)
    lines.append(tfidf_row(*texts, *held_out))
    lines.append(random_directions(*here, n=n_draws, seed=seed))
    lines.append(shuffled_labels(*here, n=n_draws, seed=seed))
    if base is not None:
        own = base.scores(axis, rows)[:, at, place]
        lines.append(scored_row("base model", "base model, its own direction", own, labels))
        carried = projections(base.states.values[rows][:, at, place], run.raw[axis][at, place])
        lines.append(scored_row("base model", "base model, this direction", carried, labels))
    return lines


def _fit_rows(contrast: Contrast) -> tuple[Rows, Booleans]:
    """Rows a direction was fitted on, and which side of it they are."""
    index = np.concatenate([contrast.up, contrast.down])
    return index, np.arange(len(index)) < len(contrast.up)


def category_rows(fitted: Fitted) -> tuple[dict[str, list[int]], list[int]]:
    """Harmful rows to fit on by category, and the harmless ones to comply with."""
    members: dict[str, list[int]] = {}
    for i in fitted.index.tolist():
        row = fitted.prompts.rows[i]
        if row.harmful:
            members.setdefault(row.category, []).append(i)
    return members, [i for i in fitted.index.tolist() if not fitted.prompts.rows[i].to_decline]
