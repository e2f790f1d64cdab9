"""Short greedy replies of a model in memory: decoded together, each leaving when it ends; only where torch is there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from demur.core.exchange import Message, StopReason
from demur.models.answer_logprobs import TokenReader
from demur.models.controlled_reading import Reader
from demur.models.controlled_writing import Reply, Writer, may_batch
from demur.models.local import split_reasoning
from demur.models.untrusted import safe_messages

ROWS_AT_ONCE = {"cpu": 32, "cuda": 128}
Progress = Callable[[int, int], None]
Prompt = str | Sequence[Message]


@dataclass(frozen=True, slots=True)
class GreedyReply:
    """A reply and whether its token limit ended it."""

    text: str
    cut_off: bool


@dataclass(slots=True)
class _Collected:
    """Takes what the writer passes on."""

    abandoned: bool = False
    pieces: list[str] = field(default_factory=list)
    stop: StopReason | None = None

    def text(self, piece: str) -> None:
        self.pieces.append(piece)

    def end(self, stop_reason: StopReason, *, input_tokens: int, output_tokens: int) -> None:
        del input_tokens, output_tokens  # nobody counts them here
        self.stop = stop_reason

    def fail(self, error: Exception) -> None:
        raise error


def greedy_replies(
    reader: TokenReader,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int | Sequence[int],
    progress: Progress = lambda *_: None,
) -> list[GreedyReply]:
    """Greedy replies, in order.

    Args:
        reader: The model; its system prompt comes first where a conversation brings none.
        prompts: What users say, or whole conversations; one that leaves no room for a reply gets an empty one.
        max_tokens: Most tokens of a reply, for all or for each.
        progress: Called with (replies done, replies).
    """
    budgets = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else list(max_tokens)
    model = reader.model
    batched = may_batch(model.config)
    at_once = ROWS_AT_ONCE.get(model.device.type, ROWS_AT_ONCE["cuda"])
    writer = Writer(model, reader.tokenizer, banned=(), max_rows=at_once, batched=batched)
    rows = [prompt_ids(reader, prompt) for prompt in prompts]
    found = [_Collected() for _ in rows]
    fitting = [i for i, ids in enumerate(rows) if len(ids) + 2 <= reader.limit]
    reading = Reader(model, None, prefix=_beginning([rows[i] for i in fitting]), batched=batched)
    waiting = [[fitting[i] for i in batch] for batch in reading.batches([rows[i] for i in fitting])]
    while waiting or writer.active:
        while waiting and len(writer.active) + len(waiting[0]) <= max(at_once, len(waiting[0])):
            numbers = waiting.pop(0)
            for i, read in zip(numbers, reading.read([rows[i] for i in numbers], keep=True), strict=True):
                stream: Any = found[i]
                writer.add(Reply(stream, rows[i], read.kept, forced=-1, budget=budgets[i]))
            if len(writer.active) >= at_once:
                break
        writer.step()
        progress(sum(one.stop is not None for one in found), len(rows))
    return [GreedyReply(split_reasoning("".join(one.pieces))[0], one.stop != "stop") for one in found]


def prompt_ids(reader: TokenReader, prompt: Prompt) -> list[int]:
    """Tokens of a prompt in the chat template, up to where the reply begins."""
    messages = [Message(role="user", text=prompt)] if isinstance(prompt, str) else list(prompt)
    if reader.system and messages[0].role != "system":
        messages.insert(0, Message(role="system", text=reader.system))
    text = reader.tokenizer.apply_chat_template(
        safe_messages(messages, reader.forbidden), tokenize=False, add_generation_prompt=True
    )
    return reader.ids(text)


def _beginning(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Tokens that all prompts begin with, always fewer than the shortest has."""
    if not prompts:
        return []
    first, last = min(map(list, prompts)), max(map(list, prompts))
    limit = min(map(len, prompts)) - 1
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), limit)
    return first[: max(0, min(n, limit))]
