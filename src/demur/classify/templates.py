"""Templates among prompts: which of them are one sentence with a gap, or nearly the same text.

A random split puts the same template on both sides and so measures memory. Prompts that share a template get
the same group, and groups are what folds keep together.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

FEWEST_ROWS = 5  # distinct prompts that make a template
FEWEST_WORDS = 3  # words its opening (or ending) must have
OWN_TEMPLATE_SHARE = 0.1  # a continuation shared by this share of a template's rows is a template of its own
LEAST_COVERAGE = 0.4  # of the median prompt's words that the shared opening and ending make up
_SHINGLE_WORDS = 4
_NEAR = 0.5  # Jaccard index of shingles
_COMMON = 50  # a shingle in more prompts than this says nothing about near-duplicates
_WORDS_READ = 400
_WORD = re.compile(r"\w+")


# Opening and ending words of a template.
Pattern = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Templates:
    """Groups of prompts.

    Attributes:
        groups: Group of each prompt, (n,) integers; prompts of one group belong in one fold.
        names: Readable form of each template by group, e.g. 'write me a poem about …'; groups of one prompt, of
            repeats or of near-duplicates have none.
        patterns: Opening and ending words of each template, in the order of `names`.
    """

    groups: NDArray[np.int64]
    names: dict[int, str]
    patterns: tuple[Pattern, ...]

    @property
    def n_templates(self) -> int:
        """How many templates were found."""
        return len(self.names)

    @property
    def in_template(self) -> NDArray[np.bool_]:
        """Whether each prompt belongs to a template; (n,)."""
        return np.isin(self.groups, list(self.names))


def find_templates(prompts: Sequence[str]) -> Templates:
    """Group prompts that are one template with different fillings, or near-duplicates of each other.

    Openings first, then endings: a shared opening of at least three words, continued in many ways by at least five
    distinct prompts and making up at least 40 % of them together with what they share at the end. What is left is
    grouped where half of the four-word shingles agree. No label is looked at.
    """
    texts = [_words(p) for p in prompts]
    distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    words = list(distinct)
    group = np.arange(len(words))
    names: dict[int, str] = {}
    patterns: list[Pattern] = []
    for backwards in (False, True):
        free = [i for i in range(len(words)) if int(group[i]) not in names]
        for rows, pattern in _slots(words, free, backwards=backwards):
            group[rows] = rows[0]
            names[int(rows[0])] = " ".join((*pattern[0][:12], "…", *pattern[1][-12:])).strip()
            patterns.append(pattern)
    free = [i for i in range(len(words)) if int(group[i]) not in names]
    for first, second in _near_duplicates(words, free):
        group[group == group[second]] = group[first]
    groups = np.array([group[distinct[t]] for t in texts], dtype=np.int64)
    return Templates(groups=groups, names=names, patterns=tuple(patterns))


def fills_template(patterns: Sequence[Pattern], prompts: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each prompt begins and ends as one of the templates does, with something between; (n,)."""

    def fills(words: tuple[str, ...]) -> bool:
        return any(
            len(words) > len(opening) + len(ending)
            and words[: len(opening)] == opening
            and words[len(words) - len(ending) :] == ending
            for opening, ending in patterns
        )

    return np.array([fills(_words(p)) for p in prompts], dtype=bool)


def _words(prompt: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(prompt.casefold()[: 10 * _WORDS_READ])[:_WORDS_READ])


def _slots(
    words: Sequence[tuple[str, ...]], rows: Sequence[int], *, backwards: bool
) -> list[tuple[list[int], Pattern]]:
    """Templates among some rows, by what they begin with (or end with)."""
    found: list[tuple[list[int], Pattern]] = []
    texts = {i: words[i][::-1] if backwards else words[i] for i in rows}
    waiting: list[tuple[list[int], int]] = [(list(rows), 0)]
    while waiting:
        members, depth = waiting.pop()
        branches: dict[str, list[int]] = defaultdict(list)
        for i in members:
            branches[texts[i][depth] if len(texts[i]) > depth else ""].append(i)
        least = FEWEST_ROWS if depth < FEWEST_WORDS else max(FEWEST_ROWS, OWN_TEMPLATE_SHARE * len(members))
        own = {word: part for word, part in branches.items() if word and len(part) >= least}
        waiting += [(part, depth + 1) for part in own.values()]
        rest = [i for word, part in branches.items() if word not in own for i in part]
        if depth >= FEWEST_WORDS and len(rest) >= FEWEST_ROWS:
            far_end = _shared_far_end([texts[i] for i in rest], depth)
            if depth + len(far_end) >= LEAST_COVERAGE * median(len(texts[i]) for i in rest):
                near = texts[rest[0]][:depth]
                found.append((sorted(rest), (far_end, near[::-1]) if backwards else (near, far_end[::-1])))
    return found


def _shared_far_end(texts: Sequence[tuple[str, ...]], depth: int) -> tuple[str, ...]:
    """Words that all texts share at the end away from the shared opening, nearest the end first."""
    shared: list[str] = []
    shortest = min(map(len, texts))
    for offset in range(1, shortest - depth + 1):
        last = {text[-offset] for text in texts}
        if len(last) > 1:
            break
        shared.append(last.pop())
    return tuple(shared)


def _near_duplicates(words: Sequence[tuple[str, ...]], rows: Sequence[int]) -> list[tuple[int, int]]:
    sets = {i: _shingles(words[i]) for i in rows}
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, shingles in sets.items():
        for shingle in shingles:
            holders[shingle].append(i)
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for members in holders.values():
        if 1 < len(members) <= _COMMON:
            for at, second in enumerate(members):
                for first in members[:at]:
                    shared[first, second] += 1
    return [pair for pair, n in sorted(shared.items()) if n / (len(sets[pair[0]]) + len(sets[pair[1]]) - n) >= _NEAR]


def _shingles(text: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    n = max(1, len(text) - _SHINGLE_WORDS + 1)
    return frozenset(text[i : i + _SHINGLE_WORDS] for i in range(n))
