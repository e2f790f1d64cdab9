"""Where a model thinks: its reasoning span on token ids, whoever opened it and whether or not it was closed.

Tags are looked for in the texts of the tokens, because most vocabularies spell them with several tokens and merge
their ends with what follows; only from the assistant's turn on, because a user may write the tags too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["closed", "unclosed", "empty", "none"]
Opener = Literal["prompt", "reply", "implied", ""]


@dataclass(frozen=True, slots=True)
class ThinkTags:
    """How a family of models marks its reasoning, as text."""

    open: str = "<think>"
    close: str = "</think>"


KNOWN_TAGS = (
    ThinkTags(),
    ThinkTags("<thinking>", "</thinking>"),
    ThinkTags("[THINK]", "[/THINK]"),
    ThinkTags("<reasoning>", "</reasoning>"),
    ThinkTags("<|begin_of_thought|>", "<|end_of_thought|>"),
    ThinkTags("<seed:think>", "</seed:think>"),
    ThinkTags("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingSpan:
    """Token positions of one reasoning span.

    Attributes:
        status: 'closed'; 'unclosed' (cut off while thinking); 'empty' (tags with nothing between); 'none'.
        start: First token after the opening tag.
        end: One past the last thinking token: the first token that holds a part of the closing tag.
        final: Last token before the answer: the closing tag's, or the last white space after it. Where nothing was
            closed, the last token.
        opened: Who wrote the opening tag: the template ('prompt'), the model ('reply'), nobody though it was closed
            ('implied'); '' where there is no span.
    """

    status: Status
    start: int
    end: int
    final: int
    opened: Opener

    @property
    def n_tokens(self) -> int:
        """Thinking tokens."""
        return self.end - self.start


def thinking_span(
    tokenizer: Any,
    ids: Sequence[int],
    *,
    turn: int,
    n_prompt: int | None = None,
    tags: Sequence[ThinkTags] = KNOWN_TAGS,
) -> ThinkingSpan:
    """Find the reasoning span of an assistant's turn.

    Args:
        tokenizer: Decodes single ids.
        ids: Prompt and reply.
        turn: First position that the template wrote after the user's text; tags before it are the user's.
        n_prompt: Tokens of the prompt, generation prompt included; tells who opened the span. All of `ids` if None.
        tags: Pairs to look for; the one that comes first in the text counts.
    """
    piece = piece_reader(tokenizer)
    return parse_thinking([piece(i) for i in ids], turn=turn, n_prompt=n_prompt, tags=tags)


def parse_thinking(
    pieces: Sequence[str], *, turn: int, n_prompt: int | None = None, tags: Sequence[ThinkTags] = KNOWN_TAGS
) -> ThinkingSpan:
    """`thinking_span` on the texts of the tokens. An empty span that the template wrote yields to a later one."""
    n_prompt = len(pieces) if n_prompt is None else n_prompt
    found: ThinkingSpan | None = None
    begin = turn
    while begin < len(pieces):
        span = _first_span(pieces, begin, n_prompt, tags)
        if span is None:
            break
        found = span
        if span.status != "empty" or span.final >= n_prompt:
            break
        begin = span.final + 1
    if found is not None:
        return found
    last = min(n_prompt, len(pieces)) - 1
    return ThinkingSpan(status="none", start=last + 1, end=last + 1, final=last, opened="")


def piece_reader(tokenizer: Any) -> Callable[[int], str]:
    """Text of a single id, remembered; control tokens as they are written.

    Characters of several tokens come out as U+FFFD, which no tag contains.
    """
    known: dict[int, str] = {}

    def piece(token: int) -> str:
        if token not in known:
            known[token] = str(tokenizer.decode([token], skip_special_tokens=False))
        return known[token]

    return piece


def truncated(ids: Sequence[int], span: ThinkingSpan, fraction: float) -> tuple[int, ...]:
    """Ids up to the answer with only the first part of the thinking kept, closed as the item itself closed it.

    Args:
        ids: Prompt and reply.
        span: A closed or empty span.
        fraction: Share of the thinking tokens that stay; 0 = none, 1 = all.

    Raises:
        ValueError: The span is not closed, or the share is none.
    """
    if span.status not in ("closed", "empty"):
        raise ValueError(f"expected a closed thinking span, got status {span.status!r}")
    if not 0 <= fraction <= 1:
        raise ValueError(f"expected a share from 0 to 1, got {fraction}")
    kept = span.start + round(fraction * span.n_tokens)
    return (*ids[:kept], *ids[span.end : span.final + 1])


def reasoned_text(thinking: str, response: str, *, opened: bool, tags: ThinkTags = KNOWN_TAGS[0]) -> str:
    """A reply that thinks first, as text after the generation prompt.

    Args:
        thinking: The thoughts; tags inside them are taken out, since they would end the span early.
        response: The answer; '' = the text ends before it.
        opened: Whether the template has already written the opening tag.
        tags: How the model marks its thoughts.
    """
    for tag in (tags.open, tags.close):
        thinking = thinking.replace(tag, "")
    beginning = "" if opened else f"{tags.open}\n"
    return f"{beginning}{thinking.strip()}\n{tags.close}\n\n{response}"


def _first_span(pieces: Sequence[str], begin: int, n_prompt: int, tags: Sequence[ThinkTags]) -> ThinkingSpan | None:
    text = "".join(pieces[begin:])
    owner = [begin + i for i, piece in enumerate(pieces[begin:]) for _ in piece]  # token of each character
    places = [(text.find(mark), tag) for tag in tags for mark in (tag.open, tag.close)]
    places = [place for place in places if place[0] >= 0]
    if not places:
        return None
    at, tag = min(places, key=lambda place: place[0])
    if text.startswith(tag.open, at):
        last = owner[at + len(tag.open) - 1]
        closed_at = text.find(tag.close, at + len(tag.open))
        return _span(pieces, last + 1, closed_at, owner, tag, "prompt" if last < n_prompt else "reply")
    # The template wrote the opening tag before the reply was stored, or the model left it out.
    start = n_prompt if begin < n_prompt <= owner[at] else begin
    return _span(pieces, start, at, owner, tag, "implied")


def _span(
    pieces: Sequence[str], start: int, closed_at: int, owner: Sequence[int], tag: ThinkTags, opener: Opener
) -> ThinkingSpan:
    n = len(pieces)
    if closed_at < 0:
        return ThinkingSpan(status="unclosed", start=min(start, n), end=n, final=n - 1, opened=opener)
    end, final = owner[closed_at], owner[closed_at + len(tag.close) - 1]
    start = min(start, end)
    while final + 1 < n and not pieces[final + 1].strip():
        final += 1
    blank = not "".join(pieces[start:end]).strip()
    return ThinkingSpan(status="empty" if blank else "closed", start=start, end=end, final=final, opened=opener)
