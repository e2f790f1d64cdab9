"""The part about harmfulness and refusal directions: curves with controls, the plane, maps, the search for one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from demur.core.direction_study import (
    Candidate,
    ControlKind,
    Curve,
    DirectionStudy,
    HonestyTable,
    Outcomes,
    Selection,
)
from demur.report import plots, wording
from demur.report.inside_controls import bounds, honesty_view
from demur.report.inside_maps import BUCKETS, Grid, Scale, grid_over_places, place_grid, plane, square
from demur.report.inside_plots import Axis, Chart, Series, Style, chart, floor_of

SHOWN_CANDIDATES = 15
_STYLES: dict[ControlKind, Style] = {
    "random directions": "random",
    "shuffled labels": "shuffled",
    "base model": "second",
    "tf-idf": "fifth",
    "surface rule": "sixth",
    "layer 0": "fourth",
}
_LEVELS: tuple[ControlKind, ...] = ("layer 0", "surface rule", "tf-idf")


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateView:
    """One candidate of the search, in words."""

    place: str
    variant: str
    bypass: str
    induce: str
    kl: str
    loudest: str
    n: str
    tag: str
    reasons: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionView:
    """The search for one direction."""

    verdict: str
    facts: tuple[tuple[str, str, str], ...]
    tokens: tuple[str, ...]
    grids: tuple[Grid, ...]
    candidates: tuple[CandidateView, ...]
    others: tuple[CandidateView, ...]
    random: tuple[tuple[str, str, str, str], ...]
    bars: tuple[plots.Stack, ...]


def directions_view(study: DirectionStudy) -> dict[str, object]:
    """All that the template of this part shows."""
    return {
        "study": study,
        "headlines": [_headline(table) for table in study.honesty if table.rows],
        "facts": _facts(study),
        "grids": [place_grid(one, study) for one in study.maps],
        "cosine": _cosine_chart(study),
        "main": [_main_chart(study, table) for table in study.honesty],
        "others": _other_charts(study),
        "honesty": [honesty_view(table) for table in study.honesty],
        "plane": plane(study.points) if study.points else None,
        "categories": _categories(study),
        "buckets": _buckets(study),
        "attrition": (*study.attrition, *(study.selection.attrition if study.selection else ())),
        "selection": _selection(study, study.selection) if study.selection else None,
        "outcomes": list(wording.OUTCOMES.items()),
    }


def _headline(table: HonestyTable) -> tuple[str, str, str, str]:
    """A direction's AUROC and, in the same breath, the best of what it has to beat."""
    own = table.rows[0].ranking
    rivals = [row for row in table.rows[1:] if row.ranking.auroc is not None]
    best = max(rivals, key=lambda row: row.ranking.auroc or 0.0, default=None)
    rival = "nothing to compare with" if best is None else f"best control: {wording.number(best.ranking.auroc, 3)}"
    return (
        f"{table.axis.capitalize()} direction, AUROC",
        wording.number(own.auroc, 3),
        f"{bounds(own.low, own.high)}; {table.task}, {table.span}, layer {table.layer}".removeprefix("; "),
        rival if best is None else f"{rival}, {best.name}",
    )


def _facts(study: DirectionStudy) -> list[tuple[str, str, str]]:
    known = {"reply": f"its reply, as judge {study.judge} reads it", "token": "the control token it would say"}
    return [
        ("Refused is said by", f"the {study.refused_by}", known[study.refused_by]),
        ("Estimator", study.method.replace("_", " "), f"{study.design} design"),
        ("Seeds", wording.count(len(study.seeds)), "each fits on its own three quarters of the prompts"),
        ("Compared with", study.base or "nothing", "the model before training" if study.base else "no base model"),
        (
            "Correlation",
            wording.number(study.delta_correlation),
            "of the two layer-averaged scores over held-out prompts",
        ),
    ]


