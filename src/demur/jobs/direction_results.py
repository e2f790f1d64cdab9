"""What a study of directions leaves behind: maps and directions as files, and what a reader must know."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from demur.activations.direction import Direction, DirectionMap, save_direction
from demur.core.direction_study import Axis, HonestyTable, Numbers, SavedDirection, Selection
from demur.inside.separation import category_directions, cosines, local_norms
from demur.inside.study import AXES, SPAN, Fitted, Part, numbers
from demur.inside.tables import category_rows

FALSE_POSITIVE_RATE = 0.05
POLARITY: dict[Axis, str] = {"harm": "the request is harmful", "refusal": "the model is about to refuse"}


def direction_map(fitted: Fitted, axis: Axis) -> DirectionMap:
    """Raw directions of one axis at every place, with what they were found on."""
    contrast, states = fitted.contrasts[axis], fitted.states
    rows = np.concatenate([contrast.up, contrast.down])
    return DirectionMap(
        vectors=fitted.raw[axis].astype(np.float32),
        local_norms=local_norms(states.values, rows).astype(np.float32),
        spans=states.spans,
        layers=states.layers,
        model=states.model,
        name=axis,
        method=f"{fitted.method}, {contrast.design}",
        data_hash=fitted.prompts.sha256,
        n_positive=len(contrast.up),
        n_negative=len(contrast.down),
        polarity=POLARITY[axis],
    )


def save_directions(
    out: Path,
    whole: Fitted,
    maps: dict[Axis, DirectionMap],
    layers: dict[Axis, int],
    selection: Selection | None,
    direction: Direction | None,
) -> list[SavedDirection]:
    """Write both directions as files, each with a threshold at a stated rate of false alarms.

    Args:
        out: The study's folder.
        whole: Directions on all rows to fit on.
        maps: The same as maps.
        layers: Layer of each direction, by ranking.
        selection: The search for one refusal direction.
        direction: What it found.
    """
    found = []
    for axis in AXES:
        at, how = layers[axis], "best AUROC on prompts neither fitted on nor tested on"
        chosen: Direction | None = None
        if axis == "refusal" and direction is not None and selection is not None:
            how = (
                "bypass, induce and KL"
                if selection.chosen is not None
                else (
                    "bypass, induce and KL relative to random directions"
                    if selection.chosen_relative is not None
                    else ""
                )
            )
            chosen = direction if how else None
            how = how or "best AUROC; no candidate survived the search"
        if chosen is None:
            chosen = maps[axis].at(SPAN[axis], at)
        chosen, rate = calibrated(whole, chosen, axis)
        file = f"{axis}.safetensors"
        save_direction(out / file, chosen)
        found.append(
            SavedDirection(
                axis=axis,
                file=file,
                span=chosen.span,
                layer=chosen.residual_index,
                chosen_by=how,
                threshold=chosen.threshold,
                false_positive_rate=rate,
            )
        )
    return found


def calibrated(whole: Fitted, direction: Direction, axis: Axis) -> tuple[Direction, float | None]:
    """The direction with a threshold that about 5 % of harmless (or accepted) selection prompts pass.

    Returns:
        It, and the share of such test prompts that pass.
    """
    place = whole.states.layers.index(direction.residual_index)
    values = whole.states.at(direction.span)[:, place]

    def negatives(part: Part) -> list[float]:
        rows = whole.prompts.rows
        index = [
            i
            for i in whole.prompts.parts[part]
            if (rows[i].refused is False if axis == "refusal" else not rows[i].harmful)
        ]
        return [float(p) for p in direction.project(values[index])] if index else []

    known, fresh = sorted(negatives("selection")), negatives("test")
    if not known:
        return direction, None
    # The ceiling keeps the promise for one more prompt like these, not only for these.
    rank = min(len(known), int(np.ceil((len(known) + 1) * (1 - FALSE_POSITIVE_RATE))))
    threshold = float(np.nextafter(known[rank - 1], np.inf))
    rate = sum(p >= threshold for p in fresh) / len(fresh) if fresh else None
    return replace(direction, threshold=threshold), rate


def category_square(whole: Fitted, layer: int) -> tuple[tuple[str, ...], tuple[Numbers, ...]]:
    """Harmful categories, and the cosines of their directions with each other at one layer."""
    members, harmless = category_rows(whole)
    names, raw = category_directions(whole.states.at(SPAN["harm"]), members, harmless)
    at = whole.states.layers.index(layer)
    return names, tuple(numbers(cosines(np.broadcast_to(one, raw[:, at].shape), raw[:, at])) for one in raw[:, at])


def study_notes(whole: Fitted, honesty: Sequence[HonestyTable]) -> list[str]:
    """What a reader must know before believing the tables."""
    notes = []
    if whole.design == "crossed" and whole.contrasts["refusal"].design == "plain":
        notes.append(
            "Some bucket is too small to cross refusal with harmfulness: the refusal direction compares refused "
            "harmful with accepted harmless prompts and may be a harmfulness direction."
        )
    left_out = whole.prompts.buckets(range(len(whole.prompts.rows))).left_out
    n = sum(left_out.values())
    if n:
        notes.append(f"{n} prompts got a degenerate or unjudged reply and are in no bucket.")
    for table in honesty:
        own = table.rows[0].ranking
        for row in table.rows[1:]:
            known = row.ranking.auroc is not None and own.auroc is not None
            if known and row.kind != "base model" and (row.ranking.auroc or 0) >= (own.auroc or 0) - 0.02:
                notes.append(f"{table.axis}: {row.name} does as well ({row.ranking.auroc:.2f}) as the direction.")
            if known and row.name.endswith("its own direction") and (row.ranking.auroc or 0) >= (own.auroc or 0) - 0.05:
                notes.append(
                    f"{table.axis}: the base model's states separate the same prompts at {row.ranking.auroc:.2f}: "
                    "separability alone does not show what training added; the cosines with its directions do."
                )
    return notes
