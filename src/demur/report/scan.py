"""The report of one scan: how often a log's replies refuse, when, by whom and in which words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from pydantic import JsonValue

from demur.core.exchange import Frozen
from demur.core.profile import Interval
from demur.report import plots, wording
from demur.report.document import render_document
from demur.report.escaping import INVISIBLE, embedded_json
from demur.report.provenance import sections

_SCRIPTS = ("common.js", "listing.js", "sampled.js")
SLICES = {
    "model": "Model",
    "category": "Kind of request",
    "language": "Language",
    "origin": "Who refused",
}
ORIGINS = {
    "words": "The model, in words",
    "model": "The model, through the interface",
    "provider_filter": "The provider's filter",
    "guard": "A guard of the deployment",
}
CUES = {
    "decline": "Declines: “I cannot help with”",
    "limit": "States what it is or lacks: “as an AI”",
    "unknown": "Says that nobody knows",
    "correct": "Corrects the premise",
    "ask": "Asks back",
    "redirect": "Points elsewhere",
    "lecture": "Calls the act wrong",
    "none": "No phrase the rules know",
}


class Slice(Frozen):
    """Share of refused replies among some rows."""

    name: str
    refused: Interval


class Bucket(Frozen):
    """Share of refused replies in one stretch of time, which begins at `start` (ISO 8601, UTC)."""

    start: str
    refused: Interval


class Change(Frozen):
    """A time at which the rate changed; rates are fractions."""

    start: str
    rate_before: float
    rate_after: float
    p_value: float


class Difference(Frozen):
    """A rate before and after a date; the interval holds for all slices together."""

    kind: str
    name: str
    rate_a: float | None
    rate_b: float | None
    n_a: int
    n_b: int
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None


class Drift(Frozen):
    """Two periods beside each other.

    Attributes:
        before: First day of the second period.
        stability: Population stability index of `p_refused`; None where a period is empty.
        differences: By slice, the whole log first.
    """

    before: str
    stability: float | None
    differences: tuple[Difference, ...]


class SampledStratum(Frozen):
    """One stratum of the second judge's sample."""

    name: str
    n_rows: int
    n_judged: int
    n_refused: int


class SecondJudge(Frozen):
    """What the second judge saw and what follows for all rows."""

    judge: str
    budget: str
    n_calls: int
    n_rows: int
    refused: Interval | None
    by_difference: Interval | None
    strata: tuple[SampledStratum, ...]


