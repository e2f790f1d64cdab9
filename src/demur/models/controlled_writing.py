"""Writing replies with a transformers model: every step decodes one token of every open reply.

Imported only where torch is there. Replies join and leave between steps. Models whose layers are not all
plain attention keep transformers' own cache for each reply and take their steps one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from demur.core.exchange import StopReason
from demur.models.controlled_cache import KeyValues, RowCache, Unbatched
from demur.models.controlled_stream import PieceStream

_UNFINISHED = "\ufffd"  # what a decoder makes of the first bytes of a character


@dataclass(slots=True, eq=False)
class Reply:
    """One reply in the making.

    Attributes:
        stream: Where the text goes.
        prompt: Token ids of the prompt.
        kept: What reading left.
        forced: Control token to begin with; -1 for none.
        budget: Most tokens to write.
        temperature: 0 is greedy.
        seed: Of the draws; None draws anew each time.
    """

    stream: PieceStream
    prompt: Sequence[int]
    kept: KeyValues | Unbatched | None
    forced: int
    budget: int
    temperature: float = 0.0
    seed: int | None = None
    fed: int = -1
    ids: list[int] = field(default_factory=list)
    shown: int = 0
    joined: int = 0
    generator: Any = None


class Writer:
    """Decodes open replies together.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        banned: Tokens that are never written.
        max_rows: Most replies decoded together; further ones wait.
        batched: Whether rows may share a step.
    """

    def __init__(self, model: Any, tokenizer: Any, *, banned: Sequence[int], max_rows: int, batched: bool) -> None:
        self.model, self.tokenizer, self.max_rows = model, tokenizer, max_rows
        self.active: list[Reply] = []
        self._banned = torch.tensor(list(banned), dtype=torch.long, device=model.device)
        self._ends = end_tokens(model, tokenizer)
        self._limit = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        self._rows = RowCache(max_rows) if batched else None

    def add(self, reply: Reply) -> None:
        """Let a reply take part from the next step on."""
        if self._rows is not None:
            assert isinstance(reply.kept, KeyValues)
            # Rows that grew in a step may not be written to outside this mode.
            with torch.inference_mode():
                # Without a forced token the prompt's last one is fed again: its logits were not kept.
                self._rows.add(reply.kept if reply.forced >= 0 else reply.kept.without_last())
            reply.kept = None
        reply.fed = reply.forced if reply.forced >= 0 else int(reply.prompt[-1])
        if reply.temperature > 0:
            reply.generator = torch.Generator(device=self.model.device)
            if reply.seed is None:
                reply.generator.seed()
            else:
                reply.generator.manual_seed(reply.seed % (1 << 63))
        self.active.append(reply)

    def step(self) -> None:
        """One token for every open reply; those that end leave."""
        self._drop([i for i, reply in enumerate(self.active) if reply.stream.abandoned])
        if not self.active:
            return
        with torch.inference_mode():
            logits = self._logits().float().clone()
            logits[:, self._banned] = float("-inf")
            greedy = logits.argmax(dim=-1).tolist()
            drawn = [self._draw(reply, logits[i], greedy[i]) for i, reply in enumerate(self.active)]
        self._drop(
            [i for i, (reply, token) in enumerate(zip(self.active, drawn, strict=True)) if self._take(reply, token)]
        )

    def fail(self, error: Exception) -> None:
        """End every open reply with an error."""
        for reply in self.active:
            reply.stream.fail(error)
        self.active = []
        if self._rows is not None:
            self._rows = RowCache(self.max_rows)

    def _logits(self) -> Any:
        device = self.model.device
        if self._rows is None:
            return torch.cat([self._logits_alone(reply) for reply in self.active])
        fed = torch.tensor([[reply.fed] for reply in self.active], device=device)
        positions, mask = self._rows.begin_step(self.model.dtype, device)
        output = self.model(
            input_ids=fed, attention_mask=mask, position_ids=positions, past_key_values=self._rows, use_cache=True
        )
        self._rows.end_step()
        return output.logits[:, -1]

    def _logits_alone(self, reply: Reply) -> Any:
        assert isinstance(reply.kept, Unbatched)
        if reply.forced < 0 and not reply.ids:
            return reply.kept.logits
        fed = torch.tensor([[reply.fed]], device=self.model.device)
        return self.model(input_ids=fed, past_key_values=reply.kept.cache, use_cache=True).logits[:, -1].float()

    def _draw(self, reply: Reply, logits: Any, greedy: int) -> int:
        if reply.temperature <= 0:
            return int(greedy)
        p = torch.softmax(logits / reply.temperature, dim=-1)
        return int(torch.multinomial(p, 1, generator=reply.generator))

    def _take(self, reply: Reply, token: int) -> bool:
        """Add a token to a reply; True if that ends it."""
        if token in self._ends:
            return self._end(reply, "stop")
        reply.ids.append(token)
        reply.fed = token
        self._show(reply)
        n_context = len(reply.prompt) + (reply.forced >= 0) + len(reply.ids)
        if len(reply.ids) >= reply.budget or n_context >= self._limit:
            return self._end(reply, "max_tokens")
        return False

    def _show(self, reply: Reply, *, last: bool = False) -> None:
        # A window of two pieces: a token's text depends on the one before it, not on all of them.
        before = self._text(reply.ids[reply.joined : reply.shown])
        after = self._text(reply.ids[reply.joined :])
        if after.endswith(_UNFINISHED) and not last:
            return
        if len(after) > len(before):
            reply.stream.text(after[len(before) :])
        reply.joined, reply.shown = reply.shown, len(reply.ids)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _end(self, reply: Reply, stop: StopReason) -> bool:
        if reply.shown < len(reply.ids):
            self._show(reply, last=True)
        reply.stream.end(stop, input_tokens=len(reply.prompt), output_tokens=len(reply.ids))
        return True

    def _drop(self, numbers: Sequence[int]) -> None:
        for i in sorted(numbers, reverse=True):
            self.active[i] = self.active[-1]
            self.active.pop()
            if self._rows is not None:
                with torch.inference_mode():
                    self._rows.remove(i)


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a reply."""
    declared = model.generation_config.eos_token_id
    ids = declared if isinstance(declared, list) else [declared]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


def may_batch(config: Any) -> bool:
    """Whether every layer is plain attention over the whole past, so that rows of any length may share a step."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    explicit = getattr(config, "layer_types", None) is not None
    attention = getattr(config, "_attn_implementation", None) or "sdpa"
    return kinds == {"full_attention"} and (explicit or not windowed) and attention in ("sdpa", "eager")
