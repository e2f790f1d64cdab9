"""One direction for each category of refusal, from a model with refusal tokens; and what biasing a token does instead.

Published vectors are read at the token itself, after it was put there: they may encode which token was just read.
`after_token` makes them so, and `token_alone` gives the control for it: the same prompts, another token. `where_likely`
reads prompts before any token, grouped by the token the model would say.

Source:
    Alagharu et al. (2026), "Interpreting and steering categorical refusal tokens", code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.activations.direction import Direction
from demur.activations.record import record
from demur.activations.spans import PromptTokens
from demur.activations.subject import Subject
from demur.core.errors import BadInputError
from demur.core.signal import RESPOND, SignalScores

FEWEST = 2


@dataclass(frozen=True, slots=True)
class _Reading:
    """Where states were read, how they were made, and how many coordinates to keep."""

    layer: int
    span: str
    method: str
    top: int | None = None


_NEXT = "t_resp[0]"
Floats = NDArray[np.float64]


def after_token(
    subject: Subject,
    prompts: Sequence[PromptTokens],
    categories: Sequence[str],
    token_ids: Mapping[str, int],
    *,
    layer: int,
    top: int | None = None,
) -> dict[str, Direction]:
    """Category vectors at the token: prompts of a category with its token, against answerable ones with 'respond'.

    Args:
        subject: A model with refusal tokens.
        prompts: What is asked; disjoint from whatever the vectors are tested on.
        categories: Category of each prompt; 'respond' for those to be answered.
        token_ids: Id of each category's token, and of 'respond'.
        layer: Residual index.
        top: Keep that many largest coordinates; None keeps all.

    Raises:
        BadInputError: A category without a token, or too few prompts of one.
    """
    states = _states_after(subject, prompts, [token_ids[_known(c, token_ids)] for c in categories], layer)
    return _against_respond(subject, states, categories, _Reading(layer, _NEXT, "after the token", top))


def token_alone(
    subject: Subject, prompts: Sequence[PromptTokens], token_ids: Mapping[str, int], *, layer: int
) -> dict[str, Direction]:
    """What reading a token does to the state by itself: each token against 'respond', on the same prompts.

    A category vector that is close to this one says which token was read, not what the prompt is.
    """
    if len(prompts) < FEWEST:
        raise BadInputError(f"category vectors: expected at least {FEWEST} prompts, got {len(prompts)}")
    states = {name: _states_after(subject, prompts, [id_] * len(prompts), layer) for name, id_ in token_ids.items()}
    return {
        name: _direction(subject, found, states[RESPOND], name, _Reading(layer, _NEXT, "the token alone"))
        for name, found in states.items()
        if name != RESPOND
    }


def where_likely(
    subject: Subject,
    prompts: Sequence[PromptTokens],
    scores: SignalScores,
    *,
    layer: int,
    span: str = "t_post[-1]",
    top: int | None = None,
) -> dict[str, Direction]:
    """Category vectors before any token: prompts whose likeliest control token is the category's, against 'respond'.

    Args:
        subject: A model with refusal tokens.
        prompts: What is asked.
        scores: The model's scores of these prompts.
        layer: Residual index.
        span: Where to read.
        top: Keep that many largest coordinates; None keeps all.

    Raises:
        BadInputError: Too few prompts on the side of 'respond'. Categories with too few are left out.
    """
    names = (*scores.categories, RESPOND)
    said = [names[column] for column in scores.logits.argmax(axis=1)]
    states = record(subject, prompts, spans=(span,), layers=(layer,)).at(span, layer)
    few = {c for c in scores.categories if said.count(c) < FEWEST}
    kept = [i for i, name in enumerate(said) if name not in few]
    reading = _Reading(layer, span, "where likely", top)
    return _against_respond(subject, states[kept], [said[i] for i in kept], reading)


def biased_declines(scores: SignalScores, biases: Sequence[float], *, category: str | None = None) -> NDArray[np.bool_]:
    """Whether each request is declined once a number is added to tokens' logits; (n_biases, n_requests).

    Declined means that some category's token is then likelier than 'respond'. This is the baseline steering has to
    beat: it costs nothing and changes no other word.

    Args:
        scores: The untouched model's.
        biases: Natural-logarithm units.
        category: Bias this one only; None biases all of them alike.
    """
    columns = [i for i, name in enumerate(scores.categories) if category in (None, name)]
    if not columns:
        raise BadInputError(f"category {category!r}: expected one of {', '.join(scores.categories)}")
    logits = np.repeat(scores.logits[None], len(biases), axis=0)
    logits[:, :, columns] += np.asarray(biases, dtype=np.float64)[:, None, None]
    return np.asarray(logits[:, :, :-1].max(axis=2) > logits[:, :, -1])


def trade_off(declined: NDArray[np.bool_], refuse: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Over-refusal and refusal of each setting; declined is (n_settings, n_requests), shares of the two sides."""
    return [(float(row[~refuse].mean()), float(row[refuse].mean())) for row in declined]


def _known(category: str, token_ids: Mapping[str, int]) -> str:
    if category not in token_ids:
        raise BadInputError(f"category {category!r}: expected one with a token: {', '.join(token_ids)}")
    return category


def _states_after(
    subject: Subject, prompts: Sequence[PromptTokens], tokens: Sequence[int], layer: int
) -> NDArray[np.float32]:
    """States at a token put after each prompt; (n, d)."""
    extended = [
        PromptTokens(ids=(*prompt.ids, token), spans={_NEXT: len(prompt.ids)})
        for prompt, token in zip(prompts, tokens, strict=True)
    ]
    return record(subject, extended, spans=(_NEXT,), layers=(layer,)).at(_NEXT, layer)


def _against_respond(
    subject: Subject, states: NDArray[np.float32], categories: Sequence[str], reading: _Reading
) -> dict[str, Direction]:
    labels = np.array(list(categories))
    contrast = states[labels == RESPOND]
    return {
        name: _direction(subject, states[labels == name], contrast, name, reading)
        for name in dict.fromkeys(c for c in categories if c != RESPOND)
    }


def _direction(
    subject: Subject, positive: NDArray[np.float32], negative: NDArray[np.float32], name: str, reading: _Reading
) -> Direction:
    if min(len(positive), len(negative)) < FEWEST:
        raise BadInputError(
            f"category {name!r}: expected at least {FEWEST} prompts of it and of 'respond', got {len(positive)} and "
            f"{len(negative)}"
        )
    difference = positive.mean(axis=0, dtype=np.float64) - negative.mean(axis=0, dtype=np.float64)
    if reading.top is not None:
        difference[np.argsort(np.abs(difference))[: -reading.top]] = 0.0
    norm = float(np.linalg.norm(difference))
    if norm == 0.0:
        raise BadInputError(f"category {name!r}: its prompts and those to be answered have the same mean state")
    lengths = np.linalg.norm(np.concatenate([positive, negative]).astype(np.float64), axis=1)
    kept = f", {reading.top} coordinates" if reading.top is not None else ""
    return Direction(
        vector=(difference / norm).astype(np.float32),
        raw_norm=norm,
        residual_index=reading.layer,
        span=reading.span,
        model=subject.name,
        name=name,
        method=f"difference in means, {reading.method}{kept}",
        n_positive=len(positive),
        n_negative=len(negative),
        local_norm=float(np.median(lengths)),
        polarity=f"declined as {name}",
    )
