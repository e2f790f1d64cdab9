"""A prompt as tokens whose positions have names, found from the chat template itself.

The template is rendered once around a mark and once around the text, so that it shows where the user's text ends; the
tokenizer's character offsets then say which tokens that is. Padding is never looked for: where pad is end-of-turn, a
chat prompt is full of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from demur.core.errors import BadInputError
from demur.core.exchange import Message

DEFAULT_SPANS = ("t_inst", "t_post[-1]")
_MARK = "\u2042demur\u2042"  # stands for the user's text; no template trims, folds or escapes it


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Token ids and what the positions in them are called.

    Attributes:
        ids: Everything the model reads, template and reply included.
        spans: Position by name: 't_inst' (last token of the user's text), 't_post[k]' (k-th token that the template
            adds after it, up to the generation prompt's end), 't_resp[k]' (k-th token of the reply); k may be
            counted from the end: 't_post[-1]'.
        ranges: First position of 'user', 'post' and 'resp', and the one after their last.
    """

    ids: tuple[int, ...]
    spans: Mapping[str, int]
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def position(self, span: str) -> int:
        """Position of a span.

        Raises:
            BadInputError: The prompt has none of that name.
        """
        if span not in self.spans:
            raise BadInputError(f"expected span {span!r}, this template gives {self.names}; name one of these")
        return self.spans[span]

    @property
    def names(self) -> str:
        """The spans in words, e.g. 't_inst, t_post[0..5]'."""
        if not self.ranges:
            return ", ".join(self.spans) or "none"
        counted = [
            f"t_{name}[0..{end - begin - 1}]"
            for name, (begin, end) in self.ranges.items()
            if name != "user" and end > begin
        ]
        return ", ".join([*(["t_inst"] if "t_inst" in self.spans else []), *counted]) or "none"


def tokenized(
    tokenizer: Any,
    prompt: str,
    *,
    reply: str | None = None,
    system: str | None = None,
    history: Sequence[Message] = (),
    clean: Callable[[str], str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> PromptTokens:
    """A user's prompt, in the chat template, with an optional reply after it.

    Args:
        tokenizer: Of transformers, with a chat template.
        prompt: The user's text.
        reply: Text that the model is made to have said so far; control tokens in it are meant.
        system: System prompt; None or 'default' = whatever the template does on its own, '' = an empty one.
        history: Earlier turns; the spans are those of the last one.
        clean: Makes untrusted text safe, e.g. splits control tokens in it; applied to all but the reply.
        options: Further variables of the template, e.g. {'enable_thinking': False}.

    Raises:
        BadInputError: The tokenizer has no chat template, or the template does not show the user's text.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise BadInputError("expected a tokenizer with a chat template, this one has none; use a chat model")
    safe = clean or (lambda text: text)
    before = [] if system is None or system == "default" else [{"role": "system", "content": safe(system)}]
    before += [{"role": message.role, "content": safe(message.text)} for message in history]
    text, begin, end = _rendered(tokenizer, before, safe(prompt), options or {})
    ids, offsets = _encoded(tokenizer, text)
    first = _first_after(offsets, begin, len(ids), by_end=True)
    post = _first_after(offsets, end, len(ids), by_end=False)
    spans = {"t_inst": post - 1} if end > begin and post > first else {}
    ranges = {"user": (first, post), "post": (post, len(ids))}
    if reply is not None:
        whole = _with_reply(tokenizer, text, ids, reply)
        ranges["resp"] = (len(ids), len(whole))
        ids = whole
    for name in ("post", "resp"):
        spans |= _counted(f"t_{name}", ranges.get(name, (0, 0)))
    return PromptTokens(ids=tuple(ids), spans=spans, ranges=ranges)


def preview(tokenizer: Any, prompt: PromptTokens, spans: Sequence[str] = DEFAULT_SPANS) -> dict[str, str]:
    """The token that each span names, as text: what will be read, shown before it is."""
    return {span: tokenizer.decode([prompt.ids[prompt.position(span)]]) for span in spans}


def _counted(name: str, span: tuple[int, int]) -> dict[str, int]:
    begin, end = span
    forward = {f"{name}[{i}]": begin + i for i in range(end - begin)}
    return forward | {f"{name}[{i - (end - begin)}]": begin + i for i in range(end - begin)}


def _rendered(
    tokenizer: Any, before: list[dict[str, str]], prompt: str, options: Mapping[str, Any]
) -> tuple[str, int, int]:
    """The whole text, and where the user's text begins and ends in it."""

    def render(user: str) -> str:
        messages = [*before, {"role": "user", "content": user}]
        try:
            text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        except Exception as error:  # templates raise whatever they like, e.g. on a system prompt
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadInputError(
                f"the chat template refuses this conversation: {reason}; leave out the system prompt"
            ) from None
        return text

    marked, text = render(_MARK), render(prompt)
    head, found, tail = marked.partition(_MARK)
    if found:
        for shown in dict.fromkeys((prompt, prompt.strip(), prompt.rstrip(), prompt.lstrip())):
            if text == head + shown + tail:
                return text, len(head), len(head) + len(shown)
    at = text.rfind(prompt.strip())  # a template that depends on what the text says
    if not prompt.strip() or at < 0 or text.count(prompt.strip()) != 1:
        raise BadInputError(
            "the chat template does not show the user's text once and unchanged, so 't_inst' cannot be named in it; "
            "use a template that does"
        )
    return text, at, at + len(prompt.strip())


def _encoded(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids, and the characters each stands for."""
    try:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(found["input_ids"]), [(int(begin), int(end)) for begin, end in found["offset_mapping"]]
    except NotImplementedError:
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids, _offsets_by_decoding(tokenizer, ids, text)


def _offsets_by_decoding(tokenizer: Any, ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """Characters of each token for tokenizers without offsets: what each further token adds when decoded."""
    ends = [len(tokenizer.decode(list(ids[: i + 1]), clean_up_tokenization_spaces=False)) for i in range(len(ids))]
    if tokenizer.decode(list(ids), clean_up_tokenization_spaces=False) != text:
        raise BadInputError(
            "this tokenizer has no character offsets and does not give its text back, so no position can be named; "
            "use the fast version of the tokenizer"
        )
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _first_after(offsets: Sequence[tuple[int, int]], character: int, default: int, *, by_end: bool) -> int:
    """First token that begins (or ends) after a character; a token across the border belongs to the user's text."""
    for i, (begin, end) in enumerate(offsets):
        if (end > character) if by_end else (begin >= character and end > begin):
            return i
    return default


def _with_reply(tokenizer: Any, text: str, ids: list[int], reply: str) -> list[int]:
    """Ids of prompt and reply: the prompt's stay what the model read when it began to answer."""
    whole = list(tokenizer(text + reply, add_special_tokens=False)["input_ids"])
    if whole[: len(ids)] == ids:
        return whole
    return ids + list(tokenizer(reply, add_special_tokens=False)["input_ids"])
