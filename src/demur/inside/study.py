"""A study of two directions over several seeds: fit on one part, choose layers on another, rank on a third.

Each seed draws three quarters of the matched pairs to fit on; what it leaves out helps to choose the layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.core.direction_study import Attrition, Axis, ControlKind, Curve, Numbers, PlaceMap
from demur.inside.buckets import Buckets, Labelled, Rows, filled
from demur.inside.estimators import Method
from demur.inside.separation import (
    Contrast,
    Design,
    contrast_map,
    cosines,
    harm_contrast,
    projections,
    refusal_contrast,
)
from demur.stats.ranking import auroc

Part = Literal["fit", "selection", "test"]
PARTS: tuple[Part, ...] = ("fit", "selection", "test")
AXES: tuple[Axis, ...] = ("harm", "refusal")
SPAN: dict[Axis, str] = {"harm": "t_inst", "refusal": "t_post[-1]"}
HARMFUL_HARMLESS, REFUSED_ACCEPTED = "harmful / harmless", "refused / accepted"
TASK: dict[Axis, str] = {"harm": HARMFUL_HARMLESS, "refusal": REFUSED_ACCEPTED}
SEED_SHARE = 0.75
_FEWEST = 5  # rows of each kind before a task is worth a number
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPrompts:
    """Prompts of a study.

    Attributes:
        rows: All of them.
        parts: Indices of each part.
        pairs: Harmful and harmless partners by part, as indices into `rows`.
        origin: Where they come from, in words.
        attrition: What matching left.
        notes: What a reader must know.
    """

    rows: tuple[Labelled, ...]
    parts: Mapping[Part, tuple[int, ...]]
    pairs: Mapping[Part, tuple[tuple[int, int], ...]]
    origin: str
    attrition: tuple[Attrition, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, part: Part) -> list[Labelled]:
        """Rows of a part."""
        return [self.rows[i] for i in self.parts[part]]

    @property
    def sha256(self) -> str:
        """Hash of prompts, sides and parts."""
        digest = sha256()
        for part in PARTS:
            for row in self.of(part):
                line = f"{part}\x00{row.prompt}\x00{row.harmful}\x00{row.to_decline}\x01"
                digest.update(line.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def labelled(self, rows: Sequence[Labelled]) -> "StudyPrompts":
        """The same prompts with what the model did."""
        return replace(self, rows=tuple(rows))

    def drawn(self, seed: int) -> tuple[Rows, Rows]:
        """Rows that a seed fits on, and those it leaves out: pairs stay together."""
        rng = np.random.default_rng(seed)
        paired = {i for pair in self.pairs["fit"] for i in pair}
        units = [*self.pairs["fit"], *((i,) for i in self.parts["fit"] if i not in paired)]
        order = rng.permutation(len(units))
        n = max(1, round(SEED_SHARE * len(units)))
        fit, rest = ([i for at in sorted(chosen) for i in units[at]] for chosen in (order[:n], order[n:]))
        return np.array(fit, dtype=np.int64), np.array(rest, dtype=np.int64)

    def buckets(self, index: Sequence[int] | Rows) -> Buckets:
        """Some of the rows, in buckets of their own numbers."""
        chosen = np.asarray(index, dtype=np.int64)
        found = filled([self.rows[i] for i in chosen])
        return Buckets(rows={name: chosen[rows] for name, rows in found.rows.items()}, left_out=found.left_out)

    def tasks(self, index: Sequence[int] | Rows) -> dict[str, tuple[Rows, Booleans]]:
        """What scores of some rows may be asked to tell apart: rows and labels; only tasks with enough of both."""
        rows = [(int(i), self.rows[i]) for i in index]
        judged = [(i, r) for i, r in rows if r.refused is not None]
        listed: dict[str, list[tuple[int, bool]]] = {
            HARMFUL_HARMLESS: [(i, r.harmful) for i, r in rows if r.harmful or not r.to_decline],
            "harmful / harmless to decline": [(i, r.harmful) for i, r in rows if r.to_decline],
            REFUSED_ACCEPTED: [(i, bool(r.refused)) for i, r in judged],
            "refused / accepted, harmful": [(i, bool(r.refused)) for i, r in judged if r.harmful],
            "refused / accepted, harmless": [(i, bool(r.refused)) for i, r in judged if not r.harmful],
        }
        return {
            name: (np.array([i for i, _ in pairs], dtype=np.int64), np.array([label for _, label in pairs], dtype=bool))
            for name, pairs in listed.items()
            if min(sum(label for _, label in pairs), sum(not label for _, label in pairs)) >= _FEWEST
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class States:
    """States of all prompts of a study under one model.

    Attributes:
        values: float32 (n_prompts, n_spans, n_layers, d).
        spans: Names of the second axis.
        layers: Residual indices of the third.
        model: Identity of the model.
    """

    values: NDArray[np.float32]
    spans: tuple[str, ...]
    layers: tuple[int, ...]
    model: str

    def at(self, span: str) -> NDArray[np.float32]:
        """States at one span; (n_prompts, n_layers, d)."""
        found: NDArray[np.float32] = self.values[:, self.spans.index(span)]
        return found


@dataclass(frozen=True, eq=False)
class Fitted:
    """Raw directions of one seed, or of all rows to fit on.

    Attributes:
        prompts: The study's prompts.
        states: Their states.
        index: Rows fitted on.
        left_out: Rows to fit on that this seed left out.
        design: How the directions keep harmfulness and refusal apart.
        method: Estimator.
    """

    prompts: StudyPrompts
    states: States
    index: Rows
    left_out: Rows
    design: Design = "crossed"
    method: Method = "difference_in_means"

    @cached_property
    def contrasts(self) -> dict[Axis, Contrast]:
        """Which rows each direction is the difference of."""
        buckets = self.prompts.buckets(self.index)
        return {
            "harm": harm_contrast(buckets, design=self.design),
            "refusal": refusal_contrast(buckets, design=self.design),
        }

    @cached_property
    def raw(self) -> dict[Axis, Floats]:
        """Raw directions; (n_spans, n_layers, d) each."""
        return {axis: contrast_map(self.states.values, self.contrasts[axis], method=self.method) for axis in AXES}

    def on(self, states: States) -> "Fitted":
        """The same rows under another model."""
        return Fitted(self.prompts, states, self.index, self.left_out, self.design, self.method)

    def scores(self, axis: Axis, index: Sequence[int] | Rows) -> Floats:
        """Projections of some rows at every place; (n, n_spans, n_layers)."""
        return projections(self.states.values[np.asarray(index)], self.raw[axis])

    def grid(self, axis: Axis, index: Rows, labels: Booleans) -> Floats:
        """AUROC of its direction at every place; (n_spans, n_layers)."""
        return auroc_grid(self.scores(axis, index), labels)


def fits(
    prompts: StudyPrompts, states: States, seeds: Sequence[int], *, design: Design, method: Method
) -> list[Fitted]:
    """Directions of each seed."""
    return [Fitted(prompts, states, *prompts.drawn(seed), design, method) for seed in seeds]


def auroc_grid(scores: Floats, labels: Booleans) -> Floats:
    """AUROC at every place, nan with one kind of rows only; (n, ...) -> (...)."""
    flat = scores.reshape(len(scores), -1)
    found = [auroc(column.tolist(), labels.tolist()) for column in flat.T]
    return np.array([np.nan if a is None else a for a in found]).reshape(scores.shape[1:])


def chosen_layer(runs: Sequence[Fitted], axis: Axis) -> int:
    """Residual index at which an axis ranks rows best that it was neither fitted on nor will be tested on.

    Layer 0 is a control and cannot be chosen; of equals the lowest is.
    """
    grids = []
    for run in runs:
        rows = np.concatenate([run.left_out, np.array(run.prompts.parts["selection"], dtype=np.int64)])
        task = run.prompts.tasks(rows).get(TASK[axis])
        if task is not None:
            grids.append(run.grid(axis, *task)[run.states.spans.index(SPAN[axis])])
    states = runs[0].states
    if not grids:
        return states.layers[len(states.layers) // 2]
    mean = np.nanmean(np.stack(grids), axis=0)
    allowed = [i for i, layer in enumerate(states.layers) if layer > 0]
    return states.layers[max(allowed, key=lambda i: (round(float(mean[i]), 6), -i))]


def direction_curves(runs: Sequence[Fitted]) -> list[Curve]:
    """AUROC by layer of both directions at both named spans, for every task, on the test rows."""
    states, prompts = runs[0].states, runs[0].prompts
    tasks = prompts.tasks(prompts.parts["test"])
    everything = np.array(prompts.parts["test"], dtype=np.int64)
    place = {int(i): k for k, i in enumerate(everything)}
    found = []
    for axis in AXES:
        scores = [run.scores(axis, everything) for run in runs]
        for span in SPAN.values():
            at = states.spans.index(span)
            for task, (rows, labels) in tasks.items():
                chosen = [place[int(i)] for i in rows]
                grids = np.stack([auroc_grid(s[chosen, at], labels) for s in scores])
                found.append(curve(f"{axis} direction", axis, span, task, grids))
    return found


def curve(name: str, axis: Axis, span: str, task: str, by_seed: Floats, *, kind: ControlKind = "direction") -> Curve:
    """A curve from values (n_seeds or n_draws, n_layers): mean and range."""
    return Curve(
        name=name,
        axis=axis,
        span=span,
        task=task,
        kind=kind,
        mean=numbers(by_seed.mean(axis=0)),
        low=numbers(by_seed.min(axis=0)),
        high=numbers(by_seed.max(axis=0)),
    )


def place_maps(runs: Sequence[Fitted], base: Sequence[Fitted] = ()) -> list[PlaceMap]:
    """Layer by position: AUROC of each direction at its task, cosine of the two, and of each with the base model's."""
    prompts, states = runs[0].prompts, runs[0].states
    tasks = prompts.tasks(prompts.parts["test"])
    found = []
    for axis in AXES:
        if TASK[axis] in tasks:
            mean = np.mean([run.grid(axis, *tasks[TASK[axis]]) for run in runs], axis=0)
            found.append(_map(f"AUROC of the {axis} direction, {TASK[axis]}", states, mean))
    both = np.mean([cosines(run.raw["harm"], run.raw["refusal"]) for run in runs], axis=0)
    found.append(_map("cosine of harm and refusal directions", states, both))
    for axis in AXES if base else ():
        pairs = zip(runs, base, strict=True)
        mean = np.mean([cosines(run.raw[axis], other.raw[axis]) for run, other in pairs], axis=0)
        found.append(_map(f"cosine of the {axis} direction with the base model's", states, mean))
    return found


def axis_cosines(runs: Sequence[Fitted]) -> Numbers:
    """Cosine of v_harm at `t_inst` with v_ref at `t_post[-1]`, by layer, mean over seeds."""
    spans = runs[0].states.spans
    found = [
        cosines(run.raw["harm"][spans.index(SPAN["harm"])], run.raw["refusal"][spans.index(SPAN["refusal"])])
        for run in runs
    ]
    return numbers(np.mean(found, axis=0))


def numbers(values: Floats) -> Numbers:
    """Floats for JSON; None for nan."""
    return tuple(None if np.isnan(v) else float(v) for v in values)


def _map(name: str, states: States, values: Floats) -> PlaceMap:
    return PlaceMap(name=name, spans=states.spans, values=tuple(numbers(row) for row in values))
