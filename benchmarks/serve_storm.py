"""A storm of requests: sound ones, malformed ones, clients that vanish, and policies that change in between.

python benchmarks/serve_storm.py URL POLICY_FOLDER --model rehearsal --requests 10000 --clients 32 --pid PID

Every sound request must get a whole reply. Its decision must be what the policy version it names says about its
scores: recomputed from the prompt where the model is the rehearsal, else from the probability the reply gives, which must
also be the same whenever the same prompt is asked. JSON on the last line.
"""

import argparse
import asyncio
import json
import random
import re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from serve_client import Connection, at

from demur.control.decision import decide_one
from demur.control.policy_file import read_policy, write_policy
from demur.core.policy import Policy, Rule
from demur.serve.book import load_book
from demur.serve.rehearsal import CATEGORIES, rehearsed_words, scripted_scores

NAMES = ("default", "lenient", "strict")
OWN_THRESHOLD = 0.02  # stricter than any policy here, so that no key is needed
RELOAD_EVERY_S = 0.15
SAME_P = 0.02  # batches of other sizes add up in another order
MALFORMED = [
    (b"", 400),
    (b"{", 400),
    (b'{"model": "M", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400),
    (b'{"model": "M", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', 400),
    (b'{"model": "M", "messages": [{"role": "user", "content": "x"}], "demur": {"policy": "nope"}}', 400),
    (b'{"model": "M", "messages": [{"role": "user", "content": "x"}], "demur": {"thresholds": {"x": 0}}}', 400),
    (b'{"model": "M", "messages": [{"role": "user", "content": "x"}], "n": 3}', 400),
    (b'{"model": "M@lenient", "messages": [{"role": "user", "content": "x"}], "demur": {"policy": "strict"}}', 400),
    (b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}', 404),
    (b'{"model": "M", "messages": "x"}', 400),
    (b"[" * 60_000, 400),
    (b" " * 1_200_000, 413),
]


def ruled(name, thresholds, source):
    """A policy with these thresholds."""
    return Policy(name=name, source=source, rules={c: Rule(threshold=t) for c, t in thresholds.items()})


def write_policies(folder, source, categories, rng=None):
    """Three policies; with a generator their thresholds wander."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, middle in zip(NAMES, (0.5, 0.8, 0.25), strict=True):
        thresholds = {c: round(middle + (rng.uniform(-0.2, 0.2) if rng else 0.0), 6) for c in categories}
        write_policy(folder / f"{name}.toml", ruled(name, thresholds, source))


class Storm:
    """The requests, what they must get, and what they got."""

    def __init__(self, asked):
        self.asked = asked
        self.rng = random.Random(asked.seed)
        self.folder = asked.folder
        self.first = read_policy(self.folder / "default.toml")
        self.source, self.categories = self.first.source, tuple(self.first.rules)
        self.known = {}
        self.seen_p = {}
        self.counts = Counter()
        self.wrong = []
        self.rss = []
        self.note(self.folder)

    # --- policies -------------------------------------------------------------------------------------------------

    def note(self, folder):
        """Remember every version before the server can name it."""
        for held in load_book(folder, {"m": self.source}).shelves["m"].values():
            self.known[held.version] = held.policy

    async def reload(self):
        rng = random.Random(1)
        while True:
            await asyncio.sleep(RELOAD_EVERY_S)
            with TemporaryDirectory() as aside:
                write_policies(Path(aside), self.source, self.categories, rng)
                self.note(Path(aside))
                for name in rng.sample(NAMES, rng.randint(1, 3)):
                    partial = self.folder / f".{name}.partial"
                    partial.write_bytes((Path(aside) / f"{name}.toml").read_bytes())
                    partial.replace(self.folder / f"{name}.toml")
            broken = self.folder / "broken.toml"
            if rng.random() < 0.3:
                broken.write_text("name =")
            else:
                broken.unlink(missing_ok=True)
            self.counts["policy writes"] += 1

    # --- requests -------------------------------------------------------------------------------------------------

    def prompt(self, i):
        if self.asked.model != "rehearsal":
            return self.asked.prompts[i % len(self.asked.prompts)]
        scripted = " ".join(f"{c}={self.rng.randint(0, 19) / 20}" for c in self.rng.sample(CATEGORIES, 2))
        return f"{scripted} request {i} " + " ".join(["word"] * self.rng.randint(0, 12))

    def sound(self, i):
        prompt, name, place = self.prompt(i), self.rng.choice(NAMES), self.rng.randint(0, 3)
        model, options, headers = self.asked.model, {}, {}
        if place == 0:
            model = f"{model}@{name}"
        elif place == 1:
            options["policy"] = name
        elif place == 2:
            headers["X-Demur-Policy"] = name
        else:
            name = "default"
        own = {self.rng.choice(self.categories): OWN_THRESHOLD} if self.rng.random() < 0.1 else {}
        if own:
            options["thresholds"] = own
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.asked.max_tokens,
            "stream": self.rng.random() < 0.5,
            **({"demur": options} if options else {}),
        }
        return prompt, name, own, json.dumps(body).encode(), headers

    async def one(self, connection, i):
        kind = self.rng.random()
        if kind < 0.1:
            body, status = self.rng.choice(MALFORMED)
            answer = await connection.ask(body.replace(b'"M', f'"{self.asked.model}'.encode()))
            self.check(answer.status == status and answer.json()["error"]["message"], f"{body[:60]}: {answer.status}")
            self.counts["malformed"] += 1
            return
        prompt, name, own, body, headers = self.sound(i)
        if kind < 0.2:
            await self.vanish(connection, body, headers)
            return
        answer = await connection.ask(body, headers)
        self.counts["sound"] += 1
        if answer.status != 200:
            self.wrong.append(f"{i}: {answer.status} {answer.body[:200]!r}")
            return
        self.judge(i, prompt, name, own, answer)

    async def vanish(self, connection, body, headers):
        """Leave amid the body, before the reply, or amid it."""
        when = self.rng.randint(0, 2)
        if when == 0:
            await connection.open()
            connection.writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n{"
            )
        else:
            await connection.send(body, headers)
            if when == 2:
                await connection.reader.readline()
        connection.vanish()
        self.counts["vanished"] += 1

    def judge(self, i, prompt, name, own, answer):
        if answer.headers["content-type"].startswith("text/event-stream"):
            chunks = answer.chunks()
            demur = chunks[0]["demur"]
            self.check(demur == chunks[-1]["demur"], f"{i}: first and last chunk differ")
            deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
            text = "".join((d.get("refusal") or "") + (d.get("content") or "") for d in deltas)
        else:
            found = answer.json()
            demur, message = found["demur"], found["choices"][0]["message"]
            text = message["content"] if message["content"] is not None else message["refusal"]
        self.counts[f"said {demur['action']}"] += 1
        policy = self.known.get(demur["policy_version"])
        if policy is None or not policy.name == name == demur["policy"]:
            self.wrong.append(f"{i}: names {demur['policy']} {demur['policy_version']}, asked for {name}")
            return
        rules = {**policy.rules, **{c: Rule(threshold=t) for c, t in own.items()}}
        policy = policy.model_copy(update={"rules": rules})
        if self.asked.model == "rehearsal":
            expected = decide_one(policy, scripted_scores(prompt))
            got = (demur["action"], demur["category"], round(demur["p"], 9), demur["threshold"])
            wanted = (expected.action, expected.category, round(expected.p, 9), expected.threshold)
            self.check(got == wanted, f"{i}: got {got}, expected {wanted}")
            words = "".join(rehearsed_words(prompt, expected.token)[: self.asked.max_tokens])
            self.check(text == words, f"{i}: got {text[:80]!r}, expected {words[:80]!r}")
            return
        threshold = policy.threshold_of(demur["category"])
        self.check(
            demur["threshold"] == threshold and demur["refused"] == (demur["p"] >= threshold) and text,
            f"{i}: {demur} against {threshold}",
        )
        before = self.seen_p.setdefault((prompt, demur["category"]), demur["p"])
        self.check(abs(before - demur["p"]) <= SAME_P, f"{i}: p {before} and {demur['p']} for one prompt")

    def check(self, holds, message):
        if not holds:
            self.wrong.append(message)

    # --- running --------------------------------------------------------------------------------------------------

    async def client(self, todo, n):
        connection = Connection(*at(self.asked.url))
        while todo:
            i = todo.pop()
            if (n - i) % max(1, n // 20) == 0:
                self.rss.append(resident_mb(self.asked.pid))
            try:
                await asyncio.wait_for(self.one(connection, i), 120)
            except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
                self.counts["lost"] += 1
                self.wrong.append(f"{i}: {type(error).__name__}: {error}")
                connection.vanish()
        connection.vanish()

    async def run(self):
        n = self.asked.requests
        todo = list(range(n))
        reloading = asyncio.create_task(self.reload())
        await asyncio.gather(*(self.client(todo, n) for _ in range(self.asked.clients)))
        reloading.cancel()
        (self.folder / "broken.toml").unlink(missing_ok=True)
        self.rss.append(resident_mb(self.asked.pid))
        settled = len(self.rss) // 4
        return {
            "requests": n,
            **self.counts,
            "lost": self.counts["lost"],
            "wrong": len(self.wrong),
            "examples": self.wrong[:5],
            "versions": len(self.known),
            "rss_mb_after_a_quarter": self.rss[settled],
            "rss_mb_at_the_end": self.rss[-1],
        }


def resident_mb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="rehearsal")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.prompts = given.prompts.read_text(encoding="utf-8").splitlines() if given.prompts else []
    print(json.dumps(asyncio.run(Storm(given).run())))
