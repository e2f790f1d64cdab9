"""A few rows of each stratum, drawn at random but always the same: to look at, and to label by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from demur.core.verdict import MANNERS, OUTCOMES

if TYPE_CHECKING:
    from demur.data.logs import LogBatch
    from demur.scan.verdicts import Judged

PER_STRATUM = 24
MAX_CHARS = 6_000


class Sample:
    """The rows of each stratum that come first in the random order; what the order is of does not matter.

    Attributes:
        rows: For each stratum, order and row, ascending.
    """

    def __init__(self) -> None:
        self.rows: dict[int, list[tuple[int, dict[str, Any]]]] = {}

    def offer(self, batch: LogBatch, judged: Judged, stratum: NDArray[np.uint8], priority: NDArray[np.uint64]) -> None:
        """Keep the rows of a batch that come before those held."""
        for value in np.unique(stratum).tolist():
            held = self.rows.setdefault(value, [])
            members = np.flatnonzero(stratum == value)
            if len(held) == PER_STRATUM:
                members = members[priority[members] < np.uint64(held[-1][0])]
            first = members[np.argsort(priority[members], kind="stable")[:PER_STRATUM]]
            held += [(int(priority[i]), _row(batch, judged, int(i))) for i in first]
            self._cut(value)

    def merge(self, other: Sample) -> None:
        """Take over another sample's rows."""
        for value, rows in other.rows.items():
            self.rows.setdefault(value, []).extend(rows)
            self._cut(value)

    def _cut(self, value: int) -> None:
        self.rows[value] = sorted(self.rows[value], key=lambda item: item[0])[:PER_STRATUM]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {str(value): [[priority, row] for priority, row in rows] for value, rows in self.rows.items()}

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Sample:
        """The sample that `to_json` wrote."""
        sample = cls()
        sample.rows = {int(value): [(priority, row) for priority, row in rows] for value, rows in held.items()}
        return sample


def _row(batch: LogBatch, judged: Judged, i: int) -> dict[str, Any]:
    row = batch.rows.slice(i, 1).drop_columns(["time"]).to_pylist()[0]
    p_refused, manner = float(judged.p_refused[i]), int(judged.manner[i])
    return {
        "id": f"{row['source_file']}:{row['line']}",
        "prompt": row["prompt"][:MAX_CHARS],
        "response": row["response"][:MAX_CHARS],
        "model": row["model"][:200],
        "stop_reason": row["stop_reason"][:40],
        "signal": row["signal"][:200],
        "origin": row["origin"][:40],
        "outcome": OUTCOMES[judged.outcome[i]],
        "manner": MANNERS[manner] if manner >= 0 else None,
        "p_refused": None if np.isnan(p_refused) else round(p_refused, 4),
        "judge": judged.label if judged.stage[i] else "settled",
    }
