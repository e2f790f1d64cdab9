"""Prompts with what a model did with them, out of labelled files, audit folders and the verdicts of a scan."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError
from demur.data.tables import Record, read_table

PROMPT_COLUMNS = ("prompt", "question", "instruction", "query", "input", "text")
LABEL_COLUMNS = ("refused", "outcome", "label")
_REFUSALS = (
    "refused",
    "refusal",
    "refuse",
    "partial",
    "full_refusal",
    "partial_refusal",
    "noncompliance",
    "rejected",
)
_COMPLIED = ("complied", "compliance", "comply", "full_compliance", "answer", "answered")
REFUSED_WORDS = frozenset((*_REFUSALS, "true", "1", "1.0", "yes"))
# A degenerate reply is no refusal, here as in an audit's share of refusals.
ANSWERED_WORDS = frozenset((*_COMPLIED, "degenerate", "false", "0", "0.0", "no"))
_LEFT_OUT = frozenset(("unjudged", "other", "unclear", "none", "null", ""))
OTHER_PREFIX = "other:"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """One labelled prompt.

    Attributes:
        prompt: Its text.
        n_refused: Refused replies.
        n_replies: Labelled replies; 0 where the row has a reply that is still to be judged.
        source: Where it comes from.
        group: What must stay in one fold, as the user says; empty to find templates.
        weight: How much it counts.
        response: The reply, where one was given.
        others: Other models' outcomes by name, 1 refused and 0 answered.
        where: 'file:line', for messages.
    """

    prompt: str
    n_refused: int
    n_replies: int
    source: str
    group: str = ""
    weight: float = 1.0
    response: str | None = None
    others: dict[str, float] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRows:
    """Rows of some files, and how many were left out: without a verdict, or malformed."""

    rows: tuple[PromptRow, ...]
    n_unjudged: int
    n_skipped: int


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files behind files and folders: an audit's `responses.parquet`, or a scan's `verdicts/*.parquet`.

    Raises:
        BadInputError: A path that is not there, or a folder that holds neither.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise BadInputError(f"{path}: expected a file of prompts, or the folder of an audit or a scan; found none")
        shards = sorted((path / "verdicts").glob("*.parquet")) or sorted(path.glob("part-*.parquet"))
        audit = path / "responses.parquet"
        if audit.is_file():
            found.append(audit)
        elif shards:
            found += shards
        else:
            raise BadInputError(
                f"{path}: expected the folder of an audit (responses.parquet) or of a scan (verdicts/*.parquet); "
                "name a file instead"
            )
    return found


def read_prompts(path: Path, *, skip_bad: bool = False) -> tuple[list[str], list[Record], int]:
    """Prompts of a file without labels: the texts, their records, and how many rows were left out.

    Raises:
        BadInputError: A row without a prompt; names file, line and field.
    """
    table = read_table(path, skip_bad=skip_bad)
    texts: list[str] = []
    kept: list[Record] = []
    for record in table.records:
        try:
            texts.append(_prompt(record))
        except BadInputError:
            if not skip_bad:
                raise
            continue
        kept.append(record)
    if not texts:
        raise BadInputError(f"{path}: expected at least one prompt, got none; give it a column 'prompt'")
    return texts, kept, table.n_skipped + len(table.records) - len(kept)


def read_prompt_rows(paths: Sequence[Path], *, needs_label: bool = True, skip_bad: bool = False) -> PromptRows:
    """Labelled prompts of files and folders.

    A row has a prompt (`prompt`, or the last user turn of `messages`) and a label in `refused`, `outcome` or `label`,
    or counts in `n_refused` and `n_replies`. Optional: `source`, `group` (or `template`), `weight`, `response`, and
    other models' outcomes in columns 'other:NAME'.

    Args:
        paths: Files, audit folders, scan folders.
        needs_label: Whether a row without a label is malformed; if not, it must have a response.
        skip_bad: Leave malformed rows out and count them.

    Raises:
        BadInputError: A malformed row, as 'file:line:field: expected ..., got ...; remedy'; or no row is left.
    """
    rows: list[PromptRow] = []
    n_unjudged = n_skipped = 0
    for path in files_of(paths):
        table = read_table(path, skip_bad=skip_bad)
        n_skipped += table.n_skipped
        for record in table.records:
            try:
                row = _row(record, path, needs_label)
            except BadInputError:
                if not skip_bad:
                    raise
                n_skipped += 1
                continue
            if row is None:
                n_unjudged += 1
            else:
                rows.append(row)
    if not rows:
        raise BadInputError(
            f"{', '.join(map(str, paths))}: expected labelled prompts, got none ({n_unjudged} unjudged, "
            f"{n_skipped} malformed); label some or judge the replies with --judge"
        )
    return PromptRows(rows=tuple(rows), n_unjudged=n_unjudged, n_skipped=n_skipped)


def _row(record: Record, path: Path, needs_label: bool) -> PromptRow | None:
    prompt = _prompt(record)
    response = record.cell("response")
    counts = _counts(record)
    if counts is None:
        label = _label(record)
        if label is None and not needs_label:
            if not isinstance(response, str):
                raise record.bad("response", "a label, or a reply to be judged", response)
            counts = (0, 0)
        elif label is None:
            raise record.bad("refused", f"a label in {', '.join(LABEL_COLUMNS)}, or n_refused and n_replies", None)
        elif label == "left out":
            return None
        else:
            counts = (int(label == "refused"), 1)
    weight = record.cell("weight")
    return PromptRow(
        prompt=prompt,
        n_refused=counts[0],
        n_replies=counts[1],
        source=str(record.cell("source") or record.cell("suite") or path.stem),
        group=str(record.cell("group") or record.cell("template") or ""),
        weight=1.0 if weight in (None, "") else _number(record, "weight", weight, "a number of 0 or more"),
        response=response if isinstance(response, str) else None,
        others=dict(_others(record)),
        where=f"{record.file}:{record.line}",
    )


def _prompt(record: Record) -> str:
    for column in PROMPT_COLUMNS:
        found = record.cell(column)
        if found is None:
            continue
        if not isinstance(found, str) or not found.strip():
            raise record.bad(column, "the prompt's text", found)
        return found
    turns = record.cell("messages")
    if isinstance(turns, list):
        texts = [turn.get("content") for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
        if texts and isinstance(texts[-1], str) and texts[-1].strip():
            return texts[-1]
    raise record.bad("prompt", f"a prompt in one of {', '.join(PROMPT_COLUMNS)} or in messages", turns)


def _label(record: Record) -> str | None:
    """'refused', 'answered' or 'left out'; None if the row has no label at all."""
    for column in LABEL_COLUMNS:
        found = record.cell(column)
        if found is None:
            continue
        name = str(found).strip().casefold()
        if name in REFUSED_WORDS:
            return "refused"
        if name in ANSWERED_WORDS:
            return "answered"
        if name in _LEFT_OUT:
            return "left out"
        raise record.bad(column, "refused, partial, complied, degenerate, unjudged, true or false", found)
    return None


def _counts(record: Record) -> tuple[int, int] | None:
    refused, replies = record.cell("n_refused"), record.cell("n_replies")
    if refused is None and replies is None:
        return None
    expected = "whole numbers with 0 <= n_refused <= n_replies and n_replies >= 1"
    y, k = (
        _number(record, "n_refused", refused, expected),
        _number(record, "n_replies", replies, expected),
    )
    if y != int(y) or k != int(k) or not 0 <= y <= k or k < 1:
        raise record.bad("n_refused", expected, f"{refused} of {replies}")
    return int(y), int(k)


def _number(record: Record, column: str, value: Any, expected: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise record.bad(column, expected, value) from None
    if not isfinite(found) or found < 0:
        raise record.bad(column, expected, value)
    return found


def _others(record: Record) -> Iterator[tuple[str, float]]:
    for column, value in record.values.items():
        if column.startswith(OTHER_PREFIX) and value is not None and str(value).strip():
            name = str(value).strip().casefold()
            if name in REFUSED_WORDS | ANSWERED_WORDS:
                yield column.removeprefix(OTHER_PREFIX), float(name in REFUSED_WORDS)
            elif name not in _LEFT_OUT:
                raise record.bad(column, "refused, complied, unjudged, true or false", value)
