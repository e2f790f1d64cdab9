"""The application in this process: what was decided is what is said, in OpenAI's shapes, for every door."""

import asyncio
import json
import logging
import re
from hashlib import sha256

import httpx
import pytest
from tests.serve_models import Failing, app_of, ask, chat, events, policy, upstream_timeout

from demur.core.errors import BackendError, BadInputError
from demur.core.policy import Rule
from demur.serve.keys import ApiKey, KeyRing
from demur.serve.rehearsal import Rehearsal

SECRET = "web-secret-0123456789"


def ring(**fields):
    return KeyRing((ApiKey(name="web", sha256=sha256(SECRET.encode()).hexdigest(), **fields),))


def bearer(secret=SECRET):
    return {"Authorization": f"Bearer {secret}"}


def test_an_answer_has_content_and_no_refusal():
    reply = ask(app_of(), chat("hello there"))
    assert reply.status_code == 200
    body = reply.json()
    message = body["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "Answer: hello there", "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert (body["object"], body["model"]) == ("chat.completion", "smollm2")
    assert body["demur"]["action"] == "answer"
    assert not body["demur"]["refused"]


def test_a_refusal_has_the_models_own_words_and_no_content():
    reply = ask(app_of(), chat("safety=0.9 tell me"))
    message = reply.json()["choices"][0]["message"]
    assert message["content"] is None
    assert message["refusal"].startswith("Declined, safety:")
    demur = reply.json()["demur"]
    assert (demur["refused"], demur["category"], demur["origin"], demur["policy"]) == (
        True,
        "safety",
        "policy",
        "default",
    )
    assert demur["p"] == pytest.approx(0.9, abs=0.05)
    assert demur["threshold"] == 0.5


def test_headers_say_what_the_body_says():
    reply = ask(app_of(), chat("safety=0.9 tell me", model="smollm2@strict"))
    demur = reply.json()["demur"]
    assert reply.headers["x-demur-policy"] == demur["policy"] == "strict"
    assert reply.headers["x-demur-policy-version"] == demur["policy_version"]
    assert reply.headers["x-demur-action"] == demur["action"] == "refuse"
    assert reply.headers["x-demur-category"] == demur["category"] == "safety"
    assert float(reply.headers["x-demur-p"]) == pytest.approx(demur["p"], abs=1e-6)
    assert reply.headers["x-request-id"] == reply.json()["id"]
    assert re.fullmatch(r"queue;dur=[\d.]+, read;dur=[\d.]+, decide;dur=[\d.]+", reply.headers["server-timing"])


@pytest.mark.parametrize("prompt", ["hello there", "safety=0.9 tell me"])
def test_a_stream_says_the_same(prompt):
    whole = ask(app_of(), chat(prompt)).json()
    reply = ask(app_of(), chat(prompt, stream=True, stream_options={"include_usage": True}))
    chunks = events(reply.text)
    assert chunks.pop() == "[DONE]"
    field = "refusal" if "safety" in prompt else "content"
    text = "".join(c["choices"][0]["delta"].get(field, "") for c in chunks if c["choices"])
    assert text == whole["choices"][0]["message"][field]
    assert chunks[0]["demur"] == chunks[-2]["demur"] == whole["demur"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"] == whole["usage"]
    assert reply.headers["content-type"].startswith("text/event-stream")


def test_a_model_that_does_not_follow_its_token_speaks_the_policys_words():
    model = Rehearsal(text_follows="nothing")
    declined = ask(app_of(model, policy(safety=Rule(threshold=0.5, wording="Not here."))), chat("safety=0.9 x"))
    assert declined.json()["choices"][0]["message"]["refusal"] == "Not here."
    assert declined.json()["usage"]["completion_tokens"] == 0
    answered = ask(app_of(model), chat("hello"))
    assert answered.json()["choices"][0]["message"]["content"] == "Answer: hello"


@pytest.mark.parametrize(
    ("action", "begins"), [("clarify", "Declined, incomplete"), ("guide", "Part of what this rests")]
)
def test_a_helpful_turn_is_content_and_the_demur_object_tells(action, begins):
    app = app_of(None, policy(incomplete=Rule(threshold=0.5, action=action)))
    body = ask(app, chat("incomplete=0.9 book it")).json()
    assert body["choices"][0]["message"]["refusal"] is None
    assert body["choices"][0]["message"]["content"].startswith(begins)
    assert body["demur"]["action"] == action
    assert body["demur"]["refused"]


def test_a_client_that_knows_no_refusals_can_have_them_as_content():
    body = chat("safety=0.9 x", demur={"content_on_refusal": True})
    message = ask(app_of(), body).json()["choices"][0]["message"]
    assert message["content"] == message["refusal"]
    chunks = events(ask(app_of(), body | {"stream": True}).text)[:-1]
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert "".join(d.get("content", "") for d in deltas) == message["content"]


def test_policies_decide_differently_on_the_same_request():
    app = app_of()
    refused = {
        name: ask(app, chat("safety=0.4 x", model=f"smollm2@{name}")).json()["demur"]["refused"]
        for name in ("strict", "default", "lenient")
    }
    assert refused == {"strict": True, "default": False, "lenient": False}
    tightened = ask(app, chat("safety=0.4 x", demur={"thresholds": {"safety": 0.3}})).json()["demur"]
    assert (tightened["refused"], tightened["threshold"]) == (True, 0.3)


def test_a_floor_declines_what_the_chosen_policy_would_answer():
    app = app_of(keys=ring(floor="strict"))
    body = ask(app, chat("safety=0.4 x", model="smollm2@lenient"), headers=bearer()).json()
    assert (body["demur"]["refused"], body["demur"]["origin"], body["demur"]["policy"]) == (True, "floor", "strict")
    assert body["choices"][0]["message"]["refusal"]
    above = ask(app, chat("safety=0.97 x", model="smollm2@lenient"), headers=bearer()).json()
    assert (above["demur"]["origin"], above["demur"]["policy"]) == ("policy", "lenient")


def test_a_loosened_request_still_meets_the_floor():
    app = app_of(keys=ring(floor="default", may_loosen=True))
    loose = {"policy": "default", "thresholds": {"safety": 1.0}}
    body = ask(app, chat("safety=0.6 x", demur=loose), headers=bearer()).json()
    assert (body["demur"]["refused"], body["demur"]["origin"]) == (True, "floor")


def test_stop_ends_the_reply():
    body = ask(app_of(), chat("one two three", stop="two")).json()
    assert body["choices"][0]["message"]["content"] == "Answer: one "
    assert body["choices"][0]["finish_reason"] == "stop"


def test_max_tokens_ends_the_reply_and_says_so():
    body = ask(app_of(), chat("one two three", max_tokens=2)).json()
    assert body["choices"][0]["message"]["content"] == "Answer: one"
    assert body["choices"][0]["finish_reason"] == "length"


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({"content": b"{"}, 400, "invalid_json"),
        ({"content": b"[" * 4000}, 400, "invalid_json"),
        ({"body": chat(demur={"policy": "x"})}, 400, "unknown_policy"),
        ({"body": chat(), "headers": {"X-Demur-Policy": "x"}}, 400, "unknown_policy"),
        ({"body": chat(demur={"thresholds": {"x": 0.1}})}, 400, "unknown_category"),
        ({"content": b'{"demur": {"thresholds": {"safety": NaN}}}'}, 400, "invalid_json"),
        ({"body": chat(model="gpt-9")}, 404, "model_not_found"),
        ({"body": chat("x" * 5000)}, 413, "body_too_large"),
        ({"method": "GET"}, 405, None),
        ({"path": "/v1/embeddings", "body": {}}, 404, None),
        ({"path": "/docs", "method": "GET"}, 404, None),
    ],
)
def test_every_error_has_openais_shape(given, status, code):
    reply = ask(app_of(max_body_bytes=4096), **given)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BackendError("no connection", retriable=True), 502),
        (BackendError("garbage", retriable=False), 502),
        (upstream_timeout(), 504),
        (TimeoutError(), 504),
        (BadInputError("the prompt has 9000 tokens, the model reads 2048"), 400),
        (RuntimeError("secret prompt"), 500),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_fails_is_an_error_and_frees_its_turn(error, status, stream, caplog):
    for after in (None, 0):
        model = Failing(error, after=after)
        app = app_of(model)
        reply = ask(app, chat(stream=stream))
        assert reply.status_code == status
        assert "secret" not in reply.text + caplog.text
        assert (model.n_open, app.state.service.gate.running) == (0, 0)


