"""Prompt text made safe for a tokenizer: no control tokens, no characters that break encoders.

A tokenizer may see more than the reader does: it may fold widths, ligatures, case and accents, or drop what is
invisible, before it looks for its control tokens. Texts are therefore compared in a form folded further than any
of them folds, and whatever looks like a token there is split by a zero-width space, which they all keep.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, chain, count, groupby, pairwise, repeat
from operator import itemgetter
from unicodedata import category, normalize

from demur.core.errors import BadInputError
from demur.core.exchange import Message

SPLIT = "\u200b"  # zero-width space: breaks a token, stays invisible to the reader
_SPACE_SIGN = "\u2581"  # how some vocabularies spell a space
_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST_FOLDS = 65_536


def safe_text(text: str, control_tokens: Iterable[str]) -> str:
    """Text in which no control token can be formed; nulls and lone surrogates are replaced by U+FFFD.

    User text may never speak with the template's voice: `<|im_end|>` inside a prompt would end the user's turn.
    Each occurrence, also in another case, width or spacing, is split after its first character. Tokens of one
    visible character are ordinary text and left alone. Time is linear in the length of the text.
    """
    return _safe_texts((text,), control_tokens)[0]


def safe_messages(messages: Iterable[Message], control_tokens: Iterable[str]) -> list[dict[str, str]]:
    """Messages as chat templates take them, every text made safe, also where a template joins neighbours."""
    messages = tuple(messages)
    texts = _safe_texts([m.text for m in messages], control_tokens)
    return [{"role": m.role, "content": text} for m, text in zip(messages, texts, strict=True)]


def check_splitting(
    encode: Callable[[str], Collection[int]], control_tokens: Iterable[str], control_ids: Collection[int]
) -> None:
    """Make sure that a tokenizer keeps control tokens split; to be called once, when it is loaded.

    Args:
        encode: Token ids of a text, nothing added.
        control_tokens: Texts that user text must not contain.
        control_ids: Ids that it must not become.

    Raises:
        BadInputError: The tokenizer drops the separator before it looks for its tokens.
    """
    tokens = tuple(control_tokens)
    for token in tokens:
        if _folded(token)[1:] and not set(control_ids).isdisjoint(encode(safe_text(token, tokens))):
            raise BadInputError(
                f"tokenizer: expected {token!r} to stay text once split by U+200B, but it still became a control "
                "token; prompts cannot be made safe for this tokenizer"
            )


def _safe_texts(texts: Sequence[str], control_tokens: Iterable[str]) -> list[str]:
    """Each text made safe, and their concatenation too."""
    clean = [_repaired(text) for text in texts]
    pattern = _pattern(frozenset(control_tokens))
    whole = "".join(clean)
    starts = [match.start() for match in pattern.finditer(_folded(whole))] if pattern is not None else []
    if not starts:
        return clean
    borders = list(accumulate(map(len, clean), initial=0))
    pieces = _split(whole, starts)
    return ["".join(pieces[begin:end]) for begin, end in pairwise(borders)]


def _split(text: str, starts: Iterable[int]) -> list[str]:
    """The characters of a text, each token that starts at a position of the folded text split after its first."""
    lengths = map(len, map(_FOLDS.__getitem__, map(ord, text)))
    origin = list(chain.from_iterable(map(repeat, count(), lengths)))
    pieces = list(text)
    for start in starts:
        first, second = origin[start], origin[start + 1]
        if first == second:  # a ligature holds both: it is spelled out
            pieces[first] = SPLIT.join(_FOLDS[ord(text[first])])
        elif not pieces[second].startswith(SPLIT):
            pieces[second] = SPLIT + pieces[second]
    return pieces


def _repaired(text: str) -> str:
    if not text.isascii() and _SURROGATE.search(text):
        # Halves that belong together become their character again.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\x00", "\ufffd")


class _Folds(dict[int, str]):
    """What a character becomes before comparison; '' for marks, spaces and whatever is invisible."""

    def __missing__(self, code: int) -> str:
        folded = normalize("NFKD", normalize("NFKD", chr(code)).casefold())
        seen = "".join(c for c in folded if category(c)[0] not in "CMZ" and c != _SPACE_SIGN)
        kept = chr(code) if chr(code) == SPLIT else seen
        if len(self) < _MOST_FOLDS:  # text of a hostile user must not fill the memory
            self[code] = kept
        return kept


_FOLDS = _Folds()


def _folded(text: str) -> str:
    return text.translate(_FOLDS)


@lru_cache(maxsize=64)
def _pattern(tokens: frozenset[str]) -> re.Pattern[str] | None:
    """Finds the first character of every folded token; one pass however many tokens there are."""
    folded = {seen for token in tokens if len(seen := _folded(token)) > 1}
    by_first = {first: [rest[1:] for rest in group] for first, group in _grouped(folded)}
    if not by_first:
        return None
    return re.compile("|".join(f"{re.escape(first)}(?={_alternatives(rests)})" for first, rests in by_first.items()))


def _alternatives(texts: Collection[str]) -> str:
    """Pattern of several texts that tries no character twice; '' among them stands for all that it begins."""
    if "" in texts:
        return ""
    branches = [re.escape(first) + _alternatives([text[1:] for text in group]) for first, group in _grouped(texts)]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def _grouped(texts: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    for first, group in groupby(sorted(texts), key=itemgetter(0)):
        yield first, list(group)
