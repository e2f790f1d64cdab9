"""The report of a training run: how well the new tokens decide, what became of the replies, what it took."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from demur.core.errors import BadInputError, first_complaint
from demur.core.profile import Interval
from demur.core.taxonomy import load_taxonomy
from demur.models.adapter import FOLLOWS_ENOUGH
from demur.report import plots, wording
from demur.report.document import render_document
from demur.report.escaping import INVISIBLE, embedded_json, encodable_values
from demur.report.provenance import Entry, sections

WEAK_AUROC, LOW_MASS = 0.7, 0.9
_STEPS_A_VALUE = {"adapter": 5}  # the other stages keep the loss of every step
_MOST_POINTS = 300  # of a curve; more would be a smear
Fraction = Annotated[FiniteFloat, Field(ge=0.0, le=1.0)]
Amount = Annotated[FiniteFloat, Field(ge=0.0, le=1e12)]
Count = Annotated[int, Field(ge=0)]


class Record(BaseModel):
    """A part of a summary; fields that a later version adds are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Audited(Record):
    """One audit's two rates."""

    suite: str = ""
    folder: str = ""
    should_refuse: Interval
    contrast: Interval


class Ranking(Record):
    """AUROC of the posterior that some refusal token applies: 'all', and within each category."""

    data: str = ""
    n: Count = 0
    auroc: dict[str, Fraction | None] = {}


class TrainingSummary(Record):
    """What `demur train` wrote, as the report needs it; only kind and recipe are always there."""

    kind: Literal["refusal tokens"]
    created: str = ""
    demur: str = ""
    python: str = ""
    machine: str = ""
    recipe: dict[str, Any]
    n_rows: Count | None = None
    n_refuse: Count | None = None
    first_block: Count = 0
    n_trained: Count | None = None
    losses: dict[str, tuple[Amount, ...]] = {}
    mass: dict[str, Amount | None] = {}
    signal: Ranking = Ranking()
    seconds: dict[str, Amount] = {}
    audits: dict[str, Audited] = {}
    following: dict[str, float] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A stage's loss, by step; places in percent of the plot, y downwards, and ticks as (place, text)."""

    name: str
    points: tuple[tuple[float, float], ...]
    line: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    steps_a_value: int
    first: float
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A figure as words and as a bar; no bar where there is no figure."""

    name: str
    text: str
    start: float = 0.0
    width: float = 0.0
    tag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One side of the audits: (when, rate, mark) twice; `gained` is after minus before, None where one is missing."""

    key: str
    parts: tuple[tuple[str, Interval | None, plots.Mark | None], ...]
    gained: float | None
    is_clear: bool

    @property
    def verdict(self) -> str:
        """What may be said about the difference."""
        if self.gained is None:
            return "One of the two was not measured."
        moved = f"{wording.points(self.gained)} points"
        return f"{moved}; the intervals lie apart." if self.is_clear else f"{moved}, which may be chance."


def render_training(summary: Mapping[str, Any]) -> str:
    """The report as one HTML document.

    Args:
        summary: What `demur train` writes to `training.json`; every text in it is treated as hostile.

    Raises:
        BadInputError: A field is missing or of the wrong kind; names it.
    """
    found = _read(summary)
    changes = [change_of(found.audits, key) for key in wording.SIDES] if found.audits else []
    curves = [curve_of(name, values) for name, values in found.losses.items() if values]
    axis = _axis(found.signal.auroc)
    total = sum(found.seconds.values())
    context = {
        "found": found,
        "model": str(found.recipe.get("model") or ""),
        "mode": str(found.recipe.get("mode") or ""),
        "mass": {name: _share(value) for name, value in found.mass.items()},
        "time": duration(total) if found.seconds else wording.MISSING,
        "names": wording.SIDES,
        "changes": changes,
        "notes": [*_notes(found), *change_notes(found.audits, changes), *curve_notes(curves)],
        "curves": curves,
        "rankings": [_ranking(name, value, axis) for name, value in found.signal.auroc.items()],
        "chance": round(100 * (0.5 - axis) / (1 - axis), 2),
        "axis": [f"{axis + (1 - axis) * i / 2:g}" for i in range(3)],
        "times": [
            Bar(name=name, text=duration(s), width=round(100 * s / (total or 1), 2))
            for name, s in found.seconds.items()
        ],
        "made": _made(found),
        "data": embedded_json({"invisible": INVISIBLE}),
    }
    return render_document("training.html.j2", ("common.js",), context)


