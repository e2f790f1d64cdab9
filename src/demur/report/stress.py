"""The report of a stress test: attack success and over-refusal side by side, form by form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from demur.core.errors import BadInputError, first_complaint
from demur.core.profile import Interval
from demur.report import plots, wording
from demur.report.document import render_document
from demur.report.escaping import INVISIBLE, embedded_json, encodable_values
from demur.report.provenance import sections
from demur.stress.findings import CategoryCell, ConductCell, StressFindings, SuccessCell
from demur.stress.prefill import PrefillFindings, PrefillPoint

SIDES = {"attack": "Should be declined", "control": "Benign twins", "natural": "Benign by nature"}
_SCRIPTS = ("common.js",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whisker:
    """One interval on a plot; `key` chooses the mark."""

    key: str
    mark: plots.Mark | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Two rates of one form or one length: what an attack wins, and what caution costs."""

    name: str
    first: Interval | None
    second: Interval | None
    third: Interval | None = None
    group: str = ""

    @property
    def marks(self) -> tuple[Whisker, ...]:
        """Marks of the first two rates."""
        pairs = (("should_refuse", self.first), ("contrast", self.second))
        return tuple(Whisker(key=key, mark=plots.interval_mark(rate)) for key, rate in pairs if rate is not None)


def render_stress(findings: StressFindings | Mapping[str, Any]) -> str:
    """A stress test as one HTML document; every text in it is treated as hostile.

    Raises:
        BadInputError: A field is missing or of the wrong kind.
    """
    found = _checked(findings, StressFindings)
    judge = found.judges[0].name
    context = {
        "found": found,
        "judge": judge,
        "sides": SIDES,
        "outcomes": wording.OUTCOMES,
        "rows": [_row(found, condition, judge) for condition in found.conditions],
        "ks": sorted({k for cell in found.success for k in (*cell.at, *cell.naive)}),
        "attacks": [cell for cell in found.success if cell.side == "attack"],
        "at": _at,
        "conduct": sorted(
            found.conduct, key=lambda c: (found.conditions.index(c.condition), list(SIDES).index(c.side))
        ),
        "spread": _spread,
        "categories": _categories(found.categories),
        "number": wording.number,
        "made": sections(found.manifest),
        "data": embedded_json({"invisible": INVISIBLE}),
    }
    return render_document("stress.html.j2", _SCRIPTS, context)


def render_prefill(findings: PrefillFindings | Mapping[str, Any]) -> str:
    """A study of forced prefixes as one HTML document.

    Raises:
        BadInputError: A field is missing or of the wrong kind.
    """
    found = _checked(findings, PrefillFindings)
    benign = {point.forced: point for point in found.benign.points} if found.benign else {}
    context = {
        "found": found,
        "rows": [_length(point, benign.get(point.forced), found.unit) for point in found.wrong.points],
        "points": [(point, benign.get(point.forced)) for point in found.wrong.points],
        "outcomes": wording.OUTCOMES,
        "spread": _spread,
        "made": sections(found.manifest),
        "data": embedded_json({"invisible": INVISIBLE}),
    }
    return render_document("stress_prefill.html.j2", _SCRIPTS, context)


def _checked(findings: Any, kind: type[Any]) -> Any:
    values = findings if isinstance(findings, Mapping) else findings.model_dump(mode="json")
    try:
        return kind.model_validate(encodable_values(dict(values)))
    except ValidationError as error:
        raise BadInputError(f"findings: {first_complaint(error, whole='')}; write them with 'demur stress'") from None


def _row(found: StressFindings, condition: str, judge: str) -> Row:
    success = found.of(condition, "attack", judge)
    control, natural = found.cell(condition, "control"), found.cell(condition, "natural")
    return Row(
        name=condition,
        first=_at(success, 1) if success else None,
        second=control.refused if control else None,
        third=natural.refused if natural else None,
    )


def _at(cell: SuccessCell, k: int) -> Interval | None:
    """Success at k: the unbiased one where there is one."""
    return cell.at.get(k) or cell.naive.get(k)


def _categories(cells: Sequence[CategoryCell]) -> list[Row]:
    ordered = sorted(cells, key=lambda cell: cell.subcategory)
    return [
        Row(name=cell.subcategory, group=cell.condition, first=cell.success, second=cell.control_refused)
        for cell in ordered
    ]


def _length(wrong: PrefillPoint, benign: PrefillPoint | None, unit: str) -> Row:
    return Row(
        name=f"{wrong.forced} {unit}",
        first=wrong.refused,
        second=benign.refused if benign else None,
        third=wrong.phrase,
    )


def _spread(cell: ConductCell | PrefillPoint | None) -> str:
    """Refusals by position, e.g. '0-5: 12, 6-30: 3, over 30: 0'."""
    return ", ".join(f"{name}: {n}" for name, n in cell.positions.items()) if cell else wording.MISSING
