"""From labelled rows to steps and forward passes: which rows, in which order, laid out how.

Everything here is decided from the seed before the first step, so that a resumed run does what the other would have.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from demur.train.rows import LabelledRow, shared_beginning

Layout = Literal["packed", "padded"]
SHORTEST_SHARED = 4  # a shorter common beginning is not worth its own segment


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One forward pass and what its logits are compared with.

    Attributes:
        inputs: Arguments of the model's forward, `logits_to_keep` included.
        places: Row and kept column of each labelled position among the logits; two tensors.
        targets: Their labels.
        weights: Their weights.
        kinds: Number of each one's kind.
    """

    inputs: dict[str, Any]
    places: tuple[Any, Any]
    targets: Any
    weights: Any
    kinds: Any


def step_rows(
    sizes: Sequence[int], *, epochs: float, batch_rows: int, max_steps: int | None, seed: int
) -> list[list[int]]:
    """Rows of each optimiser step, numbered through all epochs one after the other.

    Args:
        sizes: Rows in each epoch.
        epochs: Passes over them; the last may be part of one.
        batch_rows: Rows in a step; the last step may have fewer.
        max_steps: At most this many.
        seed: Of the order, another one in each epoch.
    """
    order: list[int] = []
    for epoch, size in enumerate(sizes):
        share = min(1.0, epochs - epoch)
        shuffled = np.random.default_rng([seed, epoch]).permutation(size)[: round(share * size)]
        order += [sum(sizes[:epoch]) + int(i) for i in shuffled]
    steps = [order[at : at + batch_rows] for at in range(0, len(order), batch_rows)]
    return steps[:max_steps]


def dealt(numbers: Sequence[int], lengths: Sequence[int], hands: int) -> list[list[int]]:
    """Rows of a step dealt to processes, longest first, each to the one with the least to do."""
    dealt_to: list[list[int]] = [[] for _ in range(hands)]
    load = [0] * hands
    for number in sorted(numbers, key=lambda i: (-lengths[i], i)):
        hand = load.index(min(load))
        dealt_to[hand].append(number)
        load[hand] += lengths[number]
    return dealt_to


def pass_rows(rows: Sequence[LabelledRow], layout: Layout, *, tokens: int, share: bool) -> list[list[LabelledRow]]:
    """Rows in groups of at most `tokens` positions, padding included; longest first. Rows without labels are left out.

    A row longer than that is a group of its own.
    """
    common = shared_length(rows) if share and layout == "packed" else 0
    groups: list[list[LabelledRow]] = []
    room: list[int] = []
    for row in sorted((row for row in rows if row.learnt), key=read_length, reverse=True):
        length = read_length(row) - common
        place = next((i for i, left in enumerate(room) if left >= length), None)
        if place is None:
            groups.append([row])
            # Padded rows are as wide as the first: the room left is counted in rows of that width.
            room.append(tokens - common - length if layout == "packed" else tokens // max(length, 1) * length - length)
        else:
            groups[place].append(row)
            room[place] -= length if layout == "packed" else read_length(groups[place][0])
    return groups


def read_length(row: LabelledRow) -> int:
    """Ids of a row that are read: nothing after the last label's predecessor."""
    return row.learnt[-1]


def shared_length(rows: Sequence[LabelledRow]) -> int:
    """Length of the beginning that rows share, 0 where sharing does not pay."""
    learnt = [row for row in rows if row.learnt]
    length = shared_beginning(learnt) if len(learnt) > 1 else 0
    return length if length >= SHORTEST_SHARED else 0


def packed_pass(rows: Sequence[LabelledRow], kinds: Sequence[str], device: Any, *, share: bool) -> Pass:
    """Rows end to end, after the beginning they share."""
    import torch

    from demur.train.segments import segments_of

    shared = shared_length(rows) if share else 0
    ids, positions, kept = list(rows[0].ids[:shared]), list(range(shared)), []
    for row in rows:
        at = len(ids) - shared
        kept += [at + t - 1 for t in row.learnt]
        ids += row.ids[shared : read_length(row)]
        positions += range(shared, read_length(row))
    columns = torch.tensor(kept, device=device)
    inputs = {
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": torch.tensor([positions], device=device),
        "segments": segments_of(shared, [read_length(row) - shared for row in rows], device),
        "logits_to_keep": columns,
        "use_cache": False,
    }
    places = (torch.zeros_like(columns), torch.arange(len(kept), device=device))
    return Pass(inputs, places, *_targets(rows, kinds, device))


def padded_pass(rows: Sequence[LabelledRow], kinds: Sequence[str], device: Any, *, pad: int) -> Pass:
    """Rows side by side, padded on the left so that replies end together and few columns need logits."""
    import torch

    width = max(map(read_length, rows))
    gaps = [width - read_length(row) for row in rows]
    where = [
        (number, gap + t - 1) for number, (row, gap) in enumerate(zip(rows, gaps, strict=True)) for t in row.learnt
    ]
    columns = sorted({column for _, column in where})
    place = {column: i for i, column in enumerate(columns)}
    ids = [[*[pad] * gap, *row.ids[: read_length(row)]] for row, gap in zip(rows, gaps, strict=True)]
    inputs = {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps], device=device),
        "position_ids": torch.tensor([[*[0] * gap, *range(width - gap)] for gap in gaps], device=device),
        "logits_to_keep": torch.tensor(columns, device=device),
        "use_cache": False,
    }
    places = (
        torch.tensor([row for row, _ in where], device=device),
        torch.tensor([place[column] for _, column in where], device=device),
    )
    return Pass(inputs, places, *_targets(rows, kinds, device))


def total_weight(rows: Iterable[LabelledRow], normaliser: str) -> float:
    """What the weighted sum of these rows' losses is divided by; see `TrainerSettings.normaliser`."""
    if normaliser == "rows":
        return float(sum(1 for _ in rows))
    if normaliser == "tokens":
        return float(sum(len(row.learnt) for row in rows))
    return float(sum(row.weights[t] for row in rows for t in row.learnt))


def _targets(rows: Sequence[LabelledRow], kinds: Sequence[str], device: Any) -> tuple[Any, Any, Any]:
    import torch

    learnt = [(row, t) for row in rows for t in row.learnt]
    return (
        torch.tensor([row.labels[t] for row, t in learnt], device=device),
        torch.tensor([row.weights[t] for row, t in learnt], dtype=torch.float32, device=device),
        torch.tensor([kinds.index(row.kind) for row, _ in learnt], device=device),
    )
