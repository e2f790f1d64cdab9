"""Fitting a guard in stages: every variant on the same states, a choice among them, and what it is measured to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from demur.core.direction_study import ControlRow
from demur.core.errors import BadInputError
from demur.inside.buckets import FEWEST
from demur.inside.guard import GuardOptions, LatentGuard
from demur.inside.guard_geometry import Metric
from demur.inside.guard_report import (
    FlaggedRow,
    GuardReport,
    VariantRow,
    control_rows,
    flagged_row,
    layer_auroc,
    share_flagged,
    variant_options,
)
from demur.inside.honesty import N_DRAWS, ranking, scored_row
from demur.jobs.guard_prompts import GUARD_PARTS, GuardPart, GuardPrompts, GuardRow, benign

if TYPE_CHECKING:
    from demur.activations.record import Activations

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Prompts and their states, row for row.

    Attributes:
        prompts: By part.
        rows: All of them.
        found: Their states.
        refused_by: How it is known what the model does.
        base: Their states under the base model of an adapter; None if there is none.
    """

    prompts: GuardPrompts
    rows: tuple[GuardRow, ...]
    found: "Activations"
    refused_by: str
    base: "Activations | None" = None

    def part(self, part: GuardPart) -> Rows:
        """Indices of a part."""
        starts = np.cumsum([0, *(len(self.prompts.parts[p]) for p in GUARD_PARTS)])
        at = GUARD_PARTS.index(part)
        return np.arange(starts[at], starts[at + 1], dtype=np.int64)

    def sided(self, part: GuardPart) -> Rows:
        """Harmful and benign rows of a part: those with a right answer."""
        return np.array([i for i in self.part(part) if self.rows[i].row.harmful or benign(self.rows[i])], np.int64)

    def harmful(self, index: Rows) -> list[bool]:
        """Sides."""
        return [self.rows[i].row.harmful for i in index]

    def categories(self, index: Rows) -> list[str]:
        """Kinds."""
        return [self.rows[i].row.category for i in index]

    def texts(self, index: Rows) -> list[str]:
        """Prompts."""
        return [self.rows[i].row.prompt for i in index]


def _extra(material: Material, fit: Rows) -> list[bool]:
    """Rows that only an augmented guard's means include."""
    rows = [material.rows[i] for i in fit]
    refused = [r.row.refused for r in rows]
    known = sum(said is True and r.row.harmful for r, said in zip(rows, refused, strict=True)) >= FEWEST
    return [
        (known and said is not True) if r.row.harmful else (r.look_alike or said is True)
        for r, said in zip(rows, refused, strict=True)
    ]


def behind(material: Material, guard: LatentGuard) -> Rows:
    """Rows behind a guard's means."""
    fit = material.part("fit")
    extra = np.array(_extra(material, fit), dtype=bool)
    return fit if guard.options.augment else fit[~extra]


def fitted_variants(material: Material, wanted: GuardOptions, *, rate: float) -> list[LatentGuard]:
    """Guards at every recorded span and in every geometry, plain and augmented, each with its threshold.

    Args:
        material: Prompts and states.
        wanted: What kind of guard, but for span and geometry.
        rate: False alarms allowed.

    Raises:
        BadInputError: An augmented guard is wanted and there is nothing to add.
    """
    fit, check = material.part("fit"), material.sided("check")
    extra = _extra(material, fit)
    if wanted.augment and not any(extra):
        raise BadInputError(
            "--augment: expected harmful prompts that the model answers or harmless ones that look harmful, got none; "
            "give contrast twins (column pair_id) or leave it out"
        )
    fitted = []
    for options in variant_options(wanted, material.found.spans, has_extra=any(extra)):
        guard = LatentGuard.fit(
            material.found.rows(fit),
            material.harmful(fit),
            extra=extra,
            categories=material.categories(fit),
            options=options,
            data_hash=material.prompts.sha256,
        )
        fitted.append(
            guard.calibrated(
                material.found.rows(check),
                material.harmful(check),
                rate=rate,
                look_alike=[material.rows[i].look_alike for i in check],
                categories=material.categories(check),
            )
        )
    return fitted


def chosen_guard(
    material: Material, guards: Sequence[LatentGuard], *, span: str, metric: Metric | Literal["auto"], augment: bool
) -> LatentGuard:
    """The guard asked for; 'auto' takes what ranks the checked prompts best, of equals what comes first.

    Args:
        material: Prompts and states.
        guards: All variants.
        span: Where states are read, or 'auto'.
        metric: How they are compared.
        augment: Whether extra rows join the means.
    """
    check = material.sided("check")
    found = material.found.rows(check)
    allowed = [
        guard
        for guard in guards
        if guard.options.augment == augment
        and metric in ("auto", guard.options.metric)
        and span in ("auto", guard.options.span)
    ]
    if not allowed:
        raise BadInputError(f"guard: no variant with metric {metric!r} and --by-category; leave --metric out")
    scored = [ranking(g.score(g.states(found)), material.harmful(check)).auroc or 0.0 for g in allowed]
    return allowed[max(range(len(allowed)), key=lambda i: (round(scored[i], 4), -i))]


