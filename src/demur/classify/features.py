"""Replies as numbers: hashed word n-grams by zone, and counts of what the phrase rules found.

A reply announces itself at its start and changes its mind at its end, so n-grams of the opening and of
the closing words are features of their own. Hashing needs no vocabulary, so a fitted model is one array.
`kernel.py` computes the same buckets from UTF-8 bytes, a hundred times faster; a test holds the two equal.
"""

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from demur.classify.plainness import word_hash
from demur.judges.phrases import ANSWER_WORDS, OPENING_SENTENCES, PhraseJudge, cues_of
from demur.judges.reading import is_cjk, read

N_BUCKETS = 1 << 18
OPENING_WORDS = 16
CLOSING_WORDS = 24
MAX_WORDS = 400
MAX_CHARS = 20_000
MULTIPLIER = np.uint32(0x9E3779B1)
START, END = np.array([0x5E], dtype=np.uint32), np.array([0x24], dtype=np.uint32)
LENGTH_SEED = 101
N_PIECES = 1 << 16
PIECE, PIECE_SEED = 4, 41
PIECE_HEAD, PIECE_TAIL = 320, 160
# (seed, zone, n): words of the whole text (0), of its opening (1), of its closing (2).
ZONES = ((11, 0, 1), (12, 0, 2), (21, 1, 1), (22, 1, 2), (23, 1, 3), (31, 2, 1), (32, 2, 2))
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[?!:]")
_QUOTES = (("’", "'"), ("‘", "'"), ("ʼ", "'"), ("“", '"'), ("”", '"'))
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
    "is_foreign",
    "foreign_decline",
    "foreign_no_decline",
)


def folded(text: str) -> str:
    """The text as both tokenisers read it: plain quotes, case folded, the middle of a very long one left out."""
    if len(text) > 2 * MAX_CHARS:
        text = f"{text[:MAX_CHARS]} {text[-MAX_CHARS:]}"
    if text.isascii():
        return text.lower()
    for typographic, plain in _QUOTES:
        text = text.replace(typographic, plain)
    return text.casefold()


def tokens(text: str) -> list[str]:
    """Lower-case words and the marks ? ! : of the first and last words of a text; Chinese character by character."""
    found: list[str] = []
    for token in _TOKEN.findall(folded(text)):
        found.extend(token if is_cjk(token[0]) else (token,))
    if len(found) > MAX_WORDS:
        found = found[: MAX_WORDS // 2] + found[-MAX_WORDS // 2 :]
    return found


def buckets(text_tokens: Sequence[str]) -> NDArray[np.int64]:
    """Distinct hash buckets of a text's n-grams, ascending; each in [0, N_BUCKETS)."""
    words = np.array([word_hash(w) for w in text_tokens], dtype=np.uint32)
    opening = np.concatenate([START, words[:OPENING_WORDS]])
    closing = np.concatenate([words[-CLOSING_WORDS:], END])
    parts = [mixed(LENGTH_SEED, np.array([length_class(len(words))], dtype=np.uint32))]
    for seed, zone, n in ZONES:
        hashes = (words, opening, closing)[zone]
        if len(hashes) >= n:
            parts.append(mixed(seed, *(hashes[i : len(hashes) - n + 1 + i] for i in range(n))))
    return np.unique(np.concatenate(parts)).astype(np.int64)


def piece_points(text: str) -> NDArray[np.uint32]:
    """Code points of both ends of a text, folded, white space squeezed."""
    squeezed = " ".join(folded(text).split())
    if len(squeezed) > PIECE_HEAD + PIECE_TAIL:
        squeezed = f"{squeezed[:PIECE_HEAD]}|{squeezed[-PIECE_TAIL:]}"
    return np.frombuffer(f" {squeezed} ".encode("utf-32-le", "ignore"), dtype=np.uint32)


def piece_buckets(text: str) -> NDArray[np.int64]:
    """Distinct hash buckets of runs of `PIECE` characters near both ends of a text; each in [0, N_PIECES).

    Endings and stems carry what a word list misses, above all outside English.
    """
    points = piece_points(text)
    if len(points) < PIECE:
        return np.zeros(0, dtype=np.int64)
    found = mixed(PIECE_SEED, *(points[i : len(points) - PIECE + 1 + i] for i in range(PIECE)))
    return np.unique(found & np.uint32(N_PIECES - 1)).astype(np.int64)


def mixed(seed: int, *hashes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """One bucket for each n-gram, from the hashes of its words."""
    found = np.full(len(hashes[0]), seed, dtype=np.uint32)
    for part in hashes:
        found = (found ^ part) * MULTIPLIER
        found ^= found >> np.uint32(15)
    return found & np.uint32(N_BUCKETS - 1)


def length_class(n_words: int) -> int:
    """Length on a doubling scale, 0 to 8."""
    return min(8, (n_words + 1).bit_length() - 1)


def cue_features(prompt: str, response: str) -> NDArray[np.float64]:
    """What the phrase rules found, as numbers in the order of `CUE_NAMES`."""
    reading = read(response)
    language = reading.language
    is_foreign = language not in ("en", None)
    found = cues_of(reading, language)
    n_sentences = max(1, len(reading.sentences))
    early = range(OPENING_SENTENCES)
    cued = {*found.decline, *found.limit, *found.ask}
    beside = sum(n for number, n in enumerate(reading.sentence_words) if number not in cued)
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
        is_foreign,
        is_foreign and bool(found.decline),
        is_foreign and not found.decline,
    )
    return np.array(values, dtype=np.float64)