def duration(seconds: float) -> str:
    """A time as people say it, e.g. '45 s', '17 min' or '2 h 05 min'."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _read(summary: Mapping[str, Any]) -> TrainingSummary:
    try:
        return TrainingSummary.model_validate(encodable_values(summary))
    except ValidationError as error:
        what = " ".join(first_complaint(error, whole="summary").split())
    raise BadInputError(f"report of a training run: {what}; expected the training.json that 'demur train' writes")


def _notes(found: TrainingSummary) -> Iterator[str]:
    """What a reader must know about the token before believing it."""
    mass, auroc = found.mass.get("held out"), found.signal.auroc
    if mass is not None and mass < LOW_MASS:
        yield (
            f"The control tokens hold only {_share(mass)} of the probability on held-out prompts: thresholds over the "
            "full vocabulary will fail. Compare among the control tokens alone (view 'posterior')."
        )
    whole = auroc.get("all")
    if whole is None:
        yield "The AUROC was not measured: nothing here tells how well the token decides."
    elif whole < WEAK_AUROC:
        yield "No threshold will separate prompts to decline from prompts to answer well: the AUROC is below 0.7."
    weak = [f"{_name(k)} ({v:.3f})" for k, v in auroc.items() if k != "all" and v is not None and v < WEAK_AUROC]
    if weak:
        yield f"The token ranks weakly, with an AUROC below 0.7, within: {', '.join(weak)}."
    follows = found.following.get("refusal tokens followed")
    if follows is not None:
        yield (
            f"After a forced refusal token {_share(follows)} of replies to held-out prompts decline; after a forced "
            f"respond token {_share(found.following.get('respond token answered', 0.0))} answer."
            + ("" if follows >= FOLLOWS_ENOUGH else " That is too few: demur words refusals from the policy instead.")
        )
    if not found.audits:
        yield "There was no audit before and after: nothing here tells how the replies changed."


def change_notes(audits: Mapping[str, Audited], changes: Sequence[Change]) -> Iterator[str]:
    """What a reader must know about the replies before using the adapter."""
    if len({one.suite for one in audits.values()}) > 1:
        yield "The two audits asked different suites: their difference says little about the training."
    for change in changes:
        if change.gained is None:
            continue
        by, fell = f"by {100 * abs(change.gained):.1f} points", change.gained < 0
        if change.key == "contrast" and fell and change.is_clear:
            yield f"Over-refusal rose: the share of contrast prompts answered fell {by}."
        elif change.key == "contrast" and change.gained <= -0.02:
            yield f"Over-refusal may have risen: contrast prompts answered fell {by}, within overlapping intervals."
        elif change.key == "should_refuse" and fell and change.is_clear:
            yield f"It declines worse than before: the share of should-refuse prompts handled fell {by}."
        elif change.key == "should_refuse" and not change.is_clear:
            yield "These audits do not show that it declines better than before: the intervals overlap."
    broken = {when: one.should_refuse.degenerate + one.contrast.degenerate for when, one in audits.items()}
    if broken.get("after", 0) > broken.get("before", 0):
        yield f"Degenerate replies rose from {broken.get('before', 0)} to {broken['after']}: read them."


def curve_notes(curves: Sequence[Curve]) -> Iterator[str]:
    """What a reader must know about the loss."""
    for curve in curves:
        if len(curve.points) >= 10 and curve.last >= curve.first:
            yield f"The loss did not fall in the stage “{curve.name}”."


def change_of(audits: Mapping[str, Audited], key: str) -> Change:
    """One side of the audits 'before' and 'after'; either may be missing."""
    rates: list[Interval | None] = [getattr(audits.get(when), key, None) for when in ("before", "after")]
    a, b = (plots.interval_mark(rate) if rate else None for rate in rates)
    estimates = [rate.estimate for rate in rates if rate and rate.estimate is not None]
    return Change(
        key=key,
        parts=(("before", rates[0], a), ("after", rates[1], b)),
        gained=estimates[1] - estimates[0] if len(estimates) == 2 else None,
        is_clear=a is not None and b is not None and (a.high < b.low or b.high < a.low),
    )


def curve_of(name: str, values: Sequence[float]) -> Curve:
    """A loss by step as a curve; at least one value."""
    n, every = len(values), _STEPS_A_VALUE.get(name, 1)
    top, y_ticks = _ticks(max(values))
    _, x_ticks = _ticks(n * every)
    reach = n // 20
    kept = range(n - 1, -1, -ceil(n / _MOST_POINTS))[::-1]  # the last one always

    def place(i: int, value: float) -> tuple[float, float]:
        return round(100 * (i + 1) / n, 2), round(100 - 100 * value / top, 2)

    # The window widens at the steep beginning, where a whole one would hide how far the loss fell.
    smoothed = [place(i, fmean(values[i - min(i, reach) : i + min(i, reach) + 1])) for i in kept]
    tenth = max(1, n // 10)
    return Curve(
        name=name,
        points=tuple(place(i, values[i]) for i in kept),
        line=" ".join(f"{x},{y}" for x, y in smoothed),
        x_ticks=tuple((round(100 * t / (n * every), 2), f"{t:,.0f}") for t in x_ticks if t <= n * every),
        y_ticks=tuple((round(100 - 100 * t / top, 2), f"{t:g}") for t in y_ticks),
        steps_a_value=every,
        first=fmean(values[:tenth]),
        last=fmean(values[-tenth:]),
    )


def _ticks(largest: float) -> tuple[float, list[float]]:
    """End of an axis from 0, and three to six round places on it."""
    if largest < 1e-9:
        return 1.0, [0.0, 1.0]
    unit = 10.0 ** floor(log10(largest / 4))
    step = next(m * unit for m in (1, 2, 5, 10) if 5 * m * unit >= largest)
    n = ceil(largest / step)
    return n * step, [i * step for i in range(n + 1)]


def _axis(auroc: Mapping[str, float | None]) -> float:
    """Where the axis of AUROCs begins: at guessing, or below the worst."""
    return floor(10 * min([0.5, *(value for value in auroc.values() if value is not None)])) / 10


def _ranking(key: str, value: float | None, axis: float) -> Bar:
    if value is None:
        return Bar(name=_name(key), text=wording.MISSING, tag="one side only")
    ends = [100 * (end - axis) / (1 - axis) for end in sorted((0.5, value))]
    tag = "worse than guessing" if value < 0.5 else "weak" if value < WEAK_AUROC else ""
    bar = (round(ends[0], 2), round(ends[1] - ends[0], 2))
    return Bar(name=_name(key), text=wording.number(value, 3), start=bar[0], width=bar[1], tag=tag)


def _name(key: str) -> str:
    names = {"all": "All held-out prompts"} | {c.id: c.name for c in load_taxonomy().category}
    return wording.name_of(key, names)


def _share(mass: float | None) -> str:
    return wording.percent(None if mass is None else min(1.0, mass), 1)  # a sum in single precision may exceed 1


def _made(found: TrainingSummary) -> list[tuple[str, list[Entry]]]:
    unused = {"lora"} if found.recipe.get("mode") == "rows" else set()
    about = found.model_dump(include={"created", "demur", "python", "machine", "first_block"}, exclude_unset=True)
    plain = {key: value for key, value in found.recipe.items() if not isinstance(value, dict)}
    parts = {
        f"recipe, {key}{' (not used in this mode)' if key in unused else ''}": value
        for key, value in found.recipe.items()
        if isinstance(value, dict)
    }
    return sections(about | {"recipe": plain} | parts)
