"""Training rows of refusal tokens: prompt, the control token that should follow it, and the reply after that."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError
from demur.core.exchange import Message
from demur.core.signal import RESPOND
from demur.core.taxonomy import load_taxonomy
from demur.data.tables import read_table
from demur.models.untrusted import safe_messages
from demur.suites.training import TrainingRow, load_labelled
from demur.train.tokens import TokenSet

_REMEDY = "mend the row and run again"


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row as token ids.

    Attributes:
        prompt: Ids up to and including the generation prompt.
        column: Column of the control token that comes next.
        reply: Ids of the reply with its end token; empty where only the control token is learnt.
    """

    prompt: tuple[int, ...]
    column: int
    reply: tuple[int, ...] = ()


def training_rows(data: Path | None) -> list[TrainingRow]:
    """The built-in training split, or a user's file of the same fields (prompt, expected, category, appropriate).

    Raises:
        BadInputError: A malformed row (file:line:field), or one side is missing.
    """
    rows = load_labelled("train") if data is None else _own_rows(data)
    sides = {row.expected for row in rows}
    if sides != {"refuse", "comply"}:
        raise BadInputError(
            f"{data}: expected rows with expected=refuse and rows with expected=comply, got only {', '.join(sides)}; "
            "a token that always means the same decides nothing"
        )
    return rows


def encode_rows(
    rows: Sequence[TrainingRow],
    tokenizer: Any,
    tokens: TokenSet,
    *,
    control_texts: Sequence[str],
    replies: Sequence[str] | None = None,
    reply_tokens: int = 0,
) -> list[TokenRow]:
    """Rows as ids, in order; text can never form a control token.

    Args:
        rows: Prompts with expected side and reply.
        tokenizer: With the control tokens added.
        tokens: The control tokens.
        control_texts: Every token of the template's own voice.
        replies: The reply that each row learns, empty where it learns its control token only; None = none does.
        reply_tokens: Tokens of a reply that are learnt; what comes after its opening is the model's own affair.
    """
    prompts = [prompt_text(tokenizer, (Message(role="user", text=row.prompt),), control_texts) for row in rows]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    texts = [
        safe_messages([Message(role="assistant", text=text)], control_texts)[0]["content"] if text else ""
        for text in replies or [""] * len(rows)
    ]
    reply_ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    encoded = []
    for row, prompt, reply in zip(rows, prompt_ids, reply_ids, strict=True):
        column = tokens.column(row.category if row.expected == "refuse" else RESPOND)
        # A reply that had to be cut is not shown to end there.
        end = (tokenizer.eos_token_id,) if len(reply) <= reply_tokens else ()
        kept = (*reply[:reply_tokens], *end) if reply else ()
        encoded.append(TokenRow(prompt=tuple(prompt), column=column, reply=kept))
    return encoded


def prompt_text(tokenizer: Any, messages: Sequence[Message], control_texts: Sequence[str]) -> str:
    """A request as the chat template writes it, up to the assistant's first token."""
    return str(
        tokenizer.apply_chat_template(
            safe_messages(messages, control_texts), tokenize=False, add_generation_prompt=True
        )
    )


def shared_prefix(rows: Sequence[TokenRow]) -> tuple[int, ...]:
    """Ids that every prompt begins with: the template's own beginning; never a whole prompt."""
    first, last = min(row.prompt for row in rows), max(row.prompt for row in rows)
    n = 0
    while n < min(len(first), len(last)) - 1 and first[n] == last[n]:
        n += 1
    return first[:n]


def _own_rows(path: Path) -> list[TrainingRow]:
    rows = []
    for record in read_table(path).records:
        prompt, expected = record.cell("prompt"), record.cell("expected")
        if not isinstance(prompt, str) or not prompt.strip():
            raise record.bad("prompt", "the text a user asks", prompt, _REMEDY)
        if expected not in ("refuse", "comply"):
            raise record.bad("expected", "refuse or comply", expected, _REMEDY)
        category = str(record.cell("category") or "")
        if expected == "refuse" and not category:
            raise record.bad("category", "a taxonomy category", record.cell("category"), _REMEDY)
        rows.append(
            TrainingRow(
                id=f"{path.name}:{record.line}",
                category=load_taxonomy().find_category(category).id if expected == "refuse" else category,
                subcategory="",
                expected=expected,
                conduct="refused" if expected == "refuse" else "complied",
                prompt=prompt,
                appropriate=str(record.cell("appropriate") or record.cell("response") or ""),
            )
        )
    return rows
