"""Load generator: CLIENTS clients that ask one thing after another, in a process of their own; JSON on its last line.

python benchmarks/serve_load.py URL BODIES.jsonl --clients 16 --requests 64
"""

import argparse
import asyncio
import json
import re
import time
from pathlib import Path

from serve_client import Connection, at


async def client(url, todo, answers):
    connection = Connection(*at(url))
    while todo:
        answer = await connection.ask(todo.pop())
        if answer.status != 200:
            raise SystemExit(f"expected 200, got {answer.status}: {answer.body[:200]!r}")
        answers.append(answer)
    connection.vanish()


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def counted(answer):
    """Tokens written, and milliseconds of deciding where the server tells."""
    found = answer.json() if answer.body[:1] == b"{" else answer.chunks()[-1]
    decide = re.search(r"decide;dur=([\d.]+)", answer.headers.get("server-timing", ""))
    return found["usage"]["completion_tokens"], float(decide[1]) if decide else None


async def load(url, bodies, n_clients, n_requests):
    todo, answers = [bodies[i % len(bodies)] for i in range(n_requests)], []
    started = time.perf_counter()
    await asyncio.gather(*(client(url, todo, answers) for _ in range(n_clients)))
    seconds = time.perf_counter() - started
    tokens, decide = zip(*map(counted, answers), strict=True)
    decide = [ms for ms in decide if ms is not None]
    return {
        "clients": n_clients,
        "requests": len(answers),
        "seconds": seconds,
        "requests_per_second": len(answers) / seconds,
        "tokens_per_second": sum(tokens) / seconds,
        "mean_tokens": sum(tokens) / len(tokens),
        "p50_s": percentile([a.total_s for a in answers], 0.5),
        "p95_s": percentile([a.total_s for a in answers], 0.95),
        "first_p50_s": percentile([a.first_s for a in answers], 0.5),
        "decide_p50_ms": percentile(decide, 0.5),
        "decide_p95_ms": percentile(decide, 0.95),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--requests", type=int, default=16)
    asked = parser.parse_args()
    lines = asked.bodies.read_bytes().splitlines()
    print(json.dumps(asyncio.run(load(asked.url, lines, asked.clients, asked.requests))))
