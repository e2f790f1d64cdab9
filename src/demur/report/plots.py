"""Geometry of the plots: positions in percent of the plot's width and height, drawn by the templates.

Percentages instead of a scaled drawing keep letters and marks at their size on a phone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from demur.core.profile import Cell, Interval, Profile

_NARROWEST = 300.0  # pixels: labels that do not collide here do not collide on a wider plot
_LETTER, _LINE, _GAP = 6.6, 15.0, 9.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """An estimate with its interval on one axis, in percent of its length."""

    at: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Length of the interval."""
        return round(self.high - self.low, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One part of a stacked bar."""

    key: str
    name: str
    n: int
    share: float
    start: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A stacked bar."""

    name: str
    n: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One cell in the trade-off plot; `dx`, `dy` in pixels and `anchor` place its label."""

    key: str
    name: str
    label: str
    x: float
    y: float
    dx: float = 0.0
    dy: float = 0.0
    anchor: str = "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tradeoff:
    """The trade-off plot: x is contrast answered, y (downwards) is should-refuse not handled."""

    points: tuple[Point, ...]
    overall: Point | None
    across: Mark | None
    upright: Mark | None
    missing: tuple[str, ...]


def interval_mark(interval: Interval) -> Mark | None:
    """The interval on an axis from 0 to 100 %; None without judged rows."""
    if interval.estimate is None:
        return None
    low = interval.estimate if interval.low is None else interval.low
    high = interval.estimate if interval.high is None else interval.high
    return Mark(at=_percent(interval.estimate), low=_percent(low), high=_percent(high))


def difference_mark(low: float | None, at: float | None, high: float | None, *, reach: float) -> Mark | None:
    """A difference on an axis from -reach to +reach, in fractions; cut at its ends."""
    if low is None or at is None or high is None:
        return None
    scaled = [_percent(min(1.0, max(0.0, (value / reach + 1) / 2))) for value in (low, at, high)]
    return Mark(low=scaled[0], at=scaled[1], high=scaled[2])


def stack(name: str, counts: Mapping[str, int], names: Mapping[str, str]) -> Stack:
    """A stacked bar in the order of `names`, strangers last; parts without rows are left out."""
    order = [*names, *(key for key in counts if key not in names)]
    total = sum(counts.values())
    segments, start = [], 0.0
    for key in order:
        n = counts.get(key, 0)
        if n > 0:
            width = 100 * n / total
            segments.append(
                Segment(
                    key=key,
                    name=names.get(key, key),
                    n=n,
                    share=n / total,
                    start=round(start, 3),
                    width=round(width, 3),
                )
            )
            start += width
    return Stack(name=name, n=total, segments=tuple(segments))


def tradeoff(profile: Profile) -> Tradeoff:
    """One labelled point for each category with both sides, and the whole suite with its cross."""
    return tradeoff_of(profile.categories, profile.overall)


def tradeoff_of(categories: Sequence[Cell], every: Cell) -> Tradeoff:
    """The same for any cells and the cell of all of them; a label is the cell's key."""
    placed = [(c, _position(c)) for c in categories]
    points = [_point(c, at) for c, at in placed if at is not None]
    whole = _position(every)
    overall = _point(every, whole, label="all") if whole is not None else None
    across, upright = interval_mark(every.contrast), interval_mark(every.should_refuse)
    labelled = _label(points if overall is None else [overall, *points], across, upright)
    return Tradeoff(
        points=labelled if overall is None else labelled[1:],
        overall=labelled[0] if overall is not None else None,
        across=across if overall is not None else None,
        upright=upright if overall is not None else None,
        missing=tuple(c.name for c, at in placed if at is None),
    )


def _position(cell: Cell) -> tuple[float, float] | None:
    x, y = cell.contrast.estimate, cell.should_refuse.estimate
    return None if x is None or y is None else (_percent(x), _percent(1 - y))


def _point(cell: Cell, at: tuple[float, float], label: str | None = None) -> Point:
    text = label or (cell.key if len(cell.key) <= 16 else cell.key[:15] + "…")
    return Point(key=cell.key, name=cell.name, label=text, x=at[0], y=at[1])


def _label(points: Sequence[Point], across: Mark | None, upright: Mark | None) -> tuple[Point, ...]:
    taken: list[_Box] = [_Box(0, 0, 110, 22), _Box(190, 278, 300, 300), _Box(255, 0, 300, 22)]  # the corners' names
    taken += [_around(p.x * _NARROWEST / 100, p.y * _NARROWEST / 100, 6, 6) for p in points]
    if points and across and upright:
        middle_x, middle_y = points[0].x * _NARROWEST / 100, points[0].y * _NARROWEST / 100
        taken.append(_around(middle_x, middle_y, across.width * _NARROWEST / 200, 2))
        taken.append(_around(middle_x, middle_y, 2, upright.width * _NARROWEST / 200))
    placed = []
    for point in points:
        best = min(_candidates(point), key=lambda c: c[1].cost(taken))
        taken.append(best[1])
        placed.append(best[0])
    return tuple(placed)


def _candidates(point: Point) -> Iterable[tuple[Point, "_Box"]]:
    x, y, width = point.x * _NARROWEST / 100, point.y * _NARROWEST / 100, len(point.label) * _LETTER
    for dy in (0.0, -_GAP - 5, _GAP + 5, -2 * _GAP - 8, 2 * _GAP + 8):
        for anchor, dx in (("start", _GAP), ("end", -_GAP), ("middle", 0.0)):
            left = x + dx - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
            moved = Point(
                key=point.key, name=point.name, label=point.label, x=point.x, y=point.y, dx=dx, dy=dy, anchor=anchor
            )
            yield moved, _Box(left, y + dy - _LINE / 2, left + width, y + dy + _LINE / 2)


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def cost(self, others: Iterable["_Box"]) -> float:
        covered = sum(
            max(0.0, min(self.right, o.right) - max(self.left, o.left))
            * max(0.0, min(self.bottom, o.bottom) - max(self.top, o.top))
            for o in others
        )
        outside = max(0.0, -self.left) + max(0.0, self.right - _NARROWEST)
        outside += max(0.0, -self.top) + max(0.0, self.bottom - _NARROWEST)
        return covered + 50 * outside


def _around(x: float, y: float, half_width: float, half_height: float) -> _Box:
    return _Box(x - half_width, y - half_height, x + half_width, y + half_height)


def _percent(fraction: float) -> float:
    return round(100 * fraction, 2)
