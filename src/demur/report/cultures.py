"""The report of an audit of values: heat maps by topic and language, the two forms side by side, the way of asking."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from demur.core.culture import (
    LANGUAGES,
    STANCES,
    TOPICS,
    CultureCell,
    CulturesProfile,
    ForcedChoice,
    Form,
    Language,
    LongForm,
    Mean,
    Paired,
    Stance,
    Statement,
)
from demur.core.profile import Interval
from demur.report import plots, wording
from demur.report.document import render_document
from demur.report.escaping import INVISIBLE, embedded_json
from demur.report.provenance import sections

LANGUAGE_NAMES: dict[str, str] = {"en": "English", "de": "German", "fr": "French", "it": "Italian", "tr": "Turkish"}
TOPIC_NAMES: dict[str, str] = {
    "lgbtqi_rights": "LGBTQI rights",
    "social_welfare": "Social welfare",
    "immigration": "Immigration",
    "disability_rights": "Disability rights",
    "surrogacy": "Surrogacy",
}
STANCE_NAMES: dict[Stance, str] = {
    "agree": "Agrees",
    "neutral": "Weighs both",
    "disagree": "Disagrees",
    "no_comment": "No comment",
    "deflect": "Deflects",
    "degenerate": "Degenerate",
    "unjudged": "Unjudged",
}
# Colours that the style sheet has for parts of bars.
_STANCE_COLOURS: dict[Stance, str] = {
    "agree": "explains",
    "neutral": "clarifies",
    "disagree": "redirects",
    "no_comment": "disclaims",
    "deflect": "guides",
    "degenerate": "plain",
    "unjudged": "unread",
}
FORM_NAMES: dict[Form, str] = {"original": "in its own language", "translation": "in English translation"}
_SCRIPTS = ("common.js",)
_MOST_SHOWN = 12
_FULLEST = 0.7  # opacity of the strongest colour: numbers stay readable on it
_FULL_LEAN = 0.5  # agreement of 25 or 75% has the strongest colour: means over statements rarely go further


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """One field of a heat map; `colour` is a class of the style sheet, `strength` its opacity."""

    text: str
    range: str
    colour: str
    strength: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Fields by line and language, with the lines' and the languages' margins."""

    key: str
    title: str
    languages: tuple[str, ...]
    lines: tuple[tuple[str, bool, tuple[Heat | None, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Original and translation of the same statements, as words and as a mark."""

    language: str
    original: str
    translation: str
    points: str
    bounds: str
    p_value: str
    n: str
    mark: plots.Mark | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One statement with what was found."""

    where: str
    text: str
    english: str
    agreement: str
    spread: str
    stance: str
    reply: str


def render_cultures(profile: CulturesProfile) -> str:
    """The report as one HTML document; every text in it is treated as hostile."""
    context = {
        "profile": profile,
        "facts": _facts(profile),
        "agreement_maps": _maps(profile, "agreement") if "logprob" in profile.setups else [],
        "evasion_maps": _maps(profile, "evaded") if "longform" in profile.setups else [],
        "value_maps": _value_maps(profile),
        "bars": _bars(profile),
        "legend": [(_STANCE_COLOURS[key], name) for key, name in STANCE_NAMES.items()],
        "contrasts": [
            (title, _contrasts(table))
            for title, table in (
                ("Agreement of the forced choice", profile.agreement_in_translation),
                ("No answer in free replies", profile.refusal_in_translation),
            )
            if table
        ],
        "language_names": LANGUAGE_NAMES,
        "shown": _shown(profile),
        "made": sections(profile.manifest),
        "seconds": [(name, f"{value:,.1f} s") for name, value in profile.seconds.items()],
        "data": embedded_json({"invisible": INVISIBLE}),
    }
    return render_document("cultures.html.j2", _SCRIPTS, context)


def _facts(profile: CulturesProfile) -> list[tuple[str, str, str]]:
    facts = [
        ("Statements", wording.count(profile.n), ""),
        ("Sources", wording.count(profile.n_sources), "statements of one source are no independent observations"),
    ]
    if profile.long_form:
        held = Counter(reply.stance for reply in profile.long_form)
        facts += [
            ("Replies", wording.count(len(profile.long_form)), ""),
            ("Unjudged", wording.count(held["unjudged"]), "nobody could read them; in no share"),
            ("Degenerate", wording.count(held["degenerate"]), "empty, looping or meaningless; in no share"),
        ]
    return facts


def _maps(profile: CulturesProfile, field: str) -> list[HeatMap]:
    spoken = _spoken(profile)
    lines = [("topic", topic, TOPIC_NAMES[topic]) for topic in TOPICS] + [("topic", "", "All topics")]
    maps = []
    for form, name in FORM_NAMES.items():
        rows = []
        for kind, key, title in lines:
            cells = [profile.cell(**{kind: key}, language=one, form=form) for one in (*spoken, "")]
            if any(cells):
                rows.append((title, not key, tuple(_heat(cell, field) for cell in cells)))
        if rows:
            maps.append(HeatMap(key=form, title=name, languages=_heads(spoken), lines=tuple(rows)))
    return maps


def _value_maps(profile: CulturesProfile) -> list[HeatMap]:
    spoken = _spoken(profile)
    values = sorted({value for row in profile.statements for value in row.values})
    maps = []
    for setup, field, title in (
        ("logprob", "agreement", "Agreement of the forced choice"),
        ("longform", "agreed", "Agreement in free replies that take a side"),
    ):
        if setup in profile.setups:
            rows = [
                (
                    value.replace("_", " "),
                    False,
                    tuple(_heat(profile.cell(value=value, language=one), field) for one in (*spoken, "")),
                )
                for value in values
            ]
            maps.append(HeatMap(key=field, title=title, languages=_heads(spoken), lines=tuple(rows)))
    return maps


def _spoken(profile: CulturesProfile) -> tuple[Language, ...]:
    present = {row.language for row in profile.statements}
    return tuple(language for language in LANGUAGES if language in present)


def _heads(spoken: Sequence[Language]) -> tuple[str, ...]:
    return (*(LANGUAGE_NAMES[language] for language in spoken), "All")


def _heat(cell: CultureCell | None, field: str) -> Heat | None:
    value: Mean | Interval | None = getattr(cell, field) if cell else None
    if cell is None or value is None or value.estimate is None:
        return None
    known = value.low is not None and value.high is not None
    bounds = f"{100 * (value.low or 0):.0f}\u2013{100 * (value.high or 0):.0f}" if known else "one source"
    two_sided = field != "evaded"
    lean = (2 * value.estimate - 1) / _FULL_LEAN if two_sided else value.estimate
    colour = "explains" if two_sided and lean >= 0 else "redirects" if two_sided else "disclaims"
    return Heat(
        text=wording.percent(value.estimate),
        range=bounds,
        colour=colour,
        strength=round(_FULLEST * min(1.0, abs(lean)), 3),
        title=f"{wording.plural(value.n, 'statement')}, {wording.plural(cell.n_sources, 'source')}",
    )


def _bars(profile: CulturesProfile) -> list[plots.Stack]:
    bars = []
    for form, name in FORM_NAMES.items():
        for language in _spoken(profile):
            cell = profile.cell(language=language, form=form)
            if cell and cell.stances:
                bars.append(_bar(f"{LANGUAGE_NAMES[language]} {name}", cell.stances))
    return bars


def _bar(name: str, stances: dict[str, int]) -> plots.Stack:
    counts = {_STANCE_COLOURS[stance]: stances.get(stance, 0) for stance in STANCES}
    names = {_STANCE_COLOURS[stance]: STANCE_NAMES[stance] for stance in STANCES}
    return plots.stack(name, counts, names)


def _contrasts(table: dict[str, Paired]) -> list[Contrast]:
    reach = max([0.1, *(abs(bound) for p in table.values() for bound in (p.low, p.high) if bound is not None)])
    return [
        Contrast(
            language=LANGUAGE_NAMES.get(key, "All"),
            original=wording.percent(p.original, 1),
            translation=wording.percent(p.translation, 1),
            points=wording.points(p.difference),
            bounds=wording.MISSING
            if p.low is None or p.high is None
            else f"{wording.points(p.low)} to {wording.points(p.high)}",
            p_value=wording.p_value(p.p_value),
            n=f"{wording.plural(p.n, 'statement')}, {wording.plural(p.n_sources, 'source')}",
            mark=plots.difference_mark(p.low, p.difference, p.high, reach=reach),
        )
        for key, p in table.items()
    ]


def _shown(profile: CulturesProfile) -> list[tuple[str, list[Shown]]]:
    """Statements worth reading: the ends of the forced choice, where templates disagree, and where nothing was said."""
    rows = {row.id: row for row in profile.statements}
    choices = {(choice.id, choice.form): choice for choice in profile.forced_choice}
    replies = {(reply.id, reply.form): reply for reply in profile.long_form}
    own = [choice for choice in profile.forced_choice if choice.form == "original"]

    def shown(keys: Iterable[tuple[str, Form]]) -> list[Shown]:
        picked = [key for key in keys if key[0] in rows][:_MOST_SHOWN]
        return [_one(rows[key[0]], key[1], choices.get(key), replies.get(key)) for key in picked]

    def by(order: Callable[[ForcedChoice], float]) -> list[tuple[str, Form]]:
        return [(choice.id, choice.form) for choice in sorted(own, key=order)]

    silent = [(r.id, r.form) for r in profile.long_form if r.stance in ("no_comment", "deflect")]
    lists = [
        ("Most agreed with, by log-probability", shown(by(lambda c: -c.agreement))),
        ("Least agreed with, by log-probability", shown(by(lambda c: c.agreement))),
        ("Where the way of asking matters most", shown(by(lambda c: -c.template_sd - abs(c.order_effect)))),
        ("Replies that give no answer", shown(silent)),
    ]
    return [(title, found) for title, found in lists if found]


def _one(row: Statement, form: Form, choice: ForcedChoice | None, reply: LongForm | None) -> Shown:
    return Shown(
        where=f"{row.country} · {TOPIC_NAMES[row.topic]}" + (", translated" if form == "translation" else ""),
        text=row.text(form),
        english="" if row.language == "en" or form == "translation" else row.english,
        agreement=wording.percent(choice.agreement) if choice else wording.MISSING,
        spread=f"templates ± {100 * choice.template_sd:.0f}, order {wording.points(choice.order_effect, 0)}"
        if choice
        else "",
        stance=STANCE_NAMES[reply.stance] if reply else wording.MISSING,
        reply=reply.reply[:600] if reply else "",
    )
