"""The report of an ability check: every figure with its interval, what changed, where, and which replies lost form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from demur.ability.comparison import ability_rows
from demur.ability.harness import PublishedScore
from demur.ability.result import AbilityResult
from demur.core.profile import Interval
from demur.report import plots
from demur.report.document import render_document
from demur.report.escaping import INVISIBLE, embedded_json, encodable_values
from demur.report.provenance import sections

_MOST_REPLIES, _MOST_CHARACTERS = 40, 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A share by subject or form, for each model: (class of the mark, rate, mark)."""

    name: str
    parts: tuple[tuple[str, Interval, plots.Mark | None], ...]


def render_ability(
    result: AbilityResult,
    against: AbilityResult | None = None,
    published: Mapping[str, Sequence[PublishedScore]] | None = None,
    manifest: Mapping[str, JsonValue] | None = None,
) -> str:
    """The report as one HTML document; every text in it is treated as hostile.

    Args:
        result: The model's check.
        against: The check it is compared with.
        published: Figures of published tasks, by model.
        manifest: How it was made.
    """
    rows = ability_rows(against, result) if against else ability_rows(result)
    sides = [("before", against)] * bool(against) + [("contrast", result)]
    context = {
        "result": result,
        "against": against,
        "rows": rows,
        "notes": list(dict.fromkeys((*result.notes, *(against.notes if against else ())))),
        "chance": round(100 * result.choices.chance, 2) if result.choices else 0,
        "subjects": _lines([(key, one.choices.by_subject if one and one.choices else {}) for key, one in sides]),
        "kinds": _lines([(key, one.formats.by_kind if one and one.formats else {}) for key, one in sides]),
        "lost": _lost(result),
        "published": [(name, score) for name, scores in (published or {}).items() for score in scores],
        "times": [(part, f"{seconds:.1f} s") for part, seconds in result.seconds.items()],
        "made": sections(encodable_values(manifest or {})),
        "data": embedded_json({"invisible": INVISIBLE}),
    }
    return render_document("ability.html.j2", ("common.js",), context)


def _lines(sides: Sequence[tuple[str, Mapping[str, Interval]]]) -> list[Line]:
    names = dict.fromkeys(name for _, rates in sides for name in rates)
    return [
        Line(
            name=name.replace("_", " "),
            parts=tuple((key, rates[name], plots.interval_mark(rates[name])) for key, rates in sides if name in rates),
        )
        for name in names
    ]


def _lost(result: AbilityResult) -> list[tuple[str, str, str]]:
    """Replies without the form asked for: item, what became of it, its beginning."""
    if result.formats is None:
        return []
    failed = [reply for reply in result.formats.replies if not reply.passed]
    return [
        (
            f"{one.id}, {one.kind.replace('_', ' ')}",
            "degenerate" if one.degenerate else "cut off" if one.cut_off else "other form",
            one.reply[:_MOST_CHARACTERS],
        )
        for one in failed[:_MOST_REPLIES]
    ]
