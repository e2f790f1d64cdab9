"""Counts by hour as a series with buckets of a useful width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from demur.core.verdict import OUTCOMES
from demur.scan.tally import NO_TIME
from demur.scan.verdicts import REFUSED, UNJUDGED

MOST_BUCKETS = 400
_HOURLY_HOURS = 120  # up to five days by hour
_WIDTHS = {"day": 24, "week": 168, "four weeks": 672, "year": 8736}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TAIL = 0.001  # of the rows at either end may be mistakes of a clock


@dataclass(frozen=True, slots=True)
class Bucket:
    """Outcomes in one stretch of time that begins at `start` (ISO 8601, UTC)."""

    start: str
    counts: tuple[int, ...]


def series_of(hours: Mapping[int, Sequence[int]]) -> tuple[str, list[Bucket], int]:
    """Name of the bucket's width, buckets without gaps in order of time, and rows without a place in them.

    Where a few rows lie far from all others, as clocks that were never set make them, the series leaves them out.
    """
    timed = sorted((hour, counts) for hour, counts in hours.items() if hour != NO_TIME and sum(counts) > 0)
    untimed = sum(sum(counts) for hour, counts in hours.items() if hour == NO_TIME)
    if not timed:
        return "", [], untimed
    first, last = _window(timed)
    outside = sum(sum(counts) for hour, counts in timed if not first <= hour <= last)
    unit, width = _width(timed, first, last)
    origin = first // width * width
    counts = [[0] * len(OUTCOMES) for _ in range((last - origin) // width + 1)]
    for hour, here in timed:
        if first <= hour <= last:
            held = counts[(hour - origin) // width]
            for outcome, n in enumerate(here):
                held[outcome] += n
    buckets = [Bucket(_iso(origin + i * width), tuple(held)) for i, held in enumerate(counts)]
    return unit, buckets, untimed + outside


def refused_and_judged(counts: Sequence[int]) -> tuple[int, int]:
    """Refused rows and judged rows of some outcomes."""
    return sum(n for outcome, n in enumerate(counts) if REFUSED[outcome]), sum(counts) - counts[UNJUDGED]


def day_of(date: str) -> int:
    """Days from 1970 to a date such as '2026-05-01'.

    Raises:
        ValueError: Not a date.
    """
    return (datetime.fromisoformat(date).replace(tzinfo=UTC) - _EPOCH).days


def _window(timed: Sequence[tuple[int, Sequence[int]]]) -> tuple[int, int]:
    first, last = timed[0][0], timed[-1][0]
    if last - first <= MOST_BUCKETS * 24:
        return first, last
    total, seen, inner = sum(sum(counts) for _, counts in timed), 0, []
    for hour, counts in timed:
        seen += sum(counts)
        if _TAIL * total < seen and seen - sum(counts) < (1 - _TAIL) * total:
            inner.append(hour)
    return (inner[0], inner[-1]) if inner and inner[-1] - inner[0] < (last - first) / 2 else (first, last)


def _width(timed: Sequence[tuple[int, Sequence[int]]], first: int, last: int) -> tuple[str, int]:
    if last - first < _HOURLY_HOURS and any(hour % 24 for hour, _ in timed):
        return "hour", 1
    for unit, width in _WIDTHS.items():
        if (last - first) // width < MOST_BUCKETS:
            return unit, width
    return unit, width


def _iso(hour: int) -> str:
    return (_EPOCH + timedelta(hours=hour)).isoformat()
