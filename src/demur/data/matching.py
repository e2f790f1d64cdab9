"""Two sides of prompts made alike on the surface: same final punctuation, same length.

Harmful and harmless sets from different sources often differ in form: one ends in full stops, the other does not.
Whatever reads the last token of a prompt then reads that. Rows without a partner are left out and counted.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import floor, log

from demur.stats.ranking import auroc

ENDINGS = {".": ".", "?": "?", "!": "!", ":": ":", ",": ",", ";": ";", "…": "."}
EXACT_WORDS = 12  # up to so many words, partners have the same number; above, within about a tenth
_STEP = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Partners by position: `first[i]` and `second[i]` look alike.

    Attributes:
        first: Indices into the first side.
        second: Indices into the second side.
        n_first: Rows that the first side had.
        n_second: Rows that the second side had.
        endings: Pairs by final punctuation.
        length_auroc: How well the number of characters tells the matched sides apart; 0.5 is not at all.
        length_auroc_before: The same before matching; None where a side was empty.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    n_first: int
    n_second: int
    endings: dict[str, int]
    length_auroc: float | None
    length_auroc_before: float | None

    def __len__(self) -> int:
        return len(self.first)


def ending(text: str) -> str:
    """Class of the last visible character: '.', '?', '!', ':', ',', ';', 'quote', 'bracket', 'word' or 'other'."""
    last = text.rstrip()[-1:]
    if last in ENDINGS and last:
        return ENDINGS[last]
    if last.isalnum():
        return "word"
    if last and last in "\"'”’»`":
        return "quote"
    return "bracket" if last and last in ")]}>" else "other"


def matched(
    first: Sequence[str],
    second: Sequence[str],
    *,
    limit: int | None = None,
    also: Sequence[Callable[[str], Hashable]] = (),
    seed: int = 0,
) -> Matched:
    """Match two sides one to one on final punctuation and number of words.

    Within a cell of equal ending and length, each row in random order takes the partner of the nearest number of
    characters, so that no difference of either sign is left.

    Args:
        first: Texts of one side.
        second: Texts of the other.
        limit: Most pairs; drawn at random.
        also: Further features that partners must share, e.g. `lambda t: t[:1].islower()`.
        seed: Of the order.
    """
    rng = random.Random(seed)
    cells: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, texts in enumerate((first, second)):
        for i, text in enumerate(texts):
            cells[(ending(text), _length_cell(text), *(f(text) for f in also))][side].append(i)
    pairs: list[tuple[int, int]] = []
    for left, right in cells.values():
        pairs += _partners(left, right, first, second, rng)
    rng.shuffle(pairs)
    kept = sorted(pairs[:limit])
    ends: dict[str, int] = defaultdict(int)
    for i, _ in kept:
        ends[ending(first[i])] += 1
    return Matched(
        first=tuple(i for i, _ in kept),
        second=tuple(j for _, j in kept),
        n_first=len(first),
        n_second=len(second),
        endings=dict(sorted(ends.items())),
        length_auroc=_length_auroc([first[i] for i, _ in kept], [second[j] for _, j in kept]),
        length_auroc_before=_length_auroc(first, second),
    )


def _partners(
    left: list[int], right: list[int], first: Sequence[str], second: Sequence[str], rng: random.Random
) -> list[tuple[int, int]]:
    """As many pairs as the smaller side of a cell has rows."""
    swapped = len(left) > len(right)
    few, many = (right, left) if swapped else (left, right)
    few_texts, many_texts = (second, first) if swapped else (first, second)
    few, free = rng.sample(few, len(few)), rng.sample(many, len(many))
    pairs = []
    for i in few:
        nearest = min(range(len(free)), key=lambda at: abs(len(many_texts[free[at]]) - len(few_texts[i])))
        j = free.pop(nearest)
        pairs.append((j, i) if swapped else (i, j))
    return pairs


def _length_cell(text: str) -> int:
    n = len(text.split())
    return n if n <= EXACT_WORDS else EXACT_WORDS + 1 + floor(log(n / (EXACT_WORDS + 1)) / log(_STEP))


def _length_auroc(first: Sequence[str], second: Sequence[str]) -> float | None:
    lengths = [len(text) for text in (*first, *second)]
    return auroc(lengths, [True] * len(first) + [False] * len(second)) if first and second else None
