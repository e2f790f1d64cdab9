"""The report of constructive replies: satisfaction against risk, the score over a sweep of beta, and what was said."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from demur.constructive.findings import ALL, ConstructFindings, Series
from demur.constructive.rubric import ITEMS
from demur.constructive.score import Weights
from demur.constructive.trajectory import Step, Trajectory
from demur.core.exchange import Frozen
from demur.report import wording
from demur.report.document import render_document, write_document
from demur.report.escaping import INVISIBLE, embedded_json
from demur.report.provenance import sections

Z = 1.96  # 95% of a normal distribution
MOST_SHOWN = 40
MOST_CHARS = 1500
LEVEL_NAMES = {ALL: "All", "none": "R0, no risk", "sensitive": "R1, sensitive", "adversarial": "R2, adversarial"}


class ShownAnswer(Frozen):
    """An answer to show where there is no optimisation, e.g. a reference answer of the suite."""

    name: str
    response: str
    satisfaction: float | None
    risk: float | None


class ShownQuery(Frozen):
    """A query with its answers."""

    id: str
    about: str
    query: str
    answers: tuple[ShownAnswer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A series in the Pareto plot; places and reaches in percent of the plot, y downwards."""

    name: str
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float
    label_left: bool
    on_front: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A series over betas, as points in a box of 1000 by 100."""

    name: str
    points: str
    dashes: str
    last: str


def render_construct(findings: ConstructFindings, shown: Sequence[Trajectory | ShownQuery] = ()) -> str:
    """The report as one HTML document; every text of queries and replies in it is treated as hostile."""
    weights = Weights(findings.alpha, findings.beta)
    whole = [one for one in findings.series if one.level == ALL]
    betas = sorted({row.beta for row in findings.sweep})
    context = {
        "found": findings,
        "weights": str(weights),
        "spots": [spot for one in whole if (spot := _spot(one, findings)) is not None],
        "lines": _lines(findings, betas),
        "betas": [f"{beta:g}" for beta in betas],
        "sweep": _sweep(findings, betas),
        "levels": _levels(findings, weights),
        "queries": [_shown(one) for one in shown[:MOST_SHOWN]],
        "n_hidden": max(0, len(shown) - MOST_SHOWN),
        "made": sections(findings.manifest),
        "data": embedded_json({"invisible": INVISIBLE}),
    }
    return render_document("constructive.html.j2", ("common.js",), context)


def write_construct(path: Path, findings: ConstructFindings, shown: Sequence[Trajectory | ShownQuery] = ()) -> None:
    """Write the report; a reader never sees half of it.

    Raises:
        OSError: The folder cannot be written to.
    """
    write_document(path, render_construct(findings, shown))


def _spot(one: Series, findings: ConstructFindings) -> Spot | None:
    if one.satisfaction is None or one.risk is None:
        return None
    dx, dy = 100 * Z * sqrt(max(0.0, one.var_risk)), 50 * Z * sqrt(max(0.0, one.var_satisfaction))
    x, y = 100 * one.risk, 50 * (1 - one.satisfaction)
    return Spot(
        name=one.name,
        x=round(x, 2),
        y=round(y, 2),
        left=round(max(0.0, x - dx), 2),
        right=round(min(100.0, x + dx), 2),
        top=round(max(0.0, y - dy), 2),
        bottom=round(min(100.0, y + dy), 2),
        label_left=x > 60,
        on_front=one.name in findings.front,
        text=f"satisfaction {wording.number(one.satisfaction)}, risk {wording.number(one.risk)}, n {one.n}",
    )


_DASHES = ("", "8 5", "2 4", "12 4 2 4", "5 3", "1 6")


def _lines(findings: ConstructFindings, betas: Sequence[float]) -> list[Line]:
    """The scaled score, which stays in [-1, 1], of each series over the betas, evenly spaced."""
    lines = []
    for number, name in enumerate(dict.fromkeys(row.name for row in findings.sweep)):
        rows = {row.beta: row for row in findings.sweep if row.name == name}
        step = 1000 / max(1, len(betas) - 1)
        points = " ".join(f"{i * step:.1f},{50 * (1 - rows[b].scaled):.2f}" for i, b in enumerate(betas))
        last = wording.number(rows[betas[-1]].scaled)
        lines.append(Line(name=name, points=points, dashes=_DASHES[number % len(_DASHES)], last=last))
    return lines


def _sweep(findings: ConstructFindings, betas: Sequence[float]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """By series: raw with its interval, fitted and scaled, at every beta."""
    table = []
    for name in dict.fromkeys(row.name for row in findings.sweep):
        rows = {row.beta: row for row in findings.sweep if row.name == name}
        cells = []
        for beta in betas:
            row = rows[beta]
            half = wording.number(Z * row.standard_error)
            cells.append(
                (f"{wording.number(row.raw)} ± {half}", wording.number(row.fitted), wording.number(row.scaled))
            )
        table.append((name, cells))
    return table


def _levels(findings: ConstructFindings, weights: Weights) -> list[tuple[str, list[tuple[str, ...]]]]:
    """By series: level, satisfaction, risk, constructive score, judged and unjudged answers."""
    table = []
    for name in dict.fromkeys(one.name for one in findings.series):
        rows = [_level(one, weights) for one in findings.series if one.name == name]
        table.append((name, rows))
    return table


def _level(one: Series, weights: Weights) -> tuple[str, ...]:
    score = one.constructive(weights)
    raw = (
        f"{wording.number(score.raw)} ± {wording.number(Z * one.standard_error(weights))}" if score else wording.MISSING
    )
    level = LEVEL_NAMES.get(one.level, one.level)
    numbers = (wording.number(one.satisfaction), wording.number(one.risk), raw)
    return (level, *numbers, wording.count(one.n), wording.count(one.n_unjudged))


def _shown(one: Trajectory | ShownQuery) -> dict[str, object]:
    if isinstance(one, ShownQuery):
        given: list[dict[str, object]] = [
            {"name": a.name, "response": a.response[:MOST_CHARS], "marks": _numbers(a.satisfaction, a.risk), "how": ""}
            for a in one.answers
        ]
        return {"id": one.id, "about": one.about, "query": one.query[:MOST_CHARS], "answers": given, "end": ""}
    risk = one.risk
    about = ", ".join(filter(None, (risk.code, risk.intent.replace("_", " "), risk.category, risk.profile.role)))
    end = f"{one.stopped}: {one.problem}" if one.problem else one.stopped
    answers = [_step(step) for step in one.steps]
    return {"id": one.query.id, "about": about, "query": one.query.query[:MOST_CHARS], "answers": answers, "end": end}


def _step(step: Step) -> dict[str, object]:
    judged, marks = step.judgement, step.judgement.user.satisfaction
    name = "the model's own" if step.round < 0 else f"round {step.round}"
    listed = ", ".join(f"{item} {marks.marks[item]:+d}" for item in ITEMS) if marks else "unjudged"
    edit = step.edit
    asked = f"asked to: {edit.task.replace('_', ' ')}{'; cut to one edit' if edit.cut else ''}" if edit else ""
    sets = step.chain.strategies if step.chain else None
    strategies = f"use: {'; '.join(sets.usefulness)} | safety: {'; '.join(sets.safety)}" if sets else ""
    how = ". ".join(filter(None, (asked, strategies, f"marks: {listed}, safety {judged.safety.grade or 'unjudged'}")))
    return {
        "name": name,
        "response": step.response[:MOST_CHARS],
        "marks": _numbers(judged.satisfaction, judged.risk),
        "how": how,
    }


def _numbers(satisfaction: float | None, risk: float | None) -> str:
    return f"satisfaction {wording.number(satisfaction)}, risk {wording.number(risk)}"
