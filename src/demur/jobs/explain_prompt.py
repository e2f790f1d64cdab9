"""Explain one prompt: both directions by layer, a guard's word, what it is nearest to, rules that fire, the trigger."""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur.core.defaults import DEFAULT_JUDGE
from demur.core.direction_study import Axis
from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.inside.prompt_view import (
    AxisView,
    PredictorView,
    PromptView,
    RuleView,
    TriggerView,
    axis_view,
    guard_view,
)

if TYPE_CHECKING:
    from demur.activations.direction import Direction, DirectionMap
    from demur.activations.record import Activations
    from demur.activations.subject import Subject
    from demur.classify.trigger import Trigger
    from demur.inside.guard import LatentGuard

Progress = Callable[[str, int, int], None]
MAPS = "maps.safetensors"
SPANS: dict[Axis, str] = {"harm": "t_inst", "refusal": "t_post[-1]"}
OWN_FIT, OWN_CHECK = 100, 60  # prompts of a side for the guard that is fitted where none is given


class ExplainConfig(Frozen):
    """One explanation, completely.

    Attributes:
        model: As typed.
        prompt: The prompt.
        study: Folder of 'demur explain directions'.
        guard: Folder of a guard; without it and without a study one is fitted on built-in prompts, once.
        predictor: Folder of a fitted predictor.
        rules: File of a Tsetlin machine over words.
        n_nearest: Prompts to show that it is nearest to.
        trigger: Look for the smallest part that is still refused, and still flagged.
        max_calls: Most parts of the prompt to ask each of model and guard.
        judge: Decides what is a refusal.
    """

    model: str
    prompt: str
    study: Path | None = None
    guard: Path | None = None
    predictor: Path | None = None
    rules: Path | None = None
    n_nearest: int = 5
    trigger: bool = True
    max_calls: int = 60
    judge: str = DEFAULT_JUDGE


def explain_prompt(config: ExplainConfig, *, progress: Progress | None = None) -> PromptView:
    """Look at one prompt from every side that was asked for.

    Raises:
        BadInputError: An empty prompt, or a folder that is missing, malformed or of another model.
        BackendError: The model failed.
    """
    if not config.prompt.strip():
        raise BadInputError("prompt: expected some text, got none; give the prompt in quotes")
    from demur.jobs.subject import subject_of

    say = progress or (lambda *_: None)
    words = _predictor(config)  # before the model: a wrong path must not cost its loading
    rules = _rules(config)
    subject = subject_of(config.model)
    maps, chosen = _study(config.study, subject.name) if config.study else ({}, {})
    folder = config.guard or (None if config.study else _own_guard(config, subject, say))
    guard = _guard(folder, subject.name) if folder else None
    found, tokens = _recorded(subject, config.prompt, maps, chosen, guard)
    view = PromptView(
        model=subject.name,
        prompt=config.prompt,
        tokens=tokens,
        axes=tuple(_axes(found, maps, chosen)),
        predictor=words,
        rules=rules,
        notes=tuple(_notes(config, maps)),
    )
    if guard is not None and folder is not None:
        view = view.model_copy(update=_guarded(config, guard, folder, found))
    if config.trigger:
        view = view.model_copy(update={"triggers": tuple(_triggers(config, subject, guard, view, say))})
    return view


def _study(folder: Path, model: str) -> tuple[dict[str, "DirectionMap"], dict[str, "Direction"]]:
    from demur.activations.direction import load_direction, load_maps

    if not (folder / MAPS).is_file():
        raise BadInputError(f"{folder}: expected {MAPS}; run 'demur explain directions MODEL --out {folder}'")
    maps = load_maps(folder / MAPS, for_model=model)
    files = {axis: folder / f"{axis}.safetensors" for axis in SPANS}
    chosen: dict[str, Direction] = {
        axis: load_direction(path, for_model=model) for axis, path in files.items() if path.is_file()
    }
    return maps, chosen


def _guard(folder: Path, model: str) -> "LatentGuard":
    from demur.inside.guard_store import load_guard

    return load_guard(folder, for_model=model)[0]


def _own_guard(config: ExplainConfig, subject: "Subject", say: Progress) -> Path:
    """A guard on built-in prompts in the cache; fitted the first time."""
    from demur.inside.guard_store import is_guard_folder
    from demur.jobs.guard import GuardConfig, fit_guard
    from demur.models.embedded import cache_dir

    folder = cache_dir() / "guards" / sha256(subject.name.encode()).hexdigest()[:16]
    if not is_guard_folder(folder):
        own = GuardConfig(
            model=config.model, out=folder, n_fit=OWN_FIT, n_check=OWN_CHECK, refused_by="none", base=False
        )
        fit_guard(own, progress=lambda _, done, total: say("fitting a guard, once", done, total), subject=subject)
    return folder