def _cosine_chart(study: DirectionStudy) -> Chart | None:
    if not any(v is not None for v in study.cosine_harm_refusal):
        return None
    line = Series(name="cosine", style="first", values=study.cosine_harm_refusal)
    return chart(
        "Cosine of the harm direction at t_inst with the refusal direction at t_post[-1]",
        study.layers,
        [line],
        across=_layers(study),
        upright=Axis(ends=(-1.0, 1.0), title="cosine"),
        is_low=True,
    )


def _main_chart(study: DirectionStudy, table: HonestyTable) -> Chart:
    """AUROC by layer at the direction's own place, with every control that has a number."""
    mine = [c for c in study.curves if c.axis == table.axis and c.task == table.task]
    own = [c for c in mine if c.kind == "direction"]
    series = [
        _series(c, f"{c.name} at {c.span}", "first" if c.span == table.span else "third")
        for c in sorted(own, key=lambda c: c.span != table.span)
    ]
    series += [_series(c, c.name, _STYLES[c.kind]) for c in mine if c.kind != "direction" and c.span == table.span]
    series += list(_levels(table, len(study.layers)))
    return _auroc_chart(
        f"{table.axis.capitalize()} direction: {table.task}",
        study,
        series,
        marked=(float(table.layer), "chosen layer"),
    )


def _levels(table: HonestyTable, n: int) -> Iterable[Series]:
    """Controls that know no layers, as level lines; of the surface rules the best, which has to be beaten."""
    for kind in _LEVELS:
        known = [r for r in table.rows if r.kind == kind and r.ranking.auroc is not None]
        best = max(known, key=lambda row: row.ranking.auroc or 0.0, default=None)
        if best is not None:
            yield Series(name=best.name, style=_STYLES[kind], values=(best.ranking.auroc,) * n, is_level=True)


def _other_charts(study: DirectionStudy) -> list[Chart]:
    """The same directions asked to tell other things apart."""
    main = {(table.axis, table.task) for table in study.honesty}
    tasks = list(dict.fromkeys(c.task for c in study.curves))
    charts = []
    for task in tasks:
        lines = [c for c in study.curves if c.task == task and c.kind == "direction" and (c.axis, task) not in main]
        styles: tuple[Style, ...] = ("first", "third", "second", "fifth")
        series = [_series(c, f"{c.name} at {c.span}", style) for c, style in zip(lines, styles, strict=False)]
        if series:
            charts.append(_auroc_chart(task[0].upper() + task[1:], study, series))
    return charts


def _auroc_chart(
    title: str, study: DirectionStudy, series: Sequence[Series], *, marked: tuple[float, str] | None = None
) -> Chart:
    edges = [v for one in series for v in (*one.values, *one.low)]
    upright = Axis(ends=floor_of(edges), title="AUROC")
    return chart(title, study.layers, series, across=_layers(study), upright=upright, marked=marked)


def _series(curve: Curve, name: str, style: Style) -> Series:
    return Series(name=name, style=style, values=curve.mean, low=curve.low, high=curve.high)


def _layers(study: DirectionStudy) -> Axis:
    return Axis(ends=(float(min(study.layers)), float(max(study.layers))), title="layer", is_whole=True)


def _categories(study: DirectionStudy) -> Grid | None:
    if len(study.categories) < 2:
        return None
    return square("Harmfulness by category", study.categories, study.category_cosines)


def _buckets(study: DirectionStudy) -> list[tuple[str, list[str]]]:
    parts = list(study.buckets)
    return [
        (name, [wording.count(study.buckets[part].get(key, 0)) for part in parts])
        for key, name in BUCKETS.items()
        if key
    ]


