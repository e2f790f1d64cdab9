"""From what a llama.cpp server reports about the first token to scores.

Reported log-probabilities are a softmax over the whole vocabulary at temperature 1, before any sampler, whatever the
request's own temperature. A control token that is not among the most probable ones is asked for once more with
a bias that lifts it there; its probability follows from its ratio to a token that both answers report.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from demur.core.errors import BackendError, BadInputError, DemurError
from demur.core.signal import TEMPERATURES, SignalScores
from demur.models.adapter import ControlTokens

# Tokens asked for; 64 cost about half a millisecond more than one.
N_PROBS = 64
# Lifts a token by 26 decades, and leaves the ordinary ones well above the smallest 32-bit number.
BIAS = 60.0


@dataclass(frozen=True, slots=True)
class Reported:
    """Log-probabilities of some tokens of the vocabulary.

    Attributes:
        logp: By token id.
        top: The most probable token.
        bound: No token that is missing has more than this.
        n_tokens: Tokens of the prompt; 0 if not told.
    """

    logp: Mapping[int, float]
    top: int
    bound: float
    n_tokens: int = 0


def plain_call(server: Any, body: dict[str, Any], ids: Sequence[int]) -> Reported:
    """Log-probabilities of the first token.

    The token that is then drawn matters to nobody, but llama.cpp reports nothing about one that is only the first
    byte of a character: so it is made to draw a control token, which leaves what is reported as it is.

    Raises:
        BadInputError: The prompt does not fit.
        BackendError: The answer is not understood.
    """
    answer = _call(server, {**body, "logit_bias": [[ids[-1], 2 * BIAS]]})
    entries = _entries(answer, "top_logprobs")
    logp = {int(entry["id"]): float(entry["logprob"]) for entry in entries}
    n_tokens = int(answer.get("usage", {}).get("prompt_tokens", 0))
    return Reported(logp=logp, top=int(entries[0]["id"]), bound=min(logp.values()), n_tokens=n_tokens)


def biased_call(server: Any, body: dict[str, Any], ids: Sequence[int]) -> dict[int, float]:
    """Log of the probabilities with `BIAS` on some tokens, up to a constant.

    Raises:
        BackendError: The answer is not understood.
    """
    lifted = {
        **body,
        "logit_bias": [[number, BIAS] for number in ids],
        "post_sampling_probs": True,
        "samplers": [],
        "temperature": 1.0,
    }
    entries = _entries(_call(server, lifted), "top_probs")
    return {int(entry["id"]): math.log(entry["prob"]) for entry in entries if entry["prob"] > 0}


def with_biased(plain: Reported, biased: Mapping[int, float], ids: Sequence[int]) -> Reported:
    """The plain answer, completed by the biased one."""
    shared = [number for number in biased if number in plain.logp]
    if not shared:
        return plain
    # The most probable ordinary token has the most digits in both.
    anchor = max(shared, key=lambda number: (number not in ids, plain.logp[number]))
    offset = plain.logp[anchor] - (biased[anchor] - (BIAS if anchor in ids else 0.0))
    found = {number: biased[number] - BIAS + offset for number in ids if number in biased and number not in plain.logp}
    bound = min([plain.bound, min(biased.values()) - BIAS + offset]) if len(biased) > len(ids) else plain.bound
    return replace(plain, logp={**plain.logp, **found}, bound=bound)


def scores_of(reported: Reported, control: ControlTokens) -> SignalScores:
    """Scores of one request.

    A control token that is still missing gets the bound: its true probability is smaller. The normalisers of
    temperatures other than 1 are lower bounds, from the reported tokens alone; see `exact_temperatures`.
    """
    logits = [reported.logp.get(number, reported.bound) for number in control.ids]
    known = np.array(list(reported.logp.values()))
    totals = [0.0 if t == 1.0 else float(np.log(np.exp(known / t).sum())) for t in TEMPERATURES]
    top = control.ids.index(reported.top) if reported.top in control.ids else -1
    return SignalScores(
        categories=control.categories,
        logits=np.array([logits]),
        log_total=np.array([totals]),
        top=np.array([top], dtype=np.int64),
    )


def complaint(detail: Any) -> DemurError:
    """What llama.cpp says about a request, as our error: a prompt that does not fit is the caller's to shorten."""
    found = detail if isinstance(detail, dict) else {"message": detail}
    if found.get("type") == "exceed_context_size_error":
        n, limit = found.get("n_prompt_tokens", "?"), found.get("n_ctx", "?")
        return BadInputError(f"prompt of {n} tokens: expected at most {limit}, the model's context; shorten it")
    return BackendError(f"llama.cpp: {found.get('message', found)}", retriable=False)


def _call(server: Any, body: dict[str, Any]) -> dict[str, Any]:
    heard: list[Any] = []

    def hear(chunk: Any) -> bool:
        heard.append(chunk)
        return False

    try:
        server.handle_completions(body, hear)
    except Exception as error:  # the binding raises bare RuntimeError and ValueError
        raise BackendError(f"llama.cpp: {error}", retriable=False) from None
    answer = heard[0] if heard else {}
    answer = answer[0] if isinstance(answer, list) and answer else answer
    if not isinstance(answer, dict):
        raise BackendError("llama.cpp: expected an object, got something else", retriable=False)
    if "error" in answer:
        raise complaint(answer["error"])
    return answer


def _entries(answer: Any, key: str) -> Any:
    try:
        entries = answer["choices"][0]["logprobs"]["content"][0][key]
        entries[0]["id"]
    except (KeyError, IndexError, TypeError):
        raise BackendError(
            "llama.cpp: expected log-probabilities of the first token, got none", retriable=False
        ) from None
    return entries