def _recorded(
    subject: "Subject",
    prompt: str,
    maps: dict[str, "DirectionMap"],
    chosen: dict[str, "Direction"],
    guard: "LatentGuard | None",
) -> tuple["Activations", dict[str, str]]:
    """All layers at every span that anything reads, in one pass."""
    from demur.activations.record import record
    from demur.activations.spans import preview, tokenized
    from demur.jobs.subject import cleaner

    spans = dict.fromkeys(SPANS[axis] for axis in SPANS if axis in maps)
    spans |= dict.fromkeys(d.span for d in chosen.values())
    if guard is not None:
        spans |= {guard.options.span: None}
    tokens = tokenized(subject.tokenizer, prompt, clean=cleaner(subject.tokenizer))
    return record(subject, [tokens], spans=tuple(spans)), preview(subject.tokenizer, tokens, tuple(spans))


def _axes(found: "Activations", maps: dict[str, "DirectionMap"], chosen: dict[str, "Direction"]) -> list[AxisView]:
    return [axis_view(found, axis, maps[axis], span, chosen.get(axis)) for axis, span in SPANS.items() if axis in maps]


def _guarded(config: ExplainConfig, guard: "LatentGuard", folder: Path, found: "Activations") -> dict[str, Any]:
    from demur.inside.guard_store import load_examples

    states = guard.states(found)
    told: dict[str, Any] = {
        "guard": guard_view(guard, states),
        "guard_from": str(folder) if config.guard else "fitted on built-in prompts",
    }
    examples = load_examples(folder) if config.n_nearest > 0 else None
    if examples is not None:
        told |= {
            "nearest": examples.nearest(guard, states[0], n=config.n_nearest),
            "nearest_layer": examples.layer,
        }
    return told


def _predictor(config: ExplainConfig) -> PredictorView | None:
    if config.predictor is None:
        return None
    from demur.jobs.predict import explain_prompt as explained

    found = explained(config.predictor, config.prompt)
    return PredictorView(
        p_refused=found.p_refused, baseline=found.baseline, views=dict(found.views), grams=tuple(found.grams[:8])
    )


def _rules(config: ExplainConfig) -> tuple[RuleView, ...]:
    """Rules of a Tsetlin machine over words and pairs that fire on the prompt, those that move most votes first."""
    if config.rules is None:
        return ()
    from demur.jobs.trigger import needs_sklearn

    needs_sklearn()
    from sklearn.feature_extraction.text import CountVectorizer

    from demur.tsetlin.estimator import TsetlinMachineClassifier

    machine = TsetlinMachineClassifier.load(config.rules)
    grams = set(CountVectorizer(ngram_range=(1, 2)).build_analyzer()(config.prompt))
    firing = [rule for rule in machine.rules_ if grams.issuperset(rule.present) and grams.isdisjoint(rule.absent)]
    return tuple(
        RuleView(
            text=" and ".join([*map(repr, rule.present), *(f"not {name!r}" for name in rule.absent)]),
            label=str(rule.label) if rule.in_favour else f"not {rule.label}",
            weight=rule.weight,
            support=rule.support,
            precision=rule.precision if rule.support else None,
        )
        for rule in sorted(firing, key=lambda rule: -rule.weight)
    )


def _triggers(
    config: ExplainConfig, subject: "Subject", guard: "LatentGuard | None", view: PromptView, say: Progress
) -> list[TriggerView]:
    """Smallest parts that the model still refuses, and that the guard still flags."""
    from demur.jobs.trigger import find_trigger

    asked = find_trigger(
        config.prompt,
        model=config.model,
        judge=config.judge,
        max_calls=config.max_calls,
        progress=lambda done, total: say("asking the model parts of the prompt", done, total),
    )
    found = [_trigger_view("model", asked)]
    if guard is not None and view.guard is not None and view.guard.flagged:
        found.append(_trigger_view("guard", _guard_trigger(config, subject, guard)))
    return found


def _guard_trigger(config: ExplainConfig, subject: "Subject", guard: "LatentGuard") -> "Trigger":
    from demur.classify.trigger import minimal_trigger
    from demur.jobs.guard import recorded

    async def flags(text: str) -> bool:
        found, _ = recorded(subject, [text], (guard.options.span,), guard.layers, lambda *_: None)
        return bool(guard.predict(guard.states(found))[0])

    return asyncio.run(minimal_trigger(config.prompt, flags, max_calls=config.max_calls))


def _trigger_view(by: str, found: "Trigger") -> TriggerView:
    return TriggerView(
        by=by,
        refused=found.refused,
        text=found.text,
        is_minimal=found.is_minimal,
        n_words=found.n_words,
        n_words_prompt=found.n_words_prompt,
        n_calls=found.n_calls,
    )


def _notes(config: ExplainConfig, maps: dict[str, "DirectionMap"]) -> Sequence[str]:
    notes = []
    if config.study is None:
        notes.append("Only harmfulness is shown; the refusal direction comes with --dir ('demur explain directions').")
    if config.guard is None and config.study is None:
        notes.append("The guard was fitted on demur's own prompts; 'demur guard fit --data' fits one on yours.")
    if config.guard is None and config.study is not None:
        notes.append("No prompts to compare with: give --guard for the nearest ones.")
    missing = [axis for axis in SPANS if config.study is not None and axis not in maps]
    notes += [f"{config.study} has no map of the {axis} direction." for axis in missing]
    return notes
