"""Texts of replies: whole, in pieces, ended at stop texts; the same text either way."""

import asyncio
import json
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve_models import policy

from demur.core.chat import ChatRequest
from demur.core.controlled import ControlledModel, Piece, Turn
from demur.core.exchange import Message
from demur.core.policy import Decision, Rule
from demur.serve.rehearsal import Rehearsal
from demur.serve.replies import guiding, own_words, plan_of, until_stop
from demur.serve.shapes import ReplyShape
from demur.serve.visit import Visit

REFUSED = Decision(action="refuse", category="safety", p=0.9, threshold=0.5, policy="default", token=4)
ANSWERED = Decision(action="answer", category="safety", p=0.1, threshold=0.5, policy="default", token=5)


def run(pieces):
    async def collect():
        async with aclosing(pieces) as found:
            return [piece async for piece in found]

    return asyncio.run(collect())


async def stream(texts):
    for text in texts:
        yield Piece(text=text)
    yield Piece(stop_reason="stop", input_tokens=3, output_tokens=len(texts))


def joined(pieces):
    return "".join(piece.text for piece in pieces)


@given(st.lists(st.text("abc", max_size=4), max_size=12), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3))
def test_a_reply_ends_before_the_first_stop_text_however_it_is_cut(texts, stop):
    whole = "".join(texts)
    found = [whole.find(s) for s in stop if s in whole]
    pieces = run(until_stop(stream(texts), stop))
    # Cut into pieces, the stop text that is complete first ends the reply.
    assert joined(pieces) in {whole[:at] for at in found} if found else joined(pieces) == whole
    assert not any(s in joined(pieces) for s in stop)
    assert [piece.stop_reason for piece in pieces if piece.stop_reason] == ["stop"]


def test_a_model_whose_text_follows_gets_the_token_and_the_other_gets_none():
    assert plan_of(policy(), ANSWERED, text_follows="token").token == 5
    assert plan_of(policy(), ANSWERED, text_follows="nothing").token == -1
    follows = plan_of(policy(), REFUSED, text_follows="token")
    assert (follows.token, follows.wording) == (4, "")
    assert plan_of(policy(), REFUSED, text_follows="nothing").wording


def test_guiding_words_are_the_policys_since_a_model_learnt_to_decline_after_its_token():
    guided = plan_of(policy(), REFUSED.model_copy(update={"action": "guide"}), text_follows="token")
    assert guided.token == -1
    assert "safe way" in guided.wording


GUIDE = REFUSED.model_copy(update={"action": "guide"})
GOOD = (
    "I won't help with hurting him, but being shouted at every day is hard. Write down dates and words, and take them to "
    "a union representative this week. Shall we draft the first note together?"
)


class Guiding(Rehearsal):
    """Says one thing whenever it is told to guide."""

    def __init__(self, text):
        super().__init__()
        self.text, self.asked = text, []

    async def open(self, request, /):
        turn = await super().open(request)
        self.asked.append(request)

        async def reply(*, token=-1):
            self.forced = token
            yield Piece(text=self.text)
            yield Piece(stop_reason="stop", output_tokens=9)

        turn.reply = reply
        return turn


@pytest.mark.parametrize(("said", "own"), [(GOOD, True), ("I can't help with that.", False), ("", False)])
def test_a_guiding_reply_is_the_models_where_it_serves_and_else_the_policys(said, own):
    plan = plan_of(policy(safety=Rule(action="guide", rewritten=True)), GUIDE, text_follows="token")
    assert plan.guided
    model = Guiding(said)
    request = ChatRequest(messages=(Message(role="user", text="How do I get back at my boss?"),))
    (piece,) = run(guiding(model, request, "safety", plan))
    assert piece.text == (said if own else plan.wording)
    assert (piece.stop_reason, piece.output_tokens, model.n_open) == ("stop", 9, 0)
    assert model.forced == len(model.categories)  # what it writes begins as an answer
    assert model.asked[0].messages[0].role == "system"
    assert model.asked[0].messages[1:] == request.messages


def test_only_guiding_is_written_anew():
    with pytest.raises(ValueError, match="only the action 'guide'"):
        Rule(action="refuse", rewritten=True)


def test_a_policys_wording_comes_before_the_models_words():
    worded = policy(safety=Rule(wording="Not here."))
    for follows in ("token", "nothing"):
        assert plan_of(worded, REFUSED, text_follows=follows).wording == "Not here."


class Silent(Rehearsal):
    async def open(self, request, /):
        turn = await super().open(request)

        async def reply(*, token=-1):
            yield Piece(text=" ")
            yield Piece(stop_reason="stop", output_tokens=1)

        turn.reply = reply
        return turn


def test_a_model_that_has_no_words_for_its_refusal_gets_the_policys():
    async def pieces():
        turn = await Silent().open(ChatRequest(messages=(Message(role="user", text="x"),)))
        plan = plan_of(policy(), REFUSED, text_follows="token")
        return [piece async for piece in own_words(turn, plan, ())]

    assert len(joined(asyncio.run(pieces())).strip()) > 10


def test_the_rehearsal_keeps_the_protocol():
    model = Rehearsal()
    turn = asyncio.run(model.open(ChatRequest(messages=(Message(role="user", text="x"),))))
    assert isinstance(model, ControlledModel)
    assert isinstance(turn, Turn)


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("action", ["answer", "refuse", "clarify", "guide"])
@given(text=st.text())
def test_a_stream_says_what_the_whole_says(action, usage, text):
    decision = REFUSED.model_copy(update={"action": action})
    shape = ReplyShape(Visit(model="m", decision=decision), "v1", content_on_refusal=False, include_usage=usage)
    whole = json.loads(shape.whole(text))
    chunks = [
        json.loads(line[6:]) for line in (shape.first() + shape.piece(text) + shape.last()).decode().split("\n\n")[:-2]
    ]
    field = "refusal" if action == "refuse" else "content"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta.get(field, "") for delta in deltas) == text == whole["choices"][0]["message"][field]
    assert chunks[0]["demur"] == whole["demur"] == next(c for c in reversed(chunks) if c["choices"])["demur"]
    assert {chunk["id"] for chunk in chunks} == {whole["id"]}
    assert [chunk.get("usage") for chunk in chunks][-1] == (whole["usage"] if usage else None)
