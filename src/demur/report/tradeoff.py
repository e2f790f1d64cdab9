"""The trade-off plot: what a recipe gains in saying no, what it loses in answering, and what it costs elsewhere.

One point for each recipe and share of the data: the mean over seeds, with Student's interval where there are two or
more. A plain SVG file, so that it can stand in documentation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, sqrt
from statistics import fmean, stdev

from demur.core.errors import BadInputError
from demur.report.escaping import visible
from demur.stats.student import t_quantile

# Told apart by shape as well as by colour; a palette that is safe for the colour-blind.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#5f5f5f")
_SHAPES = ("disc", "square", "diamond", "up", "down", "cross", "ring")
_PANEL, _GAP, _TOP, _LEFT, _LINE = 300, 90, 60, 64, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One trained model.

    Attributes:
        recipe: Name of its recipe; the untrained model is 'base'.
        fraction: Share of the training rows, 0 to 1; 0 for the base.
        seed: Seed of the run.
        declined: Share of should-refuse prompts declined.
        answered: Share of contrast prompts answered.
        ability: Any figure of general ability of which more is better, as a share of the base's.
    """

    recipe: str
    fraction: float
    seed: int
    declined: float
    answered: float
    ability: float


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds with its 95% interval; the bounds are the mean where there is one seed."""

    at: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A recipe at a share of the data: its three figures over seeds."""

    recipe: str
    fraction: float
    declined: Mean
    answered: Mean
    ability: Mean


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """Mean and Student's 95% interval.

    Raises:
        BadInputError: No values.
    """
    if not values:
        raise BadInputError("trade-off: expected at least one seed, got none")
    at, n = fmean(values), len(values)
    half = t_quantile(0.95, n - 1) * stdev(values) / sqrt(n) if n > 1 else 0.0
    return Mean(at, at - half, at + half, n)


def places(arms: Iterable[Arm]) -> list[Place]:
    """Arms gathered over seeds, in the order in which recipes and shares first come."""
    groups: dict[tuple[str, float], list[Arm]] = {}
    for arm in arms:
        groups.setdefault((arm.recipe, arm.fraction), []).append(arm)
    return [
        Place(
            recipe=recipe,
            fraction=fraction,
            declined=mean_over_seeds([arm.declined for arm in group]),
            answered=mean_over_seeds([arm.answered for arm in group]),
            ability=mean_over_seeds([arm.ability for arm in group]),
        )
        for (recipe, fraction), group in groups.items()
    ]


def tradeoff_svg(arms: Sequence[Arm], *, ability: str = "ability, share of the base's") -> str:
    """The plot as an SVG document: declining against answering, and declining against general ability.

    Args:
        arms: Every trained model, and the base with recipe 'base'.
        ability: Label of the third axis.

    Raises:
        BadInputError: No arms.
    """
    found = places(arms)
    if not found:
        raise BadInputError("trade-off: expected at least one trained model, got none")
    recipes = list(dict.fromkeys(place.recipe for place in found))
    bounds = _around([v for place in found for v in (place.ability.at, place.ability.low, place.ability.high)])
    width, second = 2 * _PANEL + _GAP + _LEFT + 30, _LEFT + _PANEL + _GAP
    rows = ceil(len(recipes) / 3)
    height = _TOP + _PANEL + 70 + _LINE * rows
    parts = [_axes(_LEFT, (0.0, 1.0), "contrast prompts answered"), _axes(second, bounds, ability)]
    for i, recipe in enumerate(recipes):
        sizes = [place for place in found if place.recipe == recipe]
        parts.append(_path([(_x(p.answered.at, _LEFT, (0.0, 1.0)), _y(p.declined.at)) for p in sizes], _look(i)[0]))
        parts.append(_path([(_x(p.ability.at, second, bounds), _y(p.declined.at)) for p in sizes], _look(i)[0]))
    for place in found:
        look = _look(recipes.index(place.recipe))
        parts.append(_point(place, place.answered, _LEFT, (0.0, 1.0), look))
        parts.append(_point(place, place.ability, second, bounds, look))
    parts += [_key(i, name) for i, name in enumerate(recipes)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="system-ui, sans-serif" font-size="12" aria-labelledby="title">'
        '<title id="title">Should-refuse prompts declined, against contrast prompts answered and general ability'
        f'</title>{_STYLE}<rect class="paper" width="{width}" height="{height}"/>'
        '<text class="ink" x="14" y="24" font-weight="600">should-refuse prompts declined, by recipe and share of the '
        f"training rows (size of the mark)</text>{''.join(parts)}</svg>\n"
    )


