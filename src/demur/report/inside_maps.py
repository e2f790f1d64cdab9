"""Heat maps as tables of shaded numbers, and the plane of harmfulness and refusal with a mark for each prompt.

A heat map is a real table, so that it can be read aloud, copied and read in black and white.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from demur.core.direction_study import DirectionStudy, MapPoint, Numbers, PlaceMap
from demur.report import wording
from demur.report.inside_plots import Axis, minus, reach

STEPS = 9  # shades either side of the middle, in the style sheet
BUCKETS = {
    "refused_harmful": "harmful, declined",
    "accepted_harmful": "harmful, answered",
    "refused_harmless": "harmless, declined",
    "accepted_harmless": "harmless, answered",
    "": "no verdict",
}
_WHITE = {"\n": "↵", "\t": "⇥", "\r": "␍", " ": "␣"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One number of a heat map; `shade` is a class of the style sheet, `title` the number in full."""

    text: str
    title: str
    shade: str
    is_ringed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A heat map: heads as (name, remark), lines as (name, fields), the first on top; `key` explains some shades."""

    title: str
    lead: str
    corner: str
    heads: tuple[tuple[str, str], ...]
    lines: tuple[tuple[str, tuple[Field | None, ...]], ...]
    key: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Shades over numbers: none at `middle`, the full one `reach` away.

    Attributes:
        middle: Number without a shade.
        reach: Distance from it of the full shade.
        digits: Digits after the point.
        ends: Numbers that the key runs over; None = the whole scale.
    """

    middle: float = 0.0
    reach: float = 1.0
    digits: int = 2
    ends: tuple[float, float] | None = None

    def shade(self, value: float) -> str:
        """Class of a number's shade."""
        share = (value - self.middle) / (self.reach or 1.0)
        step = min(STEPS, round(STEPS * abs(share)))
        return f"{'up' if share > 0 else 'down'}{step}" if step else "level"

    def text(self, value: float) -> str:
        """The number as briefly as it can be written, e.g. '.93' or '−.1'."""
        written = f"{value:.{self.digits}f}"
        if float(written) == 0.0:
            return "0"
        if abs(float(written)) < 1:
            written = written.replace("0.", ".", 1)
        return minus(written)

    def key(self) -> tuple[tuple[str, str], ...]:
        """Five shades and their numbers."""
        low, high = self.ends or (self.middle - self.reach, self.middle + self.reach)
        values = [low + (high - low) * share for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
        return tuple((self.shade(v), minus(f"{v:.3g}")) for v in values)


AUROC = Scale(middle=0.5, reach=0.5)
COSINE = Scale()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanePoint:
    """One prompt in the plane; `key` is its bucket, `text` all there is to say on hover."""

    x: float
    y: float
    key: str
    bucket: str
    category: str
    prompt: str
    harm: str
    refusal: str

    @property
    def text(self) -> str:
        """What a reader sees on hover."""
        kind = f"{self.bucket}; {self.category}" if self.category else self.bucket
        return f"{self.prompt}\n{kind}\nharmfulness {self.harm}, refusal {self.refusal}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """The plane: points, ticks as (place, text), where 0 lies, and means by bucket as (key, name, n, harm, refusal)."""

    points: tuple[PlanePoint, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    zero: tuple[float, float]
    means: tuple[tuple[str, str, str, str, str], ...]
    categories: tuple[str, ...]


def place_grid(map_: PlaceMap, study: DirectionStudy) -> Grid:
    """A map by span and layer; AUROCs shade away from 0.5, cosines from 0."""
    is_auroc = map_.name.startswith("AUROC")
    lead = "0.5 is guessing; below it the direction points the wrong way." if is_auroc else "1 is the same direction."
    texts = dict(zip(study.spans, study.span_texts, strict=False))
    values = {(span, layer): v for span, row in zip(map_.spans, map_.values, strict=True)
              for layer, v in zip(study.layers, row, strict=True)}  # fmt: skip
    return grid_over_places(
        map_.name, values, layers=study.layers, spans=map_.spans, texts=texts, scale=AUROC if is_auroc else COSINE,
        lead=lead,
    )  # fmt: skip


def grid_over_places(
    title: str,
    values: Mapping[tuple[str, int], float | None],
    *,
    layers: Sequence[int],
    spans: Sequence[str],
    texts: Mapping[str, str],
    scale: Scale,
    lead: str = "",
) -> Grid:
    """A map by span (columns) and layer (lines, the last layer on top).

    Args:
        title: What the numbers are.
        values: By span and layer; those that are missing are left blank.
        layers: Residual indices.
        spans: Template spans.
        texts: What the tokens at the spans are.
        scale: Shades.
        lead: What a reader must know.
    """

    def field(span: str, layer: int) -> Field | None:
        value = values.get((span, layer))
        return None if value is None else _field(value, f"{span}, layer {layer}", scale)

    return Grid(
        title=title,
        lead=lead,
        corner="layer",
        heads=tuple((span, shown_token(texts.get(span, ""))) for span in spans),
        lines=tuple((str(layer), tuple(field(span, layer) for span in spans)) for layer in reversed(layers)),
        key=scale.key(),
    )


def square(title: str, names: Sequence[str], values: Sequence[Numbers], *, lead: str = "") -> Grid:
    """Cosines of named directions with each other."""
    lines = []
    for name, row in zip(names, values, strict=True):
        fields = [
            None if v is None else _field(v, f"{name} and {other}", COSINE) for other, v in zip(names, row, strict=True)
        ]
        lines.append((name, tuple(fields)))
    return Grid(
        title=title,
        lead=lead,
        corner="",
        heads=tuple((name, "") for name in names),
        lines=tuple(lines),
        key=COSINE.key(),
    )


def head_grid(title: str, values: Sequence[Sequence[float]], ablated: set[tuple[int, int]], *, lead: str) -> Grid:
    """Contribution of every attention head: heads across, blocks up; `ablated` heads are ringed."""
    widest = max((abs(v) for row in values for v in row), default=0.0) or 1.0
    scale = Scale(reach=widest, digits=0 if widest >= 20 else 1 if widest >= 2 else 2)
    lines = []
    for block in reversed(range(len(values))):
        fields = [
            _field(v, f"block {block}, head {head}{', taken out' if (block, head) in ablated else ''}", scale,
                   is_ringed=(block, head) in ablated)
            for head, v in enumerate(values[block])
        ]  # fmt: skip
        lines.append((str(block), tuple(fields)))
    heads = tuple((str(i), "") for i in range(max((len(row) for row in values), default=0)))
    return Grid(title=title, lead=lead, corner="block", heads=heads, lines=tuple(lines), key=scale.key())


def plane(points: Sequence[MapPoint]) -> Plane:
    """The plane of harmfulness (across) and refusal (up)."""
    across, up = (Axis(ends=reach([getattr(p, name) for p in points]), title=name) for name in ("harm", "refusal"))
    placed = [
        PlanePoint(
            x=across.place(p.harm),
            y=round(100 - up.place(p.refusal), 2),
            key=p.bucket if p.bucket in BUCKETS else "",
            bucket=BUCKETS.get(p.bucket, p.bucket),
            category=p.category,
            prompt=p.prompt,
            harm=wording.number(p.harm, 3),
            refusal=wording.number(p.refusal, 3),
        )
        for p in points
    ]
    return Plane(
        points=tuple(placed),
        x_ticks=tuple((across.place(t), minus(f"{t:g}")) for t in across.ticks()),
        y_ticks=tuple((round(100 - up.place(t), 2), minus(f"{t:g}")) for t in up.ticks()),
        zero=(across.place(0.0), round(100 - up.place(0.0), 2)),
        means=tuple(_means(points)),
        categories=tuple(name for name, _ in Counter(p.category for p in points if p.category).most_common()),
    )


def shown_token(text: str) -> str:
    """A token with its white space made visible."""
    return "".join(_WHITE.get(character, character) for character in text)


def _means(points: Sequence[MapPoint]) -> list[tuple[str, str, str, str, str]]:
    found = []
    for key, name in BUCKETS.items():
        own = [p for p in points if (p.bucket if p.bucket in BUCKETS else "") == key]
        if own:
            harm, refusal = fmean(p.harm for p in own), fmean(p.refusal for p in own)
            found.append((key, name, wording.count(len(own)), wording.number(harm, 3), wording.number(refusal, 3)))
    return found


def _field(value: float, where: str, scale: Scale, *, is_ringed: bool = False) -> Field:
    return Field(
        text=scale.text(value),
        title=f"{where}: {wording.number(value, 3)}",
        shade=scale.shade(value),
        is_ringed=is_ringed,
    )
