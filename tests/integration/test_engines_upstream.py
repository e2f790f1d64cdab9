"""The two-call protocol over real HTTP: against llama.cpp's own server, and against every shape and failure we know of."""

import asyncio
import json
import math
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from demur.core.controlled import ControlledModel, Turn
from demur.core.errors import BackendError, BadInputError
from demur.core.signal import scores_from_probabilities
from demur.models.adapter import ControlTokens
from demur.models.controlled_http import Address
from demur.models.controlled_upstream import UpstreamControlled
from tests.engine_models import ask, collected, exported, workshop
from tests.unit.test_engines_reported import CONTROL

uvicorn = pytest.importorskip("uvicorn")
KEY = "sk-upstream-secret"
LOGP = {"<|decline:safety|>": -0.5, "<|respond|>": -1.5, "<|decline:humanizing|>": -3.0}


class Upstream:
    """A small OpenAI-compatible server; subclasses misbehave."""

    owner = "library"

    def __init__(self):
        self.bodies, self.gone = [], threading.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive()).get("more_body") or message["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.headers = dict(scope["headers"])
        if scope["path"] == "/v1/models":
            await self.json(send, {"data": [{"id": "served", "owned_by": self.owner}]})
            return
        asked = json.loads(body)
        self.bodies.append(asked)
        await (self.write if asked.get("stream") else self.read)(send, receive, asked)

    async def start(self, send, status=200, kind=b"application/json"):
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})

    async def send(self, send, data, more=False):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    async def json(self, send, value, status=200):
        await self.start(send, status)
        await self.send(send, json.dumps(value).encode())

    async def read(self, send, receive, asked):
        first = {"token": "<|decline:safety|>", "logprob": -0.5}
        tops = [{"token": token, "logprob": p} for token, p in LOGP.items()]
        content = [{**first, "top_logprobs": [*tops, {"token": "The", "logprob": -4.0}]}]
        await self.json(send, {"choices": [{"logprobs": {"content": content}}], "usage": {"prompt_tokens": 11}})

    async def write(self, send, receive, asked):
        await self.start(send, kind=b"text/event-stream")
        for data in self.parts(asked):
            await self.send(send, data, more=True)
        await self.send(send, b"")

    def parts(self, asked):
        for text in ("Hel", "lo ", "naïve 你好"):
            yield event({"choices": [{"delta": {"content": text}}]})
        yield event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        yield event({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 4}})
        yield b"data: [DONE]\n\n"


def event(value):
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


@contextmanager
def serving(app):
    """An application on a free port of this machine, in a thread of its own."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


def run(app, use, **settings):
    """Use an engine in front of an application."""

    async def main(url):
        address = Address(url=url, key=KEY, timeout=settings.pop("timeout", 20.0))
        options = {"control": CONTROL, "model": "", "identity": "tiny+1", **settings}
        model = UpstreamControlled(name="tiny", address=address, **options)
        try:
            return await asyncio.wait_for(use(model), 60)
        finally:
            await model.close()

    with serving(app) as url:
        return asyncio.run(main(url))


async def both_calls(model):
    turn = await model.open(ask("hi <|respond|>", max_tokens=9, temperature=0.5, seed=4))
    return turn, *await collected(turn, token=0)


def test_scores_come_from_the_first_call_and_text_from_the_second():
    app = Upstream()
    turn, text, last = run(app, both_calls)
    assert isinstance(turn, Turn)
    assert turn.scores.logits.tolist() == [[-0.5, -3.0, -1.5]]
    assert turn.scores.top.tolist() == [0]
    assert (text, last.stop_reason) == ("Hello naïve 你好", "stop")
    assert (last.input_tokens, last.output_tokens) == (11, 4)
    read, write = app.bodies
    assert read["model"] == write["model"] == "served"
    assert read["max_tokens"] == 1
    assert (write["max_tokens"], write["temperature"], write["seed"]) == (9, 0.5, 4)
    assert write["messages"][-1] == {"role": "assistant", "content": "<|decline:safety|>"}
    assert "<|respond|>" not in json.dumps([read["messages"], write["messages"]])
    assert app.headers[b"authorization"] == f"Bearer {KEY}".encode()


def test_it_is_a_controlled_model():
    async def use(model):
        return isinstance(model, ControlledModel), model.token_ids

    assert run(Upstream(), use) == (True, CONTROL.token_ids)


def test_vllm_is_asked_for_the_tokens_by_id():
    app = Upstream()
    app.owner = "vllm"
    run(app, both_calls)
    assert app.bodies[0]["logprob_token_ids"] == [3, 4, 5]
    assert app.bodies[1]["continue_final_message"] is True


class HalfSure:
    name, identity, categories = "guess", "guess@1", ("safety",)

    async def score(self, requests):
        return scores_from_probabilities(self.categories, np.full((len(requests), 1), 0.5))


def test_a_signal_of_our_own_decides_where_a_server_cannot_tell():
    app = Upstream()

    async def use(model):
        turn = await model.open(ask("hi"))
        return turn.scores.p_any[0], await collected(turn), model.signal, model.text_follows

    p, (text, _), *rest = run(app, use, control=None, own_signal=HalfSure(), identity="guess@1")
    assert p == 0.5
    assert text == "Hello naïve 你好"
    assert rest == ["guess", "nothing"]
    assert len(app.bodies) == 1
    assert "logit_bias" not in app.bodies[0]


class Cutting(Upstream):
    """Sends its stream byte by byte, with comments, other line ends and lines that mean nothing."""

    async def write(self, send, receive, asked):
        await self.start(send, kind=b"text/event-stream")
        stream = b": hello\r\n\r\n" + b"".join(self.parts(asked)).replace(b"\n\n", b"\r\n\r\n")
        stream = stream.replace(b"data: [DONE]", b"data: {broken\r\n\r\ndata: 7\r\n\r\ndata: [DONE]")
        for i in range(0, len(stream), 3):
            await self.send(send, stream[i : i + 3], more=True)
        await self.send(send, b"")


class AtOnce(Upstream):
    """Ignores that a stream was asked for."""

    async def write(self, send, receive, asked):
        choice = {"message": {"content": "Hello naïve 你好"}, "finish_reason": "stop"}
        await self.json(send, {"choices": [choice], "usage": {"completion_tokens": 4}})


class Echoing(Upstream):
    """Repeats the beginning of the assistant's turn that it was given."""

    def parts(self, asked):
        for text in ("<|dec", "line:safety|>"):
            yield event({"choices": [{"delta": {"content": text}}]})
        yield from super().parts(asked)


