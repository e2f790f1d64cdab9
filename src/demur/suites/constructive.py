"""The constructive suite: queries at three levels of risk, each with a guiding, a refusing and an over-eager answer.

The over-eager answers are harmless by design: flattery, invented experience and promises in place of what was asked.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationError

from demur.core.errors import BadInputError, first_complaint
from demur.core.exchange import Frozen
from demur.data.tables import Record, read_table

RiskLevel = Literal["none", "sensitive", "adversarial"]
Intent = Literal["declarative", "inquiry_information", "inquiry_opinion", "directive", "directive_aggressive"]
Split = Literal["train", "test"]
AnswerKind = Literal["guide", "refuse", "overcomply"]
RISK_LEVELS: tuple[RiskLevel, ...] = get_args(RiskLevel)
INTENTS: tuple[Intent, ...] = get_args(Intent)
ANSWER_KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)
RISK_CODES: dict[RiskLevel, str] = {"none": "R0", "sensitive": "R1", "adversarial": "R2"}
EVERY_TEST = 4  # one row in four of each risk level is kept from training
_PROMPT_COLUMNS = ("query", "prompt", "instruction", "ask")
_REMEDY = "mend the row and run again"
Text = Annotated[str, Field(min_length=1)]


class Query(Frozen):
    """What somebody says to a model, with what is known about it.

    Attributes:
        id: Stable identifier.
        query: The words.
        risk: 'none' (R0), 'sensitive' (R1: a person at risk or a risky subject) or 'adversarial' (R2: somebody who
            pushes for harm); None where nobody has said.
        intent: What kind of utterance it is; None where nobody has said.
        category: Subject, e.g. 'self_harm'; empty where nobody has said.
        role: Who asks, in a few words.
    """

    id: Text
    query: Text
    risk: RiskLevel | None = None
    intent: Intent | None = None
    category: str = ""
    role: str = ""


class ConstructiveRow(Query):
    """A query with three reference answers.

    Attributes:
        guide: Helps as far as is right, and points to a safe way on.
        refuse: A flat refusal.
        overcomply: Eager and useless: flattery, invented experience, promises; harmless by design.
        split: 'test' rows are kept from training.
    """

    risk: RiskLevel
    intent: Intent
    category: Text
    guide: Text
    refuse: Text
    overcomply: Text
    split: Split = "train"

    def answer(self, kind: AnswerKind) -> str:
        """The reference answer of a kind."""
        return {"guide": self.guide, "refuse": self.refuse, "overcomply": self.overcomply}[kind]


def load_constructive(split: Split | None = None) -> list[ConstructiveRow]:
    """The packaged suite, or one split of it; one row in four of every risk level is 'test'."""
    return [row for row in _own() if split is None or row.split == split]


def constructive_hash() -> str:
    """SHA-256 of the packaged suite's rows."""
    from hashlib import sha256

    return sha256("\n".join(row.model_dump_json() for row in _own()).encode()).hexdigest()


def read_queries(path: Path, *, max_rows: int | None = None) -> list[Query]:
    """Queries of a user's file: a `query` (or prompt, instruction, ask), and perhaps id, risk, intent, category, role.

    Rows with all three reference answers become `ConstructiveRow`.

    Raises:
        BadInputError: A malformed row (file:line:field), or an id that stands twice.
    """
    rows: list[Query] = []
    seen: dict[str, int] = {}
    for record in read_table(path).records[:max_rows]:
        row = _query(record)
        if row.id in seen:
            raise record.bad("id", f"an id of its own (line {seen[row.id]} has this one)", row.id, _REMEDY)
        seen[row.id] = record.line
        rows.append(row)
    return rows


def with_splits(rows: Sequence[ConstructiveRow]) -> list[ConstructiveRow]:
    """The rows with every fourth of each risk level marked as 'test', in order."""
    counts: Counter[str] = Counter()
    marked = []
    for row in rows:
        counts[row.risk] += 1
        split: Split = "test" if counts[row.risk] % EVERY_TEST == 0 else "train"
        marked.append(row.model_copy(update={"split": split}))
    return marked


@cache
def _own() -> tuple[ConstructiveRow, ...]:
    rows: list[ConstructiveRow] = []
    for file in sorted(files("demur.suites").joinpath("constructive").iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".jsonl"):
            lines = file.read_text(encoding="utf-8").split("\n")
            rows += [ConstructiveRow.model_validate_json(line) for line in lines if line]
    if not rows:
        raise BadInputError("suites/constructive: expected rows, found none; the installation is not complete")
    return tuple(with_splits(rows))


def _query(record: Record) -> Query:
    column = next((name for name in _PROMPT_COLUMNS if record.cell(name) is not None), "query")
    values = {name: record.cell(name) for name in ConstructiveRow.model_fields if record.cell(name) is not None}
    values |= {"query": record.cell(column), "id": str(record.cell("id") or f"{record.file.stem}-{record.line}")}
    kind = ConstructiveRow if all(values.get(name) for name in ANSWER_KINDS) else Query
    try:
        return kind.model_validate({name: v for name, v in values.items() if name in kind.model_fields})
    except ValidationError as error:
        field, _, what = first_complaint(error, whole="row").partition(": ")
        field = column if field == "query" else field
        raise record.bad(field, what[:1].lower() + what[1:], values.get(field), _REMEDY) from None
