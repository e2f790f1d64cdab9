"""How each kind of OpenAI-compatible server is asked for the first token's log-probabilities and to continue a turn.

vLLM reports exactly the tokens asked for and continues a final assistant message on request; llama.cpp reports
as many of the most probable tokens as one wants and continues an assistant message by itself; of others only the twenty
most probable tokens can be had.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from demur.core.errors import BackendError
from demur.models.adapter import ControlTokens
from demur.models.controlled_reported import BIAS, N_PROBS, Reported, with_biased

Kind = Literal["vllm", "llamacpp", "openai"]
MOST_LOGPROBS = 20
_BAN = -100.0
_ID_PREFIX = "token_id:"


def kind_of(models: Any) -> Kind:
    """Kind of server, from its answer to /models."""
    rows = models.get("data") if isinstance(models, dict) else None
    owners = {str(row.get("owned_by", "")).casefold() for row in rows or () if isinstance(row, dict)}
    if "vllm" in owners:
        return "vllm"
    return "llamacpp" if "llamacpp" in owners else "openai"


def served_name(name: str, models: Any) -> str:
    """What a server calls a model: its own name, the part after the provider, or the only one there is.

    Raises:
        BackendError: It serves several models and none of this name.
    """
    rows = models.get("data") if isinstance(models, dict) else None
    names = [row["id"] for row in rows or () if isinstance(row, dict) and isinstance(row.get("id"), str)]
    short = name.partition("/")[2] or name
    known = [candidate for candidate in (name, short) if candidate in names]
    if known or len(names) == 1:
        return (known or names)[0]
    if not names:
        return name
    listed = ", ".join(sorted(names)[:8])
    raise BackendError(f"the upstream serves {listed}, not {name!r}; say which one it is", retriable=False)


def reading(kind: Kind, control: ControlTokens) -> dict[str, Any]:
    """What the request for scores has beside model and messages."""
    body: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": MOST_LOGPROBS}
    if kind == "vllm":
        body |= {"logprob_token_ids": list(control.ids), "return_tokens_as_token_ids": True}
    elif kind == "llamacpp":
        # Drawing a control token keeps llama.cpp from drawing half a character, of which it reports nothing.
        body |= {
            "top_logprobs": N_PROBS,
            "cache_prompt": True,
            "logit_bias": [[control.ids[-1], 2 * BIAS]],
        }
    return body


def lifted_reading(control: ControlTokens) -> dict[str, Any]:
    """The second question to llama.cpp, about control tokens that are not among the most probable ones."""
    return {
        **reading("llamacpp", control),
        "top_logprobs": N_PROBS + len(control.ids),
        "logit_bias": [[number, BIAS] for number in control.ids],
        "post_sampling_probs": True,
        "samplers": [],
        "temperature": 1.0,
    }


def writing(kind: Kind, control: ControlTokens | None, messages: list[dict[str, str]], token: int) -> dict[str, Any]:
    """Messages and what else makes the model continue after a control token, and write none itself."""
    body: dict[str, Any] = {"messages": messages}
    if control is None:
        return body
    if kind == "llamacpp":
        body["cache_prompt"] = True
        body["logit_bias"] = [[number, False] for number in control.ids]
    else:
        body["logit_bias"] = {str(number): _BAN for number in control.ids}
    if token >= 0:
        body["messages"] = [*messages, {"role": "assistant", "content": control.texts[token]}]
        if kind == "vllm":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def reported(answer: Any, control: ControlTokens) -> Reported | None:
    """Log-probabilities of the first token in a chat completion; None if the upstream reports none.

    Raises:
        BackendError: What it reports makes no sense.
    """
    entries = _entries(answer, "top_logprobs")
    if not entries:
        return None
    logp: dict[int, float] = {}
    for entry in entries:
        number, value = _number(entry, control), entry.get("logprob")
        if number is not None and isinstance(value, int | float) and not math.isnan(value):
            logp[number] = max(float(value), -9999.0)
    if not logp or max(logp.values()) > 1e-3:
        raise BackendError("the upstream reports log-probabilities that make no sense", retriable=False)
    drawn = _first(answer)
    top = max(logp, key=lambda number: logp[number])
    number, value = _number(drawn, control), drawn.get("logprob")
    if isinstance(value, int | float) and value > logp[top] and number is not None:
        top = number
    usage = answer.get("usage")
    n_tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else 0
    return Reported(logp=logp, top=top, bound=min(logp.values()), n_tokens=n_tokens if isinstance(n_tokens, int) else 0)


def completed(plain: Reported, answer: Any, control: ControlTokens) -> Reported:
    """The plain answer of llama.cpp, completed by the lifted one."""
    biased = {
        int(entry["id"]): math.log(entry["prob"])
        for entry in _entries(answer, "top_probs")
        if isinstance(entry.get("id"), int) and isinstance(entry.get("prob"), float) and entry["prob"] > 0
    }
    return with_biased(plain, biased, control.ids)


def _first(answer: Any) -> Mapping[str, Any]:
    try:
        found = answer["choices"][0]["logprobs"]["content"][0]
    except (KeyError, IndexError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _entries(answer: Any, key: str) -> Sequence[Mapping[str, Any]]:
    found = _first(answer).get(key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _number(entry: Mapping[str, Any], control: ControlTokens) -> int | None:
    """Id of a reported token; ordinary tokens of servers that give no ids get a negative stand-in."""
    if isinstance(entry.get("id"), int):
        return int(entry["id"])
    text = entry.get("token")
    if not isinstance(text, str):
        return None
    if text.startswith(_ID_PREFIX) and text[len(_ID_PREFIX) :].isdecimal():
        return int(text[len(_ID_PREFIX) :])
    if text in control.texts:
        return control.ids[control.texts.index(text)]
    return -1 - (hash(text) & 0x7FFFFFFF)
