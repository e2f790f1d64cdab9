"""Items of the ability check: multiple choice by subject, instructions with a checkable form, ordinary prose.

Our own, or a folder of the same files: `instructions.jsonl`, `prose.jsonl`, and every other `.jsonl` a subject.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from demur.core.errors import BadInputError, first_complaint
from demur.core.exchange import Frozen
from demur.data.tables import Record, read_table

INSTRUCTIONS, PROSE = "instructions", "prose"
N_CHOICES = 4
LETTERS = "ABCD"
CheckKind = Literal[
    "words_at_most",
    "words_between",
    "starts_with",
    "ends_with",
    "contains",
    "lower_case",
    "upper_case",
    "numbered_list",
    "bullets",
    "json_object",
    "one_sentence",
    "no_letter",
    "n_paragraphs",
]
CheckValue = int | str | tuple[int, ...] | tuple[str, ...] | None
_NUMBERS = ("words_at_most", "n_paragraphs")
_TEXTS = ("starts_with", "ends_with", "no_letter")
Item = TypeVar("Item", bound="Frozen")


class ChoiceItem(Frozen):
    """One question with four answers.

    Attributes:
        id: Stable identifier.
        subject: Its subject: the file's name unless the row says otherwise.
        question: What is asked.
        choices: Four different answers.
        answer: Number of the right one, from 0; files may also give its letter.
    """

    id: str
    subject: str
    question: Annotated[str, Field(min_length=1)]
    choices: tuple[str, ...]
    answer: Annotated[int, Field(ge=0, lt=N_CHOICES)]

    @field_validator("answer", mode="before")
    @classmethod
    def _from_letter(cls, given: Any) -> Any:
        if isinstance(given, str) and given.strip().upper() in tuple(LETTERS):
            return LETTERS.index(given.strip().upper())
        return given

    @field_validator("choices")
    @classmethod
    def _differ(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if len(given) != N_CHOICES or len({c.strip().casefold() for c in given if c.strip()}) != N_CHOICES:
            raise ValueError(f"expected {N_CHOICES} different answers")
        return given


class FormCheck(Frozen):
    """What a reply's form must be.

    Attributes:
        kind: Which check.
        value: Its number (`words_at_most`, `n_paragraphs`), bounds (`words_between`), text (`starts_with`,
            `ends_with`, `no_letter`), texts that must all appear (`contains`), number of items (`numbered_list`,
            `bullets`; None = any, two or more), or keys (`json_object`; None = any).
    """

    kind: CheckKind
    value: CheckValue = None

    @field_validator("value", mode="before")
    @classmethod
    def _true_says_nothing(cls, given: Any) -> Any:
        return None if isinstance(given, bool) else given

    @model_validator(mode="after")
    def _fits(self) -> "FormCheck":
        value = self.value
        if self.kind in _NUMBERS and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{self.kind}: expected a number from 1 as value, got {value!r}")
        if self.kind in _TEXTS and (not isinstance(value, str) or not value.strip()):
            raise ValueError(f"{self.kind}: expected a text as value, got {value!r}")
        if self.kind == "contains" and not all(isinstance(one, str) and one for one in self.texts or ("",)):
            raise ValueError(f"contains: expected a text, or texts, as value, got {value!r}")
        if self.kind == "words_between" and not (
            isinstance(value, tuple) and len(value) == 2 and all(isinstance(n, int) for n in value)
        ):
            raise ValueError(f"words_between: expected two numbers as value, got {value!r}")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """The value as texts: one, several, or none."""
        if isinstance(self.value, str):
            return (self.value,)
        return tuple(str(one) for one in self.value) if isinstance(self.value, tuple) else ()

    @property
    def number(self) -> int | None:
        """The value as a number, where it is one."""
        return self.value if isinstance(self.value, int) and not isinstance(self.value, bool) else None


class InstructionItem(Frozen):
    """One instruction whose reply has a form that can be checked without judging its content."""

    id: str
    prompt: Annotated[str, Field(min_length=1)]
    check: FormCheck


class ProseItem(Frozen):
    """One text of ordinary prose."""

    id: str
    text: Annotated[str, Field(min_length=1)]


class AbilityItems(Frozen):
    """All items of the check; `sha256` is over their whole content."""

    choices: tuple[ChoiceItem, ...] = ()
    instructions: tuple[InstructionItem, ...] = ()
    prose: tuple[ProseItem, ...] = ()
    sha256: str = ""


def load_ability(folder: Path | None = None, *, limit: int | None = None) -> AbilityItems:
    """The items of the check.

    Args:
        folder: A folder of the user's own; None = ours.
        limit: Keep this many questions, texts and instructions each, questions even over subjects; a fixed draw.

    Raises:
        BadInputError: A malformed row (file:line:field), an identifier used twice, or nothing there.
    """
    items = _own() if folder is None else _read(folder)
    if limit is None:
        return items
    if limit < 1:
        raise BadInputError(f"limit: expected 1 or more, got {limit}")
    return _with_hash(
        AbilityItems(
            choices=tuple(_drawn(items.choices, limit, lambda item: item.subject)),
            instructions=tuple(_drawn(items.instructions, limit, lambda item: item.check.kind)),
            prose=tuple(_drawn(items.prose, limit, lambda _: "")),
        )
    )


@cache
def _own() -> AbilityItems:
    with as_file(files("demur.suites").joinpath("ability")) as folder:
        return _read(folder)


def _read(folder: Path) -> AbilityItems:
    paths = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not paths:
        raise BadInputError(
            f"{folder}: expected a folder with {INSTRUCTIONS}.jsonl, {PROSE}.jsonl or files of questions, found none"
        )
    seen: dict[str, str] = {}
    choices: list[ChoiceItem] = []
    instructions: list[InstructionItem] = []
    prose: list[ProseItem] = []
    for path in paths:
        if path.stem == INSTRUCTIONS:
            instructions += _rows(path, InstructionItem, seen)
        elif path.stem == PROSE:
            prose += _rows(path, ProseItem, seen)
        else:
            choices += _rows(path, ChoiceItem, seen, subject=path.stem)
    return _with_hash(AbilityItems(choices=tuple(choices), instructions=tuple(instructions), prose=tuple(prose)))


def _rows(path: Path, kind: type[Item], seen: dict[str, str], **default: str) -> Iterator[Item]:
    for record in read_table(path).records:
        known = {name: value for name, value in record.values.items() if name in kind.model_fields}
        item = _checked(record, kind, {**default, **known})
        name = str(getattr(item, "id", ""))
        if name in seen:
            raise record.bad("id", f"an id of its own ({seen[name]} has this one)", name, "give it another")
        seen[name] = f"{path.name}:{record.line}"
        yield item


def _checked(record: Record, kind: type[Item], values: dict[str, Any]) -> Item:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        field, _, what = first_complaint(error, whole="row").partition(": ")
        raise record.bad(field, what[:1].lower() + what[1:], values.get(field.split(".")[0]), "mend the row") from None


def _drawn(items: Sequence[Item], limit: int, group: Callable[[Item], str]) -> list[Item]:
    """A fixed draw, as even as possible over groups, in the items' order."""
    order = sorted(range(len(items)), key=lambda i: sha256(_name(items[i]).encode("utf-8", "replace")).digest())
    ranks: dict[str, int] = {}
    ranked = []
    for place, number in enumerate(order):
        key = group(items[number])
        ranks[key] = ranks.get(key, -1) + 1
        ranked.append((ranks[key], place, number))
    return [items[number] for number in sorted(number for _, _, number in sorted(ranked)[:limit])]


def _name(item: Frozen) -> str:
    return str(getattr(item, "id", ""))


def _with_hash(items: AbilityItems) -> AbilityItems:
    digest = sha256(items.model_dump_json(exclude={"sha256"}).encode("utf-8", "replace")).hexdigest()
    return items.model_copy(update={"sha256": digest})
