"""The report of one audit: a page that a person reads, complete in one file and silent on the network."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.core.profile import AuditRow, Cell, Interval, JudgeSummary, Profile
from demur.core.taxonomy import Taxonomy, load_taxonomy
from demur.report import plots, wording
from demur.report.document import render_document, write_document
from demur.report.escaping import INVISIBLE, embedded_json
from demur.report.provenance import sections

_SCRIPTS = ("common.js", "listing.js", "replies.js")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One interval as numbers and as a mark."""

    key: str
    interval: Interval
    mark: plots.Mark | None
    aside: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellView:
    """One line of the profile."""

    key: str
    name: str
    should_refuse: Side
    contrast: Side
    pairs: Side
    youden_j: str
    is_worst: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeView:
    """One line of the table of judges."""

    name: str
    is_primary: bool
    rates: tuple[Side, ...]
    corrected: Interval | None
    agreement: str
    kappa: str
    card: tuple[tuple[str, str], ...]
    outcomes: str


def render_page(profile: Profile, rows: Sequence[AuditRow], *, taxonomy: Taxonomy | None = None) -> str:
    """The report as one HTML document.

    Args:
        profile: What the audit found.
        rows: The replies it rests on; every text in them is treated as hostile.
        taxonomy: Where the words 'what is right here' beside a reply come from; the packaged one by default.
    """
    known = taxonomy or load_taxonomy()
    context = {
        "profile": profile,
        "sides": wording.SIDES,
        "overall": _cell_view(profile.overall, worst=None),
        "groups": _groups(profile),
        "pair_cells": [_cell_view(c, worst=None) for c in (profile.overall, *profile.categories)],
        "tradeoff": plots.tradeoff(profile),
        "outcome_bars": _bars(profile.outcomes, rows, "outcome", wording.OUTCOMES),
        "manner_bars": _bars(profile.manners, rows, "manner", wording.MANNERS),
        "judges": _judge_views(profile, rows),
        "published": profile.published_scores,
        "published_names": list(dict.fromkeys(name for one in profile.published_scores for name in _numbers(one))),
        "worst": _worst(profile),
        "effect": _effect(profile),
        "facts": _facts(profile),
        "made": sections(profile.manifest),
        "n_rows": len(rows),
        "data": embedded_json(_replies(profile, rows, known)),
    }
    return render_document("page.html.j2", _SCRIPTS, context)


def write_page(path: Path, profile: Profile, rows: Sequence[AuditRow], *, taxonomy: Taxonomy | None = None) -> None:
    """Write the report; a reader never sees half of it.

    Raises:
        OSError: The folder cannot be written to.
    """
    write_document(path, render_page(profile, rows, taxonomy=taxonomy))


def _side(key: str, interval: Interval) -> Side:
    return Side(key=key, interval=interval, mark=plots.interval_mark(interval), aside=wording.left_out(interval))


def _cell_view(cell: Cell, worst: str | None) -> CellView:
    return CellView(
        key=cell.key,
        name=cell.name,
        should_refuse=_side("should_refuse", cell.should_refuse),
        contrast=_side("contrast", cell.contrast),
        pairs=_side("pairs", cell.pairs),
        youden_j=wording.number(cell.youden_j),
        is_worst=worst is not None and cell.name == worst,
    )


def _groups(profile: Profile) -> list[tuple[CellView, list[CellView]]]:
    known = {c.key for c in profile.categories}
    groups = []
    for category in profile.categories:
        members = [_cell_view(s, profile.worst) for s in profile.subcategories if s.category == category.key]
        groups.append((_cell_view(category, profile.worst), members))
    strangers = [s for s in profile.subcategories if s.category not in known]
    return groups + [(_cell_view(s, profile.worst), []) for s in strangers]


def _bars(
    whole: Mapping[str, int], rows: Sequence[AuditRow], field: str, names: Mapping[str, str]
) -> list[plots.Stack]:
    bars = [plots.stack("All replies", whole, names)]
    for expected, name in wording.EXPECTATIONS.items():
        counts = Counter(str(v) for r in rows if r.expected == expected and (v := getattr(r, field)) is not None)
        if counts:
            bars.append(plots.stack(name, counts, names))
    return bars


def _judge_views(profile: Profile, rows: Sequence[AuditRow]) -> list[JudgeView]:
    primary = rows[0].judge if rows else next((j.judge for j in profile.judges), None)
    return [_judge_view(j, is_primary=j.judge == primary) for j in profile.judges]


def _judge_view(summary: JudgeSummary, *, is_primary: bool) -> JudgeView:
    rates = (
        _side("should_refuse", summary.should_refuse),
        _side("contrast", summary.contrast),
        _side("refused", summary.refused),
    )
    agreement = wording.percent(summary.agreement_with_primary)
    return JudgeView(
        name=summary.judge,
        is_primary=is_primary,
        rates=rates,
        corrected=summary.corrected_refused,
        agreement=agreement,
        kappa=wording.number(summary.kappa_with_primary),
        card=wording.judge_card(summary.card),
        outcomes=", ".join(f"{wording.count(n)} {key}" for key, n in summary.outcomes.items() if n),
    )


def _numbers(published_score: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(published_score["numbers"])


def _worst(profile: Profile) -> tuple[str, str, CellView] | None:
    for field, cells in (("subcategory", profile.subcategories), ("category", profile.categories)):
        for cell in cells:
            if cell.name == profile.worst:
                return field, cell.key, _cell_view(cell, worst=None)
    return None


def _effect(profile: Profile) -> str:
    effect = profile.minimum_detectable_effect
    if effect is None:
        return ""
    if effect >= 0.995:
        return "Too few prompts to tell two runs apart, whatever their rates."
    size = wording.plural(max(1, round(100 * effect)), "percentage point")
    return (
        f"Two runs of this size can be told apart when a rate differs by about {size} or more; "
        "smaller differences will usually go unseen."
    )


def _facts(profile: Profile) -> list[tuple[str, str, str]]:
    values: Iterable[tuple[str, int, str]] = (
        ("Replies", profile.n, ""),
        ("Unjudged", profile.outcomes.get("unjudged", 0), "the judge could not say; in no rate"),
        ("Degenerate", profile.outcomes.get("degenerate", 0), "empty, looping or meaningless; never appropriate"),
        ("Truncated", profile.n_truncated, "cut by the token limit; a later refusal would be unseen"),
        ("Errors", profile.n_errors, "no reply at all"),
    )
    return [(name, wording.count(n), note) for name, n, note in values]


def _replies(profile: Profile, rows: Sequence[AuditRow], taxonomy: Taxonomy) -> dict[str, Any]:
    used = dict.fromkeys(r.subcategory for r in rows)
    return {
        "invisible": INVISIBLE,
        "names": {
            "category": {c.key: c.name for c in profile.categories},
            "subcategory": {c.key: c.name for c in profile.subcategories},
            "expected": wording.EXPECTATIONS,
            "outcome": wording.OUTCOMES,
            "manner": wording.MANNERS,
        },
        "rubrics": {key: taxonomy.find(key).rubric for key in used if taxonomy.knows(key)},
        "rows": [row.model_dump(exclude_defaults=True) for row in rows],
    }