def tradeoff_table(arms: Sequence[Arm]) -> str:
    """The same as a Markdown table: mean and interval over seeds."""
    lines = [
        "| recipe | share of rows | seeds | should refuse, declined | contrast, answered | ability |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for place in places(arms):
        figures = " | ".join(_words(mean) for mean in (place.declined, place.answered, place.ability))
        name = visible(place.recipe).replace("|", "\\|")
        lines.append(f"| {name} | {place.fraction:.0%} | {place.declined.n} | {figures} |")
    return "\n".join(lines) + "\n"


_STYLE = (
    "<style>.paper{fill:#fff}.ink{fill:#1c1c1c}.soft{fill:#666}.grid{stroke:#ddd}.chance{stroke:#bbb;"
    "stroke-dasharray:4 4}@media(prefers-color-scheme:dark){.paper{fill:#16181c}.ink{fill:#eee}.soft{fill:#aaa}"
    ".grid{stroke:#333}.chance{stroke:#555}}</style>"
)


def _words(mean: Mean) -> str:
    if mean.n < 2:
        return f"{100 * mean.at:.1f} %"
    return f"{100 * mean.at:.1f} % [{100 * mean.low:.1f}, {100 * mean.high:.1f}]"


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Round ends of an axis of four parts that holds all values."""
    for part in (0.01, 0.02, 0.05, 0.1, 0.25):
        low = floor(min(values) / part + 1e-9) * part
        if low + 4 * part >= max(values):
            return low, low + 4 * part
    return min(values), max(values)  # wider than any share: no round ends


def _look(number: int) -> tuple[str, str]:
    return _COLOURS[number % len(_COLOURS)], _SHAPES[number % len(_SHAPES)]


def _x(value: float, left: float, bounds: tuple[float, float]) -> float:
    share = (value - bounds[0]) / (bounds[1] - bounds[0])
    return round(left + _PANEL * min(1.0, max(0.0, share)), 1)


def _y(value: float) -> float:
    return round(_TOP + _PANEL * (1 - min(1.0, max(0.0, value))), 1)


def _axes(left: int, bounds: tuple[float, float], label: str) -> str:
    parts = []
    for i in range(5):
        x, y, share = left + _PANEL * i / 4, _TOP + _PANEL * i / 4, bounds[0] + (bounds[1] - bounds[0]) * i / 4
        parts.append(
            f'<path class="grid" d="M{x:g} {_TOP}v{_PANEL}M{left} {y:g}h{_PANEL}" fill="none"/>'
            f'<text class="soft" x="{x:g}" y="{_TOP + _PANEL + 18}" text-anchor="middle">{100 * share:.0f}%</text>'
            f'<text class="soft" x="{left - 8}" y="{y + 4:g}" text-anchor="end">{100 - 25 * i}%</text>'
        )
    middle = left + _PANEL / 2
    below = f'<text class="ink" x="{middle:g}" y="{_TOP + _PANEL + 38}" text-anchor="middle">{escape(label)}</text>'
    return "".join(parts) + below


def _point(place: Place, across: Mean, left: int, bounds: tuple[float, float], look: tuple[str, str]) -> str:
    x, y = _x(across.at, left, bounds), _y(place.declined.at)
    whiskers = (
        f'<path d="M{_x(across.low, left, bounds)} {y}H{_x(across.high, left, bounds)}'
        f'M{x} {_y(place.declined.low)}V{_y(place.declined.high)}" stroke="{look[0]}" fill="none" opacity="0.6"/>'
        if place.declined.n > 1
        else ""
    )
    name = f"{place.recipe}, {place.fraction:.0%} of the rows" if place.fraction else place.recipe
    size = 4 + 4 * sqrt(place.fraction)
    return f"<g><title>{escape(visible(name))}</title>{whiskers}{_mark(x, y, size, look)}</g>"


def _path(points: Sequence[tuple[float, float]], colour: str) -> str:
    """A faint line through one recipe's points, from little data to all."""
    line = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{line}" stroke="{colour}" fill="none" opacity="0.35"/>' if len(points) > 1 else ""


def _mark(x: float, y: float, size: float, look: tuple[str, str]) -> str:
    colour, shape = look
    r = round(size, 1)
    paths = {
        "square": f"M{-r}{-r}H{r}V{r}H{-r}z",
        "diamond": f"M0 {-1.3 * r:.1f}L{1.3 * r:.1f} 0 0 {1.3 * r:.1f} {-1.3 * r:.1f} 0z",
        "up": f"M0 {-1.2 * r:.1f}L{1.1 * r:.1f} {r}H{-1.1 * r:.1f}z",
        "down": f"M0 {1.2 * r:.1f}L{1.1 * r:.1f} {-r}H{-1.1 * r:.1f}z",
    }
    at = f'transform="translate({x} {y})"'
    if shape in paths:
        return f'<path {at} d="{paths[shape]}" fill="{colour}"/>'
    if shape == "cross":
        return f'<path {at} d="M{-r}{-r}L{r} {r}M{-r} {r}L{r}{-r}" stroke="{colour}" stroke-width="3"/>'
    filled = f'fill="{colour}"' if shape == "disc" else f'fill="none" stroke="{colour}" stroke-width="2.5"'
    return f'<circle {at} r="{r}" {filled}/>'


def _key(number: int, name: str) -> str:
    column, row = number % 3, number // 3
    x, y = _LEFT + 240 * column, _TOP + _PANEL + 62 + _LINE * row
    return f'{_mark(x, y - 4, 6, _look(number))}<text class="ink" x="{x + 14}" y="{y}">{escape(visible(name))}</text>'