def _selection(study: DirectionStudy, found: Selection) -> SelectionView:
    order = sorted(range(len(found.candidates)), key=lambda i: _rank(found, i))
    views = [_candidate(found, i) for i in order]
    facts = (
        ("Candidates", wording.count(len(found.candidates)), "by span, layer and variant"),
        ("Metric’s AUROC", wording.number(found.metric_auroc, 3), "refused against accepted selection prompts"),
        ("Harmful, untouched", wording.number(found.baseline_harmful), "mean refusal metric, in log-odds"),
        ("Harmless, untouched", wording.number(found.baseline_harmless), "mean refusal metric, in log-odds"),
        ("Limit on KL", wording.number(found.kl_limit), "as published"),
        ("Relative limit", wording.number(found.kl_limit_relative), "the largest KL of random directions"),
    )
    return SelectionView(
        verdict=_verdict(found),
        facts=facts,
        tokens=found.metric_tokens,
        grids=tuple(_candidate_grids(study, found)),
        candidates=tuple(views[:SHOWN_CANDIDATES]),
        others=tuple(views[SHOWN_CANDIDATES:]),
        random=tuple(
            (str(t.layer), wording.number(t.bypass), wording.number(t.induce), wording.number(t.kl, 3))
            for t in found.random
        ),
        bars=tuple(_bar(one) for one in found.outcomes),
    )


def _verdict(found: Selection) -> str:
    if found.chosen is not None:
        return f"Chosen: {_place(found.candidates[found.chosen])}, the best survivor of the published filters."
    if found.chosen_relative is not None:
        place = _place(found.candidates[found.chosen_relative])
        return f"No candidate survives the published filters; {place} survives with the limit of random directions."
    return "No candidate survives: no single direction was found that carries refusal here. That is a result."


def _rank(found: Selection, i: int) -> tuple[bool, bool, bool, float]:
    one = found.candidates[i]
    chosen = i in (found.chosen, found.chosen_relative)
    return (
        not chosen,
        bool(one.rejected),
        bool(one.rejected_relative),
        float("inf") if one.bypass is None else one.bypass,
    )


def _candidate(found: Selection, i: int) -> CandidateView:
    one = found.candidates[i]
    tags = {found.chosen_relative: "chosen, relative limit", found.chosen: "chosen"}
    lives = "survives" if not one.rejected else "survives the relative limit" if not one.rejected_relative else ""
    return CandidateView(
        place=_place(one),
        variant=f"masked, {wording.plural(len(one.masked), 'coordinate')}" if one.variant == "masked" else "plain",
        bypass=wording.number(one.bypass),
        induce=wording.number(one.induce),
        kl=wording.number(one.kl, 3),
        loudest=wording.number(one.loudest),
        n=wording.count(one.n),
        tag=tags.get(i, lives),
        reasons="; ".join(one.rejected),
    )


def _place(one: Candidate) -> str:
    return f"{one.span}, layer {one.layer}"


def _candidate_grids(study: DirectionStudy, found: Selection) -> Iterable[Grid]:
    """Where each of the three measures is what, for plain candidates; one candidate alone needs no map."""
    plain = [c for c in found.candidates if c.variant == "plain"]
    spans = [span for span in study.spans if any(c.span == span for c in plain)]
    layers = [layer for layer in study.layers if any(c.layer == layer for c in plain)]
    if len(plain) < 2:
        return
    texts = dict(zip(study.spans, study.span_texts, strict=False))
    for title, key, middle, lead in (
        ("Bypass", "bypass", found.baseline_harmful, "Lower (orange) bypasses refusal more; unshaded is untouched."),
        ("Induce", "induce", found.baseline_harmless, "Higher (blue) induces refusal more; unshaded is untouched."),
        ("KL", "kl", found.kl_limit, "Above the limit (blue) the model says something else on harmless prompts."),
    ):
        values = {(c.span, c.layer): getattr(c, key) for c in plain}
        known = [v for v in values.values() if v is not None]
        centre = middle or 0.0
        far = max((abs(v - centre) for v in known), default=0.0) or 1.0
        ends = (min(known), max(known)) if known else None
        scale = Scale(middle=centre, reach=far, digits=1 if far >= 2 else 2, ends=ends)
        yield grid_over_places(title, values, layers=layers, spans=spans, texts=texts, scale=scale, lead=lead)


def _bar(one: Outcomes) -> plots.Stack:
    return plots.stack(f"{one.side} prompts, {one.intervention}", one.counts, wording.OUTCOMES)
