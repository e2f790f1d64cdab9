"""Refusing from any position: replies after the beginning of an unwanted one, and transitions to a refusal token.

Source:
    Yuan et al. (2024), "Refuse Whenever You Feel Unsafe: Improving Safety in LLMs via Decoupled Refusal Training";
    method sheet, sections 3.2 and 3.3. The paper and its released code differ; both are here, the differences named
    in `DertaSettings`.
"""

import math
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field

from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.train.rows import IGNORED, Encoder, Example, LabelledRow
from demur.train.supervised import after, ended

SHORTEST_WORDS = 3  # the released code skips unwanted replies of fewer words


class DertaSettings(Frozen):
    """How prefix and transition rows are built; the defaults are the paper's, `released` the code's.

    Attributes:
        unit: What a prefix is counted in: 'tokens' of the unwanted reply (paper, k uniform on 0 to all of them; the
            wanted reply follows with the ids it has on its own, so that it begins with the refusal token wherever that
            begins it) or whitespace 'words' (code, k uniform on 1 to all but two; shorter texts are left out; a space
            and the wanted reply follow, which many tokenizers spell with another first token).
        none_every: Every n-th example has no prefix at all (code: 3); None = only where k is drawn as 0 (paper).
        keep: Share of the transition targets that is learnt (paper's text and code for full training: 0.05).
        keep_over: Draw them among the positions of the reply, or, as the code does, among all positions of the padded
            row, so that a short reply may keep none.
        padded_to: Length of the padded row for `keep_over = "row"`; None = the row's own length.
        relabel_end: Whether the token that ends the unwanted reply becomes a transition as well (code), or nothing is
            learnt there (paper's sum over the reply).
        transition_weight: Weight of a transition beside an ordinary token; neither source has one, so 1.
        word: The refusal token's text.
    """

    unit: Literal["tokens", "words"] = "tokens"
    none_every: Annotated[int, Field(ge=1)] | None = None
    keep: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    keep_over: Literal["response", "row"] = "response"
    padded_to: Annotated[int, Field(ge=1)] | None = None
    relabel_end: bool = False
    transition_weight: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    word: str = "Sorry"

    @classmethod
    def released(cls, *, lora: bool = False) -> Self:
        """The released code: its script for full training, or the one for LoRA, which keeps every target."""
        kept: dict[str, Any] = {} if lora else {"keep": 0.05, "keep_over": "row"}
        return cls(unit="words", none_every=3, relabel_end=True, **kept)


def refusal_token_id(tokenizer: Any, word: str = "Sorry") -> int:
    """Id of a word as the assistant's turn begins with it, with or without the space the template asks for.

    Raises:
        BadInputError: It becomes several tokens.
    """
    messages = [{"role": "user", "content": "a"}]
    start = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    before = tokenizer(start, add_special_tokens=False)["input_ids"]
    whole = tokenizer(start + word, add_special_tokens=False)["input_ids"]
    n = sum(1 for _ in _common(before, whole))
    own = whole[n:]
    if len(own) != 1 or n != len(before):
        pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
        shown = ", ".join(repr(tokenizer.decode([i])) for i in pieces)
        raise BadInputError(
            f"refusal word {word!r}: expected one token at the start of a reply, got {len(pieces)} ({shown}); "
            "choose a word that the tokenizer knows whole, such as its way of writing Sorry, No or I"
        )
    return int(own[0])


def prefix_row(
    encoder: Encoder, example: Example, settings: DertaSettings, *, index: int, rng: np.random.Generator
) -> LabelledRow | None:
    """The wanted reply after the beginning of the unwanted one; the loss is on the wanted reply only.

    Args:
        encoder: Of the model's tokenizer.
        example: `unwanted` is where the beginning comes from, `response` what should follow.
        settings: Unit of the prefix and share without one.
        index: Number of the example, which decides whether it has no prefix at all.
        rng: Draws the length.

    Returns:
        The row; None where the settings leave the example out.
    """
    begun = _prefix(encoder, example.unwanted, settings, index=index, rng=rng)
    if begun is None:
        return None
    prompt = encoder.prompt(example.prompt, system=example.system, origin=example.id)
    room = encoder.max_tokens - len(prompt)
    begun = begun[: room // 2]  # a long beginning must leave room for what is learnt
    reply = encoder.reply(f" {example.response}" if begun and settings.unit == "words" else example.response)
    learnt = ended(encoder, reply, room=room - len(begun), origin=example.id)
    return after((*prompt, *begun), learnt, example.weight, example.kind)


def rto_row(
    encoder: Encoder, example: Example, settings: DertaSettings, *, refusal_id: int, rng: np.random.Generator
) -> LabelledRow:
    """The unwanted reply whole, with the refusal token as the target of every position of it.

    The first target is an ordinary refusal: the token after the prompt.

    Args:
        encoder: Of the model's tokenizer.
        example: `unwanted` is the reply to break off.
        settings: Which positions are kept, and their weight.
        refusal_id: The refusal token (`refusal_token_id`).
        rng: Draws the positions kept.
    """
    prompt = encoder.prompt(example.prompt, system=example.system, origin=example.id)
    room = encoder.max_tokens - len(prompt)
    reply = ended(encoder, encoder.reply(example.unwanted), room=room, origin=example.id)
    ids = (*prompt, *reply)
    last = len(ids) - (reply[-1] == encoder.end and not settings.relabel_end)
    kept = _kept(range(len(prompt), last), len(ids), settings, rng)
    labels = tuple(refusal_id if t in kept else IGNORED for t in range(len(ids)))
    weight = example.weight * settings.transition_weight
    return LabelledRow(ids, labels, tuple(weight if t in kept else 0.0 for t in range(len(ids))), example.kind)


def _prefix(
    encoder: Encoder, text: str, settings: DertaSettings, *, index: int, rng: np.random.Generator
) -> tuple[int, ...] | None:
    none = settings.none_every is not None and index % settings.none_every == 0
    if settings.unit == "words":
        words = text.split()
        if len(words) < SHORTEST_WORDS:
            return None
        k = int(rng.integers(1, len(words) - 1))  # 1 to all but two
        return () if none else encoder.reply(" ".join(words[:k]))
    ids = encoder.reply(text)
    k = int(rng.integers(0, len(ids) + 1))
    return () if none else ids[:k]


def _kept(places: range, length: int, settings: DertaSettings, rng: np.random.Generator) -> frozenset[int]:
    if settings.keep >= 1.0:
        return frozenset(places)
    if settings.keep_over == "response":
        wanted = max(1, round(settings.keep * len(places)))
        return frozenset(int(t) for t in rng.choice(np.asarray(places), size=wanted, replace=False))
    padded = max(length, settings.padded_to or length)
    wanted = max(1, math.ceil(settings.keep * padded - 1e-9))  # a twentieth of 20 is 1, not 2
    drawn = rng.choice(padded, size=wanted, replace=False)
    return frozenset(int(t) for t in drawn) & frozenset(places)


def _common(a: list[int], b: list[int]) -> list[int]:
    same = []
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        same.append(one)
    return same
