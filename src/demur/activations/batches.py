"""Prompts of unlike lengths as batches: sorted by length, padded on a side."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

Padding = Literal["right", "left"]


def length_sorted(lengths: Sequence[int], *, rows: int, tokens: int) -> Iterator[list[int]]:
    """Indices in batches of like length, longest first: the first of a batch sets its width.

    Args:
        lengths: Tokens of each prompt.
        rows: Most prompts in a batch.
        tokens: Most tokens in a batch, padding counted; a longer prompt runs alone.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        width = lengths[batch[0]] if batch else lengths[i]
        if batch and (len(batch) >= rows or (len(batch) + 1) * width > tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def padded(rows: Sequence[Sequence[int]], side: Padding, *, device: Any) -> tuple[dict[str, Any], list[int]]:
    """A batch as decoders take it, and by how much each row is shifted.

    What pads on the right cannot be seen by the tokens before it, so no mask is needed there. The id that pads is 0
    and means nothing: a tokenizer's pad may be its end-of-turn, which chat prompts are full of.
    """
    width = max(map(len, rows))
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    shifts = [0 if side == "right" else width - len(row) for row in rows]
    for i, (row, shift) in enumerate(zip(rows, shifts, strict=True)):
        ids[i, shift : shift + len(row)] = torch.tensor(row)
    if side == "right":
        return {"input_ids": ids.to(device)}, shifts
    mask = (torch.arange(width)[None] >= torch.tensor(shifts)[:, None]).long()
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp_min(0)}
    return {key: value.to(device) for key, value in given.items()}, shifts
