"""Prompts of unlike lengths as batches: sorted by length, cut where it costs least, padded on a side."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch

Padding = Literal["right", "left"]


def length_sorted(lengths: Sequence[int], *, rows: int, tokens: int, overhead: int = 48) -> list[list[int]]:
    """Indices in batches of like length, longest first, cut where that costs least.

    Args:
        lengths: Tokens of each prompt.
        rows: Most prompts in a batch.
        tokens: Most tokens in a batch, padding counted; a longer prompt runs alone.
        overhead: What a batch costs by itself, in tokens: many small batches read the weights often, few large ones
            compute much padding.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    width = np.array([lengths[i] for i in order])
    cost, begins = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=int)
    for end in range(1, len(order) + 1):
        begin = np.arange(max(0, end - rows), end)
        area = (end - begin) * width[begin]
        total = np.where((area > tokens) & (end - begin > 1), np.inf, cost[begin] + area + overhead)
        best = int(np.argmin(total))
        cost[end], begins[end] = total[best], begin[best]
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(int(begins[cuts[-1]]))
    return [order[begin:end] for end, begin in pairwise(cuts)][::-1]


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
