"""The search for a single refusal direction, as a stage of `demur explain directions`; measured candidates are kept."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from demur.activations.direction import Direction, DirectionMap
from demur.activations.spans import PromptTokens
from demur.activations.subject import Subject
from demur.core.defaults import DEFAULT_JUDGE
from demur.core.direction_study import Attrition, Candidate, Outcomes, RandomTrial, Selection
from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.data.folder import write_json
from demur.inside.loudness import measure_peaks
from demur.inside.phrases import RefusalTokens, refusal_metric, refusal_tokens
from demur.inside.selection import (
    Limits,
    Tried,
    candidate_attrition,
    candidates,
    filtered,
    random_trials,
    relative_limit,
    search,
)
from demur.inside.study import StudyPrompts
from demur.inside.trial import InterventionTrial, next_logits, written
from demur.jobs.following import outcomes
from demur.steer.hooks import AblateDirection, Intervention, raw_addition

Progress = Callable[[str, int, int], None]


class SelectionSettings(Frozen):
    """How thoroughly to search.

    Attributes:
        spans: Template spans whose directions are tried.
        layer_step: Try every so many layers.
        n_trial: Most selection prompts of a side.
        n_screen: Prompts of a side for the first look at all candidates; the best quarter is measured on all.
        n_random: Random directions put through the same.
        n_outcomes: Prompts of a side for replies under intervention; 0 writes none.
        judge: Judge of those replies.
        reply_tokens: Their longest.
    """

    spans: tuple[str, ...] = ("t_post[-1]",)
    layer_step: int = 1
    n_trial: int = 32
    n_screen: int = 8
    n_random: int = 10
    n_outcomes: int = 16
    judge: str = DEFAULT_JUDGE
    reply_tokens: int = 40


JOURNAL = "selection.json"
PEAK_PROMPTS = 8
DISCOVERY = 48  # prompts of each kind that refusal tokens are found on
FEWEST = 4  # selection prompts of a side after the filters


def selected(
    subject: Subject,
    prompts: StudyPrompts,
    tokens: Sequence[PromptTokens],
    refusal: DirectionMap,
    *,
    out: Path,
    settings: SelectionSettings,
    progress: Progress,
) -> tuple[Selection, Direction | None]:
    """Search the candidates of a map; the direction is the best one even where none survives, None without candidates.

    Args:
        subject: The model.
        prompts: The study's prompts, labelled.
        tokens: The same, tokenized.
        refusal: Raw refusal directions by span and layer.
        out: The study's folder.
        settings: How thoroughly.
        progress: Told what is being done.
    """
    metric, attrition, harmful, harmless, baseline = _sides(subject, prompts, tokens, settings.n_trial)
    n = min(len(harmful), len(harmless))
    limits = Limits(n_layers=subject.parts.n_layers)
    peaks = measure_peaks(subject, [tokens[i] for i in prompts.parts["selection"][:PEAK_PROMPTS]])
    directions = _directions(refusal, settings)
    attrition.append(_layer_attrition(directions, limits))
    trial = InterventionTrial(subject, [tokens[i] for i in harmful[:n]], [tokens[i] for i in harmless[:n]], metric.ids)
    found = candidates(directions, peaks, limits=limits)
    memory = _Memory(out / JOURNAL, key=f"{subject.name} {prompts.sha256} {metric.ids} {n}")
    done = [0]

    def tell(tried: Tried) -> None:
        done[0] += 1
        memory.put(tried)
        progress("trying directions", min(done[0], len(found)), len(found))

    measured = search(found, trial, n=n, n_screen=settings.n_screen, remembered=memory.get, done=tell)
    like = [t.direction for t in measured if t.candidate.variant == "plain"]
    random = memory.random or random_trials(trial, like, n=n, n_draws=settings.n_random)
    memory.put_random(random)
    relative = relative_limit(random)
    judged, best, loose = filtered(measured, limits, relative=relative)
    listed = [t.candidate for t in judged]
    attrition.append(candidate_attrition(listed))
    chosen = _chosen(judged, best, loose)
    replies = _outcomes(subject, prompts, tokens, (harmful, harmless), chosen, settings, progress) if chosen else ()
    selection = Selection(
        metric_tokens=metric.texts,
        metric_ids=metric.ids,
        metric_auroc=metric.auroc,
        baseline_harmful=baseline[0],
        baseline_harmless=baseline[1],
        kl_limit=limits.kl,
        kl_limit_relative=relative,
        candidates=tuple(listed),
        random=tuple(random),
        attrition=tuple(attrition),
        chosen=best,
        chosen_relative=loose,
        outcomes=replies,
        notes=tuple(_notes(listed, best, loose, random)),
    )
    return selection, chosen.direction if chosen else None


def _sides(
    subject: Subject, prompts: StudyPrompts, tokens: Sequence[PromptTokens], most: int
) -> tuple[RefusalTokens, list[Attrition], list[int], list[int], tuple[float | None, float | None]]:
    """Refusal tokens, and the selection prompts that pass the published filter: refused harmful, answered harmless.

    Where the filter leaves too few, prompts are taken by what the model did with them, and the attrition says so.
    """
    metric = _metric(subject, prompts, tokens)
    rows = list(prompts.parts["selection"])
    m = dict(zip(rows, refusal_metric(next_logits(subject, [tokens[i] for i in rows]), metric.ids), strict=True))
    attrition, sides = [], []
    for side, keep in (("harmful", True), ("harmless", False)):
        mine = [i for i in rows if prompts.rows[i].harmful == keep and (keep or not prompts.rows[i].to_decline)]
        passed = [i for i in mine if (m[i] > 0) == keep]
        by_conduct = [i for i in mine if prompts.rows[i].refused is keep]
        sign = "above" if keep else "below"
        reason = f"metric {sign} 0"
        if len(passed) < FEWEST:
            reason = f"only {len(passed)} have a metric {sign} 0; taken by what the model did instead"
        kept = passed if len(passed) >= FEWEST else by_conduct if len(by_conduct) >= FEWEST else mine
        attrition.append(Attrition(name=f"selection prompts, {side}", n=len(mine), kept=len(kept), reason=reason))
        sides.append(kept[:most])
    baseline = tuple(float(np.mean([m[i] for i in side])) if side else None for side in sides)
    return metric, attrition, sides[0], sides[1], (baseline[0], baseline[1])


def _metric(subject: Subject, prompts: StudyPrompts, tokens: Sequence[PromptTokens]) -> RefusalTokens:
    """Refusal tokens, found on prompts to fit on."""
    judged = [i for i in prompts.parts["fit"] if prompts.rows[i].refused is not None]
    refused = [i for i in judged if prompts.rows[i].refused][:DISCOVERY]
    accepted = [i for i in judged if not prompts.rows[i].refused][:DISCOVERY]
    logits = next_logits(subject, [tokens[i] for i in (*refused, *accepted)])
    kinds = [True] * len(refused) + [False] * len(accepted)
    return refusal_tokens(logits, kinds, decode=lambda token: str(subject.tokenizer.decode([token])))


def _directions(refusal: DirectionMap, settings: SelectionSettings) -> list[Direction]:
    """Candidates: every asked span and every so many layers, where the two sides differ at all."""
    spans = settings.spans
    unknown = [span for span in spans if span not in refusal.spans]
    if unknown:
        raise BadInputError(
            f"--selection-span {unknown[0]!r}: expected one of {', '.join(refusal.spans)}; name one of these"
        )
    found = []
    for span in spans:
        for layer in refusal.layers[1 :: settings.layer_step]:
            try:
                found.append(refusal.at(span, layer))
            except BadInputError:
                continue
    return found


def _layer_attrition(directions: Sequence[Direction], limits: Limits) -> Attrition:
    kept = sum(d.residual_index < limits.top for d in directions)
    reason = f"residual index below {limits.top}; others not tried"
    return Attrition(name="directions", n=len(directions), kept=kept, reason=reason)


def _chosen(judged: Sequence[Tried], best: int | None, loose: int | None) -> Tried | None:
    """The best survivor; else the gentlest that still bypasses something, as the candidate to look at."""
    index = best if best is not None else loose
    if index is not None:
        return judged[index]
    whole = [t for t in judged if t.candidate.kl is not None and t.candidate.bypass is not None]
    return min(whole, key=lambda t: (round(t.candidate.kl or 0.0, 1), t.candidate.bypass or 0.0)) if whole else None


def _outcomes(
    subject: Subject,
    prompts: StudyPrompts,
    tokens: Sequence[PromptTokens],
    sides: tuple[list[int], list[int]],
    chosen: Tried,
    settings: SelectionSettings,
    progress: Progress,
) -> tuple[Outcomes, ...]:
    """Three-way verdicts on replies: untouched, under the candidate, and under a random direction of its length."""
    n = settings.n_outcomes
    if not n:
        return ()
    direction = chosen.direction
    vector = np.random.default_rng(0).standard_normal(len(direction.vector))
    random = replace(direction, vector=(vector / np.linalg.norm(vector)).astype(np.float32), name="random")
    plans: list[tuple[int, str, list[Intervention]]] = [
        (0, "none", []),
        (0, "ablated", [AblateDirection(direction)]),
        (0, "random ablated", [AblateDirection(random)]),
        (1, "none", []),
        (1, "ablated", [AblateDirection(direction)]),
        (1, "added", [raw_addition(direction)]),
        (1, "random added", [raw_addition(random)]),
    ]
    found = []
    for at, (side, name, interventions) in enumerate(plans):
        asked = [tokens[i] for i in sides[side][:n]]
        replies = written(subject, asked, interventions, max_tokens=settings.reply_tokens)
        verdicts = outcomes([prompts.rows[i].prompt for i in sides[side][:n]], replies, judge=settings.judge)
        counts = dict(sorted(Counter(v.outcome for v in verdicts).items()))
        found.append(Outcomes(side="harmless" if side else "harmful", intervention=name, counts=counts))
        progress("replies under intervention", at + 1, len(plans))
    return tuple(found)


def _notes(
    listed: Sequence[Candidate], best: int | None, loose: int | None, random: Sequence[RandomTrial]
) -> list[str]:
    notes = []
    if best is None and loose is not None:
        notes.append(
            "No candidate survives the published filters; one does if its divergence may be as large as that of "
            "random directions."
        )
    elif best is None:
        notes.append("No candidate survives: that is the result. The saved direction is only the gentlest one.")
    broken = [c for c in listed if c.kl is not None and c.kl > 1 and c.bypass is not None and c.bypass < 0]
    if broken:
        notes.append(
            f"{len(broken)} of {len(listed)} candidates lower the refusal metric and change harmless next tokens by "
            "more than 1 nat: that is a broken model, not a bypass."
        )
    kl = relative_limit(random)
    if kl is not None and kl > 0.1:
        notes.append(f"Random directions alone diverge by up to {kl:.2f}: the published limit of 0.1 is strict here.")
    return notes


class _Memory:
    """Measured candidates of an interrupted run, by what they depend on."""

    def __init__(self, path: Path, *, key: str) -> None:
        self.path, self.key = path, key
        self.found: dict[str, dict[str, Any]] = {}
        self.random: list[RandomTrial] = []
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["key"] == key:
                self.found = held["candidates"]
                self.random = [RandomTrial.model_validate(row) for row in held["random"]]
        except (OSError, ValueError, KeyError, TypeError):
            self.found, self.random = {}, []

    def get(self, tried: Tried, n: int) -> Tried | None:
        """Numbers of an earlier run for a candidate on `n` prompts."""
        held = self.found.get(_name(tried, n))
        if held is None:
            return None
        update = {field: held[field] for field in ("bypass", "induce", "kl", "n")}
        return Tried(direction=tried.direction, candidate=tried.candidate.model_copy(update=update))

    def put(self, tried: Tried) -> None:
        """Keep a measured candidate."""
        name = _name(tried, tried.candidate.n)
        if name not in self.found:
            self.found[name] = tried.candidate.model_dump(mode="json")
            self._write()

    def put_random(self, random: Sequence[RandomTrial]) -> None:
        """Keep what random directions did."""
        if not self.random:
            self.random = list(random)
            self._write()

    def _write(self) -> None:
        random = [row.model_dump(mode="json") for row in self.random]
        write_json(self.path, {"key": self.key, "candidates": self.found, "random": random})


def _name(tried: Tried, n: int) -> str:
    vector = tried.direction.vector.astype("<f4").tobytes()
    place = f"{tried.candidate.span} {tried.candidate.layer} {tried.candidate.variant} {n}"
    return f"{place} {sha256(vector).hexdigest()[:12]}"
