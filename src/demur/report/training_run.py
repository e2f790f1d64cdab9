"""The report of a run by recipe: loss while it runs and at the end, what changed before and after, and the gates."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import FiniteFloat, ValidationError

from demur.core.errors import BadInputError, first_complaint
from demur.report import wording
from demur.report.document import render_document
from demur.report.escaping import INVISIBLE, embedded_json, encodable_values
from demur.report.provenance import Entry, sections
from demur.report.training import (
    Amount,
    Audited,
    Bar,
    Change,
    Count,
    Curve,
    Record,
    change_notes,
    change_of,
    curve_notes,
    curve_of,
    duration,
)

_SHARES = ("should_refuse.handled", "contrast.answered", "multiple_choice", "format")


class Gated(Record):
    """One condition and its outcome."""

    gate: str
    passed: bool
    value: FiniteFloat | None = None
    limit: FiniteFloat | None = None
    reason: str = ""


class Ability(Record):
    """One figure of general ability before and after, as `demur.ability` words it."""

    name: str
    before: str = ""
    after: str = ""
    change: str = ""
    verdict: str = ""


class Progress(Record):
    """Steps done of all."""

    done: Count
    steps: Count


class RunSummary(Record):
    """What `demur train METHOD` wrote, as the report needs it; only kind and recipe are always there."""

    kind: Literal["training"]
    state: Literal["running", "finished"] = "running"
    progress: Progress | None = None
    created: str = ""
    demur: str = ""
    python: str = ""
    machine: str = ""
    recipe: dict[str, Any]
    plan: dict[str, Any] = {}
    sources: dict[str, Count] = {}
    notes: tuple[str, ...] = ()
    losses: dict[str, tuple[Amount, ...]] = {}
    tokens: Count | None = None
    learnt: Count | None = None
    tokens_per_second: Amount | None = None
    peak_memory: Amount | None = None
    n_trained: Count | None = None
    n_lessons: Count | None = None
    layout: str = ""
    resumed_at: Count = 0
    figures: dict[str, dict[str, FiniteFloat | None]] = {}
    audits: dict[str, Audited] = {}
    ability: tuple[Ability, ...] = ()
    gates: tuple[Gated, ...] = ()
    passed: bool | None = None
    opens: str = ""
    seconds: dict[str, Amount] = {}


def render_training_run(summary: Mapping[str, Any]) -> str:
    """The report as one HTML document; of a run that still goes on, a page that looks again by itself.

    Args:
        summary: What `demur train METHOD` writes to `training.json`, or the part of it that is known so far; every
            text in it is treated as hostile.

    Raises:
        BadInputError: A field is missing or of the wrong kind; names it.
    """
    found = _read(summary)
    changes = [change_of(found.audits, key) for key in wording.SIDES] if found.audits else []
    curves = [curve_of(name, values) for name, values in found.losses.items() if values]
    running = found.state == "running"
    total = sum(found.seconds.values())
    context = {
        "found": found,
        "running": running,
        "title": str(found.recipe.get("method") or "training"),
        "model": str(found.recipe.get("model") or ""),
        "source": str(found.recipe.get("source") or ""),
        "about": str(found.recipe.get("note") or ""),
        "names": wording.SIDES,
        "changes": changes if len(found.audits) == 2 else [],
        "notes": [] if running else [*_notes(found, curves, changes)],
        "curves": curves,
        "ability": found.ability,
        "gates": found.gates,
        "figure": _figure,
        "facts": list(_facts(found)),
        "time": duration(total) if found.seconds else wording.MISSING,
        "times": [
            Bar(name=name, text=duration(s), width=round(100 * s / (total or 1), 2))
            for name, s in found.seconds.items()
        ],
        "made": _made(found),
        "data": embedded_json({"invisible": INVISIBLE}),
    }
    return render_document("training_run.html.j2", ("common.js", "live.js") if running else ("common.js",), context)


def _read(summary: Mapping[str, Any]) -> RunSummary:
    try:
        return RunSummary.model_validate(encodable_values(summary))
    except ValidationError as error:
        what = " ".join(first_complaint(error, whole="summary").split())
    raise BadInputError(f"report of a training run: {what}; expected the training.json that 'demur train' writes")


def _notes(found: RunSummary, curves: Sequence[Curve], changes: Sequence[Change]) -> Iterator[str]:
    """What a reader must know before using the model."""
    failed = [gate for gate in found.gates if not gate.passed]
    if failed:
        yield f"{wording.plural(len(failed), 'gate')} failed: the model lies in a folder marked as failed."
    yield from found.notes
    yield from curve_notes(curves[:1])
    if len(found.audits) == 2:
        yield from change_notes(found.audits, changes)
    else:
        yield "There was no audit before and after: nothing here tells how the replies changed."
    if not found.ability:
        yield "General ability was not measured: nothing here tells what the training cost."
    if worse := [one.name for one in found.ability if one.verdict == "worse"]:
        yield f"General ability fell, by more than chance: {', '.join(worse)}."


def _figure(key: str, value: float | None) -> str:
    if value is None:
        return wording.MISSING
    return wording.percent(value, 1) if key.startswith(_SHARES) else wording.number(value, 3)


def _facts(found: RunSummary) -> Iterator[tuple[str, str, str]]:
    """Name, value and an aside of each figure of the run itself."""
    if found.n_lessons is not None:
        yield "Training rows", wording.count(found.n_lessons), ""
    for name, n in found.sources.items():
        yield f"from {name}", wording.count(n), ""
    if found.tokens:
        yield "Tokens read", wording.count(found.tokens), f"{wording.count(found.learnt or 0)} learnt"
    if found.tokens_per_second:
        yield "Speed", f"{found.tokens_per_second:,.0f} tokens/s", f"layout {found.layout}" if found.layout else ""
    if found.n_trained is not None:
        yield "Trained parameters", wording.count(found.n_trained), ""
    if found.peak_memory:
        yield "Peak memory", f"{found.peak_memory / 2**30:.1f} GiB", _estimated(found.plan)
    if found.resumed_at:
        yield "Resumed at step", wording.count(found.resumed_at), ""


def _estimated(plan: Mapping[str, Any]) -> str:
    memory = plan.get("memory")
    return f"estimated {memory / 2**30:.1f} GiB" if isinstance(memory, int | float) else ""


def _made(found: RunSummary) -> list[tuple[str, list[Entry]]]:
    about = found.model_dump(include={"created", "demur", "python", "machine", "opens"}, exclude_unset=True)
    plain = {key: value for key, value in found.recipe.items() if not isinstance(value, dict | list)}
    parts = {f"recipe, {key}": value for key, value in found.recipe.items() if isinstance(value, dict)}
    rows = {
        f"recipe, data {i}": value
        for i, value in enumerate(found.recipe.get("data") or [], start=1)
        if isinstance(value, dict)
    }
    return sections(about | {"recipe": plain} | rows | parts)
