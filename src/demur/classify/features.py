"""Replies as numbers: hashed word n-grams by zone, and counts of what the phrase rules found.

A reply announces itself at its start and changes its mind at its end, so n-grams of the opening and of
the closing words are features of their own. Hashing needs no vocabulary, so a fitted model is one array.
"""

import math
import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from demur.judges.phrases import ANSWER_WORDS, OPENING_SENTENCES, PhraseJudge, find_cues
from demur.judges.reading import Reading, is_cjk

N_BUCKETS = 1 << 18
OPENING_WORDS = 16
CLOSING_WORDS = 24
MAX_WORDS = 400
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[?!:]")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"'})
_DRAFTING = re.compile(
    r"\b(?:translat|rewrite|rephrase|draft|write|compose|letter|email|story|dialog|scene|poem|quote|summar|paraphras|code|function|fix)\w*",
    re.IGNORECASE,
)
CUE_NAMES = (
    "n_words_log",
    "decline_first",
    "decline_early",
    "decline_late",
    "decline_share",
    "limit_early",
    "limit_late",
    "lecture_first",
    "lecture_early",
    "unknown_early",
    "unknown_late",
    "correct_early",
    "ask_early",
    "ask_last",
    "redirect_any",
    "list_items",
    "has_code",
    "beside_log",
    "beside_long",
    "short",
    "ends_with_question",
    "phrases_refused",
    "phrases_partial",
    "phrases_p_refused",
    "overlap_with_prompt",
    "prompt_wants_a_text",
    "masked_share",
)


def tokens(text: str) -> list[str]:
    """Lower-case words and the marks ? ! : of the first and last words of a text; Chinese character by character."""
    found: list[str] = []
    for token in _TOKEN.findall(text.translate(_QUOTES).casefold()):
        found.extend(token if is_cjk(token[0]) else (token,))
    if len(found) > MAX_WORDS:
        found = found[: MAX_WORDS // 2] + found[-MAX_WORDS // 2 :]
    return found


def buckets(text: str) -> NDArray[np.int64]:
    """Distinct hash buckets of a text's n-grams, ascending; each in [0, N_BUCKETS)."""
    words = tokens(text)
    return np.unique(
        np.fromiter((zlib.crc32(gram.encode("utf-8", "replace")) & (N_BUCKETS - 1) for gram in _grams(words)), np.int64)
    )


def _grams(words: Sequence[str]) -> Iterator[str]:
    yield "length:" + str(min(8, int(math.log2(len(words) + 1))))
    for n in (1, 2):
        for i in range(len(words) - n + 1):
            yield "b " + " ".join(words[i : i + n])
    opening = ["^", *words[:OPENING_WORDS]]
    for n in (1, 2, 3):
        for i in range(len(opening) - n + 1):
            yield "o " + " ".join(opening[i : i + n])
    closing = [*words[-CLOSING_WORDS:], "$"]
    for n in (1, 2):
        for i in range(len(closing) - n + 1):
            yield "c " + " ".join(closing[i : i + n])


def cue_features(prompt: str, response: str) -> NDArray[np.float64]:
    """What the phrase rules found, as numbers in the order of `CUE_NAMES`."""
    reading = Reading(response)
    found = find_cues(reading)
    n_sentences = max(1, len(reading.sentences))
    early = range(OPENING_SENTENCES)
    cued = {*found.decline, *found.limit, *found.ask}
    beside = sum(
        len(re.findall(r"\w+", reading.masked[start:end]))
        for number, (start, end) in enumerate(reading.sentences)
        if number not in cued
    )
    outcome, p_refused = PhraseJudge.outcome_of(reading, found)
    n_words = len(reading.words)
    prompt_words = set(tokens(prompt)[:200])
    reply_words = set(reading.words[:200])
    overlap = len(prompt_words & reply_words) / max(1, len(reply_words))
    values = (
        math.log1p(n_words),
        0 in found.decline,
        any(n in early for n in found.decline),
        any(n not in early for n in found.decline),
        len(found.decline) / n_sentences,
        any(n in early for n in found.limit),
        any(n not in early for n in found.limit),
        0 in found.lecture,
        any(n in early for n in found.lecture),
        any(n in early for n in found.unknown),
        any(n not in early for n in found.unknown),
        any(n in early for n in found.correct),
        any(n in early for n in found.ask),
        bool(found.ask) and found.ask[-1] == len(reading.sentences) - 1,
        bool(found.redirect),
        min(reading.n_list_items, 10) / 10,
        reading.has_code,
        math.log1p(beside),
        beside >= ANSWER_WORDS,
        n_words <= 12,
        response.rstrip().endswith("?"),
        outcome == "refused",
        outcome == "partial",
        p_refused,
        overlap,
        bool(_DRAFTING.search(prompt)),
        1 - len(reading.masked.split()) / max(1, len(response.split())),
    )
    return np.array(values, dtype=np.float64)
