"""Rows of a cliff study: prompts with a side, what the model thought and answered, and what a judge made of it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from demur.activations.spans import PromptTokens, tokenized
from demur.activations.subject import Subject
from demur.core.identity import Decoding
from demur.core.verdict import Outcome
from demur.data.folder import write_text
from demur.data.tables import read_table
from demur.inside.rollouts import rollout_journal, rollouts
from demur.inside.thinking import KNOWN_TAGS, reasoned_text, thinking_span
from demur.inside.traces import ReasonedTokens
from demur.jobs.following import outcomes
from demur.suites.training import load_training

Progress = Callable[[int, int], None]
DECLINED = ("refused", "partial")
QUESTIONS_BACK = "incomplete"  # its good replies ask back or correct, which judges of refusals call an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class CliffRow:
    """A prompt, and what became of it.

    Attributes:
        id: Identifier.
        prompt: What is asked.
        declinable: Whether it should be declined.
        category: Its category.
        pair_id: Shared with a contrast twin; '' without one.
        safe_reply: What should be answered, where known.
        thinking: The model's thoughts, given in the file; None = the model is asked.
        response: Its answer, likewise.
        outcome: What the answer did.
    """

    id: str
    prompt: str
    declinable: bool
    category: str = ""
    pair_id: str = ""
    safe_reply: str = ""
    thinking: str | None = None
    response: str | None = None
    outcome: Outcome | None = None

    @property
    def group(self) -> str:
        """Side and conduct in words; '' where the answer was degenerate or could not be judged."""
        side = "to decline" if self.declinable else "to answer"
        if self.outcome in DECLINED:
            return f"{side}, declined"
        return f"{side}, answered" if self.outcome == "complied" else ""


def cliff_rows(path: Path | None, *, limit: int) -> list[CliffRow]:
    """Rows of a file (prompt, expected; perhaps thinking, response, appropriate, category, pair_id), or our own.

    Args:
        path: None = the calibration split of the built-in training set, without requests that lack something.
        limit: Most rows of a side, drawn evenly by identifier.

    Raises:
        BadInputError: A malformed row (file:line:field).
    """
    rows = _built_in() if path is None else _own(path)
    kept: list[CliffRow] = []
    for side in (True, False):
        of_side = sorted((r for r in rows if r.declinable is side), key=lambda r: crc32(r.id.encode()))
        kept += of_side[:limit]
    return kept


def rolled_out(
    subject: Subject,
    rows: Sequence[CliffRow],
    *,
    clean: Callable[[str], str],
    decoding: Decoding,
    journal: Path | None = None,
    progress: Progress | None = None,
) -> list[tuple[CliffRow, ReasonedTokens]]:
    """Ask the model what the file does not tell, and take every reply apart on its ids.

    Args:
        subject: The model.
        rows: Rows; those with a response are not asked again.
        clean: Splits control tokens in text from outside.
        decoding: How replies are drawn; the longest includes thinking.
        journal: File that keeps replies as they come, so that an interrupted run does not ask again; None = none.
        progress: Called with (replies done, replies).
    """
    kept = rollout_journal(journal) if journal else None
    prompts = [tokenized(subject.tokenizer, row.prompt, clean=clean) for row in rows]
    asked = [i for i, row in enumerate(rows) if row.response is None]
    made = rollouts(
        subject, [prompts[i].ids for i in asked], max_tokens=decoding.max_tokens, temperature=decoding.temperature,
        seed=decoding.seed, kept=kept, progress=progress,
    ) if asked else []  # fmt: skip
    if kept:
        kept.close()
    replies = dict(zip(asked, made, strict=True))
    found = []
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        reply = replies[i].ids if i in replies else _reply_ids(subject.tokenizer, prompt, row, clean)
        item = _item(subject.tokenizer, row, prompt, reply)
        found.append((_with_texts(subject.tokenizer, row, item), item))
    return found


def judged(rows: Sequence[CliffRow], judge: str) -> list[CliffRow]:
    """Rows with what a judge says of the answers alone; thoughts are not judged."""
    verdicts = outcomes([r.prompt for r in rows], [r.response or "" for r in rows], judge=judge)
    return [replace(row, outcome=row.outcome or v.outcome) for row, v in zip(rows, verdicts, strict=True)]


def write_rows(path: Path, rows: Sequence[CliffRow]) -> None:
    """What the model thought and answered, as JSON Lines that `--prompts` reads again without asking the model."""
    lines = [
        {
            "id": row.id,
            "prompt": row.prompt,
            "expected": "refuse" if row.declinable else "comply",
            "category": row.category,
            "pair_id": row.pair_id,
            "appropriate": row.safe_reply,
            "thinking": row.thinking or "",
            "response": row.response or "",
            "outcome": row.outcome,
        }
        for row in rows
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines))


def _built_in() -> list[CliffRow]:
    return [
        CliffRow(
            id=row.id,
            prompt=row.prompt,
            declinable=row.expected == "refuse",
            category=row.category,
            pair_id=row.pair_id,
            safe_reply=row.appropriate if row.expected == "refuse" else "",
        )
        for row in load_training("calibration")
        if row.category != QUESTIONS_BACK
    ]


def _own(path: Path) -> list[CliffRow]:
    rows = []
    remedy = "mend the row and run again"
    for record in read_table(path).records:
        prompt, expected, outcome = (record.cell(name) for name in ("prompt", "expected", "outcome"))
        if not isinstance(prompt, str) or not prompt.strip():
            raise record.bad("prompt", "the text a user asks", prompt, remedy)
        if expected not in ("refuse", "comply"):
            raise record.bad("expected", "refuse or comply", expected, remedy)
        if outcome not in (None, "", "complied", "partial", "refused", "degenerate", "unjudged"):
            raise record.bad("outcome", "complied, partial, refused, degenerate, unjudged or nothing", outcome, remedy)
        thinking, response = record.cell("thinking"), record.cell("response")
        rows.append(
            CliffRow(
                id=str(record.cell("id") or f"{path.name}:{record.line}"),
                prompt=prompt,
                declinable=expected == "refuse",
                category=str(record.cell("category") or ""),
                pair_id=str(record.cell("pair_id") or ""),
                safe_reply=str(record.cell("appropriate") or ""),
                thinking=None if thinking is None else str(thinking),
                response=None if response is None else str(response),
                outcome=outcome or None,
            )
        )
    return rows


def _reply_ids(tokenizer: Any, prompt: PromptTokens, row: CliffRow, clean: Callable[[str], str]) -> tuple[int, ...]:
    """Ids of a reply that a file gives as texts."""
    turn = prompt.ranges["post"][0]
    opened = thinking_span(tokenizer, prompt.ids, turn=turn).status == "unclosed"
    response = clean(row.response or "")
    text = reasoned_text(clean(row.thinking), response, opened=opened) if row.thinking else response
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _item(tokenizer: Any, row: CliffRow, prompt: PromptTokens, reply: Sequence[int]) -> ReasonedTokens:
    ids = (*prompt.ids, *reply)
    turn, n_prompt = prompt.ranges["post"]
    span = thinking_span(tokenizer, ids, turn=turn, n_prompt=n_prompt, tags=KNOWN_TAGS)
    places = {name: prompt.spans[name] for name in ("t_inst", "t_post[-1]") if name in prompt.spans}
    return ReasonedTokens(key=row.id, group="", ids=ids, n_prompt=n_prompt, turn=turn, span=span, places=places)


def _with_texts(tokenizer: Any, row: CliffRow, item: ReasonedTokens) -> CliffRow:
    if row.response is not None:
        return row
    span = item.span
    thoughts = tokenizer.decode(list(item.ids[span.start : span.end]), skip_special_tokens=True).strip()
    answer_from = len(item.ids) if span.status == "unclosed" else max(span.final + 1, item.n_prompt)
    answer = tokenizer.decode(list(item.ids[answer_from:]), skip_special_tokens=True).strip()
    return replace(row, thinking=thoughts, response=answer)
