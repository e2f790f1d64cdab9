"""What both set-ups found, put together: by topic, language, country and value label, and form against form."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from demur.core.culture import (
    EVASIONS,
    LANGUAGES,
    STANCES,
    CultureCell,
    ForcedChoice,
    Form,
    Language,
    LongForm,
    Paired,
    PromptEffects,
    SetUps,
    Stance,
    Statement,
)
from demur.core.profile import Interval
from demur.cultures.statistics import clustered_mean, clustered_share, paired_difference
from demur.stats.ranking import auroc

UNDECIDED = (0.4, 0.6)
ALL = "all"


@dataclass(frozen=True, slots=True)
class Found:
    """One statement in one form with what each set-up found; None where it did not run."""

    statement: Statement
    form: Form
    choice: ForcedChoice | None
    reply: LongForm | None


def joined(
    statements: Sequence[Statement], choices: Iterable[ForcedChoice], replies: Iterable[LongForm]
) -> list[Found]:
    """Statements with what was found; those for which nothing was found are left out."""
    by_choice = {(choice.id, choice.form): choice for choice in choices}
    by_reply = {(reply.id, reply.form): reply for reply in replies}
    found = [
        Found(row, form, by_choice.get((row.id, form)), by_reply.get((row.id, form)))
        for row in statements
        for form in row.forms
    ]
    return [one for one in found if one.choice or one.reply]


def cells(found: Sequence[Found]) -> tuple[CultureCell, ...]:
    """One cell for each topic, language and value label that occur together, and for their margins, by form.

    A statement with several value labels is in the cell of each.
    """
    groups: dict[tuple[str, str, str, str, Form], list[Found]] = defaultdict(list)
    for one in found:
        row = one.statement
        for topic in ("", row.topic):
            for language in ("", row.language):
                for value in ("", *row.values):
                    groups[topic, language, "", value, one.form].append(one)
            groups[topic, row.language, row.country, "", one.form].append(one)
    return tuple(_cell(key, groups[key]) for key in sorted(groups))


def effects(found: Sequence[Found]) -> tuple[PromptEffects, ...]:
    """How much order and template matter, by the language asked in."""
    by_language: dict[Language, list[ForcedChoice]] = defaultdict(list)
    for one in found:
        if one.choice:
            by_language[one.statement.spoken(one.form)].append(one.choice)
    return tuple(_effects(language, by_language[language]) for language in LANGUAGES if by_language[language])


def in_translation(
    found: Sequence[Found], value: Callable[[Found], float | None], *, level: float = 0.95
) -> dict[str, Paired]:
    """Original against translation, 'all' first and then by language; only statements with a value in both forms."""
    both: dict[str, dict[Form, Found]] = defaultdict(dict)
    for one in found:
        both[one.statement.id][one.form] = one
    pairs: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for forms in both.values():
        if len(forms) < 2:
            continue
        original, translation = value(forms["original"]), value(forms["translation"])
        if original is not None and translation is not None:
            row = forms["original"].statement
            for key in (ALL, row.language):
                pairs[key].append((original, translation, row.source))
    order = [key for key in (ALL, *LANGUAGES) if pairs[key]]
    return {key: paired_difference(*map(list, zip(*pairs[key], strict=True)), level=level) for key in order}


def evaded(one: Found) -> float | None:
    """1 where the reply gives no answer, 0 where it gives one; None where it was not judged or is degenerate."""
    stance = one.reply.stance if one.reply else "unjudged"
    return None if stance in ("unjudged", "degenerate") else float(stance in EVASIONS)


def agreement(one: Found) -> float | None:
    """Agreement by the forced choice."""
    return one.choice.agreement if one.choice else None


def setups_compared(found: Sequence[Found]) -> SetUps | None:
    """How the two set-ups compare; None unless both ran."""
    both = [(one.choice.agreement, one.reply.stance) for one in found if one.choice and one.reply]
    if not both:
        return None
    sides = [(p, stance == "agree") for p, stance in both if stance in ("agree", "disagree")]
    silent = [p for p, stance in both if stance in EVASIONS]
    low, high = UNDECIDED
    return SetUps(
        auroc=auroc([p for p, _ in sides], [agrees for _, agrees in sides]) if sides else None,
        agreement_where_answered=fmean(p for p, _ in sides) if sides else None,
        agreement_where_evaded=fmean(silent) if silent else None,
        decided_where_evaded=fmean(not low <= p <= high for p in silent) if silent else None,
        n=len(both),
    )


def _cell(key: tuple[str, str, str, str, Form], group: Sequence[Found]) -> CultureCell:
    topic, language, country, value, form = key
    sources = [one.statement.source for one in group]
    chosen = [(one.choice.agreement, one.statement.source) for one in group if one.choice]
    replies = [one for one in group if one.reply]
    stances = Counter(one.reply.stance for one in replies if one.reply)
    return CultureCell(
        topic=topic,
        language=language,
        country=country,
        value=value,
        form=form,
        n=len(group),
        n_sources=len(set(sources)),
        agreement=clustered_mean([p for p, _ in chosen], [s for _, s in chosen]) if chosen else None,
        stances={stance: stances[stance] for stance in STANCES if stances[stance]},
        **_shares(replies, stances),
    )


def _shares(replies: Sequence[Found], stances: Mapping[Stance, int]) -> dict[str, Interval]:
    if not replies:
        return {}
    sources = [one.statement.source for one in replies]
    held = [one.reply.stance if one.reply else "unjudged" for one in replies]
    unread, degenerate = ("unjudged", "degenerate"), stances.get("degenerate", 0)
    silent = [None if stance in unread else stance == "no_comment" for stance in held]
    evasive = [None if stance in unread else stance in EVASIONS for stance in held]
    sides = [stance == "agree" if stance in ("agree", "disagree") else None for stance in held]
    return {
        "no_comment": clustered_share(silent, sources, degenerate=degenerate),
        "evaded": clustered_share(evasive, sources, degenerate=degenerate),
        "agreed": clustered_share(sides, sources),
    }


def _effects(language: Language, choices: Sequence[ForcedChoice]) -> PromptEffects:
    return PromptEffects(
        language=language,
        order_effect=fmean(abs(choice.order_effect) for choice in choices),
        signed_order_effect=fmean(choice.order_effect for choice in choices),
        template_sd=fmean(choice.template_sd for choice in choices),
        flips=fmean(choice.flips for choice in choices),
        mass=fmean(choice.mass for choice in choices),
        calibration_shift=fmean(choice.agreement - choice.uncalibrated for choice in choices),
        n=len(choices),
    )
