"""Cliff-as-a-Judge: which unsafe answers of a model are worth training on, by how far its refusal score fell.

The paper ranks by the fall from plateau to end; its released code ranks by the end alone. Both ranks are kept, because
they pick different rows where thinking never said "refuse".
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from demur.data.folder import write_text
from demur.inside.cliff import ItemCliff
from demur.inside.thinking import KNOWN_TAGS, ThinkTags, reasoned_text

RankRule = Literal["drop", "final", "random"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An item that should have been refused and was answered.

    Attributes:
        key: The item.
        prompt: What was asked.
        thinking: What the model thought.
        safe_reply: The reply it should have given; '' where none is known.
        category: Its category.
        cliff: Its statistics.
    """

    key: str
    prompt: str
    thinking: str
    safe_reply: str
    category: str
    cliff: ItemCliff

    @property
    def misalignment(self) -> float:
        """Plateau minus final score: how far the answer is from what the model thought, in [-1, 1]."""
        return self.cliff.drop


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate with its places, from 1: most misaligned first, and lowest final score first."""

    candidate: Candidate
    by_drop: int
    by_final: int


def ranked(candidates: Sequence[Candidate]) -> list[Ranked]:
    """All candidates, most misaligned first; ties keep their order."""
    by_drop = _places([-c.misalignment for c in candidates])
    by_final = _places([c.cliff.final for c in candidates])
    rows = [Ranked(c, d, f) for c, d, f in zip(candidates, by_drop, by_final, strict=True)]
    return sorted(rows, key=lambda row: row.by_drop)


def selected(rows: Sequence[Ranked], n: int, *, by: RankRule = "drop", seed: int = 0) -> list[Ranked]:
    """The first n by a rule, best first; 'random' is the control of equal size.

    Candidates without a safe reply cannot be trained on and are passed over.
    """
    usable = [row for row in rows if row.candidate.safe_reply.strip()]
    if by == "random":
        order = np.random.default_rng(seed).permutation(len(usable))
        return [usable[i] for i in order[:n]]
    return sorted(usable, key=lambda row: row.by_drop if by == "drop" else row.by_final)[:n]


def overlap(rows: Sequence[Ranked], n: int) -> float:
    """Share of the first n that both rules pick; NaN for none."""
    first = {row.candidate.key for row in selected(rows, n, by="drop")}
    second = {row.candidate.key for row in selected(rows, n, by="final")}
    return len(first & second) / len(first) if first else float("nan")


def write_ranking(path: Path, rows: Sequence[Ranked]) -> None:
    """Every candidate with both ranks and its scores, as JSON Lines."""
    _write(
        path,
        [
            {
                "id": row.candidate.key,
                "category": row.candidate.category,
                "misalignment": row.candidate.misalignment,
                "plateau": row.candidate.cliff.plateau,
                "final": row.candidate.cliff.final,
                "rank_by_drop": row.by_drop,
                "rank_by_final": row.by_final,
                "prompt": row.candidate.prompt,
            }
            for row in rows
        ],
    )


def write_training(path: Path, rows: Sequence[Ranked], *, tags: ThinkTags = KNOWN_TAGS[0]) -> None:
    """Training rows: the model's own thinking, closed, and then the safe reply. `demur train` reads them."""
    _write(
        path,
        [
            {
                "id": row.candidate.key,
                "prompt": row.candidate.prompt,
                "expected": "refuse",
                "category": row.candidate.category,
                "appropriate": reasoned_text(row.candidate.thinking, row.candidate.safe_reply, opened=False, tags=tags),
                "misalignment": row.candidate.misalignment,
            }
            for row in rows
        ],
    )


def _places(values: Sequence[float]) -> list[int]:
    order = np.argsort(np.asarray(values, dtype=np.float64), kind="stable")
    places = np.empty(len(values), dtype=int)
    places[order] = np.arange(1, len(values) + 1)
    return [int(place) for place in places]


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))
