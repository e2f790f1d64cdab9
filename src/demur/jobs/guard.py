"""Guard: fit a Latent Guard on a model's own states, set its threshold, measure it, and apply it to prompts."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from demur import __version__
from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.data.folder import write_text
from demur.inside.buckets import Labelled
from demur.inside.guard import SPAN, GuardOptions, LatentGuard
from demur.inside.guard_geometry import Metric
from demur.inside.guard_report import GuardReport
from demur.jobs.guard_fitting import Material, behind, chosen_guard, fitted_variants, guard_report
from demur.jobs.guard_prompts import GuardPrompts, GuardRow, guard_prompts
from demur.report.inside import InsideFindings, write_inside

if TYPE_CHECKING:
    from demur.activations.record import Activations
    from demur.activations.subject import Subject

Progress = Callable[[str, int, int], None]
RefusedBy = Literal["auto", "none", "token", "reply"]
REPORT = "report.json"
SPANS = (SPAN, "t_post[-1]")
REPLIES = "replies.jsonl"
SUFFIXES = (".jsonl", ".parquet")


class GuardConfig(Frozen):
    """A fit, completely.

    Attributes:
        model: As typed.
        out: Folder of the guard.
        data: Rows with prompt, expected (refuse, comply) and perhaps category and pair_id; None takes the built-in
            splits.
        rate: False alarms allowed among harmless prompts.
        augment: Let harmful prompts that the model answers, and harmless look-alikes, join the means.
        by_category: Find every prompt that should be declined, by its category, rather than harm alone.
        span: Where states are read: 't_inst' as published, 't_post[-1]' where the model is about to answer, or another
            of the template; 'auto' takes the better of these two.
        metric: How states are compared; 'auto' takes what ranks the checked prompts best.
        layers: Residual indices; None takes all, as published.
        refused_by: How to know what the model does: 'token' (its control token), 'reply' (a judge reads it), 'none';
            'auto' asks for tokens where it has them.
        n_fit: Most prompts of a side to fit on.
        n_check: Most harmful prompts to set thresholds on, and as many to measure on.
        base: Fit the same guard on the base of an adapter too, to compare with.
        keep_examples: Keep the prompts fitted on in the folder, to show which a new one is nearest to.
        seed: Of the draws.
        command: As typed, for the manifest.
    """

    model: str
    out: Path
    data: Path | None = None
    rate: float = Field(default=0.05, gt=0, lt=1)
    augment: bool = False
    by_category: bool = False
    span: str = "auto"
    metric: Metric | Literal["auto"] = "auto"
    layers: tuple[int, ...] | None = None
    refused_by: RefusedBy = "auto"
    n_fit: int = Field(default=300, ge=10)
    n_check: int = Field(default=150, ge=10)
    base: bool = True
    keep_examples: bool = True
    seed: int = 0
    command: tuple[str, ...] = ()


def fit_guard(
    config: GuardConfig, *, progress: Progress | None = None, subject: "Subject | None" = None
) -> GuardReport:
    """Fit a guard, measure it on prompts it has not seen, and write its folder.

    Args:
        config: What to do.
        progress: Told what is being done.
        subject: The model, if it is loaded already.

    Raises:
        BadInputError: Something the caller can fix; nothing is written.
        BackendError: The model failed.
    """
    from demur.inside.guard_examples import examples_of, telling_layer
    from demur.inside.guard_store import check_place, guard_identity, read_record, save_guard
    from demur.jobs.subject import subject_of

    say = progress or (lambda *_: None)
    check_place(config.out)
    if config.by_category and config.metric == "learned":
        raise BadInputError("--metric learned: expected a metric of means with --by-category; leave one of them out")
    prompts = guard_prompts(
        config.data, n_fit=config.n_fit, n_check=config.n_check, by_category=config.by_category, seed=config.seed
    )
    prompts, refused_by = _with_conduct(config, prompts, say)
    subject = subject or subject_of(config.model)
    spans = tuple(dict.fromkeys([*SPANS, *((config.span,) if config.span != "auto" else ())]))
    found, texts = recorded(subject, [r.row.prompt for r in prompts.rows], spans, config.layers, say)
    material = Material(prompts, prompts.rows, found, refused_by, _base_states(config, prompts, spans, say))
    wanted = GuardOptions(layers=config.layers, augment=config.augment, nearest=config.by_category)
    guards = fitted_variants(material, wanted, rate=config.rate)
    guard = chosen_guard(material, guards, span=config.span, metric=config.metric, augment=config.augment)
    check = material.sided("check")
    layer = telling_layer(guard, guard.states(found.rows(check)), material.harmful(check))
    fit = behind(material, guard)
    examples = examples_of(
        guard,
        guard.states(found.rows(fit)),
        material.texts(fit),
        material.harmful(fit),
        material.categories(fit),
        layer=layer,
    )
    manifest = _manifest(config, prompts, subject.name)
    kept = examples if config.keep_examples else None
    save_guard(config.out, guard, source=config.model, examples=kept, manifest=manifest)
    identity = guard_identity(read_record(config.out))
    report = guard_report(
        material, guard, guards, identity=identity, span_text=texts[guard.options.span], layer=layer, manifest=manifest
    )
    write_text(config.out / REPORT, report.model_dump_json(indent=1) + "\n")
    write_inside(config.out / "report.html", InsideFindings(guard=report))
    return report


def apply_guard(
    folder: Path,
    file: Path,
    out: Path | None = None,
    *,
    model: str | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Score each prompt of a file; its columns with `score`, `p_harmful`, `flagged` and `nearest_category`.

    Args:
        folder: The guard.
        file: Rows with a prompt column.
        out: A .jsonl or .parquet file to write them to as well.
        model: The guard's model, if it now has another name; by default the one it was fitted with.
        skip_bad: Leave malformed rows out.
        progress: Told what is being done.

    Raises:
        BadInputError: No guard, an unreadable file, another model, or an unknown suffix of `out`.
    """
    from demur.classify.prompt_rows import read_prompts
    from demur.data.tables import write_table

    if out is not None and out.suffix not in SUFFIXES:
        raise BadInputError(f"{out}: expected a file ending in .jsonl or .parquet, got {out.suffix!r}; rename --out")
    guard, subject = open_guard(folder, model=model)
    prompts, records, _ = read_prompts(file, skip_bad=skip_bad)
    found, _ = recorded(subject, prompts, (guard.options.span,), guard.layers, progress or (lambda *_: None))
    states = guard.states(found)
    columns = scored_columns(guard, states)
    ids = [record.cell("id") for record in records]
    named = [str(own) if own is not None else f"{file.name}:{r.line}" for own, r in zip(ids, records, strict=True)]
    table: dict[str, list[Any]] = {"id": named, "prompt": list(prompts), **columns}
    if out is not None:
        write_table(out, table)
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def scored_columns(guard: LatentGuard, states: NDArray[np.float64]) -> dict[str, list[Any]]:
    """What a guard says of prompts, in columns: score, p_harmful, flagged and, where it knows any, nearest_category."""
    scores = guard.score(states)
    columns: dict[str, list[Any]] = {"score": scores.tolist()}
    if guard.calibration is not None:
        columns["p_harmful"] = guard.predict_proba(states)[:, 1].tolist()
    columns["flagged"] = (scores >= guard.threshold).tolist()
    if guard.categories:
        nearest = guard.category_scores(states).argmax(axis=1)
        columns["nearest_category"] = [guard.categories[int(k)] for k in nearest]
    return columns