def test_a_stream_that_breaks_ends_in_an_error_event():
    app = app_of(Failing(BackendError("gone", retriable=True), after=1))
    chunks = events(ask(app, chat("one two", stream=True)).text)
    assert chunks[0]["demur"]["action"] == "answer"
    assert chunks[-1]["error"]["code"] == "upstream_error"
    assert app.state.service.gate.running == 0


def test_prompts_are_never_logged(caplog):
    caplog.set_level(logging.DEBUG)
    app = app_of(access_log=True)
    ask(app, chat("my very own words safety=0.9"))
    ask(app, chat("my very own words"), headers={"X-Demur-Policy": "very own"})
    ask(app_of(Failing(RuntimeError("own words")), access_log=True), chat("own words"))
    assert "action=refuse" in caplog.text
    assert "own words" not in caplog.text


# --- keys and hosts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/models/smollm2", "/metrics"])
def test_without_a_key_every_door_is_shut(path):
    method = "POST" if "chat" in path else "GET"
    app = app_of(keys=ring())
    for headers in ({}, bearer("x" * 20), {"Authorization": SECRET}):
        reply = ask(app, chat() if method == "POST" else None, method=method, path=path, headers=headers)
        assert reply.status_code == 401
        assert reply.json()["error"]["code"] == "invalid_api_key"
    assert ask(app, chat() if method == "POST" else None, method=method, path=path, headers=bearer()).status_code == 200


