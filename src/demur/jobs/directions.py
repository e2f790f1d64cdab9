"""Directions: where a model holds 'harmful' and 'I will refuse', layer by position, with every control beside it."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, JsonValue, ValidationError

from demur import __version__
from demur.activations.direction import RESIDUAL_CONVENTION, Direction, DirectionMap, save_maps
from demur.core.defaults import DEFAULT_JUDGE
from demur.core.direction_study import DirectionStudy, Selection
from demur.core.errors import BadInputError, first_complaint
from demur.core.exchange import Frozen
from demur.data.folder import claim, write_text
from demur.inside.buckets import Labelled, check_refusals
from demur.inside.estimators import Method
from demur.inside.honesty import FEWEST_DRAWS, N_DRAWS
from demur.inside.separation import Design
from demur.inside.study import (
    AXES,
    PARTS,
    Fitted,
    Part,
    States,
    StudyPrompts,
    axis_cosines,
    chosen_layer,
    direction_curves,
    fits,
    place_maps,
)
from demur.inside.tables import control_curves, honesty_table, map_points
from demur.jobs.direction_conduct import (
    REPLIES,
    RefusedBy,
    agreement,
    by_reply,
    by_token,
    chosen_label,
    has_control_tokens,
)
from demur.jobs.direction_prompts import study_prompts
from demur.jobs.direction_results import category_square, direction_map, save_directions, study_notes
from demur.jobs.direction_selection import SelectionSettings, selected
from demur.models import parse_model
from demur.report.inside import InsideFindings, write_inside

if TYPE_CHECKING:
    from demur.activations.spans import PromptTokens
    from demur.activations.subject import Subject
    from demur.core.chat import ChatModel

Progress = Callable[[str, int, int], None]
RESULT, PAGE = "directions.json", "report.html"
STATES = "states"


class DirectionsConfig(Frozen):
    """A study of directions, completely.

    Attributes:
        model: As typed; with an adapter, its base is studied beside it.
        out: Folder of the results.
        data: Rows with prompt, expected (refuse, comply) and perhaps category; None takes the built-in splits.
        n_fit: Most harmful prompts to fit on; as many harmless ones go with them, and half as many that are harmless
            and should still be declined.
        n_selection: The same, to choose layers and candidates on.
        n_test: The same, to test on.
        seeds: Each draws its own three quarters of the prompts to fit on.
        refused_by: What 'refused' means; see `demur.jobs.direction_conduct`.
        judge: Judge of replies.
        reply_tokens: Longest reply.
        n_agreement: Test prompts for which a model with control tokens is labelled both ways; 0 = none.
        design: How refusal and harmfulness are kept apart.
        method: Estimator.
        n_draws: Random directions, and shuffles of labels, in each control.
        base: Study the base model of an adapter too.
        selection: The search for one direction; None leaves it out.
        keep_states: Keep the recorded states, of some hundred megabytes; they are stores of `demur.activations.store`.
        command: As typed, for the manifest.
    """

    model: str
    out: Path
    data: Path | None = None
    n_fit: int = Field(default=128, ge=8)
    n_selection: int = Field(default=48, ge=8)
    n_test: int = Field(default=96, ge=8)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    refused_by: RefusedBy = "auto"
    judge: str = DEFAULT_JUDGE
    reply_tokens: int = Field(default=40, ge=1)
    n_agreement: int = Field(default=64, ge=0)
    design: Design = "crossed"
    method: Method = "difference_in_means"
    n_draws: int = Field(default=N_DRAWS, ge=FEWEST_DRAWS)
    base: bool = True
    selection: SelectionSettings | None = SelectionSettings()
    keep_states: bool = False
    command: tuple[str, ...] = ()


@dataclass(slots=True)
class _Work:
    """What the stages hand to each other."""

    config: DirectionsConfig
    prompts: StudyPrompts
    progress: Progress
    subject: "Subject"
    refused_by: Literal["reply", "token"]
    agreement: dict[str, int]
    base: States | None = None
    notes: list[str] = field(default_factory=list)


def study_directions(
    config: DirectionsConfig, *, progress: Progress | None = None, chat: "ChatModel | None" = None
) -> DirectionStudy:
    """Find both directions, their controls and the candidates, and write everything into the folder.

    An interrupted study resumes: replies, scores and measured candidates are kept.

    Args:
        config: What to do.
        progress: Told the stage, what is done and what there is to do.
        chat: Answers the prompts; by default the model itself.

    Raises:
        BadInputError: Something the caller can fix, e.g. a model that never refuses.
        BackendError: The model failed; what was done is kept.
    """
    from demur.jobs.subject import subject_of

    say = progress or (lambda *_: None)
    prompts = study_prompts(config.data, _sizes(config), seed=min(config.seeds))
    begun = claim(config.out, _claim(config, prompts))
    if begun and (found := _finished(config.out)) is not None:
        return found
    refused_by = chosen_label(config.model, config.refused_by)
    rows, both = _conduct(config, prompts, refused_by, say, chat)
    prompts = prompts.labelled(rows)
    check_refusals(prompts.buckets(prompts.parts["fit"]), model=config.model)
    work = _Work(config, prompts, say, subject_of(config.model), refused_by, both, notes=[*prompts.notes])
    tokens = _tokens(work)
    spans = _spans(tokens)
    states = _states(work, work.subject, tokens, spans)
    if config.base and parse_model(config.model).adapter:
        base = subject_of(config.model, adapter=False)
        work.base = _states(work, base, _tokens(work, base), spans)
        del base
    study = _studied(work, states, tokens)
    write_text(config.out / RESULT, study.model_dump_json(indent=1) + "\n")
    write_inside(config.out / PAGE, InsideFindings(directions=study))
    if not config.keep_states:
        shutil.rmtree(config.out / STATES, ignore_errors=True)
    return study


def read_study(folder: Path) -> DirectionStudy:
    """Result of a finished study.

    Raises:
        BadInputError: There is none, or it is of another version.
    """
    path = folder / RESULT
    if not path.is_file():
        raise BadInputError(f"{folder}: expected {RESULT}; run 'demur explain directions MODEL --out {folder}'")
    try:
        return DirectionStudy.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise BadInputError(f"{path}: {first_complaint(error)}; run the study again") from None


def _finished(folder: Path) -> DirectionStudy | None:
    return read_study(folder) if (folder / RESULT).is_file() else None


def _sizes(config: DirectionsConfig) -> dict[Part, int]:
    return {"fit": config.n_fit, "selection": config.n_selection, "test": config.n_test}


def _claim(config: DirectionsConfig, prompts: StudyPrompts) -> dict[str, JsonValue]:
    kept = config.model_dump(mode="json", exclude={"out", "command"})
    return {"kind": "directions", "prompts": prompts.sha256, **kept}


def _conduct(
    config: DirectionsConfig,
    prompts: StudyPrompts,
    refused_by: Literal["reply", "token"],
    say: Progress,
    chat: "ChatModel | None",
) -> tuple[list[Labelled], dict[str, int]]:
    """Prompts with what the model did, and how far its words and its token agree on some of the test prompts."""

    def replies(rows: Sequence[Labelled]) -> list[Labelled]:
        return by_reply(
            config.model,
            rows,
            config.out / REPLIES,
            judge=config.judge,
            max_tokens=config.reply_tokens,
            progress=say,
            chat=chat,
        )

    def tokens(rows: Sequence[Labelled]) -> list[Labelled]:
        return by_token(config.model, rows, progress=say)

    rows = (tokens if refused_by == "token" else replies)(prompts.rows)
    compared = list(prompts.parts["test"])[: config.n_agreement] if has_control_tokens(config.model) else []
    if not compared:
        return rows, {}
    mine = [rows[i] for i in compared]
    other = (replies if refused_by == "token" else tokens)([prompts.rows[i] for i in compared])
    return rows, agreement(other, mine) if refused_by == "token" else agreement(mine, other)


def _tokens(work: _Work, subject: "Subject | None" = None) -> list["PromptTokens"]:
    """Every prompt in the chat template; control tokens in user text are split, the adapter's also for the base."""
    from demur.activations.spans import tokenized
    from demur.jobs.subject import cleaner

    clean = cleaner(work.subject.tokenizer)
    tokenizer = (subject or work.subject).tokenizer
    return [tokenized(tokenizer, row.prompt, clean=clean) for row in work.prompts.rows]


