"""The command: what is wrong is said before anything is loaded, and signals do what they should."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from demur.core.errors import BadInputError
from demur.jobs.serve import ServeConfig, serve
from tests.integration.test_serve import MEDIUM, POST, write_policy
from tests.serve_models import chat, events


@contextmanager
def running(*args):
    """`demur serve rehearsal` in a process of its own; the process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "demur", "serve", "rehearsal", "--port", "0", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert "/v1" in line, process.stderr.read()
        yield process, line.rpartition(" ")[2].strip().removesuffix("/v1")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_finishes_what_has_begun_and_ends_well(stop, tmp_path):
    write_policy(tmp_path / "p")
    with running("--policy", tmp_path / "p") as (process, url), httpx.Client(base_url=url, timeout=60) as client:
        with client.stream("POST", POST, json=chat(MEDIUM, model="rehearsal", stream=True)) as reply:
            lines = reply.iter_text()
            got = next(lines)
            process.send_signal(stop)
            got += "".join(lines)
        assert events(got)[-1] == "[DONE]"
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()


def test_sighup_reads_the_policies_again(tmp_path):
    folder = tmp_path / "p"
    write_policy(folder, threshold=0.9)
    with running("--policy", folder) as (process, url), httpx.Client(base_url=url, timeout=60) as client:

        def refused():
            return client.post(POST, json=chat("safety=0.5 x", model="rehearsal")).json()["demur"]["refused"]

        assert not refused()
        write_policy(folder, threshold=0.1)
        process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 15
        while not refused() and time.monotonic() < end:
            time.sleep(0.02)
        assert refused()
        assert process.poll() is None


def test_without_policies_the_presets_are_served():
    with running() as (_, url), httpx.Client(base_url=url, timeout=60) as client:
        names = {m["id"] for m in client.get("/v1/models").json()["data"]}
        assert names == {"rehearsal", *(f"rehearsal@{name}" for name in ("strict", "default", "lenient"))}
        asked = chat("incomplete=0.6 book it", model="rehearsal@default")
        assert client.post(POST, json=asked).json()["demur"]["action"] == "clarify"


def test_an_open_server_does_not_answer_to_another_name():
    with running() as (_, url), httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/v1/models", headers={"Host": "rebound.example"}).status_code == 400


# --- what is wrong --------------------------------------------------------------------------------------------------


def wrong(**fields):
    with pytest.raises(BadInputError) as raised:
        serve(ServeConfig(**({"models": ("rehearsal",), "port": 0} | fields)), ready=lambda *_: pytest.fail("served"))
    return str(raised.value)


def test_listening_to_others_needs_keys():
    assert "--keys" in wrong(host="0.0.0.0")
    assert "--keys" in wrong(host="::")


def test_a_taken_port_is_said_before_a_model_is_built():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        message = wrong(models=("hf/nowhere",), port=taken.getsockname()[1])
    assert "--port" in message


def test_policies_are_checked_before_a_model_is_built(tmp_path):
    assert "found nothing there" in wrong(models=("hf/nowhere",), policy=tmp_path / "missing")
    assert "found none" in wrong(models=("hf/nowhere",), policy=tmp_path)
    write_policy(tmp_path / "p", identity="other@1")
    assert "other@1" in wrong(policy=tmp_path / "p")


def test_two_models_of_one_name_are_told_apart_by_an_alias():
    assert "two models" in wrong(models=("rehearsal", "rehearsal"))
    seen = []

    def ready(url, names):
        seen.extend(names)
        threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()

    serve(ServeConfig(models=("rehearsal", "second=rehearsal"), port=0), ready=ready)
    assert {"rehearsal", "second", "second@strict"} <= set(seen)


def test_a_bad_keys_file_stops_the_command(tmp_path):
    (tmp_path / "keys.toml").write_text("[[key]]\nname = 'a'\n")
    done = subprocess.run(
        [sys.executable, "-m", "demur", "serve", "rehearsal", "--keys", str(tmp_path / "keys.toml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert "keys.toml" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_a_model_that_cannot_be_made_ready_ends_the_command():
    from demur.core.errors import BackendError
    from demur.serve.process import bound_socket, run
    from tests.serve_models import Failing, app_of

    app = app_of(Failing(BackendError("no weights", retriable=False)), warm_up=True)
    with pytest.raises(BackendError, match="no weights"):
        run(app, bound_socket("127.0.0.1", 0), ready=lambda url: pytest.fail("served"))
    assert json.loads(json.dumps(app.state.service.health(detailed=True)))["waiting"] == 0
