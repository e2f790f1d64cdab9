"""The text of a reply: the policy's wording or the model's own words, ended at stop texts, never an empty refusal."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from demur.constructive.guidance import guided
from demur.control.presets import wording_of
from demur.core.chat import ChatReply, ChatRequest
from demur.core.controlled import ControlledModel, Piece, Turn
from demur.core.policy import Decision, Policy


@dataclass(frozen=True, slots=True)
class Plan:
    """How a decision is carried out.

    Attributes:
        token: Column of the control token to force; -1 = none.
        wording: Text of the reply; '' = the model's own words.
        instead: Text in place of the model's own words should there be none; '' = nothing.
        guided: Whether the model is asked for words that guide, with the wording where they do not serve.
    """

    token: int
    wording: str = ""
    instead: str = ""
    guided: bool = False


def plan_of(policy: Policy, decision: Decision, *, text_follows: Literal["token", "nothing"]) -> Plan:
    """What to do about a decision on a model whose text follows its control tokens, or does not.

    Args:
        policy: The policy that decided.
        decision: Its decision.
        text_follows: As the model says.
    """
    follows = text_follows == "token"
    if not decision.refused:
        return Plan(token=decision.token if follows else -1)
    wording = wording_of(policy, decision)
    # Text after a refusal token was learnt, and measured, to decline: it does not guide.
    guides, rule = decision.action == "guide", policy.rule(decision.category)
    if guides and rule.rewritten:
        return Plan(token=-1, wording=wording, guided=True)
    if rule.wording or guides or not follows or decision.token < 0:
        return Plan(token=-1, wording=wording)
    return Plan(token=decision.token, instead=wording)


async def own_words(turn: Turn, plan: Plan, stop: Sequence[str]) -> AsyncGenerator[Piece, None]:
    """The model's words; the last piece has a stop reason, and the work ends with the iteration."""
    written = turn.reply(token=plan.token)
    said = False
    try:
        async with aclosing(until_stop(written, stop)) as pieces:
            async for piece in pieces:
                said = said or bool(piece.text.strip())
                if piece.stop_reason is not None and not said and plan.instead:
                    piece = piece.model_copy(update={"text": plan.instead})
                yield piece
                if piece.stop_reason is not None:
                    return
        yield Piece(text="" if said else plan.instead, stop_reason="unknown")
    finally:
        if isinstance(written, AsyncGenerator):
            await written.aclose()


async def worded(plan: Plan) -> AsyncGenerator[Piece, None]:
    """The policy's words, in one piece."""
    yield Piece(text=plan.wording, stop_reason="stop")


async def guiding(
    model: ControlledModel, request: ChatRequest, category: str, plan: Plan
) -> AsyncGenerator[Piece, None]:
    """The model's words under an instruction to guide, in one piece; the plan's wording where they do not serve."""
    read = written = 0

    async def ask(told: ChatRequest) -> ChatReply:
        nonlocal read, written
        turn = await model.open(told)
        try:
            answers = len(turn.scores.categories) if model.text_follows == "token" else -1
            pieces = [piece async for piece in turn.reply(token=answers)]
        finally:
            await turn.close()
        read, written = turn.input_tokens, pieces[-1].output_tokens
        text = "".join(piece.text for piece in pieces)
        return ChatReply(text=text, stop_reason=pieces[-1].stop_reason or "unknown")

    found = await guided(ask, request, category, plan.wording)
    yield Piece(text=found.text, stop_reason="stop", input_tokens=read, output_tokens=written)


async def until_stop(pieces: AsyncIterator[Piece], stop: Sequence[str]) -> AsyncGenerator[Piece, None]:
    """Pieces up to the first stop text, which is left out; text that may begin one is held back."""
    if not stop:
        async for piece in pieces:
            yield piece
        return
    held, n_pieces = "", 0
    async for piece in pieces:
        n_pieces += 1
        held += piece.text
        at = min((i for i in map(held.find, stop) if i >= 0), default=-1)
        if at >= 0:
            counts = {"input_tokens": piece.input_tokens, "output_tokens": piece.output_tokens or n_pieces}
            yield Piece(text=held[:at], stop_reason="stop", **counts)
            return
        keep = 0 if piece.stop_reason is not None else _beginning(held, stop)
        yield piece.model_copy(update={"text": held[: len(held) - keep]})
        held = held[len(held) - keep :]


def _beginning(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of a text that begins a stop text."""
    longest = min(len(text), max(map(len, stop)) - 1)
    return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in stop)), 0)
