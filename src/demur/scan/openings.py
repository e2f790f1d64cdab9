"""With which words refusals begin: counted over all rows, in bounded memory."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from demur.data.logs import LogBatch

KEPT, MOST = 1_000, 4_000
_N_CHARS, _N_WORDS = 160, 7
_MARKS = re.compile(r"[*_#>`\"“”«»]+")
_END = re.compile(r"(?<=[.!?。！？।])\s|\n")
_DIGIT = re.compile(r"\d")


def of_batch(batch: LogBatch, rows: NDArray[Any]) -> list[str]:
    """Normalised openings of some rows of a batch."""
    import pyarrow as pa
    import pyarrow.compute as pc

    heads = pc.utf8_slice_codeunits(batch.rows["response"].take(pa.array(rows)), 0, _N_CHARS)
    return [found for head in heads.to_pylist() if (found := opening(head))]


def opening(text: str) -> str:
    """First words of a reply's first sentence: small letters, digits as 0, single spaces, no marks of emphasis.

    A first sentence of one or two words ("Sorry.") takes the next one with it.
    """
    words: list[str] = []
    for sentence in _END.split(text.strip(), maxsplit=3):
        words += _MARKS.sub("", sentence[:_N_CHARS]).split(maxsplit=_N_WORDS)[:_N_WORDS]
        if len(words) > 2:
            break
    plain = " ".join(words[:_N_WORDS]).casefold()
    return _DIGIT.sub("0", plain.replace("’", "'").replace("‘", "'").replace("ʼ", "'"))


def prune(counts: Counter[str]) -> None:
    """Drop the rare once there are too many: what stays is counted from below."""
    if len(counts) > MOST:
        common = counts.most_common(KEPT)
        counts.clear()
        counts.update(dict(common))


def top_openings(counts: Mapping[str, int], n: int) -> list[tuple[str, int]]:
    """The most frequent openings, the first in the alphabet where equal."""
    return sorted(((text, k) for text, k in counts.items() if k > 0), key=lambda item: (-item[1], item[0]))[:n]


def top_phrases(refusals: Mapping[str, int], answers: Mapping[str, int], n: int) -> list[tuple[str, int]]:
    """Runs of two to five words that mark the openings of refusals, and in how many refusals they stand.

    Ranked by how often they occur times how much more often than in the openings of answers, as logarithm; a run that
    only occurs within another one of the list is left out.
    """
    grams, others = _runs(refusals), _runs(answers)
    total, total_others = sum(refusals.values()) + 1, sum(answers.values()) + 1

    def telling(run: str, k: int) -> float:
        return k * math.log((k / total) / ((others[run] + 0.5) / total_others))

    ranked = sorted(
        ((telling(run, k), run, k) for run, k in grams.items() if k > 1), key=lambda item: (-item[0], item[1])
    )
    found: list[tuple[str, int]] = []
    for value, run, k in ranked[: 20 * n]:
        if value > 0 and not any(_overlap(run, other) and k <= 1.1 * seen for other, seen in found):
            found.append((run, k))
    return found[:n]


def _runs(counts: Mapping[str, int]) -> Counter[str]:
    grams: Counter[str] = Counter()
    for text, k in counts.items():
        words = text.split()
        for run in {" ".join(words[i : i + m]) for m in (2, 3, 4, 5) for i in range(len(words) - m + 1)}:
            grams[run] += k
    return grams


def _overlap(a: str, b: str) -> bool:
    return f" {a} " in f" {b} " or f" {b} " in f" {a} "
