"""Asks by task, for a model that is to answer some tasks and decline the others: our own, or the user's files."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from demur.core.errors import BadInputError, UnknownNameError, first_complaint
from demur.core.exchange import Frozen
from demur.core.suite import Suite, SuiteRow
from demur.data.tables import Record, preview, read_table
from demur.suites.formats import suite_hash

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
# Column names of published instruction data, in the order they are looked for.
_ASK = ("ask", "prompt", "instruction")
_ANSWER = ("answer", "completion", "response")
_REMEDY = "give every row an ask and, for tasks to be answered, an answer"


class ScopeRow(Frozen):
    """One ask of one task.

    Attributes:
        id: Stable identifier.
        task: Task or topic it belongs to, e.g. 'cooking'.
        ask: What a user asks.
        past: The same ask about the past, for stress tests; may be empty.
        answer: A good answer; empty where the model's own is to be kept.
        split: 'test' asks are kept from training.
        doing: What is to be done, as 'to ...' goes on; our rows only.
        past_clause: The same as a statement about the past; our rows only.
    """

    id: str
    task: Annotated[str, Field(min_length=1)]
    ask: Annotated[str, Field(min_length=1)]
    past: str = ""
    answer: str = ""
    split: Split = "train"
    doing: str = ""
    past_clause: str = ""


class _OwnRow(Frozen):
    """A row of our files; the file's name is the topic."""

    id: str
    task: Annotated[str, Field(min_length=1)]
    past: Annotated[str, Field(min_length=1)]
    ask: Annotated[str, Field(min_length=1)]
    split: Split

    def of_topic(self, topic: str) -> ScopeRow:
        return ScopeRow(
            id=self.id,
            task=topic,
            ask=self.ask,
            past=f"How did people {self.task} in the past?",
            split=self.split,
            doing=self.task,
            past_clause=self.past,
        )


def load_scope(split: Split | None = None, *, path: Path | None = None) -> list[ScopeRow]:
    """Asks of all tasks, or one split of them.

    Args:
        split: 'train', 'test', or both.
        path: The user's own: a file of rows with `ask` (or prompt, instruction), `task`, and perhaps `answer` (or
            completion, response), `past`, `split` and `id`; a `.json` file `{"pairs": [[instruction, completion],
            ...]}`, whose task is the file's name; or a folder of either. Files that name no split have every fifth
            row as test.

    Raises:
        BadInputError: A malformed row; names file, line and field.
    """
    rows = list(_own()) if path is None else read_scope(path)
    return [row for row in rows if split is None or row.split == split]


def task_names(rows: Sequence[ScopeRow]) -> list[str]:
    """Tasks, in the order of the rows."""
    return list(dict.fromkeys(row.task for row in rows))


def of_tasks(rows: Sequence[ScopeRow], tasks: Sequence[str]) -> list[ScopeRow]:
    """Rows of the named tasks.

    Raises:
        UnknownNameError: There is no task of that name.
    """
    known = task_names(rows)
    for task in tasks:
        if task not in known:
            raise UnknownNameError("task", task, known)
    return [row for row in rows if row.task in tasks]


def scope_suite(rows: Sequence[ScopeRow], accept: Sequence[str], *, system: str = "") -> Suite:
    """Asks as a suite for audits and stress tests: those of accepted tasks are to be answered, all others declined.

    Args:
        rows: Asks, e.g. the test split.
        accept: Tasks that are answered.
        system: System prompt before every ask.

    Raises:
        UnknownNameError: A task that there is not.
    """
    of_tasks(rows, accept)
    asked = tuple(
        SuiteRow(
            id=row.id,
            prompt=row.ask,
            expected="comply" if row.task in accept else "refuse",
            category=row.task,
            subcategory=row.task,
            system=system,
        )
        for row in rows
    )
    return Suite(name=f"scope-{'-'.join(accept)}", rows=asked, sha256=suite_hash(asked), licence="Apache-2.0")


def read_scope(path: Path) -> list[ScopeRow]:
    """The user's own asks, from a file or a folder of files.

    Raises:
        BadInputError: A malformed row; names file, line and field.
    """
    paths = sorted(p for p in path.iterdir() if p.suffix in (".jsonl", ".json", ".csv")) if path.is_dir() else [path]
    rows = [row for one in paths for row in _file_rows(one)]
    if not rows:
        raise BadInputError(f"{path}: expected asks by task, found none; see 'docs/howto/scope.md'")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise BadInputError(f"{path}: id {row.id!r}: expected identifiers that differ, got it twice; rename one")
        seen.add(row.id)
    return rows


@cache
def _own() -> tuple[ScopeRow, ...]:
    folder = files("demur.suites").joinpath("scope")
    rows: list[ScopeRow] = []
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".jsonl"):
            topic = file.name.removesuffix(".jsonl")
            lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line]
            rows += [_OwnRow.model_validate_json(line).of_topic(topic) for line in lines]
    return tuple(rows)


def _file_rows(path: Path) -> list[ScopeRow]:
    found: list[ScopeRow] = []
    for number, record in enumerate(read_table(path).records):
        default: Split = "test" if number % 5 == 4 else "train"
        pairs = record.values.get("pairs")
        found += [_row(record, path.stem, default)] if pairs is None else _pairs(record, path.stem, pairs)
    return found


def _pairs(record: Record, task: str, pairs: Any) -> list[ScopeRow]:
    """The published shape: one object with a list of [instruction, completion]."""
    if not isinstance(pairs, list) or not pairs:
        raise record.bad("pairs", "a list of [instruction, completion]", pairs, _REMEDY)
    rows = []
    for number, pair in enumerate(pairs):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) and p.strip() for p in pair)):
            where = f"{record.file}:{record.line}:pairs.{number}"
            raise BadInputError(f"{where}: expected [instruction, completion] as text, got {preview(pair)}; {_REMEDY}")
        split: Split = "test" if number % 5 == 4 else "train"
        rows.append(ScopeRow(id=f"{task}-{number + 1}", task=task, ask=pair[0], answer=pair[1], split=split))
    return rows


def _row(record: Record, task: str, default: Split) -> ScopeRow:
    values = {
        "id": str(record.cell("id") or f"{record.file.stem}-{record.line}"),
        "task": record.cell("task") or task,
        "ask": _first(record, _ASK),
        "past": record.cell("past") or "",
        "answer": _first(record, _ANSWER) or "",
        "split": record.cell("split") or default,
    }
    try:
        return ScopeRow.model_validate(values)
    except ValidationError as error:
        field, _, what = first_complaint(error, whole="row").partition(": ")
        raise record.bad(field, what[:1].lower() + what[1:], values.get(field), _REMEDY) from None


def _first(record: Record, columns: Sequence[str]) -> Any:
    return next((value for name in columns if (value := record.cell(name)) is not None), None)
