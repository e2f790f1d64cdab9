"""From counts to findings: rates with intervals, their error, change points, drift, words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from demur.core.profile import Interval
from demur.core.verdict import MANNERS, OUTCOMES
from demur.judges.cards import JudgeCard, corrected, load_card
from demur.judges.phrases import find_cues
from demur.judges.reading import Reading
from demur.report.scan import (
    CUES,
    SLICES,
    Bucket,
    Change,
    Difference,
    Drift,
    SampledStratum,
    ScanSummary,
    SecondJudge,
    Slice,
)
from demur.scan import openings, series, strata
from demur.scan.settings import ScanSettings
from demur.scan.tally import Tally
from demur.stats.drift import change_points, population_stability, rate_differences
from demur.stats.rates import interval
from demur.stats.stratified import Stratum, difference_rate, stratified_rate

N_WORDS_SHOWN = 15
N_SLICES = 60
_DEGENERATE = OUTCOMES.index("degenerate")
_FEW = 30  # judged rows in both periods below which a slice is not looked at: every look widens all intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a summary is made of besides the counts.

    Attributes:
        settings: Of the scan.
        n_files: Files read.
        n_bad: Rows left out.
        second: What the second judge's sample says, stratum by stratum; None if there was none.
        n_calls: Replies it was asked about in this run.
        before: First day of the second period, or None.
        notes: What a reader must know.
        manifest: How it was made.
    """

    settings: ScanSettings
    n_files: int
    n_bad: int
    second: Sequence[Stratum] | None
    n_calls: int
    before: str | None
    notes: tuple[str, ...]
    manifest: dict[str, Any]


def summarise(tally: Tally, found: Findings) -> ScanSummary:
    """Everything the report shows."""
    total = tally.total().get("", [0] * len(OUTCOMES))
    manners = {name or "none": sum(n) for name, n in tally.total("manner").items()}
    card = load_card(found.settings.judge_label)
    refused = interval_of(total)
    unit, buckets, untimed = series.series_of(tally.hours)
    return ScanSummary(
        judge=found.settings.judge_label,
        n_rows=tally.n_rows,
        n_bad=found.n_bad,
        n_files=found.n_files,
        outcomes=dict(zip(OUTCOMES, total, strict=True)),
        manners={name: manners[name] for name in (*MANNERS, "none") if manners.get(name)},
        refused=refused,
        corrected=_corrected(refused, card) if found.second is None else None,
        card=_card(card),
        second=_second(tally, found) if found.second is not None else None,
        unit=unit,
        series=tuple(Bucket(start=b.start, refused=interval_of(b.counts)) for b in buckets),
        n_untimed=untimed,
        changes=tuple(_changes(buckets)),
        slices={kind: tuple(_slices(tally, kind)) for kind in SLICES if tally.tables.get(kind)},
        slices_every=found.settings.language_every,
        openings=tuple(openings.top_openings(tally.phrases, N_WORDS_SHOWN)),
        phrases=tuple(openings.top_phrases(tally.phrases, tally.plain, N_WORDS_SHOWN)),
        cues=_cues(tally),
        drift=_drift(tally, found.before) if found.before else None,
        notes=(*found.notes, *_limits(refused, card)),
        manifest=found.manifest,
    )


def interval_of(counts: Sequence[int]) -> Interval:
    """Share of refused and partly refused rows among the judged."""
    hits, n = series.refused_and_judged(counts)
    return interval(hits, n, unjudged=sum(counts) - n, degenerate=counts[_DEGENERATE])


def sampled_rows(tally: Tally) -> list[dict[str, Any]]:
    """The sample, stratum by stratum, with each row's stratum and how many rows it stands for."""
    names, sizes = strata.names(), tally.total("stratum")
    rows = []
    for stratum, held in sorted(tally.kept.rows.items()):
        weight = sum(sizes.get(str(stratum), [0])) / max(1, len(held))
        rows += [{**row, "stratum": names[stratum], "weight": round(weight, 3)} for _, row in held]
    return rows


def _corrected(observed: Interval, card: JudgeCard | None) -> Interval | None:
    if card is None or _limits(observed, card):
        return None  # a rate of exactly 0 would claim too much
    return corrected(observed, card)


def _limits(observed: Interval, card: JudgeCard | None) -> tuple[str, ...]:
    specificity = card.overall.specificity if card is not None else None
    if specificity is None or observed.estimate is None or observed.estimate > 1 - specificity:
        return ()
    return (
        f"The judge called no more replies refused than it wrongly did on its card ({1 - specificity:.1%} of answers): "
        "all of them may be false alarms, and no corrected rate is given.",
    )


def _card(card: JudgeCard | None) -> dict[str, Any] | None:
    return None if card is None else {"data": card.data, **card.overall.model_dump(mode="json")}


