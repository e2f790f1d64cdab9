"""Honesty tables as a reader sees them: a direction or probe first, and below it all that must not be as good."""

from collections.abc import Sequence
from dataclasses import dataclass

from demur.core.direction_study import ControlRow, HonestyTable, Ranking
from demur.report import plots, wording

AS_GOOD = 0.02  # of AUROC, as in the notes of a study
KINDS = {
    "direction": "",
    "layer 0": "embeddings",
    "surface rule": "surface rule",
    "tf-idf": "words alone",
    "random directions": "random",
    "shuffled labels": "random",
    "base model": "before training",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlView:
    """One line of an honesty table as words and as a mark."""

    name: str
    kind: str
    is_direction: bool
    auroc: str
    bounds: str
    n: str
    seeds: str
    note: str
    tag: str
    mark: plots.Mark | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlTable:
    """An honesty table as a reader sees it; `ends` are the names of the AUROC axis' two ends and its middle."""

    title: str
    lead: str
    rows: tuple[ControlView, ...]


def honesty_view(table: HonestyTable) -> ControlTable:
    """A direction at its chosen layer beside its controls."""
    title = f"{table.axis.capitalize()} direction"
    lead = f"{table.task}; read at {table.span}, layer {table.layer}, which other prompts chose."
    return control_table(title, table.rows, lead=lead)


def control_table(title: str, rows: Sequence[ControlRow], *, lead: str = "") -> ControlTable:
    """Any list of controls, the direction first."""
    own = next((row.ranking.auroc for row in rows if row.kind == "direction"), None)
    return ControlTable(title=title, lead=lead, rows=tuple(_control(row, own) for row in rows))


def auroc_mark(ranking: Ranking) -> plots.Mark | None:
    """An AUROC on an axis from 0 to 1."""
    if ranking.auroc is None:
        return None
    low = ranking.auroc if ranking.low is None else ranking.low
    high = ranking.auroc if ranking.high is None else ranking.high
    return plots.Mark(at=round(100 * ranking.auroc, 2), low=round(100 * low, 2), high=round(100 * high, 2))


def bounds(low: float | None, high: float | None, digits: int = 3) -> str:
    """An interval of plain numbers; empty where there is none."""
    if low is None or high is None:
        return ""
    return f"{wording.number(low, digits)} to {wording.number(high, digits)}"


def _control(row: ControlRow, own: float | None) -> ControlView:
    auroc = row.ranking.auroc
    rival = row.kind != "direction" and auroc is not None and own is not None
    as_good = rival and (auroc or 0.0) >= (own or 0.0) - AS_GOOD
    return ControlView(
        name=row.name,
        kind=KINDS[row.kind],
        is_direction=row.kind == "direction",
        auroc=wording.number(auroc, 3),
        bounds=bounds(row.ranking.low, row.ranking.high),
        n=f"{wording.count(row.ranking.n_positive)} against {wording.count(row.ranking.n_negative)}",
        seeds=", ".join(wording.number(s, 3) for s in row.seeds) if len(row.seeds) > 1 else "",
        note=row.note,
        tag="as good" if as_good else "",
        mark=auroc_mark(row.ranking),
    )