def guard_report(
    material: Material,
    guard: LatentGuard,
    guards: Sequence[LatentGuard],
    *,
    identity: str,
    span_text: str,
    layer: int,
    manifest: dict[str, JsonValue],
) -> GuardReport:
    """What a guard does with the test prompts, beside its controls and the other variants."""
    fit, test = behind(material, guard), material.sided("test")
    fit_states, states = guard.states(material.found.rows(fit)), guard.states(material.found.rows(test))
    rows: list[ControlRow] = control_rows(
        guard,
        (fit_states, material.texts(fit), material.harmful(fit)),
        (states, material.texts(test), material.harmful(test)),
        n_draws=N_DRAWS,
    )
    if material.base is not None:
        rows.append(_base_row(material, guard, material.base))
    assert guard.calibration is not None
    return GuardReport(
        model=guard.model,
        identity=identity,
        span=guard.options.span,
        span_text=span_text,
        layers=guard.layers,
        metric=guard.options.metric,
        augmented=guard.options.augment,
        by_category=guard.options.nearest,
        refused_by=material.refused_by,
        threshold=guard.threshold,
        rate=guard.calibration.rate,
        threshold_probability=float(guard.calibration.probability([guard.threshold])[0]),
        sizes=_sizes(material),
        flagged=tuple(_flagged(material, guard)),
        rows=tuple(rows),
        layer_auroc=layer_auroc(guard, states, material.harmful(test)),
        variants=tuple(_variant_row(one, material) for one in guards),
        telling_layer=layer,
        notes=tuple([*material.prompts.notes, *_notes(material, rows)]),
        manifest=manifest,
    )


def _base_row(material: Material, guard: LatentGuard, base: "Activations") -> ControlRow:
    """The same kind of guard on the base model's states: what the adapter adds is the difference."""
    fit, test = behind(material, guard), material.sided("test")
    own = LatentGuard.fit(
        base.rows(fit),
        material.harmful(fit),
        categories=material.categories(fit),
        options=guard.options,
    )
    scores = own.score(own.states(base.rows(test)))
    return scored_row("base model", "the base model's own guard", scores, material.harmful(test))


def _flagged(material: Material, guard: LatentGuard) -> list[FlaggedRow]:
    """Shares flagged of each kind of test prompts, and of each harmful category."""
    test = material.part("test")
    scores = guard.score(guard.states(material.found.rows(test)))
    rows = [material.rows[i] for i in test]
    kinds: list[tuple[str, list[bool]]] = [
        ("harmful", [r.row.harmful for r in rows]),
        ("harmless", [benign(r) for r in rows]),
        ("of these look-alikes", [r.look_alike for r in rows]),
        ("harmless, to decline", [r.row.to_decline and not r.row.harmful for r in rows]),
    ]
    found = [flagged_row(kind, scores[np.array(which)], guard) for kind, which in kinds if any(which)]
    for name in sorted({r.row.category for r in rows if r.row.harmful and r.row.category}):
        which = np.array([r.row.harmful and r.row.category == name for r in rows])
        found.append(flagged_row("harmful, by category", scores[which], guard, name=name))
    return found


def _variant_row(guard: LatentGuard, material: Material) -> VariantRow:
    check, test = material.sided("check"), material.sided("test")
    scores = guard.score(guard.states(material.found.rows(test)))
    harmful = np.array(material.harmful(test))
    name = f"{guard.options.metric}, {'augmented' if guard.options.augment else 'plain'}, at {guard.options.span}"
    checked = guard.score(guard.states(material.found.rows(check)))
    return VariantRow(
        span=guard.options.span,
        metric=guard.options.metric,
        augmented=guard.options.augment,
        checked=ranking(checked, material.harmful(check)).auroc,
        ranking=scored_row("direction", name, scores, harmful),
        recall=share_flagged(scores[harmful], guard.threshold),
        false_alarms=share_flagged(scores[~harmful], guard.threshold),
    )


def _notes(material: Material, rows: Sequence[ControlRow]) -> list[str]:
    notes = []
    if material.refused_by == "none":
        notes.append("What the model does with the prompts was not asked: the harmful mean is of all harmful prompts.")
    own = rows[0].ranking.auroc
    for row in rows[1:]:
        other = row.ranking.auroc
        if own is not None and other is not None and other >= own - 0.02:
            notes.append(f"{row.name} does as well ({other:.2f}) as the guard ({own:.2f}).")
    if material.base is not None:
        notes.append(
            "A base model that refuses nothing may tell harm as well: the guard then owes nothing to training."
        )
    return notes


def _sizes(material: Material) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for part in GUARD_PARTS:
        rows = material.prompts.parts[part]
        found[part] = {
            "harmful": sum(r.row.harmful for r in rows),
            "harmless": sum(benign(r) for r in rows),
            "look-alikes": sum(r.look_alike for r in rows),
            "harmless, to decline": sum(r.row.to_decline and not r.row.harmful for r in rows),
        }
    return found
