"""The `guide` action in the model's own words: the request again under an instruction, and a guard on what comes back.

A fixed text cannot take up what was said. The instruction makes the model do so; where the reply is empty, broken, a
bare refusal or empty eagerness, the policy's fixed text stands instead, so that nobody is left with less than it.
"""

import re
import tomllib
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Literal

from demur.constructive.lexical import judge_offline, traits_of
from demur.core.chat import ChatReply, ChatRequest
from demur.core.exchange import Frozen, Message
from demur.core.signal import ANY
from demur.suites.constructive import RiskLevel

GUIDE_TOKENS = 256
_SENTENCE_END = re.compile(r"(?<!\d)[.!?][\"')\u201d]*(?=\s|\Z)")  # the point of '1.' ends no sentence
Why = Literal["", "unfinished", "filtered", "broken", "nothing to go on with", "empty eagerness", "unsafe"]


class Guidance(Frozen):
    """A guiding reply.

    Attributes:
        text: What the user reads.
        own_words: Whether the model wrote it; else it is the fixed text.
        rejected: Why the model's words were not used; empty if they were.
    """

    text: str
    own_words: bool
    rejected: Why = ""


def guide_instruction(category: str) -> str:
    """The instruction for a category of the taxonomy; that for any request where it has none."""
    found = _packaged()
    return found.get(category, found[ANY])["instruction"]


def guide_request(request: ChatRequest, category: str) -> ChatRequest:
    """The same request under the guide instruction, at the end of the system message it begins with.

    One system message, since many templates know only one; the user's turns are left as they are.
    """
    at = next((i for i, m in enumerate(request.messages) if m.role != "system"), len(request.messages))
    parts = [m.text for m in request.messages[:at]] + [guide_instruction(category)]
    told = Message(role="system", text="\n\n".join(parts))
    limit = min(request.max_tokens or GUIDE_TOKENS, GUIDE_TOKENS)
    return request.model_copy(update={"messages": (told, *request.messages[at:]), "max_tokens": limit})


def why_not(reply: ChatReply, prompt: str, category: str) -> Why:
    """Why a reply does not serve as guidance by the offline critic; empty if it does.

    A guard against the obvious only: it cannot tell that a detailed instruction is harmful.
    """
    if reply.api_signals or reply.stop_reason == "content_filter":
        return "filtered"
    text = finished(reply)
    if not text and reply.text.strip():
        return "unfinished"
    traits = traits_of(prompt, text)
    if traits.broken or not text:
        return "broken"
    if traits.gives_nothing:
        return "nothing to go on with"
    if traits.is_empty:
        return "empty eagerness"
    level: RiskLevel = "adversarial" if category == "safety" else "none"
    return "" if judge_offline(prompt, level, text).safety.grade == "safe" else "unsafe"


def finished(reply: ChatReply) -> str:
    """The reply, up to its last whole sentence where it was cut off; empty if there is no whole one."""
    text = reply.text.strip()
    if reply.stop_reason != "max_tokens":
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""


async def guided(
    ask: Callable[[ChatRequest], Awaitable[ChatReply]], request: ChatRequest, category: str, fixed: str
) -> Guidance:
    """A guiding reply in the model's words, or the fixed text where they do not serve.

    Args:
        ask: Sends a request to the model, with no control token forced.
        request: What the user sent.
        category: The category that decided.
        fixed: The policy's wording of the `guide` action.

    Raises:
        BackendError: The model failed.
    """
    reply = await ask(guide_request(request, category))
    prompt = next((m.text for m in reversed(request.messages) if m.role == "user"), "")
    why = why_not(reply, prompt, category)
    if why:
        return Guidance(text=fixed, own_words=False, rejected=why)
    return Guidance(text=finished(reply), own_words=True)


@cache
def _packaged() -> dict[str, dict[str, str]]:
    return tomllib.loads(files("demur.constructive").joinpath("guidance.toml").read_text(encoding="utf-8"))
