"""The probe of a cliff study, what it is compared with, and what it reads along every item."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.activations.subject import Subject
from demur.core.cliff import CurveRow, GroupRow, MeanRow, ProbeRow
from demur.core.direction_study import ControlRow
from demur.core.errors import BadInputError
from demur.inside.cliff import (
    CliffStatistics,
    Curve,
    Estimate,
    TokenTrace,
    cliff_statistics,
    fraction_curve,
    item_cliff,
    tail_curve,
)
from demur.inside.honesty import random_directions, scored_row, shuffled_labels, surface_rows, tfidf_row
from demur.inside.probe import Probe, ProbeQuality, fit_probe, quality, split_by_group, token_contrast
from demur.inside.traces import ReasonedTokens, span_states

Progress = Callable[[int, int], None]
DECLINED, FELL = "to decline, declined", "to decline, answered"
ANSWERED, OVER = "to answer, answered", "to answer, declined"
GROUPS = (DECLINED, FELL, ANSWERED, OVER)
FEWEST = 8  # items of a side on each half
TAIL, AFTER, POINTS = 24, 5, 20
THINKING_SPANS = ("plateau[0]", "plateau[2]", "plateau[5]", "plateau[7]")


@dataclass(frozen=True, slots=True, eq=False)
class EndProbe:
    """The probe at the last token before the answer, and the halves it was fitted and is measured on.

    Attributes:
        probe: Declined prompts to decline against answered prompts to answer.
        fit: Items it was fitted on, of these two groups.
        held: Items of the two groups that it has not seen.
        spans: Positions that all items have.
        states: Normed states of `fit` and of `held` at `spans`; (n_items, n_spans, d) each.
    """

    probe: Probe
    fit: tuple[ReasonedTokens, ...]
    held: tuple[ReasonedTokens, ...]
    spans: tuple[str, ...]
    states: tuple[NDArray[np.float32], NDArray[np.float32]]

    def at(self, span: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """States of both halves at one position."""
        return self.states[0][:, self.spans.index(span)], self.states[1][:, self.spans.index(span)]

    @property
    def labels(self) -> tuple[list[bool], list[bool]]:
        """Which items of both halves were declined."""
        return [i.group == DECLINED for i in self.fit], [i.group == DECLINED for i in self.held]


def end_probe(
    subject: Subject,
    items: Sequence[ReasonedTokens],
    *,
    pairs: Mapping[str, str],
    seed: int = 0,
    progress: Progress | None = None,
) -> EndProbe:
    """Fit the probe where the answer begins.

    Args:
        subject: The model.
        items: Items with their group.
        pairs: Contrast pair of items that have one; twins stay on one side.
        seed: Of the split and the folds.
        progress: Called with (items done, items).

    Raises:
        BadInputError: Too few declined or answered items to fit and to measure.
    """
    used = [item for item in items if item.group in (DECLINED, ANSWERED)]
    fitted = split_by_group([pairs.get(i.key) or i.key for i in used], seed=seed)
    fit, held = (tuple(i for i, f in zip(used, fitted, strict=True) if bool(f) is side) for side in (True, False))
    _check_counts(subject, fit, held)
    thinks = all(item.thinks for item in used)
    spans = tuple(s for s in ("t_inst", "t_post[-1]") if all(s in i.places for i in used))
    spans = (*spans, *(THINKING_SPANS if thinks else ()), "final")
    last = subject.parts.n_layers
    states = span_states(subject, used, spans, space="normed", layer=last, progress=progress)
    labels = np.array([item.group == DECLINED for item in used])
    probe = fit_probe(states[fitted, -1], labels[fitted].tolist(), space="normed", layer=last, span="final", seed=seed)
    return EndProbe(probe, fit, held, spans, (states[fitted], states[~fitted]))


def probe_rows(subject: Subject, found: EndProbe, fell: Sequence[ReasonedTokens], *, seed: int = 0) -> list[ProbeRow]:
    """Quality of the end's probe at every position, of probes fitted there, and two checks of what it reads.

    Args:
        subject: The model.
        found: The probe.
        fell: Items to decline that were answered; none of them was fitted on.
        seed: Of the folds.
    """
    rows = []
    fit_labels, held_labels = found.labels
    for span in found.spans:
        fit, held = found.at(span)
        rows.append(_row("probe of the end", quality(found.probe, held, held_labels, span=span)))
        if span != "final":
            own = fit_probe(fit, fit_labels, space="normed", layer=found.probe.layer, span=span, seed=seed)
            rows.append(_row("own probe", quality(own, held, held_labels, span=span)))
    if fell:
        states = span_states(subject, fell, ["final"], space="normed", layer=found.probe.layer)[:, 0]
        declined = found.at("final")[1][np.array(held_labels)]
        both, labels = np.concatenate([declined, states]), [True] * len(declined) + [False] * len(states)
        rows.append(_row("refusal apart from kind", quality(found.probe, both, labels, span="final")))
    return rows


def first_words(subject: Subject, found: EndProbe) -> tuple[ProbeRow, float] | None:
    """The unembedding contrast of first answer tokens: its quality, and its cosine with the probe; None without one."""
    fit_labels, held_labels = found.labels
    firsts = [(item.ids[item.final + 1], label) for item, label in zip(found.fit, fit_labels, strict=True)
              if len(item.ids) > item.final + 1]  # fmt: skip
    table = subject.parts.lm_head.weight.detach().float().cpu().numpy()
    try:
        contrast = token_contrast(
            table, [t for t, y in firsts if y], [t for t, y in firsts if not y], layer=found.probe.layer
        )
    except ValueError:  # refusals and answers begin with the same tokens
        return None
    measured = quality(contrast, found.at("final")[1], held_labels)
    row = _row("first words", measured).model_copy(update={"accuracy": None})
    return row, float(contrast.direction @ found.probe.direction)


def control_rows(
    subject: Subject, found: EndProbe, texts: Mapping[str, tuple[str, str]], *, draws: int, seed: int = 0
) -> list[ControlRow]:
    """What must not be as good as the probe: no model, no training, no direction.

    Args:
        subject: The model.
        found: The probe.
        texts: Prompt and thoughts of each item.
        draws: Random directions and shuffles.
        seed: Of the draws.
    """
    (fit, held), (fit_labels, held_labels) = found.at("final"), found.labels
    prompts = [[texts[i.key][0] for i in half] for half in (found.fit, found.held)]
    thoughts = [[texts[i.key][1] for i in half] for half in (found.fit, found.held)]
    rows = [scored_row("direction", "the probe", found.probe.logits(held), held_labels)]
    for span in ("t_inst", "final"):
        if span in found.spans:
            first, second = (
                span_states(subject, half, [span], space="residual", layer=0)[:, 0] for half in (found.fit, found.held)
            )
            bottom = fit_probe(first, fit_labels, space="residual", layer=0, span=span, seed=seed)
            rows.append(scored_row("layer 0", f"embedding at {span}", bottom.logits(second), held_labels))
    rows += surface_rows(prompts[0], fit_labels, prompts[1], held_labels)
    rows.append(tfidf_row(prompts[0], fit_labels, prompts[1], held_labels))
    if any(thoughts[0]):
        words = tfidf_row(thoughts[0], fit_labels, thoughts[1], held_labels)
        rows.append(words.model_copy(update={"name": "TF-IDF of the thoughts"}))
    rows.append(random_directions(fit, fit_labels, held, held_labels, n=draws, seed=seed))
    rows.append(shuffled_labels(fit, fit_labels, held, held_labels, n=draws, seed=seed))
    return rows


def group_rows(traces: Sequence[TokenTrace], *, seed: int = 0) -> list[GroupRow]:
    """Cliff statistics of every group that has items."""
    grouped = _grouped(traces)
    return [group_row(cliff_statistics([item_cliff(t) for t in of], group=name, seed=seed)) for name, of in grouped]


def curve_rows(traces: Sequence[TokenTrace], *, thinks: bool, seed: int = 0) -> list[CurveRow]:
    """Curves of every group: the last tokens before the answer and its first ones; and along the thinking."""
    rows = []
    for name, of in _grouped(traces):
        rows.append(_curve_row(name, "tail", tail_curve(of, TAIL, after=AFTER, seed=seed)))
        if thinks:
            rows.append(_curve_row(name, "fraction", fraction_curve(of, POINTS, seed=seed)))
    return rows


def group_row(found: CliffStatistics) -> GroupRow:
    """Statistics as the result holds them."""
    return GroupRow(
        group=found.group,
        n=found.n,
        plateau=mean_row(found.plateau),
        final=mean_row(found.final),
        drop=mean_row(found.drop),
        drop_logit=mean_row(found.drop_logit),
        n_high=found.n_high,
        declared=found.declared,
        reason=found.reason,
    )


def mean_row(found: Estimate) -> MeanRow:
    """An estimate as the result holds it."""
    return MeanRow(mean=found.mean, low=found.low, high=found.high)


def _check_counts(subject: Subject, fit: Sequence[ReasonedTokens], held: Sequence[ReasonedTokens]) -> None:
    for group, what in (
        (DECLINED, "prompts to decline that it declines"),
        (ANSWERED, "prompts to answer that it answers"),
    ):
        n_fit, n_held = (sum(item.group == group for item in half) for half in (fit, held))
        if min(n_fit, n_held) < FEWEST:
            raise BadInputError(
                f"{subject.name}: expected at least {2 * FEWEST} {what}, got {n_fit + n_held} ({n_fit} to fit on, "
                f"{n_held} to measure on); give more --prompts, or a model that was trained to refuse"
            )


def _grouped(traces: Sequence[TokenTrace]) -> list[tuple[str, list[TokenTrace]]]:
    grouped = [(name, [trace for trace in traces if trace.group == name]) for name in GROUPS]
    return [(name, of) for name, of in grouped if of]


def _row(name: str, found: ProbeQuality) -> ProbeRow:
    return ProbeRow(
        name=name,
        span=found.span,
        accuracy=found.accuracy,
        auroc=found.auroc,
        low=found.low,
        high=found.high,
        n_refused=found.n_refused,
        n_complied=found.n_complied,
    )


def _curve_row(group: str, axis: str, curve: Curve) -> CurveRow:
    def known(values: NDArray[np.float64]) -> tuple[float | None, ...]:
        return tuple(None if np.isnan(v) else float(v) for v in values)

    return CurveRow(
        group=group,
        axis="tail" if axis == "tail" else "fraction",
        x=tuple(curve.axis.tolist()),
        mean=known(curve.mean),
        low=known(curve.low),
        high=known(curve.high),
        count=tuple(int(n) for n in curve.count),
    )