class ScanSummary(Frozen):
    """Everything the report shows: the contract between the scan and its report, stored as `summary.json`.

    `refused` counts refused and partly refused replies as the judge saw them; `corrected` is that rate freed from the
    judge's error as its card knows it; `second.refused` rests on the second judge's sample.
    """

    schema_version: int = 1
    judge: str
    n_rows: int
    n_bad: int
    n_files: int
    outcomes: dict[str, int]
    manners: dict[str, int]
    refused: Interval
    corrected: Interval | None
    card: dict[str, JsonValue] | None
    second: SecondJudge | None
    unit: str
    series: tuple[Bucket, ...]
    n_untimed: int
    changes: tuple[Change, ...]
    slices: dict[str, tuple[Slice, ...]]
    slices_every: int
    openings: tuple[tuple[str, int], ...]
    phrases: tuple[tuple[str, int], ...]
    cues: dict[str, float]
    drift: Drift | None
    notes: tuple[str, ...]
    manifest: dict[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a table: numbers and mark."""

    name: str
    refused: Interval
    mark: plots.Mark | None
    aside: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftLine:
    """One difference as words and as a mark."""

    kind: str
    name: str
    rates: str
    points: str
    bounds: str
    p: str
    n: str
    mark: plots.Mark | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The rate over time in a box of 1000 by 100: corners of the band, of the line, places of the changes."""

    band: str
    line: str
    changes: tuple[float, ...]
    top: float
    first: str
    last: str


def render_scan(summary: ScanSummary, rows: Sequence[Mapping[str, Any]]) -> str:
    """The report as one HTML document.

    Args:
        summary: What the scan found.
        rows: The sample, as written to `to_label.jsonl` and with its verdicts; every text is treated as hostile.
    """
    context = {
        "summary": summary,
        "whole": _line("All replies", summary.refused),
        "corrected": _line("", summary.corrected) if summary.corrected else None,
        "second": _line("", summary.second.refused) if summary.second and summary.second.refused else None,
        "card": wording.judge_card(summary.card),
        "facts": _facts(summary),
        "outcome_bars": [plots.stack("All replies", summary.outcomes, wording.OUTCOMES)],
        "manner_bars": [plots.stack("All replies", summary.manners, {**wording.MANNERS, "none": "None given"})],
        "series": _series(summary),
        "changes": [_change(c, summary.unit) for c in summary.changes],
        "slices": _slices(summary),
        "cues": [(CUES.get(key, key), share) for key, share in summary.cues.items()],
        "drift": [_drift_line(d, _reach(summary.drift)) for d in summary.drift.differences] if summary.drift else [],
        "reach": f"{100 * _reach(summary.drift):.0f}" if summary.drift else "",
        "stability": wording.number(summary.drift.stability, 3) if summary.drift else "",
        "made": sections(summary.manifest),
        "n_sampled": len(rows),
        "data": embedded_json(
            {
                "invisible": INVISIBLE,
                "names": {"outcome": wording.OUTCOMES, "manner": wording.MANNERS},
                "rows": [dict(row) for row in rows],
            }
        ),
    }
    return render_document("scan.html.j2", _SCRIPTS, context)


def _line(name: str, interval: Interval) -> Line:
    return Line(name=name, refused=interval, mark=plots.interval_mark(interval), aside=wording.left_out(interval))


def _facts(summary: ScanSummary) -> list[tuple[str, str, str]]:
    outcomes = summary.outcomes
    facts = [
        ("Replies", wording.count(summary.n_rows), wording.plural(summary.n_files, "file")),
        ("Unjudged", wording.count(outcomes.get("unjudged", 0)), "the judge could not say; in no rate"),
        ("Degenerate", wording.count(outcomes.get("degenerate", 0)), "empty, looping or meaningless"),
    ]
    if summary.n_bad:
        facts.append(("Left out", wording.count(summary.n_bad), "rows that could not be read"))
    if summary.second:
        facts.append(("Second look", wording.count(summary.second.n_rows), f"by {summary.second.judge}"))
    return facts


def _slices(summary: ScanSummary) -> list[tuple[str, str, list[Line]]]:
    found = []
    for kind, title in SLICES.items():
        names = ORIGINS if kind == "origin" else {}
        lines = [_line(names.get(s.name, s.name), s.refused) for s in summary.slices.get(kind, ())]
        if lines:
            found.append((kind, title, lines))
    return found


def _change(change: Change, unit: str) -> tuple[str, str, str, str]:
    return (
        moment(change.start, unit),
        wording.percent(change.rate_before, 1),
        wording.percent(change.rate_after, 1),
        wording.p_value(change.p_value),
    )


def moment(start: str, unit: str) -> str:
    """A time as precise as its bucket."""
    return start[:16].replace("T", " ") if unit == "hour" else start[:10]


def _series(summary: ScanSummary) -> Series | None:
    rated = [(i, b) for i, b in enumerate(summary.series) if b.refused.estimate is not None]
    if len(rated) < 2:
        return None
    top = min(1.0, max(0.01, ceil(20 * max(b.refused.high or 0 for _, b in rated)) / 20))
    n = len(summary.series)

    def at(i: int, value: float | None) -> str:
        return f"{1000 * (i + 0.5) / n:.1f},{100 - 100 * min(1.0, (value or 0) / top):.2f}"

    upper = [at(i, b.refused.high) for i, b in rated]
    lower = [at(i, b.refused.low) for i, b in reversed(rated)]
    starts = {b.start: i for i, b in enumerate(summary.series)}
    return Series(
        band=" ".join(upper + lower),
        line=" ".join(at(i, b.refused.estimate) for i, b in rated),
        changes=tuple(round(1000 * starts[c.start] / n, 1) for c in summary.changes if c.start in starts),
        top=top,
        first=moment(summary.series[0].start, summary.unit),
        last=moment(summary.series[-1].start, summary.unit),
    )


def _reach(drift: Drift | None) -> float:
    ends = [abs(v) for d in (drift.differences if drift else ()) for v in (d.low, d.high) if v is not None]
    return min(1.0, max(0.05, ceil(20 * max(ends, default=0.05)) / 20))


def _drift_line(d: Difference, reach: float) -> DriftLine:
    has_bounds = d.low is not None and d.high is not None
    names = ORIGINS if d.kind == "origin" else {}
    return DriftLine(
        kind=SLICES.get(d.kind, ""),
        name=names.get(d.name, d.name),
        rates=f"{wording.percent(d.rate_a, 1)} → {wording.percent(d.rate_b, 1)}",
        points=wording.points(d.difference),
        bounds=f"{wording.points(d.low)} to {wording.points(d.high)}" if has_bounds else wording.MISSING,
        p=wording.p_value(d.p_value),
        n=f"n {wording.count(d.n_a)} → {wording.count(d.n_b)}",
        mark=plots.difference_mark(d.low, d.difference, d.high, reach=reach),
    )