def test_health_tells_strangers_little():
    app = app_of(keys=ring())
    assert set(ask(app, method="GET", path="/healthz").json()) == {"status", "live", "ready"}
    known = ask(app, method="GET", path="/healthz", headers=bearer()).json()
    assert known["policies"]["smollm2"].keys() == {"default", "lenient", "strict"}


def test_an_open_server_answers_to_its_own_names_only():
    app = app_of(allowed_hosts=("127.0.0.1", "localhost", "::1"))
    assert ask(app, chat()).status_code == 200
    assert ask(app, chat(), headers={"Host": "[::1]:8000"}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil", ""):
        assert ask(app, chat(), headers={"Host": host}).status_code == 400


def test_models_are_listed_with_the_policies_a_key_may_choose():
    app = app_of(keys=ring(policies=("strict",)))
    names = [m["id"] for m in ask(app, method="GET", path="/v1/models", headers=bearer()).json()["data"]]
    assert names == ["smollm2", "smollm2@strict"]
    one = ask(app, method="GET", path="/v1/models/smollm2@strict", headers=bearer())
    assert one.json()["id"] == "smollm2@strict"
    assert ask(app, method="GET", path="/v1/models/smollm2@lenient", headers=bearer()).status_code == 400
    assert ask(app, method="GET", path="/v1/models/x", headers=bearer()).status_code == 404


# --- limits ---------------------------------------------------------------------------------------------------------


def at_once(app, n, body, headers=None):
    async def send():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            post = [client.post("/v1/chat/completions", json=body, headers=headers) for _ in range(n)]
            return await asyncio.gather(*post)

    return asyncio.run(send())


def test_beyond_the_queue_requests_are_sent_away_with_a_time_to_come_back():
    model = Rehearsal(delay_s=0.02)
    app = app_of(model, max_running=2, max_queue=3)
    replies = at_once(app, 8, chat("a b c"))
    codes = sorted(reply.status_code for reply in replies)
    assert codes == [200] * 5 + [429] * 3
    away = next(reply for reply in replies if reply.status_code == 429)
    assert int(away.headers["retry-after"]) >= 1
    assert away.json()["error"]["code"] == "queue_full"
    assert (app.state.service.gate.running, app.state.service.gate.waiting, model.n_open) == (0, 0, 0)


def test_a_request_that_takes_too_long_is_a_504_and_frees_its_turn():
    model = Rehearsal(delay_s=0.2)
    app = app_of(model, timeout_s=0.3)
    assert ask(app, chat("a b c d e f")).status_code == 504
    streamed = events(ask(app, chat("a b c d e f", stream=True)).text)
    assert streamed[-1]["error"]["code"] == "timeout"
    assert (app.state.service.gate.running, model.n_open) == (0, 0)


def test_waiting_in_the_queue_counts_towards_the_time():
    app = app_of(Rehearsal(delay_s=0.1), timeout_s=0.35, max_running=1)
    assert sorted(r.status_code for r in at_once(app, 3, chat("a"))) == [200, 504, 504]
    assert app.state.service.gate.waiting == 0


def test_a_key_has_limits_of_its_own():
    app = app_of(Rehearsal(delay_s=0.02), keys=ring(max_concurrent=2))
    assert sorted(r.status_code for r in at_once(app, 4, chat(), bearer())) == [200, 200, 429, 429]
    app = app_of(keys=ring(requests_per_minute=3))
    replies = [ask(app, chat(), headers=bearer()) for _ in range(5)]
    assert [r.status_code for r in replies] == [200, 200, 200, 429, 429]
    assert 1 <= int(replies[-1].headers["retry-after"]) <= 20


async def raw(app, parts, headers=(), *, hang_up=False):
    """A request part by part, as a server hands it on; status and body of the reply."""
    sent, todo = [], list(parts)

    async def receive():
        if todo:
            part = todo.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(todo) or hang_up}
        if not hang_up:
            await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"",
        "query_string": b"",
        "headers": list(headers),
    }
    await app(scope, receive, send)
    return sent[0]["status"] if sent else None, b"".join(m.get("body", b"") for m in sent[1:])


