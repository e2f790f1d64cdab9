"""Lines over layers, tokens and strengths: places in percent of the plot, y downwards, with every number as a table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Literal

from demur.core.direction_study import Numbers
from demur.report import wording

# Colour and dashes of a line, in the style sheet; they differ in both, so that colour is never needed.
Style = Literal["first", "second", "third", "fourth", "fifth", "sixth", "random", "shuffled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a chart, as given.

    Attributes:
        name: What it shows.
        style: How it is drawn.
        values: One for each place on the x axis; None where there is none.
        low: Lower edge of its band; empty for no band.
        high: Upper edge.
        notes: A remark for each place, such as a count; empty for none.
        is_level: One number for all places, which needs no marks.
    """

    name: str
    style: Style
    values: Numbers
    low: Numbers = ()
    high: Numbers = ()
    notes: tuple[str, ...] = ()
    is_level: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A mark on a line, with what it says on hover."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line as drawn: strokes and bands are corners in a box of 100 by 100, with gaps where numbers are missing."""

    name: str
    style: Style
    strokes: tuple[str, ...]
    bands: tuple[str, ...]
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Lines over one axis; ticks are (place, text), `rows` the same numbers as a table.

    `upright` is the place of an upright line and what it marks.
    """

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    upright: tuple[float, str] | None
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    is_low: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A straight axis: its ends, its name, how a number on it is written, and whether only whole ones are there."""

    ends: tuple[float, float]
    title: str
    text: Callable[[float], str] = "{:g}".format
    is_whole: bool = False

    def place(self, value: float) -> float:
        """Percent of the length from the low end, kept within it."""
        low, high = self.ends
        return round(min(100.0, max(0.0, 100 * (value - low) / ((high - low) or 1.0))), 2)

    def ticks(self) -> list[float]:
        """Three to eight round numbers within the ends."""
        return [t for t in round_numbers(*self.ends) if not self.is_whole or t == int(t)]


def chart(
    title: str,
    x: Sequence[float],
    series: Sequence[Series],
    *,
    across: Axis,
    upright: Axis,
    marked: tuple[float, str] | None = None,
    is_low: bool = False,
) -> Chart:
    """A chart of lines over the same places.

    Args:
        title: What is shown.
        x: Places on the x axis, rising.
        series: The lines; each has as many values.
        across: The x axis.
        upright: The y axis.
        marked: A place on the x axis to be marked, and as what.
        is_low: Draw it low, as an addition to another.
    """
    return Chart(
        title=title,
        x_title=across.title,
        y_title=upright.title,
        lines=tuple(_line(one, x, across, upright) for one in series),
        x_ticks=tuple((across.place(t), minus(across.text(t))) for t in across.ticks()),
        y_ticks=tuple((round(100 - upright.place(t), 2), minus(upright.text(t))) for t in upright.ticks()),
        upright=None if marked is None else (across.place(marked[0]), marked[1]),
        rows=tuple((minus(across.text(at)), tuple(_cell(one, i, upright) for one in series)) for i, at in enumerate(x)),
        is_low=is_low,
    )


def round_numbers(low: float, high: float, *, most: int = 8) -> list[float]:
    """Round numbers from low to high, at most `most`."""
    span = high - low
    if span <= 0:
        return [low]
    unit = 10.0 ** floor(log10(span / most))
    step = next((m * unit for m in (1, 2, 5, 10) if span / (m * unit) < most), 20 * unit)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [0.0 if i == 0 else round(i * step, 12) for i in range(first, last + 1)]


def reach(values: Sequence[float | None], *, least: float = 0.0) -> tuple[float, float]:
    """Round ends of an axis that holds all values and 0."""
    known = [0.0, least, *(v for v in values if v is not None)]
    low, high = min(known), max(known)
    ticks = round_numbers(low, high if high > low else low + 1.0)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    return floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step or step


def floor_of(values: Sequence[float | None]) -> tuple[float, float]:
    """Ends of an axis of AUROCs: from a tenth below the worst, and never above guessing, to 1."""
    return floor(10 * min([0.5, *(v for v in values if v is not None)]) + 1e-9) / 10, 1.0


def minus(text: str) -> str:
    """A number with a true minus sign."""
    return text.replace("-", "\u2212")


def plain_percent(value: float) -> str:
    """A tick of an axis of shares."""
    return f"{100 * value:g}%"


def _line(one: Series, x: Sequence[float], across: Axis, upright: Axis) -> Line:
    def corner(i: int, value: float) -> str:
        return f"{across.place(x[i])},{round(100 - upright.place(value), 2)}"

    known = [i for i, v in enumerate(one.values) if v is not None]
    strokes = [" ".join(corner(i, one.values[i] or 0.0) for i in run) for run in _runs(known) if len(run) > 1]
    dots = () if one.is_level else tuple(_dot(one, i, x, across, upright) for i in known)
    return Line(name=one.name, style=one.style, strokes=tuple(strokes), bands=tuple(_bands(one, corner)), dots=dots)


def _bands(one: Series, corner: Callable[[int, float], str]) -> Iterator[str]:
    edges = zip(one.low, one.high, strict=True)
    known = [i for i, (low, high) in enumerate(edges) if low is not None and high is not None]
    for run in _runs(known):
        if len(run) > 1:
            there = [corner(i, one.high[i] or 0.0) for i in run]
            back = [corner(i, one.low[i] or 0.0) for i in reversed(run)]
            yield " ".join([*there, *back])


def _dot(one: Series, i: int, x: Sequence[float], across: Axis, upright: Axis) -> Dot:
    value = one.values[i] or 0.0
    name = across.title.partition(",")[0]
    text = f"{one.name}; {name} {minus(across.text(x[i]))}: {_cell(one, i, upright)}"
    return Dot(x=across.place(x[i]), y=round(100 - upright.place(value), 2), text=text)


def _cell(one: Series, i: int, upright: Axis) -> str:
    value = one.values[i]
    if value is None:
        return wording.MISSING
    is_share = upright.text is plain_percent

    def written(v: float) -> str:
        return wording.percent(v) if is_share else wording.number(v, 3)

    low, high = (one.low[i], one.high[i]) if one.low else (None, None)
    bounds = "" if low is None or high is None else f" [{written(low)} to {written(high)}]"
    note = f", {one.notes[i]}" if one.notes and one.notes[i] else ""
    return f"{written(value)}{bounds}{note}"


def _runs(indices: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for i in indices:
        if runs and i == runs[-1][-1] + 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs
