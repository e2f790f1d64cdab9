"""The parts about steering, as dose and response, and about a fitted guard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from demur.core.direction_study import ControlRow
from demur.core.profile import Interval
from demur.core.steering_study import Dose, DoseCurve, Side, SteeringStudy
from demur.report import plots, wording
from demur.report.inside_controls import control_table
from demur.report.inside_plots import Axis, Chart, Series, Style, chart, floor_of, minus, plain_percent

SIDES: tuple[Side, ...] = ("to decline", "to answer")
_SERIES: tuple[tuple[str, str, Side, Style], ...] = (
    ("declined, of prompts to decline", "declined", "to decline", "first"),
    ("declined, of prompts to answer", "declined", "to answer", "second"),
    ("degenerate, of prompts to decline", "degenerate", "to decline", "fifth"),
    ("degenerate, of prompts to answer", "degenerate", "to answer", "sixth"),
)
_RANDOM: dict[Side, Style] = {"to decline": "random", "to answer": "shuffled"}


class Flagged(Protocol):
    """Share of one kind of prompts that a guard flags, at its two thresholds."""

    @property
    def kind(self) -> str:
        """Which prompts."""

    @property
    def name(self) -> str:
        """Category; empty for all."""

    @property
    def published(self) -> Interval:
        """At threshold 0."""

    @property
    def calibrated(self) -> Interval:
        """At the calibrated threshold."""


class GuardFindings(Protocol):
    """What a guard's report holds, as far as it is shown; `demur.inside.guard_report.GuardReport` is one."""

    @property
    def model(self) -> str:
        """Identity of the model."""

    @property
    def span(self) -> str:
        """Where states are read."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Residual indices."""

    @property
    def threshold(self) -> float:
        """Calibrated score."""

    @property
    def rate(self) -> float:
        """False alarms it was set for."""

    @property
    def rows(self) -> Sequence[ControlRow]:
        """The guard and its controls."""

    @property
    def flagged(self) -> Sequence[Flagged]:
        """Shares flagged."""

    @property
    def layer_auroc(self) -> tuple[float | None, ...]:
        """By layer."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know."""

    @property
    def manifest(self) -> dict[str, JsonValue]:
        """Versions, data hashes, settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseView:
    """One strength of one intervention, both sides as (declined, degenerate, unjudged, mark)."""

    strength: str
    sides: tuple[tuple[Side, Interval | None, Interval | None, int, plots.Mark | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveView:
    """One intervention: a chart where there are several strengths, and its numbers."""

    name: str
    where: str
    note: str
    chart: Chart | None
    doses: tuple[DoseView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomView:
    """All draws of random directions at one strength of one side: (median, lowest, highest) of each share."""

    strength: str
    side: Side
    n: str
    declined: tuple[str, str]
    degenerate: tuple[str, str]


def steering_view(study: SteeringStudy) -> dict[str, object]:
    """All that the template of this part shows."""
    shown = [curve for curve in study.curves if curve.kind != "random directions"]
    return {
        "study": study,
        "curves": [_curve(curve, study) for curve in shown],
        "random": _random_rows(study),
    }


def guard_view(guard: GuardFindings) -> dict[str, object]:
    """All that the template of a guard's part shows."""
    line = Series(name="Latent Guard, one layer alone", style="first", values=guard.layer_auroc)
    layers = Axis(ends=(float(min(guard.layers)), float(max(guard.layers))), title="layer", is_whole=True)
    by_layer = chart(
        "Each layer’s score alone",
        guard.layers,
        [line],
        across=layers,
        upright=Axis(ends=floor_of(guard.layer_auroc), title="AUROC"),
    )
    return {
        "guard": guard,
        "controls": control_table("The guard and its controls", guard.rows),
        "chart": by_layer if len(guard.layers) > 1 else None,
        "flagged": [(_kind(row), _two(row)) for row in guard.flagged],
        "threshold": wording.number(guard.threshold, 3),
        "rate": wording.percent(guard.rate, 1),
    }


def _curve(curve: DoseCurve, study: SteeringStudy) -> CurveView:
    strengths = sorted({dose.strength for dose in curve.doses})
    where = "all layers" if curve.layer is None else f"layer {curve.layer}"
    random = _controls_of(curve, study) if curve.kind != "ablation" else []
    name = curve.name if curve.kind == "direction" else f"{curve.name}, {curve.kind}"
    return CurveView(
        name=name,
        where=where,
        note=curve.note,
        chart=_chart(name, curve, strengths, random) if len(strengths) > 1 else None,
        doses=tuple(_dose(curve, strength) for strength in strengths),
    )


