"""Labelled rows: the one shape of everything the trainer learns from.

Supervised replies, control tokens, prefixes and transitions differ only in which positions have a label, which one and
how much it weighs; the loss is the same cross-entropy for all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from demur.core.errors import BadInputError
from demur.core.exchange import Message
from demur.models.untrusted import safe_messages

IGNORED = -100
_MARK = "demurmark"


@dataclass(frozen=True, slots=True)
class Example:
    """One exchange to learn from, as text.

    Attributes:
        prompt: What the user asks.
        response: What should be said.
        kind: 'prefix' and 'rto' are built by `derta`; any other name is an ordinary reply, and names its loss curve.
        system: System message; empty = the template's own.
        weight: Of each learnt token beside those of other rows.
        unwanted: The reply that should not be given or should be broken off; for 'prefix' and 'rto' only.
        id: Where the example came from; errors name it.
    """

    prompt: str
    response: str
    kind: str = "reply"
    system: str = ""
    weight: float = 1.0
    unwanted: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One row as token ids; tuples of equal length.

    Attributes:
        ids: What the model reads.
        labels: `labels[t]` is predicted from `ids[:t]`; IGNORED where nothing is learnt, always at 0.
        weights: Weight of each position's loss; counts only where there is a label.
        kind: Name of its loss curve.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...]
    kind: str

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.labels) == len(self.weights) > 0:
            lengths = f"{len(self.ids)}, {len(self.labels)} and {len(self.weights)}"
            raise ValueError(f"expected as many ids as labels and weights, and at least one; got {lengths}")
        if self.labels[0] != IGNORED:
            raise ValueError("expected no label at position 0: nothing comes before it to predict it from")
        if not all(math.isfinite(w) and w >= 0 for w in self.weights):
            raise ValueError("expected weights that are finite and not negative")

    @property
    def learnt(self) -> tuple[int, ...]:
        """Positions with a label."""
        return tuple(t for t, label in enumerate(self.labels) if label != IGNORED)


@dataclass(frozen=True, slots=True)
class Encoder:
    """Text to ids for one tokenizer; text of users never forms a control token.

    Attributes:
        tokenizer: With a chat template.
        voice: Tokens of the template's own voice.
        end: Id that ends the assistant's turn, as the template does.
        max_tokens: Longest row.
    """

    tokenizer: Any
    voice: tuple[str, ...]
    end: int
    max_tokens: int

    def prompt(self, prompt: str, *, system: str = "", origin: str = "") -> tuple[int, ...]:
        """Ids of a request up to the assistant's first token.

        Raises:
            BadInputError: It leaves no room for a reply.
        """
        messages = [Message(role="system", text=system)] if system else []
        text = _rendered(self.tokenizer, safe_messages([*messages, Message(role="user", text=prompt)], self.voice))
        ids = self._ids(text)
        if len(ids) >= self.max_tokens:
            raise BadInputError(
                f"{origin or repr(prompt[:40])}: the prompt alone has {len(ids)} tokens, expected fewer than "
                f"max_tokens = {self.max_tokens}; raise it or leave the row out"
            )
        return ids

    def reply(self, text: str) -> tuple[int, ...]:
        """Ids of what the assistant says, without its end."""
        return self._ids(safe_messages([Message(role="assistant", text=text)], self.voice)[0]["content"])

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def encoder_of(tokenizer: Any, *, max_tokens: int = 1024) -> Encoder:
    """The encoder of a tokenizer.

    Raises:
        BadInputError: It has no chat template, or neither template nor tokenizer ends the assistant's turn.
    """
    if tokenizer.chat_template is None:
        raise BadInputError("the model has no chat template; use a chat model or add one to its tokenizer")
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    voice = tuple(sorted({*map(str, tokenizer.all_special_tokens), *added}))
    return Encoder(tokenizer, voice, _end_of_turn(tokenizer), max_tokens)


def mask_table(tokenizer: Any, row: LabelledRow) -> str:
    """A row as a table: what is read at each position, what should come there, and its weight."""
    lines = [f"{'t':>4}  {'read':24} {'learnt':24} weight"]
    for t, (read, label, weight) in enumerate(zip(row.ids, row.labels, row.weights, strict=True)):
        wanted, share = ("-", "") if label == IGNORED else (repr(tokenizer.decode([label])), f"{weight:g}")
        lines.append(f"{t:>4}  {tokenizer.decode([read])!r:24} {wanted:24} {share}".rstrip())
    return "\n".join(lines)


def shared_beginning(rows: Sequence[LabelledRow]) -> int:
    """How many ids all rows begin with; never a labelled position, nor the last one before it, nor a whole row."""
    shortest = min(len(row.ids) for row in rows) - 1
    unlearnt = min((row.learnt[0] - 1 for row in rows if row.learnt), default=shortest)
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)
    n = 0
    while n < min(shortest, unlearnt) and first[n] == last[n]:
        n += 1
    return n


def _rendered(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _end_of_turn(tokenizer: Any) -> int:
    """The first special token after the assistant's text, as the template writes it; else the tokenizer's own."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
    after = str(tokenizer.apply_chat_template(messages, tokenize=False)).partition(_MARK)[2]
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    found = next((i for i in tokenizer(after, add_special_tokens=False)["input_ids"] if i in special), None)
    end = tokenizer.eos_token_id if found is None else found
    if end is None:
        raise BadInputError("the tokenizer has no token that ends a reply; set its eos_token")
    return int(end)
