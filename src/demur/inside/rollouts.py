"""Replies of a model that is open before us, from any ids on: greedy or drawn, with or without heads taken out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from demur.activations.subject import Subject
from demur.data.journal import KeyedJournal

Progress = Callable[[int, int], None]
BATCH_ROWS = 32


@dataclass(frozen=True, slots=True)
class Rollout:
    """What came after some ids.

    Attributes:
        ids: New ids without the end token.
        ended: Whether the model ended it, rather than the limit.
    """

    ids: tuple[int, ...]
    ended: bool


def rollouts(
    subject: Subject,
    starts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    kept: KeyedJournal[list[Rollout]] | None = None,
    progress: Progress | None = None,
) -> list[Rollout]:
    """Let the model continue each start, batched by length with padding on the left.

    Args:
        subject: The model, perhaps inside `scaled_heads`.
        starts: Ids to continue.
        max_tokens: Most new ids.
        temperature: 0 = greedy.
        seed: Of the draws.
        kept: Batches that an interrupted run finished (`rollout_journal`); new ones are added.
        progress: Called with (rows done, rows).
    """
    order = sorted(range(len(starts)), key=lambda i: -len(starts[i]))
    found: dict[int, Rollout] = {}
    for begin in range(0, len(order), BATCH_ROWS):
        batch = order[begin : begin + BATCH_ROWS]
        asked = [tuple(starts[i]) for i in batch]
        key = sha256(repr((subject.name, asked, max_tokens, temperature, seed + begin)).encode()).hexdigest()[:24]
        rows = kept.found.get(key) if kept else None
        if rows is None:
            rows = _continued(subject, asked, max_tokens, temperature, seed + begin)
            if kept:
                kept.add(key, rows)
        found.update(zip(batch, rows, strict=True))
        if progress is not None:
            progress(len(found), len(starts))
    return [found[i] for i in range(len(starts))]


def rollout_journal(path: Path) -> KeyedJournal[list[Rollout]]:
    """Finished batches in a file, by everything that decides them."""
    return KeyedJournal(
        path,
        field="rollouts",
        read=lambda rows: [Rollout(tuple(int(i) for i in ids), bool(ended)) for ids, ended in rows],
        write=lambda rows: [[list(row.ids), row.ended] for row in rows],
    )


def reply_losses(
    subject: Subject, starts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean negative log likelihood of each reply's ids after its start, in nats; NaN for empty replies.

    exp of the mean over rows is the perplexity that damage to a model raises.
    """
    import torch

    losses = np.full(len(starts), np.nan)
    order = sorted((i for i in range(len(starts)) if replies[i]), key=lambda i: len(starts[i]) + len(replies[i]))
    for begin in range(0, len(order), BATCH_ROWS):
        batch = order[begin : begin + BATCH_ROWS]
        ids, mask = _left_padded(subject, [(*starts[i], *replies[i]) for i in batch])
        longest = max(len(replies[i]) for i in batch)
        with torch.inference_mode():
            output = subject.model(
                input_ids=ids, attention_mask=mask, position_ids=_positions(mask), use_cache=False,
                logits_to_keep=longest + 1,
            )  # fmt: skip
            for row, i in enumerate(batch):
                n = len(replies[i])
                scores = torch.log_softmax(output.logits[row, -n - 1 : -1].float(), dim=-1)
                losses[i] = -float(scores.gather(1, ids[row, -n:, None]).mean())
    return losses


def _continued(
    subject: Subject, starts: Sequence[Sequence[int]], max_tokens: int, temperature: float, seed: int
) -> list[Rollout]:
    import torch

    ids, mask = _left_padded(subject, starts)
    ends = _end_ids(subject)
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature}
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(seed)
        made = subject.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_tokens,
            pad_token_id=_pad_id(subject),
            eos_token_id=sorted(ends) or None,
            **sampling,
        )
    found = []
    for row in made[:, ids.shape[1] :].tolist():
        n = next((i for i, token in enumerate(row) if token in ends), len(row))
        found.append(Rollout(tuple(row[:n]), n < len(row)))
    return found


def _left_padded(subject: Subject, rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    import torch

    width, pad = max(map(len, rows)), _pad_id(subject)
    device = subject.parts.embedding.weight.device
    ids = torch.tensor([[*[pad] * (width - len(row)), *row] for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _positions(mask: Any) -> Any:
    return (mask.cumsum(dim=1) - 1).clamp_min(0)


def _pad_id(subject: Subject) -> int:
    pad = subject.tokenizer.pad_token_id
    return int(pad if pad is not None else next(iter(_end_ids(subject)), 0))


def _end_ids(subject: Subject) -> set[int]:
    declared = subject.model.generation_config.eos_token_id
    ids = declared if isinstance(declared, list) else [declared]
    return {int(i) for i in (*ids, subject.tokenizer.eos_token_id) if i is not None}
