"""Reading requests with a transformers model: one forward pass per micro-batch, only the last position's logits.

Imported only where torch is there. Rows of like length go together; the beginning that the chat template gives every
prompt is computed once and shared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from demur.core.signal import TEMPERATURES, SignalScores
from demur.models.adapter import ControlTokens
from demur.models.controlled_cache import KeyValues, Unbatched, repeated, row_of

READ_ROWS = 32
# Padding included. On a processor larger batches are no faster by the token, and every open reply waits for them.
READ_TOKENS = {"cpu": 512, "cuda": 8_192}


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """One request, read.

    Attributes:
        scores: One row; None where the model has no control tokens.
        kept: What a reply needs of the prompt; None if not asked for.
    """

    scores: SignalScores | None
    kept: KeyValues | Unbatched | None


class Reader:
    """Reads token ids with one model.

    Args:
        model: A causal language model.
        control: Control tokens whose logits to keep; None for none.
        prefix: Token ids with which most prompts begin; () to share nothing.
        batched: Whether rows may be padded and read together.
    """

    def __init__(self, model: Any, control: ControlTokens | None, *, prefix: Sequence[int], batched: bool) -> None:
        self.model, self.control, self.batched = model, control, batched
        self.prefix = list(prefix) if batched else []
        self._most = READ_TOKENS.get(model.device.type, READ_TOKENS["cuda"])
        self._shared: KeyValues | None = None

    def batches(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Numbers of the prompts to read together: like lengths, with the shared beginning or without."""
        order = sorted(range(len(prompts)), key=lambda i: (self._begins(prompts[i]), len(prompts[i])), reverse=True)
        batch: list[int] = []
        for i in order:
            longest = len(prompts[(batch or [i])[0]])
            full = len(batch) >= READ_ROWS or (len(batch) + 1) * longest > self._most
            if batch and (not self.batched or full or self._begins(prompts[i]) != self._begins(prompts[batch[0]])):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def read(self, prompts: Sequence[Sequence[int]], *, keep: bool) -> list[Read]:
        """Read prompts that `batches` put together, in order.

        Args:
            prompts: Token ids.
            keep: Whether to keep what a reply needs.
        """
        with torch.inference_mode():
            head = len(self.prefix) if all(map(self._begins, prompts)) else 0
            tails = [list(ids[head:]) for ids in prompts]
            width = max(map(len, tails))
            gaps = [width - len(tail) for tail in tails]
            cache = repeated(self._prefix_values() if head else None, len(prompts), self.model.config)
            logits = self._forward(tails, gaps, head, cache)
            scores = self._scores(logits)
            kept: list[KeyValues | Unbatched | None] = [None] * len(prompts)
            if keep and self.batched:
                kept = [row_of(cache, row, head=head, gap=gap) for row, gap in enumerate(gaps)]
            elif keep:
                kept = [Unbatched(cache, logits)]
            rows = [scores[i : i + 1] if scores is not None else None for i in range(len(prompts))]
            return [Read(row, values) for row, values in zip(rows, kept, strict=True)]

    def _begins(self, ids: Sequence[int]) -> bool:
        return bool(self.prefix) and len(ids) > len(self.prefix) and list(ids[: len(self.prefix)]) == self.prefix

    def _prefix_values(self) -> KeyValues:
        if self._shared is None:
            cache = repeated(None, 1, self.model.config)
            self.model(
                input_ids=torch.tensor([self.prefix], device=self.model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            self._shared = row_of(cache, 0, head=len(self.prefix), gap=0)
        return self._shared

    def _forward(self, tails: list[list[int]], gaps: list[int], head: int, cache: Any) -> Any:
        device, width = self.model.device, len(tails[0]) + gaps[0]
        ids = torch.tensor([[0] * gap + tail for gap, tail in zip(gaps, tails, strict=True)], device=device)
        padding = torch.tensor(gaps, device=device)[:, None]
        steps = torch.arange(width, device=device)[None, :]
        seen = torch.cat(
            [torch.ones((len(tails), head), dtype=torch.long, device=device), (steps >= padding).long()], 1
        )
        output = self.model(
            input_ids=ids,
            attention_mask=seen if any(gaps) else None,
            position_ids=(head + steps - padding).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _scores(self, logits: Any) -> SignalScores | None:
        if self.control is None:
            return None
        ids = torch.tensor(self.control.ids, device=logits.device)
        totals = torch.stack([torch.logsumexp(logits / t, dim=-1) for t in TEMPERATURES], dim=1)
        likeliest = logits.argmax(dim=-1)
        return SignalScores(
            categories=self.control.categories,
            logits=logits[:, ids].double().cpu().numpy(),
            log_total=totals.double().cpu().numpy(),
            top=np.array([_column(self.control.ids, int(i)) for i in likeliest], dtype=np.int64),
        )


def _column(ids: Sequence[int], token: int) -> int:
    return ids.index(token) if token in ids else -1