def _second(tally: Tally, found: Findings) -> SecondJudge:
    settled = tally.total("stratum").get(str(strata.SETTLED), [0] * len(OUTCOMES))
    known_hits, known_rows = series.refused_and_judged(settled)
    parts = found.second or ()
    sampled = any(s.n_judged for s in parts)
    known = {"known_hits": known_hits, "known_rows": known_rows}
    sizes = {int(name): sum(n) for name, n in tally.total("stratum").items()}
    names = [strata.names()[i] for i in sorted(sizes) if i != strata.SETTLED and sizes[i]]
    return SecondJudge(
        judge=found.settings.escalate_label or "",
        budget=found.settings.budget or "",
        n_calls=found.n_calls,
        n_rows=sum(s.n_judged for s in parts),
        refused=stratified_rate(parts, **known) if sampled else None,
        by_difference=difference_rate(parts, **known) if sampled else None,
        strata=tuple(
            SampledStratum(name=name, n_rows=s.n_rows, n_judged=s.n_judged, n_refused=s.n_refused)
            for name, s in zip(names, parts, strict=True)
        ),
    )


def _changes(buckets: Sequence[series.Bucket]) -> Iterable[Change]:
    pairs = [series.refused_and_judged(b.counts) for b in buckets]
    for found in change_points([hits for hits, _ in pairs], [n for _, n in pairs]):
        yield Change(
            start=buckets[found.index].start,
            rate_before=found.rate_before,
            rate_after=found.rate_after,
            p_value=found.p_value,
        )


def _slices(tally: Tally, kind: str) -> list[Slice]:
    totals = tally.total(kind)
    if kind == "origin":
        n = sum(series.refused_and_judged(counts)[1] for counts in totals.values())
        found = [
            Slice(name=name, refused=interval(series.refused_and_judged(counts)[0], n))
            for name, counts in totals.items()
            if name
        ]
    else:
        found = [Slice(name=name, refused=interval_of(counts)) for name, counts in totals.items()]
    weight = {name: sum(counts) for name, counts in totals.items()}
    return sorted(found, key=lambda s: (-weight[s.name], s.name))[:N_SLICES]


def _drift(tally: Tally, before: str) -> Drift:
    day = series.day_of(before)
    counts: dict[tuple[str, str], tuple[int, int, int, int]] = {}
    for kind in ("all", *SLICES):
        pairs = tally.periods(kind, day)
        whole = [sum(series.refused_and_judged(p[i])[1] for p in pairs.values()) for i in (0, 1)]
        for name, (a, b) in sorted(pairs.items()):
            (hits_a, n_a), (hits_b, n_b) = series.refused_and_judged(a), series.refused_and_judged(b)
            if kind == "origin":
                n_a, n_b = whole
            if kind == "all" or (name and min(n_a, n_b) >= _FEW):
                counts[kind, name] = (hits_a, n_a, hits_b, n_b)
    keys = {str(i): key for i, key in enumerate(counts)}
    differences = rate_differences({number: counts[key] for number, key in keys.items()})
    return Drift(
        before=before,
        stability=_stability(tally, day),
        differences=tuple(
            Difference(
                kind="" if keys[d.key][0] == "all" else keys[d.key][0],
                name=keys[d.key][1] or "All replies",
                rate_a=d.rate_a,
                rate_b=d.rate_b,
                n_a=d.n_a,
                n_b=d.n_b,
                difference=d.difference,
                low=d.low,
                high=d.high,
                p_value=d.p_value,
            )
            for d in differences
        ),
    )


def _stability(tally: Tally, day: int) -> float | None:
    """Of the strata, unsure rows with the sure ones of the same bin."""
    bins: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for name, (a, b) in tally.periods("stratum", day).items():
        stratum = int(name)
        held = bins[stratum if stratum <= strata.UNREAD else (stratum - 2) // 2 + 2]
        held[0] += sum(a)
        held[1] += sum(b)
    first, second = ([held[i] for held in bins.values()] for i in (0, 1))
    return population_stability(first, second) if sum(first) and sum(second) else None


def _cues(tally: Tally) -> dict[str, float]:
    """Share of refusals in words in which the rules find each kind of sentence, from the sample, weighted."""
    found: dict[str, float] = defaultdict(float)
    total = 0.0
    for row in sampled_rows(tally):
        if row["judge"] == "settled" or row["outcome"] not in ("refused", "partial"):
            continue
        total += row["weight"]
        cues = find_cues(Reading(row["response"]))
        present = [kind for kind in CUES if getattr(cues, kind, ())] or ["none"]
        for kind in present:
            found[kind] += row["weight"]
    return {kind: weight / total for kind, weight in sorted(found.items(), key=lambda item: -item[1])}
