"""The part about the refusal cliff: curves with counts, probes, heads, and what taking heads out does."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from demur.core.cliff import AblationRow, CliffResult, CurveRow, HeadRow, MeanRow
from demur.core.profile import Interval
from demur.report import plots, wording
from demur.report.inside_controls import bounds, control_table
from demur.report.inside_maps import head_grid
from demur.report.inside_plots import Axis, Chart, Series, Style, chart, minus, plain_percent, reach

_STYLES: dict[str, Style] = {
    "to decline, declined": "first",
    "to decline, answered": "second",
    "to answer, answered": "fifth",
    "to answer, declined": "fourth",
}
_AXES = {"tail": "tokens from the last before the answer", "fraction": "share of the thinking"}
_SHARES = ("plateau", "final", "drop")
_RATES = ("refusal", "over_refusal", "degenerate")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadView:
    """One head as a bar either side of 0, in percent of the axis."""

    name: str
    start: float
    width: float
    mark: plots.Mark | None
    text: str
    bounds: str
    final: str
    causal: str
    is_ablated: bool
    sign: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationView:
    """One line of the table of ablations: a single row, or the median and range of several draws."""

    name: str
    n: str
    figures: tuple[tuple[str, str, str], ...]
    dots: tuple[tuple[float, str], ...]
    is_random: bool


def cliff_view(found: CliffResult) -> dict[str, object]:
    """All that the template of this part shows."""
    ablated = {(h.block, h.head) for h in found.heads if h.ablated}
    lead = "Blue pushes the score of declining up, orange down. Heads with a ring were taken out together."
    return {
        "found": found,
        "facts": _facts(found),
        "charts": [c for axis in _AXES for c in _charts(found, axis)],
        "probes": [(p, wording.number(p.auroc, 3), bounds(p.low, p.high)) for p in found.probes],
        "controls": control_table("The probe and its controls", found.controls) if found.controls else None,
        "groups": [(g, [_mean_text(getattr(g, key)) for key in _SHARES], _logit_text(g.drop_logit))
                   for g in found.groups],
        "heads": _heads(found.heads),
        "head_grid": head_grid("Every head", found.head_map, ablated, lead=lead) if found.head_map else None,
        "shares": [(name, wording.number(value)) for name, value in found.drop_shares.items()],
        "ablations": _ablations(found.ablations),
        "draws": found.ablations,
        "random_p": wording.p_value(found.random_p),
        "agreement": wording.number(found.causal_agreement),
        "truncation": [_truncation(t.fraction, t.n, t.final, t.refusal) for t in found.truncation],
        "selection": found.selection,
        "number": wording.number,
    }  # fmt: skip


def _facts(found: CliffResult) -> list[tuple[str, str, str]]:
    facts = [(name[0].upper() + name[1:], wording.count(n), "") for name, n in found.attrition.items()]
    if found.contrast_cosine is not None:
        facts.append(
            (
                "Cosine",
                wording.number(found.contrast_cosine),
                "of the probe with the unembedding of refusing words minus answering ones",
            )
        )
    return facts


def _charts(found: CliffResult, axis: str) -> list[Chart]:
    """Scores of all groups along one axis, and under it how many items have each position."""
    rows = [row for row in found.curves if row.axis == axis]
    x = sorted({at for row in rows for at in row.x})
    if len(x) < 2:
        return []
    is_share = axis == "fraction"
    across = Axis(ends=(x[0], x[-1]), title=_AXES[axis], text=plain_percent if is_share else "{:g}".format)
    upright = Axis(ends=(0.0, 1.0), title="probability of declining", text=plain_percent)
    marked = None if is_share else (0.0, "last token before the answer")
    title = "The last tokens before the answer and its first" if axis == "tail" else "Along the thinking"
    charts = [chart(title, x, [_scores(row, x) for row in rows], across=across, upright=upright, marked=marked)]
    counts = [_counts(row, x) for row in rows]
    most = reach([v for one in counts for v in one.values], least=1.0)
    items = Axis(ends=most, title="items that have the position", is_whole=True)
    if len({v for one in counts for v in one.values}) > len(counts):
        charts.append(chart(f"{title}: items", x, counts, across=across, upright=items, is_low=True))
    return charts


def _scores(row: CurveRow, x: Sequence[float]) -> Series:
    at = {place: i for i, place in enumerate(row.x)}

    def spread(values: Sequence[float | None]) -> tuple[float | None, ...]:
        return tuple(values[at[place]] if place in at else None for place in x)

    return Series(
        name=row.group,
        style=_STYLES.get(row.group, "sixth"),
        values=spread(row.mean),
        low=spread(row.low),
        high=spread(row.high),
        notes=tuple(f"n {wording.count(row.count[at[place]])}" if place in at else "" for place in x),
    )


def _counts(row: CurveRow, x: Sequence[float]) -> Series:
    counts = dict(zip(row.x, row.count, strict=True))
    values = tuple(float(counts.get(place, 0)) for place in x)
    return Series(name=row.group, style=_STYLES.get(row.group, "sixth"), values=values)


def _heads(rows: Sequence[HeadRow]) -> list[HeadView]:
    edges = [v for h in rows for v in (h.contribution.mean, h.contribution.low, h.contribution.high) if v is not None]
    far = max((abs(v) for v in edges), default=0.0) or 1.0

    def place(value: float) -> float:
        return round(50 + 50 * value / far, 2)

    views = []
    for head in rows:
        own = head.contribution
        low, high = sorted((place(0.0), place(own.mean)))
        known = own.low is not None and own.high is not None
        views.append(
            HeadView(
                name=f"{head.block}.{head.head}",
                start=low,
                width=round(high - low, 2),
                mark=plots.Mark(low=place(own.low or 0.0), at=place(own.mean), high=place(own.high or 0.0))
                if known
                else None,
                text=wording.number(own.mean, 3),
                bounds=bounds(own.low, own.high),
                final=wording.number(head.final, 3),
                causal=wording.MISSING if head.causal is None else _logit_text(head.causal),
                is_ablated=head.ablated,
                sign="up" if own.mean > 0 else "down",
            )
        )
    return views


def _ablations(rows: Sequence[AblationRow]) -> list[AblationView]:
    """One line for each name; random draws together as median and range."""
    logits = [row.final_logit for row in rows]
    ends = (min(logits), max(logits)) if logits else (0.0, 1.0)
    axis = Axis(ends=ends, title="final logit")
    return [_ablation(name, [row for row in rows if row.name == name], axis)
            for name in dict.fromkeys(row.name for row in rows)]  # fmt: skip


def _ablation(name: str, rows: Sequence[AblationRow], axis: Axis) -> AblationView:
    figures = [
        ("Final logit", *_spread([row.final_logit for row in rows])),
        *((key.capitalize(), *_mean_or_range([getattr(row, key) for row in rows])) for key in _SHARES),
        *((key.replace("_", "-").capitalize(), *_rate_or_range([getattr(row, key) for row in rows])) for key in _RATES),
        ("Perplexity", *_spread([row.perplexity for row in rows if row.perplexity is not None])),
    ]
    heads = wording.plural(len(rows[0].heads), "head")
    return AblationView(
        name=name,
        n=f"{wording.plural(len(rows), 'draw')} of {heads}" if len(rows) > 1 else heads,
        figures=tuple(figures),
        dots=tuple((axis.place(row.final_logit), wording.number(row.final_logit)) for row in rows),
        is_random=name.startswith("random"),
    )


def _spread(values: Sequence[float]) -> tuple[str, str]:
    if not values:
        return wording.MISSING, ""
    return wording.number(median(values)), bounds(min(values), max(values), 2) if len(values) > 1 else ""


def _mean_or_range(rows: Sequence[MeanRow]) -> tuple[str, str]:
    return _mean_text(rows[0]) if len(rows) == 1 else _spread([row.mean for row in rows])


def _rate_or_range(rates: Sequence[Interval | None]) -> tuple[str, str]:
    known = [rate for rate in rates if rate is not None and rate.estimate is not None]
    if not known:
        return wording.MISSING, ""
    if len(known) == 1:
        return wording.percent(known[0].estimate), f"{wording.bounds(known[0])}, n {wording.count(known[0].n)}"
    shares = [rate.estimate or 0.0 for rate in known]
    return wording.percent(median(shares)), f"{wording.percent(min(shares))} to {wording.percent(max(shares))}"


def _mean_text(row: MeanRow) -> tuple[str, str]:
    return wording.number(row.mean), bounds(row.low, row.high, 2)


def _logit_text(row: MeanRow) -> str:
    span = bounds(row.low, row.high, 2)
    return wording.number(row.mean) + (f" ({span})" if span else "")


def _truncation(
    fraction: float, n: int, final: MeanRow, refusal: Interval | None
) -> tuple[str, str, tuple[str, str], Interval | None, plots.Mark | None]:
    mark = None if refusal is None else plots.interval_mark(refusal)
    return minus(plain_percent(fraction)), wording.count(n), _mean_text(final), refusal, mark
