"""Scored prompts with labels: what thresholds are set and measured on."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.core.signal import Floats, SignalScores

Metric = Literal["refusal", "over_refusal"]
Flags = NDArray[np.bool_]
EVERY = "all"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledScores:
    """Scores of prompts, and what should happen with each.

    Attributes:
        scores: What the signal said; n rows.
        refuse: Whether the prompt should be declined; (n,).
        category: Its category; (n,). Need not be a category of the signal: 'ordinary', say.
        group: Prompts with the same number were made together (contrast twins) and are not independent; (n,).
        sha256: Hash of prompts and labels.
        origin: Where they came from.
    """

    scores: SignalScores
    refuse: Flags
    category: NDArray[np.str_]
    group: NDArray[np.int64]
    sha256: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        sizes = {len(self.scores), len(self.refuse), len(self.category), len(self.group)}
        if len(sizes) != 1:
            raise ValueError(f"expected columns of equal length, got lengths {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.refuse)

    def __getitem__(self, rows: Flags | NDArray[np.int64]) -> "LabelledScores":
        return LabelledScores(
            scores=self.scores[rows],
            refuse=self.refuse[rows],
            category=self.category[rows],
            group=self.group[rows],
            sha256=self.sha256,
            origin=self.origin,
        )

    def cell(self, metric: Metric, category: str = EVERY) -> Flags:
        """Rows that a rate is about: those to decline for 'refusal', those to answer for 'over_refusal'; (n,)."""
        side = self.refuse if metric == "refusal" else ~self.refuse
        return side if category == EVERY else side & (self.category == category)


def labelled(
    scores: SignalScores,
    refuse: Sequence[bool],
    category: Sequence[str],
    *,
    pair: Sequence[str] | None = None,
    sha256: str = "",
    origin: str = "",
) -> LabelledScores:
    """Put scores and labels side by side.

    Args:
        scores: What the signal said.
        refuse: Whether each prompt should be declined.
        category: Its category.
        pair: Name shared by prompts that were made together; '' for a prompt on its own.
        sha256: Hash of prompts and labels.
        origin: Where they came from.
    """
    names = [name or f"\0{i}" for i, name in enumerate(pair or [""] * len(scores))]
    return LabelledScores(
        scores=scores,
        refuse=np.asarray(refuse, dtype=bool),
        category=np.asarray(category, dtype=np.str_),
        group=np.asarray(np.unique(names, return_inverse=True)[1], dtype=np.int64),
        sha256=sha256,
        origin=origin,
    )


def hash_of(rows: Iterable[tuple[str, bool, str]]) -> str:
    """SHA-256 over the canonical JSON of prompts, whether each should be declined, and categories, in order."""
    return sha256(json.dumps(list(rows), ensure_ascii=True, separators=(",", ":")).encode("ascii")).hexdigest()


def rate(refused: Flags, rows: Flags) -> float:
    """Share of some rows that are declined; nan without rows."""
    return float(refused[rows].mean()) if rows.any() else float("nan")


def logit(p: Floats) -> Floats:
    """Log-odds of probabilities, cut at +-700 so that 0 and 1 stay finite."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.clip(np.log(p) - np.log1p(-p), -700.0, 700.0))
