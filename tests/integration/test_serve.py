"""A real server on this machine: clients that leave, a server that stops, policies that change, official clients."""

import asyncio
import json
import os
import subprocess
import sys
import time

import httpx
import pytest

from demur.control import policy_file
from demur.core.policy import Policy, Rule, SignalSource
from demur.core.signal import stacked
from demur.serve.book import load_book, make_book
from demur.serve.rehearsal import CATEGORIES, SOURCE, Rehearsal, scripted_scores
from demur.serve.service import source_of
from tests.serve_models import app_of, chat, events, listening, policy

LONG = " ".join(f"word{i}" for i in range(400))
MEDIUM = " ".join(f"word{i}" for i in range(80))
POST = "/v1/chat/completions"


def write_policy(folder, name="default", threshold=0.5, *, identity=SOURCE.identity):
    source = SignalSource(name=SOURCE.name, identity=identity)
    rules = {category: Rule(threshold=threshold) for category in ("safety", "humanizing")}
    policy_file.write_policy(folder / f"{name}.toml", Policy(name=name, source=source, rules=rules))


async def until(true, seconds=15.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        await asyncio.sleep(0.01)
    assert true()


# --- leaving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_turn_at_once(stream):
    model = Rehearsal(delay_s=0.02)

    async def check():
        app = app_of(model, max_running=1)
        gate = app.state.service.gate
        async with listening(app) as (url, _):
            body = json.dumps(chat(LONG, stream=stream)).encode()
            head = f"POST {POST} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(head + body)
            await until(lambda: model.n_open == 1)
            if stream:
                assert b"200 OK" in await reader.readline()
            assert gate.running == 1
            writer.close()
            await until(lambda: gate.running == 0 and model.n_open == 0, seconds=2.0)
            async with httpx.AsyncClient(base_url=url, timeout=60) as client:  # the one turn is free for the next
                assert (await client.post(POST, json=chat("hi"))).status_code == 200

    asyncio.run(check())


def test_a_client_that_leaves_the_queue_never_gets_a_turn():
    model = Rehearsal(delay_s=0.01)

    async def check():
        app = app_of(model, max_running=1)
        gate = app.state.service.gate
        async with listening(app) as (url, _), httpx.AsyncClient(base_url=url, timeout=60) as client:
            first = asyncio.create_task(client.post(POST, json=chat(MEDIUM)))
            await until(lambda: gate.running == 1)
            second = asyncio.create_task(client.post(POST, json=chat("hi")))
            await until(lambda: gate.waiting == 1)
            second.cancel()
            await until(lambda: gate.waiting == 0)
            assert gate.running == 1
            assert (await first).status_code == 200

    asyncio.run(check())


def test_a_ten_megabyte_body_gets_its_413_announced_or_not():
    async def chunks():
        for _ in range(160):
            yield b" " * 65_536

    async def check():
        async with listening(app_of()) as (url, _), httpx.AsyncClient(base_url=url, timeout=60) as client:
            for content in (b" " * 10_000_000, chunks()):
                reply = await client.post(POST, content=content)
                assert reply.status_code == 413
                assert reply.json()["error"]["code"] == "body_too_large"
            assert (await client.post(POST, json=chat("hi"))).status_code == 200

    asyncio.run(check())


# --- stopping -------------------------------------------------------------------------------------------------------


async def stopped_amid(client, server, body):
    """A stream during which the server is told to stop; its text."""
    async with client.stream("POST", POST, json=body) as reply:
        lines = reply.aiter_text()
        got = await anext(lines)
        server.should_exit = True
        return got + "".join([text async for text in lines])


def test_stopping_finishes_streams_and_takes_no_more():
    async def check():
        app = app_of(Rehearsal(delay_s=0.01))
        async with listening(app) as (url, server), httpx.AsyncClient(base_url=url, timeout=60) as client:
            got = await stopped_amid(client, server, chat("one two three " * 20, stream=True))
            assert events(got)[-1] == "[DONE]"
            assert events(got)[-2]["choices"][0]["finish_reason"] == "stop"
            with pytest.raises(httpx.ConnectError):
                await client.post(POST, json=chat("hi"))

    asyncio.run(check())


def test_what_cannot_end_in_time_is_told_so():
    async def check():
        app = app_of(Rehearsal(delay_s=0.05), drain_s=0.3)
        async with listening(app) as (url, server), httpx.AsyncClient(base_url=url, timeout=60) as client:
            whole = asyncio.create_task(client.post(POST, json=chat(LONG)))
            got = await stopped_amid(client, server, chat(LONG, stream=True))
            assert events(got)[-1]["error"]["code"] == "shutting_down"
            assert (await whole).status_code == 503

    asyncio.run(check())


# --- reloading ------------------------------------------------------------------------------------------------------


def served(folder, model, **settings):
    from demur.serve.app import build_app
    from demur.serve.settings import ServerSettings

    held = load_book(folder, {"smollm2": SOURCE})
    return build_app({"smollm2": model}, held, ServerSettings(policy_path=folder, poll_s=0.05, **settings))


def test_a_changed_policy_is_in_force_soon_and_begun_requests_keep_theirs(tmp_path):
    folder = tmp_path / "policies"
    write_policy(folder, threshold=0.9)

    async def check():
        app = served(folder, Rehearsal(delay_s=0.01))
        old = app.state.service.book.shelves["smollm2"]["default"].version
        async with listening(app) as (url, _), httpx.AsyncClient(base_url=url, timeout=60) as client:
            slow = asyncio.create_task(client.post(POST, json=chat(f"safety=0.6 {MEDIUM}")))
            await until(lambda: app.state.service.gate.running == 1)
            write_policy(folder, threshold=0.5)
            write_policy(folder, "new", threshold=0.7)
            await until(lambda: "new" in app.state.service.book.shelves["smollm2"])
            after = (await client.post(POST, json=chat("safety=0.6 x"))).json()["demur"]
            before = (await slow).json()["demur"]
            assert (before["refused"], before["policy_version"]) == (False, old)
            assert after["refused"]
            assert after["policy_version"] != old
            assert (await client.post(POST, json=chat("x", model="smollm2@new"))).status_code == 200

    asyncio.run(check())


def test_a_broken_policy_keeps_the_old_book_and_says_so(tmp_path):
    folder = tmp_path / "policies"
    write_policy(folder)

    async def check():
        app = served(folder, Rehearsal())
        service = app.state.service
        async with listening(app) as (url, _), httpx.AsyncClient(base_url=url, timeout=60) as client:
            for broken in ("name =", 'name = "x"\n[source]\nname = "rehearsal"\nidentity = "another@1"\n'):
                (folder / "broken.toml").write_text(broken)
                await until(lambda: service.reload_error)
                health = await client.get("/healthz")
                assert (health.status_code, health.json()["status"]) == (200, "degraded")
                assert "broken.toml" in health.json()["reload_error"]
                assert (await client.post(POST, json=chat("hi"))).status_code == 200
                (folder / "broken.toml").unlink()
                await until(lambda: not service.reload_error)
            assert (await client.get("/healthz")).json()["status"] == "ok"
            assert 'demur_policy_reloads_total{outcome="failed"} 2.0' in (await client.get("/metrics")).text

    asyncio.run(check())


def test_reloads_in_between_lose_no_request_and_change_no_decision(tmp_path):
    folder = tmp_path / "policies"
    write_policy(folder, threshold=0.5)

    async def check():
        app = served(folder, Rehearsal(), max_queue=1000)
        watch, expected, wrong = app.state.watch, {}, []

        def note():
            held = app.state.service.book.shelves["smollm2"]["default"]
            expected[held.version] = held.policy.threshold_of("safety")

        async def one(client, i):
            p = (i % 10) / 10
            demur = (await client.post(POST, json=chat(f"safety={p} x", stream=False))).json()["demur"]
            if demur["refused"] != (demur["p"] >= expected[demur["policy_version"]]):
                wrong.append(demur)

        note()
        async with listening(app) as (url, _):
            limits = httpx.Limits(max_connections=8)
            async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
                for turn in range(5):
                    batch = asyncio.gather(*(one(client, i) for i in range(40)))
                    write_policy(folder, threshold=0.2 + 0.1 * turn)
                    assert await watch.reload()
                    note()
                    await batch
        assert wrong == []
        assert len(expected) == 5

    asyncio.run(check())


# --- official clients -----------------------------------------------------------------------------------------------


@pytest.fixture
def anywhere():
    """Run what blocks against a listening application, in a thread."""

    def run(app, ask):
        async def main():
            async with listening(app) as (url, _):
                return await asyncio.to_thread(ask, f"{url}/v1")

        return asyncio.run(main())

    return run


def with_keys(**fields):
    from hashlib import sha256

    from demur.serve.keys import ApiKey, KeyRing

    return KeyRing((ApiKey(name="web", sha256=sha256(b"sk-right").hexdigest(), **fields),))


def test_openais_client_works_unchanged(anywhere):
    openai = pytest.importorskip("openai")
    user = [{"role": "user", "content": "safety=0.9 tell me"}]

    def ask(url):
        with openai.OpenAI(base_url=url, api_key="sk-right", max_retries=0) as client:
            whole = client.chat.completions.create(model="smollm2", messages=user)
            raw = client.chat.completions.with_raw_response.create(model="smollm2@lenient", messages=user)
            pieces = list(client.chat.completions.create(model="smollm2", messages=user, stream=True))
            extra = {"demur": {"policy": "lenient"}}
            answered = client.chat.completions.create(model="smollm2", messages=user, extra_body=extra)
            names = [model.id for model in client.models.list()]
            return whole, raw, pieces, answered, names

    whole, raw, pieces, answered, names = anywhere(app_of(keys=with_keys()), ask)
    assert whole.choices[0].message.content is None
    assert whole.choices[0].message.refusal == "Declined, safety: safety=0.9 tell me"
    assert whole.demur["category"] == "safety"
    assert "".join(p.choices[0].delta.refusal or "" for p in pieces) == whole.choices[0].message.refusal
    assert answered.choices[0].message.content == "Answer: safety=0.9 tell me"
    assert raw.headers["x-demur-policy"] == "lenient"
    assert "smollm2@strict" in names


def test_openais_client_raises_its_own_errors(anywhere):
    openai = pytest.importorskip("openai")
    user = [{"role": "user", "content": "hi"}]

    def ask(url):
        raised = []
        for key, fields in (
            ("sk-wrong", {}),
            ("sk-right", {"model": "smollm2@nope"}),
            ("sk-right", {"model": "gpt-9"}),
            ("sk-right", {"temperature": 9}),
            ("sk-right", {}),
            ("sk-right", {}),
        ):
            with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
                try:
                    client.chat.completions.create(**({"model": "smollm2", "messages": user} | fields))
                except openai.APIStatusError as error:
                    raised.append((type(error).__name__, error.code))
        return raised

    assert anywhere(app_of(keys=with_keys(requests_per_minute=4)), ask) == [
        ("AuthenticationError", "invalid_api_key"),
        ("BadRequestError", "unknown_policy"),
        ("NotFoundError", "model_not_found"),
        ("BadRequestError", "invalid_value"),
        ("RateLimitError", "rate_limit_exceeded"),
    ]


LITELLM = """
import json, sys, warnings
warnings.simplefilter("ignore")
import litellm
litellm.suppress_debug_info = True
ask = dict(model="openai/smollm2", api_base=sys.argv[1], api_key="sk-right",
           messages=[{"role": "user", "content": "safety=0.9 tell me"}])
whole = litellm.completion(**ask, extra_body={"demur": {"content_on_refusal": True}})
lenient = litellm.completion(**{**ask, "model": "openai/smollm2@lenient"})
pieces = list(litellm.completion(**{**ask, "model": "openai/smollm2@lenient"}, stream=True))
try:
    litellm.completion(**{**ask, "model": "openai/smollm2@nope"})
    error = ""
except litellm.BadRequestError as e:
    error = "BadRequestError"
print(json.dumps([whole.choices[0].message.content, lenient.choices[0].message.content,
                  "".join(p.choices[0].delta.content or "" for p in pieces), error]))
"""


def test_litellm_works_unchanged(anywhere):
    pytest.importorskip("importlib.util").find_spec("litellm") or pytest.skip("litellm is not installed")

    def ask(url):
        # In a process of its own: it warns on import, and warnings are errors here.
        env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        done = subprocess.run(
            [sys.executable, "-c", LITELLM, url], capture_output=True, text=True, timeout=120, env=env
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    refused, lenient, pieces, error = anywhere(app_of(keys=with_keys()), ask)
    assert refused.startswith("Declined, safety")
    assert lenient == pieces == "Answer: safety=0.9 tell me"
    assert error == "BadRequestError"


class WordSignal:
    """A signal of one's own: what the prompt's script says."""

    name = "words"
    identity = "words@1"
    categories = CATEGORIES

    async def score(self, requests, /):
        return stacked([scripted_scores(request.messages[-1].text) for request in requests])


def behind(url, held):
    """A server in front of another, deciding by a signal of its own."""
    from demur.models.controlled import controlled_model
    from demur.serve.app import build_app
    from demur.serve.settings import ServerSettings

    model = controlled_model("openai/upstream", upstream=url, upstream_model="smollm2", signal=WordSignal())
    return build_app({"front": model}, make_book([("here", held)], {"front": source_of(model)}), ServerSettings())


@pytest.mark.parametrize("stream", [False, True])
def test_a_proxy_declines_by_itself_and_lets_the_upstream_answer(stream):
    held = Policy(name="default", source=SignalSource(name="words", identity="words@1"))

    async def check():
        everything = policy(threshold=1.0)
        async with (
            listening(app_of(Rehearsal(), everything)) as (upstream, _),
            listening(behind(upstream, held)) as (url, _),
            httpx.AsyncClient(base_url=url, timeout=60) as client,
        ):
            found = []
            for prompt in ("hello there", "safety=0.9 x"):
                reply = await client.post(POST, json=chat(prompt, model="front", stream=stream))
                found.append(events(reply.text)[:-1] if stream else [reply.json()])
        answered, declined = found
        if stream:
            assert "".join(c["choices"][0]["delta"].get("content", "") for c in answered) == "Answer: hello there"
        else:
            assert answered[0]["choices"][0]["message"]["content"] == "Answer: hello there"
        assert declined[0]["demur"]["category"] == "safety"

    asyncio.run(check())


def test_an_upstream_that_is_not_there_is_a_502():
    held = Policy(name="default", source=SignalSource(name="words", identity="words@1"))

    async def check():
        app = behind("http://127.0.0.1:9", held)
        async with listening(app) as (url, _), httpx.AsyncClient(base_url=url, timeout=60) as client:
            reply = await client.post(POST, json=chat("hi", model="front"))
            assert reply.status_code == 502
            assert reply.json()["error"]["code"] == "upstream_error"

    asyncio.run(check())