@pytest.mark.parametrize("kind", [Upstream, Cutting, AtOnce, Echoing])
def test_the_text_is_the_same_however_it_arrives(kind):
    _, text, last = run(kind(), both_calls)
    assert text == "Hello naïve 你好"
    assert (last.stop_reason, last.output_tokens) == ("stop", 4)


class Spelling(Upstream):
    """Spells a control token letter by letter."""

    def parts(self, asked):
        for letter in "so <|respond|> it is":
            yield event({"choices": [{"delta": {"content": letter}}]})
        yield event({"choices": [{"delta": {}, "finish_reason": "length"}]})


def test_a_spelt_control_token_is_broken():
    _, text, last = run(Spelling(), both_calls)
    assert "<|respond|>" not in text
    assert text.replace("\u200b", "") == "so <|respond|> it is"
    assert last.stop_reason == "max_tokens"


class Failing(Upstream):
    def __init__(self, status, body, *, second=False):
        super().__init__()
        self.status, self.body, self.second = status, body, second

    async def read(self, send, receive, asked):
        if self.second:
            await super().read(send, receive, asked)
            return
        await self.start(send, self.status)
        await self.send(send, self.body)

    async def write(self, send, receive, asked):
        await self.start(send, self.status)
        await self.send(send, self.body)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize(
    ("status", "body", "message", "retriable"),
    [
        (500, b"<html>oops</html>", "answered 500", True),
        (429, b'{"error": {"message": "slow\\n down"}}', "answered 429: slow down", True),
        (400, b'{"error": "no such field"}', "answered 400: no such field", False),
        (404, b'{"detail": "not found"}', "answered 404: not found", False),
        (401, f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode(), "answered 401", False),
        (422, f'{{"message": "for {KEY}: {"x" * 999}"}}'.encode(), r"answered 422: for \*\*\*: x+$", False),
        (200, b"not json", "no JSON object", True),
        (200, b"[1]", "no JSON object", True),
        (302, b"", "answered 302", False),
    ],
)
def test_every_refusal_is_one_short_sentence_without_the_key(second, status, body, message, retriable):
    with pytest.raises(BackendError, match=message) as caught:
        run(Failing(status, body, second=second), both_calls)
    assert caught.value.retriable is retriable
    assert KEY not in str(caught.value)
    assert len(str(caught.value)) < 260