def open_guard(folder: Path, *, model: str | None = None) -> tuple[LatentGuard, "Subject"]:
    """A guard and its model, loaded and compared.

    Args:
        folder: The guard.
        model: The model's name; by default the one the guard was fitted with.

    Raises:
        BadInputError: No guard, or another model.
    """
    from demur.inside.guard_store import check_model, load_guard
    from demur.jobs.subject import subject_of

    guard, record = load_guard(folder)
    name = model or record.source
    if not name:
        raise BadInputError(f"{folder}: this guard does not say which model it is of; name it with --model")
    subject = subject_of(name)
    check_model(record, subject.name)
    return guard, subject


def recorded(
    subject: "Subject", prompts: Sequence[str], spans: tuple[str, ...], layers: Sequence[int] | None, say: Progress
) -> tuple["Activations", dict[str, str]]:
    """States of prompts at some spans, and what these decode to in the first.

    Raises:
        BadInputError: The template has no such span, or a state is not finite.
    """
    from demur.activations.record import RecordOptions, record
    from demur.activations.spans import preview, tokenized
    from demur.jobs.subject import cleaner

    clean = cleaner(subject.tokenizer)
    tokens = [tokenized(subject.tokenizer, prompt, clean=clean) for prompt in prompts]
    options = RecordOptions(progress=lambda done, total: say("reading states", done, total))
    found = record(subject, tokens, spans=spans, layers=layers, options=options)
    return found, preview(subject.tokenizer, tokens[0], spans)


def read_report(folder: Path) -> GuardReport:
    """What a fit measured.

    Raises:
        BadInputError: There is none.
    """
    path = folder / REPORT
    try:
        return GuardReport.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInputError(
            f"{path}: expected what 'demur guard fit' measured; {reason}; fit the guard again"
        ) from None


def _with_conduct(config: GuardConfig, prompts: GuardPrompts, say: Progress) -> tuple[GuardPrompts, str]:
    """Prompts to fit on with what the model does; the others are not asked."""
    from demur.jobs.direction_conduct import by_reply, by_token, chosen_label, has_control_tokens

    how = config.refused_by
    if how == "auto":
        how = "token" if has_control_tokens(config.model) else "none"
    if how == "none":
        return prompts, how
    fit = [r.row for r in prompts.parts["fit"]]
    if chosen_label(config.model, how) == "token":
        told: Sequence[Labelled] = by_token(config.model, fit, progress=say)
    else:
        from demur.core.defaults import DEFAULT_JUDGE
        from demur.models.embedded import cache_dir

        journal = cache_dir() / "guards" / f"{prompts.sha256[:16]}-{REPLIES}"
        told = by_reply(config.model, fit, journal, judge=DEFAULT_JUDGE, max_tokens=40, progress=say)
    rows = tuple(GuardRow(row=t, look_alike=r.look_alike) for t, r in zip(told, prompts.parts["fit"], strict=True))
    return GuardPrompts(parts={**prompts.parts, "fit": rows}, origin=prompts.origin, notes=prompts.notes), how


def _base_states(
    config: GuardConfig, prompts: GuardPrompts, spans: tuple[str, ...], say: Progress
) -> "Activations | None":
    """States under the base of an adapter; None without one."""
    from demur.jobs.subject import subject_of
    from demur.models import parse_model

    if not config.base or not parse_model(config.model).adapter:
        return None
    base = subject_of(config.model, adapter=False)
    return recorded(base, [r.row.prompt for r in prompts.rows], spans, config.layers, say)[0]


def _manifest(config: GuardConfig, prompts: GuardPrompts, model: str) -> dict[str, JsonValue]:
    return {
        "kind": "guard",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "command": list(config.command),
        "config": config.model_dump(mode="json", exclude={"command", "out"}),
        "inputs": {prompts.origin: prompts.sha256},
        "models": {config.model: model},
    }