def test_a_body_of_unannounced_length_is_stopped_while_it_is_read():
    def endless():
        return [b" " * 65_536] * 160  # 10 MB, without Content-Length

    status, body = asyncio.run(raw(app_of(), endless()))
    assert status == 413
    assert json.loads(body)["error"]["code"] == "body_too_large"
    status, _ = asyncio.run(raw(app_of(), [b"{}"], [(b"content-length", b"10000000"), (b"expect", b"100-continue")]))
    assert status == 413
    status, _ = asyncio.run(raw(app_of(), [b"{}"], [(b"content-length", b"ten")]))
    assert status == 400


def test_a_body_that_does_not_come_is_a_408():
    status, _ = asyncio.run(raw_slow(app_of(body_timeout_s=0.1)))
    assert status == 408


async def raw_slow(app):
    sent = []

    async def receive():
        await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"", "query_string": b""}
    await app(scope | {"headers": []}, receive, send)
    return sent[0]["status"], None


def test_a_client_that_leaves_before_the_end_of_its_body_gets_nothing():
    app = app_of()
    assert asyncio.run(raw(app, [b'{"model"'], hang_up=True)) == (None, b"")
    assert 'status="499"' in app.state.service.metrics.text().decode()


# --- metrics --------------------------------------------------------------------------------------------------------


def test_metrics_count_what_happened():
    app = app_of()
    ask(app, chat("hello"))
    ask(app, chat("safety=0.9 x", model="smollm2@lenient", demur={"thresholds": {"safety": 0.5}}))
    ask(app, content=b"{")
    text = ask(app, method="GET", path="/metrics").text
    assert 'demur_requests_total{action="answer",category="",model="smollm2",policy="default",status="200"} 1.0' in text
    assert 'action="refuse",category="safety",model="smollm2",policy="lenient",status="200"} 1.0' in text
    assert 'demur_requests_total{action="",category="",model="",policy="",status="400"} 1.0' in text
    for name in ("decision", "first_token", "request"):
        assert f'demur_{name}_seconds_count{{model="smollm2"}} 2.0' in text
    assert 'demur_tokens_total{kind="output",model="smollm2"} 5.0' in text
    assert "demur_queue_length 0.0" in text


def test_two_applications_share_no_counts():
    one, two = app_of(), app_of()
    ask(one, chat())
    assert "demur_requests_total{" not in two.state.service.metrics.text().decode()


def test_drift_is_an_alarm_for_the_policy_whose_reference_has_moved():
    from demur.control.drift import reference_of
    from demur.core.signal import stacked
    from demur.serve.drift import DriftWatch
    from demur.serve.rehearsal import scripted_scores

    usual = [scripted_scores(f"safety=0.{i % 40:02d}") for i in range(400)]
    held = policy().model_copy(update={"reference": reference_of(stacked(usual))})
    watch, quiet = DriftWatch(), DriftWatch()
    for i in range(1100):
        quiet.observe("m", held, usual[(i * 7) % 400])
        alarm = watch.observe("m", held, scripted_scores("safety=0.9"))
    assert alarm
    assert watch.summary()["m@default"]["alarm"]
    assert not quiet.summary()["m@default"]["alarm"]


def test_drift_is_told_in_health_and_metrics():
    from demur.control.drift import reference_of
    from demur.serve.rehearsal import scripted_scores

    held = policy().model_copy(update={"reference": reference_of(scripted_scores("x"))})
    app = app_of(None, held)
    ask(app, chat())
    assert ask(app, method="GET", path="/healthz").json()["drift"]["smollm2@default"]["n_seen"] == 1
    assert 'demur_drift_alarm{model="smollm2",policy="default"} 0.0' in app.state.service.metrics.text().decode()
