"""The report of looking inside a model: directions, the refusal cliff, steering, a guard; only the parts there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from demur.core.cliff import CliffResult
from demur.core.direction_study import DirectionStudy
from demur.core.errors import BadInputError
from demur.core.steering_study import SteeringStudy
from demur.report.document import render_document, write_document
from demur.report.escaping import INVISIBLE, embedded_json
from demur.report.inside_cliff import cliff_view
from demur.report.inside_directions import directions_view
from demur.report.inside_steering import GuardFindings, guard_view, steering_view
from demur.report.provenance import Entry, sections

_SCRIPTS = ("common.js", "inside.js")
_STYLES = ("style.css", "inside.css")


@dataclass(frozen=True, slots=True, kw_only=True)
class InsideFindings:
    """What was found inside one model; at least one part.

    Attributes:
        directions: Harmfulness and refusal directions.
        cliff: The refusal cliff, or the border of the turns.
        steering: Doses and responses; several where a base model is measured as well.
        guard: A fitted guard.
    """

    directions: DirectionStudy | None = None
    cliff: CliffResult | None = None
    steering: tuple[SteeringStudy, ...] = ()
    guard: GuardFindings | None = None


def render_inside(found: InsideFindings) -> str:
    """The report as one HTML document; every text in it is treated as hostile.

    Raises:
        BadInputError: There is nothing to show.
    """
    parts = _parts(found)
    if not parts:
        raise BadInputError("report of the inside: expected at least one of directions, cliff, steering and guard")
    models = list(dict.fromkeys(model for _, model, _, _ in parts))
    context = {
        "model": models[0],
        "others": models[1:],
        "parts": [name for name, _, _, _ in parts],
        "notes": [(name if len(parts) > 1 else "", note) for name, _, notes, _ in parts for note in notes],
        "directions": directions_view(found.directions) if found.directions else None,
        "cliff": cliff_view(found.cliff) if found.cliff else None,
        "steering": [steering_view(one) for one in found.steering],
        "guard": guard_view(found.guard) if found.guard else None,
        "made": _made(parts),
        "data": embedded_json({"invisible": INVISIBLE}),
    }
    return render_document("inside.html.j2", _SCRIPTS, context, styles=_STYLES)


def write_inside(path: Path, found: InsideFindings) -> None:
    """Write the report; a reader never sees half of it.

    Raises:
        BadInputError: There is nothing to show.
        OSError: The folder cannot be written to.
    """
    write_document(path, render_inside(found))


def _parts(found: InsideFindings) -> list[tuple[str, str, tuple[str, ...], Mapping[str, JsonValue]]]:
    """Name, model, notes and manifest of each part that there is."""
    parts: list[tuple[str, str, tuple[str, ...], Mapping[str, JsonValue]]] = []
    if found.directions:
        one = found.directions
        notes = (*one.notes, *(one.selection.notes if one.selection else ()))
        parts.append(("Directions", one.model, notes, one.manifest))
    if found.cliff:
        name = "Refusal cliff" if found.cliff.kind == "cliff" else "Border of the turns"
        parts.append((name, found.cliff.model, found.cliff.notes, found.cliff.manifest))
    parts += [("Steering", study.model, study.notes, study.manifest) for study in found.steering]
    if found.guard:
        parts.append(("Guard", found.guard.model, found.guard.notes, found.guard.manifest))
    return parts


def _made(
    parts: list[tuple[str, str, tuple[str, ...], Mapping[str, JsonValue]]],
) -> list[tuple[str, list[Entry]]]:
    several = len(parts) > 1
    return [
        (f"{name}: {title[0].lower()}{title[1:]}" if several else title, entries)
        for name, _, _, manifest in parts
        for title, entries in sections(manifest)
    ]
