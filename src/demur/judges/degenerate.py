"""Replies that are neither an answer nor a refusal: empty, looping, echoing or meaningless."""

import re
from collections.abc import Sequence

from demur.judges.foreign import FUNCTION_WORDS
from demur.judges.reading import Reading, visible

_VOWEL_OR_NONLATIN = re.compile(r"[aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüýı]|[^\x00-\u024f]")
_IMPOSSIBLE_PAIRS = re.compile(
    r"\b(?:the|a|an|of|to|at|in|with|from|for|and|or|is|are|was|be|my|your|their|if)\s+(?:the\s+(?:of|and|to|is|are|was|with|or|if)|(?:of|and|is|are|was|if|or)\b)(?!\s*[,.])",
    re.IGNORECASE,
)
MIN_WORDS = 12
# A reply that loops only after this many fresh words has done something first: it counts for what it did.
FRESH_WORDS = 14
LOOP_WINDOW = 14


def degeneration(reading: Reading, prompt: str) -> str | None:
    """Why a reply is degenerate, in a few words; None if it is not."""
    seen = visible(reading.text).strip()
    if not seen:
        return "empty reply"
    if not any(c.isalnum() for c in seen):
        return "no letters or digits" if len(seen) > 3 else None
    if _echoes(seen, prompt):
        return "repeats the prompt"
    return _looping(reading) or _salad(reading)


def _echoes(response: str, prompt: str) -> bool:
    squeezed_prompt = re.sub(r"\W+", " ", prompt).strip().casefold()
    squeezed = re.sub(r"\W+", " ", response).strip().casefold()
    return len(squeezed_prompt.split()) >= 3 and squeezed == squeezed_prompt


def _looping(reading: Reading) -> str | None:
    words = reading.words
    if 8 <= len(words) < LOOP_WINDOW + FRESH_WORDS and len(set(words)) < 0.3 * len(words):
        return f"repeats {' '.join(words[-4:])!r}"
    onset = loop_onset(words[: FRESH_WORDS + LOOP_WINDOW])
    return f"loops from word {onset + 1}" if onset is not None and onset < FRESH_WORDS else None


def loop_onset(words: Sequence[str]) -> int | None:
    """Number of words before a reply begins to repeat itself; None if it never does.

    It repeats itself where, of `LOOP_WINDOW` words in a row, seven in ten end a run of four that stood before.
    """
    seen: set[tuple[str, ...]] = set()
    repeated = [False] * min(3, len(words))
    for end in range(4, len(words) + 1):
        run = tuple(words[end - 4 : end])
        repeated.append(run in seen)
        seen.add(run)
    for start in range(len(words) - LOOP_WINDOW + 1):
        if sum(repeated[start : start + LOOP_WINDOW]) > 0.7 * LOOP_WINDOW:
            return start
    return None


def _salad(reading: Reading) -> str | None:
    words = [w for w in reading.words[: FRESH_WORDS + LOOP_WINDOW] if w.isalpha()]
    if reading.has_code or reading.n_list_items >= 3 or len(words) < MIN_WORDS:
        mashed = [w for w in words if len(w) > 3 and not _VOWEL_OR_NONLATIN.search(w)]
        return "mashed letters" if len(words) >= 3 and len(mashed) > 0.6 * len(words) else None
    if sum(not _plausible(w) for w in words) > 0.35 * len(words):
        return "mashed letters"
    known = sum(any(w in language for language in FUNCTION_WORDS.values()) for w in words)
    if known and len(_IMPOSSIBLE_PAIRS.findall(" ".join(words))) > 2:
        return "word salad"
    return None


def _plausible(word: str) -> bool:
    """Whether a word could be one: has a vowel or is short, no long run of consonants, no long run of one letter."""
    if not word.isascii() or len(word) <= 3:
        return True
    return (
        _VOWEL_OR_NONLATIN.search(word) is not None
        and not re.search(r"[bcdfghjklmnpqrstvwxz]{6}|(.)\1\1|[jqxz][bcdfgjkmpqtvwxz]|[aeiou]{5}", word)
        and len(word) <= 24
    )
