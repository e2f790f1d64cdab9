"""The smallest part of a prompt that still makes a model refuse: delta debugging with a budget of calls.

Parts are only ever left out, never changed or added to, and the model is asked them as they stand.
"""

import itertools
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

# Whether the model refuses a text; None if nobody could tell, which counts as no refusal.
Refuses = Callable[[str], Awaitable[bool | None]]
# Ends of sentences. Never tried again from within a run of the same characters, so that its time stays linear.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+\s++|[。！？।؟]++\s*+|\n\s*+")
# Scripts without spaces are taken apart character by character.
_UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff"
_WORD_END = re.compile(rf"[{_UNSPACED}]\s*+|[^\s{_UNSPACED}]++\s*+|\s++")
DEFAULT_CALLS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What was found.

    Attributes:
        prompt: The whole prompt.
        refused: Whether the model refused the whole prompt; if not, the rest is empty.
        text: The smallest refused part found, its pieces in their order; empty if the prompt is not refused.
        spans: Where its pieces stand in the prompt, as (start, end) characters.
        is_minimal: Whether leaving out any single word of it was tried and ends the refusal.
        out_of_calls: Whether the budget ended the search.
        n_calls: Distinct texts asked.
        n_untold: How many of them could not be judged.
        n_words: Words of `text`.
        n_words_prompt: Words of the prompt.
    """

    prompt: str
    refused: bool
    text: str
    spans: tuple[tuple[int, int], ...]
    is_minimal: bool
    out_of_calls: bool
    n_calls: int
    n_untold: int
    n_words: int
    n_words_prompt: int


@dataclass(slots=True)
class _Asked:
    """What was asked so far, and how much more may be."""

    refuses: Refuses
    left: int
    known: dict[str, bool | None] = field(default_factory=dict)

    async def __call__(self, text: str) -> bool:
        if not text.strip():
            return False
        if text not in self.known:
            if self.left <= 0:
                raise _OutOfCallsError
            self.left -= 1
            self.known[text] = await self.refuses(text)
        return self.known[text] is True


class _OutOfCallsError(Exception):
    """The budget is spent."""


@dataclass(slots=True)
class _Kept:
    """Pieces of a prompt as (start, end); `pieces` shrinks as the search goes on."""

    prompt: str
    pieces: list[tuple[int, int]]

    def text(self, pieces: Sequence[tuple[int, int]]) -> str:
        return "".join(self.prompt[start:end] for start, end in pieces).strip()


async def minimal_trigger(prompt: str, refuses: Refuses, *, max_calls: int = DEFAULT_CALLS) -> Trigger:
    """Search for the smallest refused part of a prompt, sentence by sentence, then word by word.

    The search halves what is left while that still refuses (ddmin), then tries to leave out each single word until
    none can go. The result is 1-minimal: no single word can be left out. It need not be the shortest of all.

    Args:
        prompt: The prompt.
        refuses: Asks the model a text, decoding deterministically; results are remembered by text.
        max_calls: Most distinct texts to ask.

    Raises:
        ValueError: A budget below 1, or an empty prompt.

    Source:
        Zeller & Hildebrandt (2002), "Simplifying and isolating failure-inducing input", IEEE TSE 28(2).
    """
    if max_calls < 1:
        raise ValueError(f"max_calls: expected 1 or more, got {max_calls}")
    if not prompt.strip():
        raise ValueError("prompt: expected some text, got none")
    asked = _Asked(refuses=refuses, left=max_calls)
    kept = _Kept(prompt=prompt, pieces=[(0, len(prompt))])
    refused = await asked(prompt.strip())
    minimal = out_of_calls = False
    if refused:
        try:
            kept.pieces = _cut(prompt, _SENTENCE_END, kept.pieces)
            await _ddmin(kept, asked)
            kept.pieces = _cut(prompt, _WORD_END, kept.pieces)
            await _ddmin(kept, asked)
            minimal = True
        except _OutOfCallsError:
            out_of_calls = True
    pieces = _merged(prompt, kept.pieces) if refused else ()
    return Trigger(
        prompt=prompt,
        refused=refused,
        text=kept.text(kept.pieces) if refused else "",
        spans=pieces,
        is_minimal=minimal,
        out_of_calls=out_of_calls,
        n_calls=len(asked.known),
        n_untold=sum(answer is None for answer in asked.known.values()),
        n_words=sum(len(_cut(prompt, _WORD_END, [span])) for span in pieces),
        n_words_prompt=len(_cut(prompt, _WORD_END, [(0, len(prompt))])),
    )


async def _ddmin(kept: _Kept, asked: _Asked) -> None:
    """Shrink the kept pieces until no single one can be left out; `kept` is always a refused text."""
    n_parts = 2
    while len(kept.pieces) >= 2:
        n_parts = min(n_parts, len(kept.pieces))
        parts = _split(kept.pieces, n_parts)
        smaller = await _first_refused(kept, parts, asked) if n_parts < len(kept.pieces) or n_parts == 2 else None
        if smaller is not None:
            kept.pieces, n_parts = smaller, 2
            continue
        rests = [[piece for other, part in enumerate(parts) if other != i for piece in part] for i in range(n_parts)]
        smaller = await _first_refused(kept, rests, asked) if n_parts > 2 else None
        if smaller is not None:
            kept.pieces, n_parts = smaller, max(2, n_parts - 1)
        elif n_parts == len(kept.pieces):
            return
        else:
            n_parts = min(len(kept.pieces), 2 * n_parts)


async def _first_refused(
    kept: _Kept, candidates: Sequence[list[tuple[int, int]]], asked: _Asked
) -> list[tuple[int, int]] | None:
    for candidate in candidates:
        if await asked(kept.text(candidate)):
            return candidate
    return None


def _split(pieces: Sequence[tuple[int, int]], n_parts: int) -> list[list[tuple[int, int]]]:
    ends = [len(pieces) * i // n_parts for i in range(n_parts + 1)]
    return [list(pieces[a:b]) for a, b in itertools.pairwise(ends)]


def _cut(prompt: str, ends: re.Pattern[str], spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans cut after each match of a pattern; white space goes with what it follows."""
    found: list[tuple[int, int]] = []
    for start, end in spans:
        marks = [start, *(match.end() for match in ends.finditer(prompt, start, end)), end]
        found += itertools.pairwise(marks)
    return [span for span in found if prompt[slice(*span)].strip()]


def _merged(prompt: str, pieces: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Neighbouring pieces as one span, without the white space at its end."""
    spans: list[tuple[int, int]] = []
    for start, end in pieces:
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return tuple((start, start + len(prompt[start:end].rstrip())) for start, end in spans)
