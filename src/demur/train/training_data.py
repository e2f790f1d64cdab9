"""Where a recipe's rows come from: built-in sources and own files, drawn, mixed and completed with own answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from demur.core.errors import BadInputError, UnknownNameError
from demur.data.tables import SUFFIXES, Record, read_table
from demur.train.lesson import Kind, Lesson, drawn
from demur.train.tense_defence import Reworded, defence_lessons, refusals, split_goals
from demur.train.training_recipe import DataSource, TrainingRecipe
from demur.train.training_sources import SOURCES, tense_goals

_REMEDY = "mend the row and run again"
GOALS = "tense-goals"
_DEFAULTS = {
    "dpo": ("contrast-pairs",),
    "orpo": ("contrast-pairs",),
    "kto": ("contrast-pairs",),
    "derta": ("triples", "ordinary"),
    "tense-defence": (GOALS, "ordinary-asks"),
    "constructive": ("constructive",),
    "scope": ("scope",),
}


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The lessons of a run.

    Attributes:
        lessons: In the order drawn; the trainer shuffles.
        counts: Lessons by source, after drawing.
        notes: What a reader of the report must know about the draw.
    """

    lessons: tuple[Lesson, ...]
    counts: dict[str, int]
    notes: tuple[str, ...] = ()


def source_names() -> list[str]:
    """Names of the built-in sources."""
    return sorted([*SOURCES, GOALS])


def training_data(recipe: TrainingRecipe, reworded: Reworded | None = None) -> TrainingData:
    """Every lesson of a recipe; replies that are to be the base's own answers are still empty.

    Args:
        recipe: Names the sources.
        reworded: Off-limits asks in other tenses; only a defence needs them.

    Raises:
        BadInputError: A malformed row (file:line:field), or rows that do not serve the recipe's loss.
        UnknownNameError: No source of that name.
    """
    asked = recipe.data or tuple(DataSource(source=name) for name in _DEFAULTS.get(recipe.method, ("training-set",)))
    held = [_lessons(one, recipe, reworded or {}) for one in asked]
    counts: dict[str, int] = {}
    kept: list[list[Lesson]] = []
    notes: list[str] = []
    first = 0
    for number, (one, lessons) in enumerate(zip(asked, held, strict=True)):
        wanted = round(one.share * len(lessons)) if one.ratio is None or number == 0 else round(one.ratio * first)
        if wanted > len(lessons):
            notes.append(f"{one.source}: {wanted} rows were wanted, {len(lessons)} exist: all of them are used.")
        chosen = drawn(lessons, max(1, min(wanted, one.max_rows or wanted)), recipe.seed)
        first = first or len(chosen)
        counts[one.source] = counts.get(one.source, 0) + len(chosen)
        kept.append([replace(lesson, weight=one.weight * lesson.weight) for lesson in chosen])
    if recipe.method == "tense-defence":
        return _defended(recipe, asked, kept, tuple(notes))
    lessons = [lesson for part in kept for lesson in part]
    check_lessons(lessons, recipe)
    return TrainingData(tuple(lessons), counts, tuple(notes))


def check_lessons(lessons: Sequence[Lesson], recipe: TrainingRecipe) -> None:
    """Make sure that lessons serve a recipe's loss.

    Raises:
        BadInputError: They do not.
    """
    if recipe.loss in ("dpo", "orpo", "kto") and (strange := next((x for x in lessons if x.kind == "plain"), None)):
        raise BadInputError(
            f"row {strange.id!r}: rejected: expected a better and a worse reply for {recipe.loss}, got one reply; "
            "use a source of pairs"
        )
    if recipe.method == "derta" and not any(x.kind == "triple" for x in lessons):
        raise BadInputError("derta: expected rows with refusal and answer, got none; use 'triples' or such a file")
    if recipe.loss == "cb" and {x.side for x in lessons} != {"refuse", "comply"}:
        raise BadInputError("circuit breaking: expected asks to answer and asks to decline, got one kind; set scope")


def with_answers(data: TrainingData, answers: Mapping[str, str]) -> TrainingData:
    """Lessons completed by the base's own answers; those it declined or garbled are left out and counted.

    Args:
        data: From `training_data`.
        answers: Answers by lesson id.
    """
    kept = [
        _completed(lesson, answers[lesson.id]) if lesson.wants_answer else lesson
        for lesson in data.lessons
        if not lesson.wants_answer or answers.get(lesson.id, "").strip()
    ]
    missing = len(data.lessons) - len(kept)
    if not kept:
        raise BadInputError("own answers: expected the base to answer some prompts, it answered none; use another base")
    notes = (f"{missing} rows were left out: the base itself gave no answer.",) if missing else ()
    return TrainingData(tuple(kept), data.counts, (*data.notes, *notes))


def _completed(lesson: Lesson, answer: str) -> Lesson:
    return replace(lesson, good=lesson.good or answer, bad=lesson.bad or (answer if lesson.kind != "plain" else ""))


def _lessons(one: DataSource, recipe: TrainingRecipe, reworded: Reworded) -> list[Lesson]:
    if one.source == GOALS:
        train, _ = split_goals(tense_goals(recipe, reworded), recipe.defence.train_share, recipe.seed)
        return refusals(train, recipe.defence.tenses, recipe.refusal)
    if one.source in SOURCES:
        return SOURCES[one.source](recipe)
    if Path(one.source).suffix in SUFFIXES or one.source.endswith(".gz"):
        return own_lessons(Path(one.source))
    raise UnknownNameError("source", one.source, [*source_names(), "FILE.jsonl"])


def own_lessons(path: Path) -> list[Lesson]:
    """Lessons of a user's file: prompt with response; or with chosen and rejected; or with refusal and answer.

    Raises:
        BadInputError: A malformed row; names file, line and field.
    """
    return [_own(record, f"{path.name}:{record.line}") for record in read_table(path).records]


def _own(record: Record, name: str) -> Lesson:
    kind: Kind
    if record.cell("chosen") is not None or record.cell("rejected") is not None:
        good, bad, kind = _text(record, "chosen"), _text(record, "rejected"), "pair"
    elif record.cell("refusal") is not None or record.cell("answer") is not None:
        good, bad, kind = _text(record, "refusal"), _text(record, "answer"), "triple"
    else:
        good, bad, kind = _text(record, "response"), "", "plain"
    declines = kind == "triple" or record.cell("expected") == "refuse"
    return Lesson(
        id=name,
        prompt=_text(record, "prompt"),
        good=good,
        bad=bad,
        side="refuse" if declines else "comply",
        kind=kind,
        group=str(record.cell("category") or ""),
        system=str(record.cell("system") or ""),
    )


def _text(record: Record, column: str) -> str:
    value = record.cell(column)
    if not isinstance(value, str) or not value.strip():
        raise record.bad(column, "text", value, _REMEDY)
    return value


def _defended(
    recipe: TrainingRecipe, asked: Sequence[DataSource], kept: Sequence[list[Lesson]], notes: tuple[str, ...]
) -> TrainingData:
    refused = [x for part in kept for x in part if x.side == "refuse"]
    ordinary = [x for part in kept for x in part if x.side == "comply"]
    lessons = defence_lessons(refused, ordinary, refusal_share=recipe.defence.refusal_share, seed=recipe.seed)
    ids = {x.id for x in lessons}
    counts = {one.source: sum(x.id in ids for x in part) for one, part in zip(asked, kept, strict=True)}
    return TrainingData(tuple(lessons), counts, notes)
