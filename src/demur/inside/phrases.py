"""Which first tokens announce a refusal in this model: found from what it does, not from a list by hand.

A wrong list makes every score that rests on it meaningless, and the right one differs between tokenizers: 'I' in
one, 'Sorry' in another, a control token in a model that was trained to say one.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demur.core.errors import BadInputError
from demur.stats.ranking import auroc

EPSILON = 1e-8  # bounds the metric at about 18.4 either way
MOST_TOKENS = 16
_GAIN = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalTokens:
    """The set R of first tokens that announce a refusal.

    Attributes:
        ids: Token ids, most telling first.
        texts: What they decode to.
        log_odds: Log odds of each among refused against accepted prompts' first tokens, with half a count added.
        auroc: How well the metric with the whole set tells the prompts it was found on apart.
        n_refused: Refused prompts it was found on.
        n_accepted: Accepted ones.
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    log_odds: tuple[float, ...]
    auroc: float
    n_refused: int
    n_accepted: int


def refusal_metric(logits: ArrayLike, ids: Sequence[int]) -> NDArray[np.float64]:
    """Log odds that the next token is one of R; (n,), within about ±18.4.

    Args:
        logits: Next-token logits; (n, vocabulary).
        ids: The set R.

    Source:
        Arditi et al. (2024), "Refusal in Language Models Is Mediated by a Single Direction", appendix C.
    """
    rows = np.atleast_2d(np.asarray(logits, dtype=np.float64))
    rows = rows - rows.max(axis=1, keepdims=True)
    whole = np.exp(rows).sum(axis=1)
    p = np.clip(np.exp(rows[:, list(ids)]).sum(axis=1) / whole, 0.0, 1.0)
    return np.asarray(np.log(p + EPSILON) - np.log(1 - p + EPSILON))


def refusal_tokens(
    logits: ArrayLike,
    refused: Sequence[bool],
    *,
    decode: Callable[[int], str],
    first: Sequence[int] | None = None,
    most: int = MOST_TOKENS,
) -> RefusalTokens:
    """Find R: first tokens in order of their log odds, each kept while it makes the metric tell the two kinds better.

    Args:
        logits: Next-token logits after the prompt; (n, vocabulary).
        refused: What the model did with each prompt.
        decode: Text of a token id.
        first: First token of each reply; by default the likeliest.
        most: Largest set.

    Raises:
        BadInputError: Only one kind of prompt, or no token that is commoner in refusals.
    """
    rows, kinds = np.asarray(logits), np.asarray(refused, dtype=bool)
    n_refused, n_accepted = int(kinds.sum()), int((~kinds).sum())
    if not n_refused or not n_accepted:
        raise BadInputError(
            f"refusal tokens: expected prompts that the model refuses and prompts that it answers, got {n_refused} and "
            f"{n_accepted}; a model that never refuses has no refusal direction: train it to, or name --refused-by"
        )
    firsts = [int(t) for t in (rows.argmax(axis=1) if first is None else first)]
    odds = _log_odds(firsts, kinds.tolist())
    ranked = sorted((t for t in odds if odds[t] > 0), key=lambda t: (-odds[t], t))
    if not ranked:
        raise BadInputError("refusal tokens: expected a first token that is commoner in refusals, got none")
    kept: list[int] = []
    best = 0.0
    for token in ranked:
        reached = auroc(refusal_metric(rows, [*kept, token]).tolist(), kinds.tolist()) or 0.0
        if not kept or (reached > best + _GAIN and len(kept) < most):
            kept, best = [*kept, token], reached
    return RefusalTokens(
        ids=tuple(kept),
        texts=tuple(decode(t) for t in kept),
        log_odds=tuple(odds[t] for t in kept),
        auroc=best,
        n_refused=n_refused,
        n_accepted=n_accepted,
    )


def _log_odds(firsts: Sequence[int], refused: Sequence[bool]) -> dict[int, float]:
    """Log odds ratio of each first token, refused against accepted, half a count added to each cell."""
    up = Counter(t for t, r in zip(firsts, refused, strict=True) if r)
    down = Counter(t for t, r in zip(firsts, refused, strict=True) if not r)
    n_up, n_down = up.total(), down.total()
    return {
        t: log((up[t] + 0.5) / (n_up - up[t] + 0.5)) - log((down[t] + 0.5) / (n_down - down[t] + 0.5))
        for t in up | down
    }