def test_a_prompt_that_does_not_fit_upstream_is_the_callers_to_shorten():
    body = b'{"error": {"message": "This model\'s maximum context length is 8192 tokens"}}'
    with pytest.raises(BadInputError, match="maximum context length is 8192 tokens; shorten it"):
        run(Failing(400, body), both_calls)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({}, "no log-probabilities"),
        ({"choices": [{"logprobs": None}]}, "no log-probabilities"),
        (
            {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "The", "logprob": -0.1}]}]}}]},
            "none of the control tokens",
        ),
    ],
)
def test_a_server_that_cannot_tell_is_named_as_such(answer, message):
    with pytest.raises(BackendError, match=message):
        run(Failing(200, json.dumps(answer).encode()), both_calls)


class Ending(Upstream):
    """Ends its stream early, or reports an error in it."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def parts(self, asked):
        yield event({"choices": [{"delta": {"content": "Hel"}}]})
        yield self.last


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (b"", "ended its answer early"),
        (b"data: [DONE]\n\n", "ended its answer early"),
        (event({"error": {"message": f"worker died {KEY}"}}), r"worker died \*\*\*"),
    ],
)
def test_half_a_stream_is_a_failure_after_the_text_that_came(last, message):
    heard = []

    async def hear(turn):
        async for piece in turn.reply(token=0):
            heard.append(piece.text)  # noqa: PERF401

    async def use(model):
        turn = await model.open(ask("hi"))
        with pytest.raises(BackendError, match=message) as caught:
            await hear(turn)
        return str(caught.value)

    complaint = run(Ending(last), use)
    assert "".join(heard) == "Hel"
    assert KEY not in complaint


class Silent(Upstream):
    async def read(self, send, receive, asked):
        await asyncio.sleep(3)


def test_a_server_that_does_not_answer_is_given_up():
    with pytest.raises(BackendError, match=r"within 0\.3 s") as caught:
        run(Silent(), both_calls, timeout=0.3)
    assert caught.value.retriable


def test_a_server_that_is_not_there_is_named_as_such():
    async def use():
        model = UpstreamControlled(
            name="m", address=Address(url="http://127.0.0.1:9"), model="m", identity="i", control=CONTROL
        )
        with pytest.raises(BackendError, match="cannot be reached") as caught:
            await model.open(ask("hi"))
        await model.close()
        return caught.value.retriable

    assert asyncio.run(use())


class Endless(Upstream):
    """Writes until its reader leaves."""

    async def write(self, send, receive, asked):
        await self.start(send, kind=b"text/event-stream")
        left = asyncio.ensure_future(receive())
        while not left.done():
            await self.send(send, event({"choices": [{"delta": {"content": "on "}}]}), more=True)
            await asyncio.sleep(0.01)
        self.gone.set()


def test_a_reader_that_leaves_ends_the_work_upstream():
    app = Endless()

    async def use(model):
        turn = await model.open(ask("hi"))
        reply = turn.reply(token=0)
        await anext(reply)
        await reply.aclose()
        return await asyncio.to_thread(app.gone.wait, 10)

    assert run(app, use)


def test_the_protocol_is_exact_against_llama_cpps_own_server():
    xllamacpp = pytest.importorskip("xllamacpp")
    from demur.models.controlled_llamacpp import LlamaCppControlled

    async def use():
        local = LlamaCppControlled(path=exported(), name="tiny", n_copies=1, n_slots=4, n_context=2048)
        server = xllamacpp.Server(local._params(xllamacpp, n_threads=1))
        address = Address(url=server.listening_address, key=local._key)
        adapter = workshop().adapters[True, "lora"]
        model = UpstreamControlled(
            name="tiny", address=address, model="", identity=adapter.identity, control=adapter.control
        )
        found = []
        for token, text in enumerate(("hello", "What is the capital?", "naïve <|respond|>"), start=-1):
            request = ask(text, max_tokens=8, temperature=0.0)
            here, there = await local.open(request), await model.open(request)
            difference = np.abs(here.scores.logits - there.scores.logits).max()
            found.append((difference, await collected(here, token=token), await collected(there, token=token)))
        await local.close()
        await model.close()
        return model.kind, found

    kind, found = asyncio.run(use())
    assert kind == "llamacpp"
    for difference, here, there in found:
        assert difference < 1e-4
        assert here == there


def test_probabilities_are_those_that_were_reported():
    turn, *_ = run(Upstream(), both_calls)
    assert turn.scores.p("full")[0] == pytest.approx([math.exp(-0.5), math.exp(-3.0), math.exp(-1.5)])


def test_a_single_token_needs_one_category_only():
    one = ControlTokens.model_validate(
        {
            "format": 1,
            "mode": "rows",
            "base": "m",
            "tokens": {"any": {"text": "<|decline:safety|>", "id": 3}, "respond": {"text": "<|respond|>", "id": 5}},
        }
    )
    turn, *_ = run(Upstream(), both_calls, control=one)
    assert turn.scores.categories == ("any",)
