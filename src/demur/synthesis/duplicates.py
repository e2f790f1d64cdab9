"""Near-duplicates by character 5-grams: exact Jaccard indices through an inverted index, no sampling of hashes.

At the size of a suite exact is as fast as an estimate, and has no false alarms to explain.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from demur.synthesis.copies import folded

GRAM = 5
NEAR = 0.5  # Jaccard index of character 5-grams from which two prompts count as one


@dataclass(frozen=True, slots=True)
class Nearest:
    """The earlier kept text most like a text, by position (None if it shares nothing), and how like."""

    at: int | None
    similarity: float


def grams(text: str) -> frozenset[str]:
    """Character 5-grams of the folded text, with a space at either end; a shorter text is its own."""
    padded = f" {folded(text)} "
    return frozenset(padded[i : i + GRAM] for i in range(max(1, len(padded) - GRAM + 1)))


def nearest_earlier(texts: Sequence[str], *, before: Sequence[str] = (), near: float = NEAR) -> list[Nearest]:
    """For every text the most similar one before it that was kept; a text is kept if nothing so near came before.

    Args:
        texts: In the order of preference.
        before: Texts that count as kept from the start; positions into them are negative, -len(before) to -1.
        near: Jaccard index from which a text is a duplicate, in (0, 1].
    """
    index: dict[str, list[int]] = defaultdict(list)
    sizes: dict[int, int] = {}
    found = []
    for at, text in enumerate((*before, *texts), start=-len(before)):
        own = grams(text)
        nearest = _nearest(own, index, sizes)
        if at >= 0:
            found.append(nearest)
        if at < 0 or nearest.similarity < near:
            sizes[at] = len(own)
            for gram in own:
                index[gram].append(at)
    return found


def _nearest(own: frozenset[str], index: dict[str, list[int]], sizes: dict[int, int]) -> Nearest:
    shared: dict[int, int] = defaultdict(int)
    for gram in own:
        for other in index.get(gram, ()):
            shared[other] += 1
    best = max(shared, key=lambda o: (shared[o] / (len(own) + sizes[o] - shared[o]), -o), default=None)
    if best is None:
        return Nearest(None, 0.0)
    return Nearest(best, shared[best] / (len(own) + sizes[best] - shared[best]))
