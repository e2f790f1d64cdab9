"""The first set-up: which answer a model's probabilities favour, whatever it would say aloud.

For each template and order of the options, the margin is the mean log-probability of the agreeing answer's tokens
minus that of the other's, over the tokens in which they differ. From it the margin of the same question about a
content-free text is taken, so that what the words and their order do by themselves cancels.

Source:
    Calibration by content-free texts: Zhao et al. (2021), "Calibrate Before Use", section 5.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import exp
from pathlib import Path
from statistics import fmean, pstdev

from demur.core.culture import ForcedChoice, Form, Language, Statement
from demur.cultures.resume import NumberJournal, Numbers
from demur.cultures.templates import ORDERS, Template, wordings, wordings_hash
from demur.models.answer_logprobs import Question, Scorer, Weighed, first_mass

Progress = Callable[[int, int], None]
FILE = "choices.jsonl"


def questions(language: Language, text: str) -> list[Question]:
    """Every way of asking about a text: by template, then by order."""
    return [
        Question(template.filled(text, order), template.answers(order))
        for template in wordings()[language].templates
        for order in ORDERS
    ]


def margin(agree: Weighed, disagree: Weighed) -> float:
    """Mean log-probability of the agreeing answer's tokens minus the other's, where the two differ; in nats.

    A beginning that both share says nothing about the choice and would weigh differently in answers of different
    lengths; it is left out. The mean over tokens keeps a longer answer from losing by its length alone.
    """
    pairs = zip(agree.tokens[:-1], disagree.tokens[:-1], strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(agree.tokens), len(disagree.tokens)) - 1)
    return fmean(agree.logprobs[shared:]) - fmean(disagree.logprobs[shared:])


def probability(calibrated: float) -> float:
    """Probability of the agreeing answer, of the two, from a margin in nats."""
    return 1 / (1 + exp(-calibrated)) if calibrated >= 0 else exp(calibrated) / (1 + exp(calibrated))


def forced_choices(
    statements: Sequence[Statement],
    scorer: Callable[[], Scorer],
    *,
    identity: str,
    out: Path,
    progress: Progress = lambda *_: None,
) -> tuple[list[ForcedChoice], int]:
    """Ask about every statement in every form, by every template and in both orders.

    Args:
        statements: What to ask about.
        scorer: Makes the scorer; called only if something is left to compute.
        identity: Names the model; computed numbers are kept in `out` under it.
        out: Folder of the run.
        progress: Called with (texts done, texts).

    Returns:
        What was found, in the order of the statements, originals first; and how many were too long for the model.
    """
    posed = dict.fromkeys((row.spoken(form), row.text(form)) for row in statements for form in row.forms)
    empty = {(language, text): None for language, _ in posed for text in wordings()[language].content_free}
    journal = NumberJournal(out / FILE, identity=f"{identity}\x1f{wordings_hash()}")
    try:
        numbers = _computed([*empty, *posed], scorer, journal, progress)
    finally:
        journal.close()
    missing = sum(not numbers[pair] for pair in posed)
    neutral = {
        language: content_free_margins([numbers[pair] for pair in empty if pair[0] == language])
        for language, _ in posed
    }
    found = [
        choice_of(row.id, form, numbers[pair], neutral[pair[0]], wordings()[pair[0]].templates)
        for row in statements
        for form in row.forms
        if numbers[pair := (row.spoken(form), row.text(form))]
    ]
    return found, missing


def content_free_margins(found: Iterable[Numbers]) -> list[float]:
    """Margin of each way of asking about nothing: the mean over the content-free texts."""
    kept = [rows for rows in found if rows]
    return [fmean(margins) for margins in zip(*([m for m, _ in rows] for rows in kept), strict=True)]


def choice_of(
    statement: str, form: Form, numbers: Numbers, neutral: Sequence[float], templates: Sequence[Template]
) -> ForcedChoice:
    """What the margins of one statement say.

    Args:
        statement: Its identifier.
        form: How it was asked.
        numbers: Margin and mass of every way of asking, by template, then by order.
        neutral: Margins about nothing, in the same order.
        templates: The templates.
    """
    plain = [probability(m) for m, _ in numbers]
    agreed = [probability(m - base) for (m, _), base in zip(numbers, neutral, strict=True)]
    pairs = list(zip(agreed[::2], agreed[1::2], strict=True))  # agreeing answer first, agreeing answer last
    by_template = [fmean(pair) for pair in pairs]
    return ForcedChoice(
        id=statement,
        form=form,
        agreement=fmean(agreed),
        uncalibrated=fmean(plain),
        order_effect=fmean(first - last for first, last in pairs),
        template_sd=pstdev(by_template),
        flips=fmean((first - 0.5) * (last - 0.5) < 0 for first, last in pairs),
        mass=fmean(mass for _, mass in numbers),
        by_template={t.name: round(p, 6) for t, p in zip(templates, by_template, strict=True)},
    )


Posed = tuple[Language, str]


def _computed(
    posed: Sequence[Posed], make: Callable[[], Scorer], journal: NumberJournal, progress: Progress
) -> Mapping[Posed, Numbers]:
    keys = {pair: journal.key(*pair) for pair in posed}
    left = [pair for pair in posed if keys[pair] not in journal.found]
    progress(len(posed) - len(left), len(posed))
    if left:
        groups = [questions(*pair) for pair in left]
        for done, (number, weighed) in enumerate(make().score(groups), start=len(posed) - len(left) + 1):
            rows = [] if weighed is None else [[margin(a, d), first_mass((a, d))] for a, d in weighed]
            journal.add(keys[left[number]], rows)
            progress(done, len(posed))
    return {pair: journal.found[keys[pair]] for pair in posed}
