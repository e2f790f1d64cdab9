"""The report of two runs on the same prompts: what changed, by how much, and which replies."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from demur.core.errors import BadInputError, first_complaint
from demur.report import plots, wording
from demur.report.document import render_document
from demur.report.escaping import INVISIBLE, embedded_json, encodable_values
from demur.report.provenance import contrasted

_SCRIPTS = ("common.js", "listing.js", "changed.js")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SideChange(_Record):
    """Rate of B minus rate of A on one side; None where no prompt was judged in both runs."""

    key: str
    category: str = ""
    rate_a: float | None = None
    rate_b: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    n: int = 0
    a_only: int = 0
    b_only: int = 0

    @property
    def is_clear(self) -> bool:
        """Whether interval and exact test both exclude that nothing changed."""
        if self.low is None or self.high is None or self.p_value is None:
            return False
        return (self.low > 0 or self.high < 0) and self.p_value < 0.05


class Gate(_Record):
    """A condition that the second run had to meet."""

    name: str
    limit: float | str | None = None
    observed: float | str | None = None
    met: bool


class Changed(_Record):
    """One prompt whose verdict differs between the runs."""

    id: str
    category: str = ""
    subcategory: str = ""
    expected: str = ""
    prompt: str = ""
    response_a: str = ""
    response_b: str = ""
    outcome_a: str = ""
    outcome_b: str = ""
    appropriate_a: bool | None = None
    appropriate_b: bool | None = None


class Comparison(_Record):
    """Two runs side by side."""

    model_a: str
    model_b: str
    suite: str = ""
    n_paired: int = 0
    n_only_a: int = 0
    n_only_b: int = 0
    sides: tuple[SideChange, ...] = ()
    categories: tuple[SideChange, ...] = ()
    changed: tuple[Changed, ...] = ()
    gates: tuple[Gate, ...] = ()
    manifest_a: dict[str, Any] = {}
    manifest_b: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeView:
    """One difference as words and as a mark."""

    key: str
    change: SideChange
    points: str
    bounds: str
    p: str
    mark: plots.Mark | None


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """The comparison as one HTML document.

    Args:
        comparison: Fields as in `Comparison`; every text in it is treated as hostile.

    Raises:
        BadInputError: A field is missing or of the wrong kind; names it.
    """
    found = _read(comparison)
    reach = _reach([*found.sides, *found.categories])
    context = {
        "comparison": found,
        "sides": [(_view(side, reach), _reading(side)) for side in found.sides],
        "names": wording.SIDES,
        "groups": _by_category(found.categories, reach),
        "reach": f"{100 * reach:.0f}",
        "gates": [(gate, _value(gate.observed), _value(gate.limit)) for gate in found.gates],
        "counts": _counts(found),
        "made": contrasted(found.manifest_a, found.manifest_b),
        "data": embedded_json(_data(found)),
    }
    return render_document("comparison.html.j2", _SCRIPTS, context)


def _read(comparison: Mapping[str, Any]) -> Comparison:
    try:
        return Comparison.model_validate(encodable_values(dict(comparison)))
    except ValidationError as error:
        raise BadInputError(
            f"comparison: {first_complaint(error, whole='')}; write it with 'demur compare --json'"
        ) from None


def _reach(changes: Sequence[SideChange]) -> float:
    ends = [abs(bound) for c in changes for bound in (c.low, c.difference, c.high) if bound is not None]
    return min(1.0, max(0.1, ceil(10 * max(ends, default=0.1)) / 10))


def _view(change: SideChange, reach: float) -> ChangeView:
    has_bounds = change.low is not None and change.high is not None
    return ChangeView(
        key=change.key,
        change=change,
        points=wording.points(change.difference),
        bounds=f"{wording.points(change.low)} to {wording.points(change.high)}" if has_bounds else wording.MISSING,
        p=wording.p_value(change.p_value),
        mark=plots.difference_mark(change.low, change.difference, change.high, reach=reach),
    )


def _reading(change: SideChange) -> str:
    if change.difference is None:
        return "No prompt of this side was judged in both runs."
    moved = f"{wording.plural(change.b_only, 'prompt')} gained, {change.a_only:,} lost."
    if not change.is_clear:
        return f"No difference that {wording.plural(change.n, 'prompt')} could show: {moved}"
    return f"B does {'better' if change.difference > 0 else 'worse'}, beyond chance: {moved}"


def _by_category(changes: Sequence[SideChange], reach: float) -> list[tuple[str, list[ChangeView]]]:
    groups: dict[str, list[ChangeView]] = defaultdict(list)
    for change in changes:
        groups[change.category].append(_view(change, reach))
    return list(groups.items())


def _value(value: float | str | None) -> str:
    if value is None:
        return wording.MISSING
    return value if isinstance(value, str) else f"{value:.4g}".replace("-", "\u2212")


def _counts(found: Comparison) -> list[tuple[str, str]]:
    verdicts = [(c.appropriate_a, c.appropriate_b) for c in found.changed]
    return [
        ("Prompts in both runs", wording.count(found.n_paired)),
        ("Only in A", wording.count(found.n_only_a)),
        ("Only in B", wording.count(found.n_only_b)),
        ("Now appropriate", wording.count(sum(b is True and a is not True for a, b in verdicts))),
        ("No longer appropriate", wording.count(sum(b is False and a is not False for a, b in verdicts))),
    ]


def _data(found: Comparison) -> dict[str, Any]:
    return {
        "invisible": INVISIBLE,
        "names": {"expected": wording.EXPECTATIONS, "outcome": wording.OUTCOMES},
        "rows": [changed.model_dump() for changed in found.changed],
    }