def _spans(tokens: Sequence["PromptTokens"]) -> tuple[str, ...]:
    """`t_inst` and the template's tokens after it, counted from the end so that they mean the same in every prompt."""
    n = min(sum(name.startswith("t_post[-") for name in prompt.spans) for prompt in tokens)
    missing = sum("t_inst" not in prompt.spans for prompt in tokens)
    if missing or not n:
        raise BadInputError(
            "the chat template gives no 't_inst' or no token after the user's text "
            f"({missing} of {len(tokens)} prompts); use a chat model whose template ends the user's turn"
        )
    return ("t_inst", *(f"t_post[{k}]" for k in range(-n, 0)))


def _states(work: _Work, subject: "Subject", tokens: Sequence["PromptTokens"], spans: tuple[str, ...]) -> States:
    """All layers at all spans of all prompts, in one pass, memory-mapped; an interrupted run finds them again."""
    from demur.activations.record import RecordOptions
    from demur.activations.store import record_to

    options = RecordOptions(progress=lambda done, total: work.progress("reading states", done, total))
    place = work.config.out / STATES / ("model" if subject is work.subject else "base")
    found = record_to(place, subject, tokens, spans=spans, options=options)
    return States(values=found.values, spans=found.spans, layers=found.layers, model=subject.name)


