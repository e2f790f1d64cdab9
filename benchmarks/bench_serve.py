"""How fast `demur serve` answers beside plain transformers, what a decision costs, and what a storm does to it.

    python benchmarks/bench_serve.py [--model smollm2+adapters/tokens] [--requests 96] [--storm 10000] [--real-storm 400]

speed   the same prompts, greedy, at most 64 tokens, asked by 1, 4 and 16 clients over HTTP on loopback: first of
        transformers' generate behind FastAPI (one at a time under a lock), then of `demur serve`. Its policy answers
        everything, so that both write replies; tokens per second are compared as well, since replies may differ in length
decide  time between a request's scores and the beginning of its reply, as the server's Server-Timing header has it
storm   10,000 requests to a scripted model, and fewer to the real one, by 32 clients: a tenth malformed, a tenth of
        clients vanish, policies are rewritten several times a second, some of them broken. No request may be lost, and
        every reply must be what the policy version it names says. Memory is the server's resident size
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from record import record
from serve_storm import write_policies

HERE = Path(__file__).parent
SERVE = [sys.executable, "-c", "import typer; from demur.cli.serve import serve_command; typer.run(serve_command)"]
CLIENTS = (1, 4, 16)
MAX_TOKENS = 64
N_PROMPTS = 48


def prompts():
    """Prompts of the core suite that ought to be answered."""
    from demur.suites import load_suite

    found = [p.prompt for p in load_suite("core").rows if p.expected == "comply"]
    return [text for text in found if "\n" not in text][:: max(1, len(found) // N_PROMPTS)][:N_PROMPTS]


@contextlib.contextmanager
def server(command):
    """A server in a process of its own; its base URL and process id."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if "http" not in line:
            sys.exit(f"no server: {' '.join(command[-6:])}")
        yield line.split()[-1].removesuffix("/v1"), process.pid
        process.send_signal(signal.SIGTERM)
        if process.wait(60) not in (0, -signal.SIGTERM):
            sys.exit(f"the server ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()


def said(script, *args):
    done = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, args)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def speeds(url, model, n_requests, folder):
    """Load at each number of clients, after some requests that do not count."""
    bodies = folder / f"bodies-{model.replace('/', '-')}.jsonl"
    rows = [
        {
            "model": model,
            "messages": [{"role": "user", "content": p}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0.0,
        }
        for p in prompts()
    ]
    bodies.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wait_for(url)
    said("serve_load.py", url, bodies, "--clients", 2, "--requests", 4)
    found = []
    for n in CLIENTS:
        # A single client of a slow server would take most of the time and say little more.
        size = max(4 * n, n_requests // 3 if n == 1 else n_requests)
        found.append(said("serve_load.py", url, bodies, "--clients", n, "--requests", min(size, n_requests)))
        print(f"  {n:3d} clients: {found[-1]['requests_per_second']:.2f} requests/s", flush=True)
    return found


def wait_for(url, seconds=120):
    host, port = url.removeprefix("http://").split(":")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        time.sleep(0.2)
    sys.exit(f"{url} does not listen")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


def source_of(model):
    """The model's signal and its categories, without loading weights."""
    if model == "rehearsal":
        from demur.serve.rehearsal import CATEGORIES, SOURCE

        return SOURCE, CATEGORIES
    from demur.models.controlled import controlled_model
    from demur.serve.service import source_of as signal_of

    source = signal_of(controlled_model(model))
    return source, [c for c in source.token_ids if c != "respond"]


def answering(model, folder):
    """A policy that answers everything."""
    from serve_storm import ruled

    from demur.control.policy_file import write_policy

    source, categories = source_of(model)
    write_policy(folder / "default.toml", ruled("default", dict.fromkeys(categories, 1.0), source))
    return folder


def health(url):
    with urllib.request.urlopen(f"{url}/healthz") as reply:
        return json.load(reply)


def storm(model, n_requests, folder, *, max_tokens):
    source, categories = source_of(model)
    policies = folder / "policies"
    write_policies(policies, source, categories)
    texts = folder / "prompts.txt"
    texts.write_text("\n".join(prompts()), encoding="utf-8")
    command = [*SERVE, f"subject={model}" if model != "rehearsal" else model, "--policy", policies, "--port", 0]
    with server([*map(str, command), "--max-queue", "256"]) as (url, pid):
        name = "rehearsal" if model == "rehearsal" else "subject"
        options = ["--model", name, "--requests", n_requests, "--pid", pid, "--max-tokens", max_tokens]
        started = time.perf_counter()
        found = said("serve_storm.py", url, policies, *options, "--prompts", texts)
        seconds = time.perf_counter() - started
        left = wait_idle(url)
    return found | {"seconds": seconds, "left_running": left["running"], "left_waiting": left["waiting"]}


def wait_idle(url):
    for _ in range(50):
        found = health(url)
        if not found["running"] and not found["waiting"]:
            break
        time.sleep(0.1)
    return found


def compare_speeds(model, n_requests, folder):
    from demur.models.unpacked import embedded_folder

    port = free_port()
    print("plain transformers", flush=True)
    with server([sys.executable, str(HERE / "serve_plain.py"), str(embedded_folder()), str(port)]) as (url, _):
        plain = speeds(url, "plain", n_requests, folder)
    print("demur serve", flush=True)
    policy = answering(model, folder / "answering")
    with server([*SERVE, f"subject={model}", "--policy", str(policy), "--port", "0"]) as (url, _):
        ours = speeds(url, "subject", n_requests, folder)
    ratios = {
        str(a["clients"]): {
            "requests": a["requests_per_second"] / b["requests_per_second"],
            "tokens": a["tokens_per_second"] / b["tokens_per_second"],
            "p50": a["p50_s"] / b["p50_s"],
        }
        for a, b in zip(ours, plain, strict=True)
    }
    return {"plain": plain, "demur": ours, "ratio": ratios, "decide_p50_ms": [a["decide_p50_ms"] for a in ours]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2+adapters/tokens", help="'' leaves out what needs a real model")
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--storm", type=int, default=10_000)
    parser.add_argument("--real-storm", type=int, default=400)
    parser.add_argument("--dry", action="store_true", help="print, record nothing")
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    result = {"model": asked.model, "max_tokens": MAX_TOKENS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"storm of {asked.storm} on the scripted model", flush=True)
        result["storm"] = storm("rehearsal", asked.storm, folder / "scripted", max_tokens=64)
        print(json.dumps(result["storm"], indent=1), flush=True)
        if asked.model:
            result |= compare_speeds(asked.model, asked.requests, folder)
            print(f"storm of {asked.real_storm} on {asked.model}", flush=True)
            result["real_storm"] = storm(asked.model, asked.real_storm, folder / "real", max_tokens=8)
    print(json.dumps(result, indent=1))
    if not asked.dry:
        record("serve", result, ("fastapi", "uvicorn", "transformers", "torch", "xllamacpp"))
    storms = [found for key, found in result.items() if key.endswith("storm")]
    if any(found["lost"] or found["wrong"] or found["left_running"] for found in storms):
        sys.exit("requests were lost or wrong")


if __name__ == "__main__":
    main()
