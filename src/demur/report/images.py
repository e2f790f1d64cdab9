"""The report of an image audit: over-refusal and safety together, how pictures failed to come, and the pictures."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from demur.core.image import OUTCOMES, ImageCategory, ImageFindings, ImageRow, Mechanism, PairTable, PublishedReading
from demur.core.profile import Cell, Interval
from demur.images.outcome import outcome_counts
from demur.images.store import ImageStore
from demur.report import plots, wording
from demur.report.document import render_document
from demur.report.escaping import INVISIBLE, embedded_json
from demur.report.image_gallery import MOST_PICTURES, Gallery, gallery
from demur.report.provenance import sections

OUTCOME_NAMES = {
    "delivered": "Drawn",
    "rewritten": "Drawn from another prompt",
    "blocked_input": "Request blocked",
    "blocked_output": "Picture blocked",
    "declined_in_text": "Declined in words",
    "blank": "Blank or placeholder",
    "no_image_unexplained": "Missing, unexplained",
    "infrastructure_error": "Lost to infrastructure",
}
EVIDENCE_NAMES = {
    "image": "a picture",
    "error_code": "error code",
    "error_message": "error message",
    "finish_reason": "finish reason",
    "flag": "checker's flag",
    "missing": "nothing came",
    "text": "words",
    "frame": "pixels",
    "placeholder": "the same picture elsewhere",
    "transport": "the connection",
    "payload": "a broken file",
}
EXPECTED_NAMES = {"comply": "To draw", "refuse": "To decline", "either": "Either is fine"}
RULE_NAMES = {
    "error": "every error is a refusal",
    "error_or_fewer": "every error and every missing image is a refusal",
    "exact_black": "a frame whose every level is 0 is a refusal",
    "flag": "the checker's flag is a refusal",
}
VISION_NAMES = {
    "faithful": "Shows what was asked",
    "partly": "In part",
    "unfaithful": "Shows something else",
    "harmful": "Harmful",
    "blurred": "Blurred on purpose",
    "substituted": "Substituted",
    "unjudged": "Unjudged",
}
PAIR_NAMES = {
    "right": "Told apart",
    "both_refused": "Both refused",
    "neither_refused": "Neither refused",
    "inverted": "The wrong way round",
}
# What fits beside a point of the plot.
_SHORT = {
    "privacy_individual": "individuals",
    "privacy_public_figure": "public figures",
    "sexual_content": "sexual",
    "illegal_activity": "illegal",
    "self_harm": "self-harm",
    "unsafe_acts": "unsafe acts",
}
_SCRIPTS = ("common.js", "listing.js", "images.js")
_STYLES = ("style.css", "images.css")
_MOST_MECHANISMS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One of the three numbers that only mean something together."""

    key: str
    title: str
    value: str
    mark: plots.Mark | None
    scale: tuple[str, ...]
    range: str
    sentence: str
    aside: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryLine:
    """A category, or a group of them, in the table; `field` is the filter that its name sets."""

    field: str
    key: str
    name: str
    over_refusal: Interval
    safety: Interval
    marks: tuple[tuple[str, plots.Mark | None], ...]
    youden: str
    bounds: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLine:
    """Benign prompts beside their twins, for one category."""

    name: str
    table: PairTable
    bar: plots.Stack
    youden: str
    bounds: str
    p_value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way in which images failed to come, with a vendor's message as an example."""

    key: str
    outcome: str
    evidence: str
    code: str
    category: str
    n: int
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One side as the published harness reads it, and corrected."""

    name: str
    published: Interval
    corrected: Interval
    points: str


def render_images(
    findings: ImageFindings,
    rows: Sequence[ImageRow],
    *,
    asked: Sequence[ImageRow] | None = None,
    store: ImageStore | None = None,
    most_pictures: int = MOST_PICTURES,
) -> str:
    """The report as one HTML document; every text in it is treated as hostile.

    Args:
        findings: What was found.
        rows: Prompts with their results and the expectations that the findings rest on.
        asked: The same with the suite's own expectations; shows which prompts a policy moved.
        store: The run's pictures; None leaves them out.
        most_pictures: Thumbnails in the page.
    """
    shown = gallery(rows, asked or rows, store, most=most_pictures)
    cells = [_cell(category) for category in findings.categories]
    context = {
        "findings": findings,
        "headlines": _headlines(findings.overall),
        "facts": _facts(findings),
        "vision": [(name, wording.count(findings.vision.get(key, 0)), "") for key, name in VISION_NAMES.items()],
        "lines": list(_lines(findings)),
        "whole": _line(findings.overall, "", "All categories"),
        "tradeoff": plots.tradeoff_of(cells, _cell(findings.overall)),
        "pairs": [_pair_line(c) for c in (findings.overall, *findings.categories) if c.pairs.n],
        "bars": _bars(rows),
        "legend": [(key, name, findings.outcomes.get(key, 0)) for key, name in OUTCOME_NAMES.items()],
        "pair_legend": PAIR_NAMES,
        "ways": [_way(one, rows) for one in findings.mechanisms[:_MOST_MECHANISMS]],
        "n_more_ways": max(0, len(findings.mechanisms) - _MOST_MECHANISMS),
        "readings": _readings(findings.published),
        "rule": RULE_NAMES.get(findings.published.rule, findings.published.rule),
        "differences": _differences(findings.published),
        "moves": _moves(rows, asked or rows, {c.key: c.name for c in findings.categories}),
        "gallery": shown,
        "made": sections(findings.manifest),
        "data": embedded_json(_data(findings, shown)),
    }
    return render_document("images.html.j2", _SCRIPTS, context, styles=_STYLES, pictures=True)


def _data(findings: ImageFindings, shown: Gallery) -> dict[str, object]:
    return {
        "invisible": INVISIBLE,
        "names": {
            "category": {c.key: c.name for c in findings.categories},
            "group": {c.key: c.name for c in findings.groups},
            "expected": EXPECTED_NAMES,
            "outcome": OUTCOME_NAMES,
            "evidence": EVIDENCE_NAMES,
        },
        "rows": shown.cards,
        "pictures": shown.pictures,
    }


def _headlines(whole: ImageCategory) -> list[Headline]:
    sides = (
        ("contrast", "Over-refusal", whole.benign, "of the images asked for with harmless prompts were refused."),
        ("should_refuse", "Safety", whole.unsafe, "of the images asked for with prompts to decline were refused."),
    )
    rates = [
        Headline(
            key=key,
            title=title,
            value=wording.percent(side.refused.estimate, 1),
            mark=plots.interval_mark(side.refused),
            scale=("0", "50", "100%"),
            range=f"95% interval {wording.bounds(side.refused, 1)}, {wording.plural(side.refused.n, 'image')} of "
            f"{wording.plural(side.n_prompts, 'prompt')}",
            sentence=sentence,
            aside=_sensitivity(side.with_unexplained, side.refused),
        )
        for key, title, side, sentence in sides
    ]
    gap = Headline(
        key="pairs",
        title="Youden’s J",
        value=_signed(whole.youden),
        mark=plots.difference_mark(whole.youden_low, whole.youden, whole.youden_high, reach=1.0),
        scale=("\u22121", "0", "1"),
        range=f"95% interval {_between(whole.youden_low, whole.youden_high)}",
        sentence="Safety minus over-refusal: 1 tells every prompt apart, 0 is what refusing at random would reach.",
        aside="",
    )
    return [*rates, gap]


def _sensitivity(wider: Interval, refused: Interval) -> str:
    missing = wider.n - refused.n
    if not missing:
        return ""
    counted = wording.plural(missing, "image")
    return f"{wording.percent(wider.estimate, 1)} if {counted} missing for no stated reason were refusals."


def _facts(findings: ImageFindings) -> list[tuple[str, str, str]]:
    counts, whole = findings.outcomes, findings.overall
    n_mixed = whole.benign.n_mixed + whole.unsafe.n_mixed
    facts = [
        ("Prompts", wording.count(findings.n_prompts), ""),
        ("Images asked for", wording.count(findings.n_images), ""),
        (
            "Unexplained",
            wording.count(counts.get("no_image_unexplained", 0)),
            "in no rate, only in the sensitivity line",
        ),
        ("Lost", wording.count(counts.get("infrastructure_error", 0)), "network, account or broken file; in no rate"),
        ("Prompts changed", wording.count(findings.n_revised), "images whose prompt the vendor says it changed at all"),
        ("Both ways", wording.count(n_mixed), "prompts with a picture and a refusal: chance decides"),
    ]
    if whole.safe_response is not None:
        facts.append(("Safe response", wording.with_bounds(whole.safe_response), "refused, or harmless when looked at"))
    return facts


def _lines(findings: ImageFindings) -> Iterator[tuple[CategoryLine, list[CategoryLine]]]:
    """Groups with their categories; a category that is alone in its group stands for it."""
    for group in findings.groups:
        inside = [c for c in findings.categories if c.group == group.key]
        if len(inside) == 1:
            yield _line(inside[0], "category"), []
        else:
            yield _line(group, "group"), [_line(c, "category") for c in inside]
    known = {group.key for group in findings.groups}
    yield from ((_line(c, "category"), []) for c in findings.categories if c.group not in known)


def _line(category: ImageCategory, field: str, name: str = "") -> CategoryLine:
    over_refusal, safety = category.benign.refused, category.safety
    return CategoryLine(
        field=field,
        key=category.key,
        name=name or (category.name.upper() if category.name == "nsfw" else category.name),
        over_refusal=over_refusal,
        safety=safety,
        marks=(("should_refuse", plots.interval_mark(safety)), ("contrast", plots.interval_mark(over_refusal))),
        youden=_signed(category.youden),
        bounds=_between(category.youden_low, category.youden_high),
    )


def _cell(category: ImageCategory) -> Cell:
    none = Interval(estimate=None, low=None, high=None, n=0, hits=0)
    return Cell(
        key=_SHORT.get(category.key, category.key),
        name=category.name,
        category="",
        should_refuse=category.safety,
        contrast=category.utility,
        refused=none,
        pairs=none,
    )


def _pair_line(category: ImageCategory) -> PairLine:
    table, name = category.pairs, "All categories" if category.key == "all" else category.name
    return PairLine(
        name=name,
        table=table,
        bar=plots.stack(name, {key: getattr(table, key) for key in PAIR_NAMES}, PAIR_NAMES),
        youden=_signed(table.youden),
        bounds=_between(table.youden_low, table.youden_high),
        p_value=wording.p_value(table.p_value),
    )


def _bars(rows: Sequence[ImageRow]) -> list[plots.Stack]:
    found = ((name, [row for row in rows if row.expected == key]) for key, name in EXPECTED_NAMES.items())
    return [plots.stack(name, outcome_counts(side), OUTCOME_NAMES) for name, side in found if side]


def _way(one: Mechanism, rows: Sequence[ImageRow]) -> Way:
    key = (one.outcome, one.evidence, one.code, one.category)
    said = (x for row in rows for x in row.results if (x.outcome, x.evidence, x.code, x.category) == key)
    return Way(
        key=one.outcome,
        outcome=OUTCOME_NAMES[one.outcome],
        evidence=EVIDENCE_NAMES[one.evidence],
        code=one.code or wording.MISSING,
        category=one.category or wording.MISSING,
        n=one.n,
        example=next((text[:300] for x in said if (text := x.detail or x.text)), ""),
    )


def _readings(reading: PublishedReading) -> list[Reading]:
    sides = (
        ("Over-refusal", reading.over_refusal, reading.over_refusal_corrected),
        ("Safety", reading.safety, reading.safety_corrected),
    )
    return [Reading(name=name, published=a, corrected=b, points=_apart(a, b)) for name, a, b in sides]


def _apart(published: Interval, corrected: Interval) -> str:
    if published.estimate is None or corrected.estimate is None:
        return wording.MISSING
    return wording.points(corrected.estimate - published.estimate)


def _differences(reading: PublishedReading) -> list[tuple[str, str, int]]:
    """What the two readings disagree about: side, outcome and images; what they agree on is left out."""
    sides = (("a refusal to it alone", reading.counted_too_much), ("a refusal to us alone", reading.missed))
    return [(OUTCOME_NAMES.get(k, k), what, counts[k]) for what, counts in sides for k in OUTCOMES if counts.get(k)]


def _moves(
    rows: Sequence[ImageRow], asked: Sequence[ImageRow], names: Mapping[str, str]
) -> list[tuple[str, str, str, int]]:
    before = {row.id: row.expected for row in asked}
    counts = Counter(
        (names.get(row.category, row.category), EXPECTED_NAMES[before[row.id]], EXPECTED_NAMES[row.expected])
        for row in rows
        if row.id in before and before[row.id] != row.expected
    )
    return [(*key, n) for key, n in counts.most_common()]


def _signed(value: float | None) -> str:
    if value is None:
        return wording.MISSING
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "\u2212")


def _between(low: float | None, high: float | None) -> str:
    return wording.MISSING if low is None or high is None else f"{_signed(low)} to {_signed(high)}"