def _studied(work: _Work, states: States, tokens: Sequence["PromptTokens"]) -> DirectionStudy:
    from demur.activations.spans import preview

    config, prompts = work.config, work.prompts
    runs = fits(prompts, states, config.seeds, design=config.design, method=config.method)
    base = [run.on(work.base) for run in runs] if work.base is not None else []
    everything = np.array(prompts.parts["fit"], dtype=np.int64)
    whole = Fitted(prompts, states, everything, everything[:0], config.design, config.method)
    layers = {axis: chosen_layer(runs, axis) for axis in AXES}
    maps = {axis: direction_map(whole, axis) for axis in AXES}
    save_maps(config.out / "maps.safetensors", {str(axis): maps[axis] for axis in AXES})
    if work.base is not None:
        lower = whole.on(work.base)
        save_maps(config.out / "base_maps.safetensors", {axis: direction_map(lower, axis) for axis in AXES})
    selection, direction = _selection(work, tokens, maps["refusal"])
    tables = [honesty_table(runs, axis, layers[axis], base=base, n_draws=config.n_draws) for axis in AXES]
    honesty = tuple(table for table in tables if table is not None)
    curves = direction_curves(runs)
    for axis in AXES:
        curves += control_curves(runs, axis, base=base, n_draws=config.n_draws)
    points, correlation = map_points(whole)
    categories, square = category_square(whole, layers["harm"])
    saved = save_directions(config.out, whole, maps, layers, selection, direction)
    return DirectionStudy(
        model=work.subject.name,
        base=work.base.model if work.base is not None else "",
        layers=states.layers,
        spans=states.spans,
        span_texts=tuple(preview(work.subject.tokenizer, tokens[0], states.spans).values()),
        refused_by=work.refused_by,
        judge=config.judge,
        design=whole.contrasts["refusal"].design,
        method=config.method,
        seeds=config.seeds,
        buckets={part: {k: v for k, v in prompts.buckets(prompts.parts[part]).sizes.items()} for part in PARTS},
        attrition=prompts.attrition,
        agreement=work.agreement,
        curves=tuple(curves),
        maps=tuple(place_maps(runs, base)),
        cosine_harm_refusal=axis_cosines(runs),
        honesty=honesty,
        delta_correlation=correlation,
        points=tuple(points),
        categories=categories,
        category_cosines=square,
        selection=selection,
        saved=tuple(saved),
        notes=tuple([*work.notes, *study_notes(whole, honesty)]),
        manifest=_manifest(work),
    )


def _selection(
    work: _Work, tokens: Sequence["PromptTokens"], refusal: DirectionMap
) -> tuple[Selection | None, Direction | None]:
    settings = work.config.selection
    if settings is None:
        return None, None
    try:
        return selected(
            work.subject,
            work.prompts,
            tokens,
            refusal,
            out=work.config.out,
            settings=settings,
            progress=work.progress,
        )
    except BadInputError as error:
        if "refusal tokens" not in str(error):
            raise
        work.notes.append(f"No single direction was searched for: {error}.")
        return None, None


def _manifest(work: _Work) -> dict[str, JsonValue]:
    return {
        "kind": "directions",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "command": list(work.config.command),
        "config": work.config.model_dump(mode="json", exclude={"command", "out"}),
        "inputs": {work.prompts.origin: work.prompts.sha256},
        "models": {work.config.model: work.subject.name},
        "convention": RESIDUAL_CONVENTION,
    }