def _controls_of(curve: DoseCurve, study: SteeringStudy) -> list[DoseCurve]:
    """Random directions drawn for this one, or at the same layer."""
    drawn = [c for c in study.curves if c.kind == "random directions"]
    return [c for c in drawn if c.name == curve.name] or [c for c in drawn if c.layer == curve.layer]


def _chart(name: str, curve: DoseCurve, strengths: Sequence[float], random: Sequence[DoseCurve]) -> Chart:
    series = []
    for what, key, side, style in _SERIES:
        shares = [_share(curve.doses, strength, side, key) for strength in strengths]
        if any(share is not None and share.estimate is not None for share in shares):
            series.append(
                Series(
                    name=what,
                    style=style,
                    values=tuple(None if s is None else s.estimate for s in shares),
                    low=tuple(None if s is None else s.low for s in shares),
                    high=tuple(None if s is None else s.high for s in shares),
                    notes=tuple("" if s is None else f"n {wording.count(s.n)}" for s in shares),
                )
            )
    series += [_random_series(random, strengths, side) for side in SIDES if random]
    across = Axis(ends=(strengths[0], strengths[-1]), title="strength, in median norms of the state")
    marked = (0.0, "untouched") if strengths[0] < 0 < strengths[-1] else None
    upright = Axis(ends=(0.0, 1.0), title="share of judged replies", text=plain_percent)
    return chart(name, strengths, series, across=across, upright=upright, marked=marked)


def _random_series(random: Sequence[DoseCurve], strengths: Sequence[float], side: Side) -> Series:
    """Median of the draws, with their whole range as band."""
    found = [_of_draws(random, strength, side, "declined") for strength in strengths]
    return Series(
        name=f"random directions: declined, of prompts {side}",
        style=_RANDOM[side],
        values=tuple(_middle(shares) for shares in found),
        low=tuple(min(shares, default=None) for shares in found),
        high=tuple(max(shares, default=None) for shares in found),
        notes=tuple(wording.plural(len(shares), "draw") if shares else "" for shares in found),
    )


def _random_rows(study: SteeringStudy) -> list[RandomView]:
    drawn = [curve for curve in study.curves if curve.kind == "random directions"]
    strengths = sorted({dose.strength for curve in drawn for dose in curve.doses})
    rows = []
    for strength in strengths:
        for side in SIDES:
            declined, degenerate = (_of_draws(drawn, strength, side, key) for key in ("declined", "degenerate"))
            if declined:
                rows.append(
                    RandomView(
                        strength=minus(f"{strength:g}"),
                        side=side,
                        n=wording.count(len(declined)),
                        declined=_range(declined),
                        degenerate=_range(degenerate),
                    )
                )
    return rows


def _dose(curve: DoseCurve, strength: float) -> DoseView:
    sides = []
    for side in SIDES:
        dose = next((d for d in curve.doses if d.strength == strength and d.side == side), None)
        if dose is not None:
            mark = plots.interval_mark(dose.declined)
            sides.append((side, dose.declined, dose.degenerate, dose.unjudged, mark))
    return DoseView(strength=minus(f"{strength:g}"), sides=tuple(sides))


def _share(doses: Sequence[Dose], strength: float, side: Side, key: str) -> Interval | None:
    for dose in doses:
        if dose.strength == strength and dose.side == side:
            return dose.declined if key == "declined" else dose.degenerate
    return None


def _of_draws(curves: Sequence[DoseCurve], strength: float, side: Side, key: str) -> list[float]:
    shares = [_share(curve.doses, strength, side, key) for curve in curves]
    return sorted(s.estimate for s in shares if s is not None and s.estimate is not None)


def _middle(shares: Sequence[float]) -> float | None:
    """Median of sorted shares."""
    n = len(shares)
    return (shares[(n - 1) // 2] + shares[n // 2]) / 2 if n else None


def _range(shares: Sequence[float]) -> tuple[str, str]:
    if not shares:
        return wording.MISSING, ""
    return wording.percent(_middle(shares)), f"{wording.percent(shares[0])} to {wording.percent(shares[-1])}"


def _kind(row: Flagged) -> str:
    return f"{row.kind}: {row.name}" if row.name else row.kind


def _two(row: Flagged) -> list[tuple[str, Interval, plots.Mark | None]]:
    return [
        (name, interval, plots.interval_mark(interval))
        for name, interval in (("published", row.published), ("calibrated", row.calibrated))
    ]
