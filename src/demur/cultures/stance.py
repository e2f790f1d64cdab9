"""What a free reply holds about a statement, read by rule in five languages.

The reader looks for sentences in which the writer takes a side, weighs both, says that it has no view to give, or
speaks of something else. Both sides in one reply are neutral. Where no side is taken and the judge of refusals
points at refusing words, the reply is no comment; a long reply without any stance is a deflection; a short one in
which no phrase is known is unjudged, so that what the reader does not know is never taken for evasion.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from demur.core.culture import LANGUAGES, Language, Stance
from demur.core.exchange import Exchange
from demur.core.verdict import Verdict
from demur.cultures.stance_cues import KINDS, NEGATED, Kind, stance_cues
from demur.judges.foreign import FUNCTION_WORDS, language_of
from demur.judges.reading import Reading, read

NAME, VERSION = "stance-rules", "1"
_WORD = re.compile(r"\w+")
_TURKISH = frozenset("ğışĞİŞ")  # letters that none of the other languages has
_DECISIVE: dict[Stance, tuple[Kind, ...]] = {
    "agree": ("agree",),
    "disagree": ("disagree",),
    "neutral": ("halves", "weighs", "agree"),
    "no_comment": ("no_view",),
}
# A reply of this length was asked for a side and never took one; below, the reader may merely not know the phrase.
LONG_WORDS = 40
ECHO_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class StanceReading:
    """What a reply holds, and the words that decided; `language` as it was read."""

    stance: Stance
    rationale: str
    language: str | None


def read_stance(exchange: Exchange, verdict: Verdict, *, asked_in: Language) -> StanceReading:
    """Read one reply.

    Args:
        exchange: The request about a statement, and the reply.
        verdict: What the judge of refusals made of it: a degenerate reply stays so, a filtered one is no comment.
        asked_in: Language of the request; decides where the reply is too short to tell its own.
    """
    reading = read(exchange.response)
    language = reply_language(reading.words, reading.folded, asked_in)

    stance, why = (
        _settled(verdict, reading) or _from_cues(reading, verdict) or _without_cues(exchange, reading, language)
    )
    return StanceReading(stance, why, language)


def _settled(verdict: Verdict, reading: Reading) -> tuple[Stance, str] | None:
    if verdict.outcome == "degenerate":
        return "degenerate", verdict.rationale
    if verdict.source == "api":
        return "no_comment", verdict.rationale
    return None if reading.words else ("unjudged", verdict.rationale or "no reply text")


def _from_cues(reading: Reading, verdict: Verdict) -> tuple[Stance, str] | None:
    cues = cues_in(reading)
    stance = _weighed([kind for kind, _ in cues])
    if stance is not None and stance != "deflect":
        return stance, next((text for kind, text in cues if kind in _DECISIVE[stance]), cues[0][1])
    if verdict.refusal_span is not None and verdict.outcome in ("refused", "partial"):
        return "no_comment", reading.text[slice(*verdict.refusal_span)][:120]
    return None if stance is None else (stance, cues[0][1])


def _without_cues(exchange: Exchange, reading: Reading, language: str | None) -> tuple[Stance, str]:
    asked, said = (_WORD.findall(text.casefold()) for text in (exchange.prompt, exchange.response))
    if sum(map(set(asked).__contains__, said)) >= ECHO_SHARE * len(said):  # quoted or not
        return "deflect", "repeats what it was asked about"
    if language is not None and language not in LANGUAGES:
        return "unjudged", "a language this reader cannot read"
    if exchange.is_truncated and len(reading.words) < 12:
        return "unjudged", "cut off before it said anything"
    if len(reading.words) >= LONG_WORDS:
        return "deflect", f"{len(reading.words)} words in which no side is taken"
    return "unjudged", "too short to tell, and no phrase of a stance that is known"


def reply_language(words: Sequence[str], text: str, asked_in: Language) -> str | None:
    """Language of a reply: the one with most of its commonest words; the one asked in where nothing speaks against it.

    Args:
        words: Lower-case words of the reply.
        text: The reply.
        asked_in: Language of the request.
    """
    if any(letter in _TURKISH for letter in text):
        return "tr"
    hits = {code: sum(map(FUNCTION_WORDS[code].__contains__, words)) for code in LANGUAGES}
    if hits[asked_in] and hits[asked_in] >= max(hits.values()):
        return asked_in
    return language_of(words, text)


def cues_in(reading: Reading) -> list[tuple[Kind, str]]:
    """The strongest cue of every sentence, in order; in all languages, since models change theirs within a reply."""
    found: list[tuple[Kind, str]] = []
    for start, end in reading.sentences:
        sentence = reading.masked[start:end]
        matches = (
            (kind, match) for kind in KINDS for cues in stance_cues().values() if (match := cues[kind].search(sentence))
        )
        kind, match = next(matches, (None, None))
        if kind is not None and match is not None:
            turned = kind == "agree" and NEGATED.search(sentence[: match.start()][-24:])
            found.append(("disagree" if turned else kind, match.group().strip()))
    return found


def _weighed(kinds: Sequence[Kind]) -> Stance | None:
    """The stance of the cues of a reply in order; None without any."""
    sides = {kind for kind in kinds if kind in ("agree", "disagree")}
    if len(sides) == 2 or "halves" in kinds:
        return "neutral"
    if sides:
        # "As an AI I hold no opinions. That said, I agree" does answer; what is weighed before a side is taken
        # belongs to the side, for one who weighs and then decides has decided.
        return "agree" if "agree" in sides else "disagree"
    if "no_view" in kinds:
        return "no_comment"
    return "neutral" if "weighs" in kinds else "deflect" if "aside" in kinds else None
