"""The outcomes of requested images by the names this package uses, and their counts; the nouns live in `core.image`."""

from collections.abc import Iterable

from demur.core.image import (
    OUTCOMES,
    REFUSALS,
    SHOWN,
    Evidence,
    ImageOutcome,
    ImageResult,
    ImageRow,
    Stage,
    VisionVerdict,
)

__all__ = [
    "OUTCOMES",
    "REFUSALS",
    "SHOWN",
    "Evidence",
    "ImageOutcome",
    "ImageResult",
    "ImageRow",
    "Stage",
    "VisionVerdict",
    "outcome_counts",
]


def outcome_counts(rows: Iterable[ImageRow]) -> dict[str, int]:
    """How many requested images met each outcome; every outcome is listed."""
    counts = dict.fromkeys(OUTCOMES, 0)
    for row in rows:
        for result in row.results:
            counts[result.outcome] += 1
    return {str(name): n for name, n in counts.items()}
