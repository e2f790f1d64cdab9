"""A writer without a model: sentences put together by strategy, so that the loop can be run, tested and understood.

It begins with a poor reply on purpose (a refusal or empty eagerness, by turns) and proposes every strategy of the
policy table at once; gate and projection do the rest. It shows the mechanics; its replies are no
advice to anybody.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from demur.constructive.chain import Chain
from demur.constructive.risk import PolicyTable, RiskRecord, Strategies, load_policy_table, risk_of_query
from demur.constructive.trajectory import Draft, Task
from demur.suites.constructive import Query

LABEL = "offline templates: this shows the mechanics of the loop, not what a model would say"
_WORD = re.compile(r"[A-Za-z']{5,}")
TOPIC_WORDS = 3


@dataclass(frozen=True, slots=True)
class TemplateWriter:
    """Replies and chains from the policy table and packaged sentences; the same query always goes the same way."""

    policy: PolicyTable | None = None
    name: str = "offline"

    async def answer(self, query: Query, risk: RiskRecord, /) -> Draft:
        eager = risk.level == "none" or int(sha256(query.id.encode()).hexdigest(), 16) % 2 == 0
        sets = Strategies.model_validate(_packaged()["start"]["eager" if eager else "refusing"])
        return Draft(response=self._written(query, sets))

    async def extract(self, query: Query, draft: Draft, guideline: str, /) -> Chain | None:
        risk = risk_of_query(query, self.policy)
        said = _packaged()["says"]
        starts = [Strategies.model_validate(one) for one in _packaged()["start"].values()]
        sets = next((s for s in starts if self._written(query, s) == draft.response), Strategies())
        if not (sets.usefulness or sets.safety):
            sets = Strategies(usefulness=tuple(s for s in said if _filled(said[s], query) in draft.response))
        at_risk = risk.level != "none"
        return Chain(
            needs=f"{query.role or 'somebody'}, about {topic(query.query)}",
            intent=f"{risk.code}, {risk.intent}" if at_risk else "",
            guidelines=guideline if at_risk else "",
            strategies=sets,
        )

    async def recombine(self, query: Query, chain: Chain, /) -> Draft | None:
        thought = f"Strategies: {len(chain.strategies.usefulness)} for use, {len(chain.strategies.safety)} for safety."
        return Draft(think=thought, response=self._written(query, chain.strategies))

    async def update(self, query: Query, chain: Chain, response: str, feedback: str, task: Task, /) -> Chain | None:
        table = self.policy or load_policy_table()
        wanted = table.strategies(risk_of_query(query, table))
        held = chain.strategies
        touch = {
            "user": (True, False),
            "developer": (False, True),
            "unsafe": (True, True),
            "both_low": (True, True),
            "unhelpful": (True, True),
            "fine": (True, False),
        }[task]
        sets = Strategies(
            usefulness=_towards(held.usefulness, wanted.usefulness) if touch[0] else held.usefulness,
            safety=_towards(held.safety, wanted.safety) if touch[1] else held.safety,
        )
        return chain.model_copy(update={"strategies": sets})

    def _written(self, query: Query, sets: Strategies) -> str:
        said: dict[str, str] = _packaged()["says"]
        parts = [_filled(said.get(s, f"What I can do: {s}."), query) for s in (*sets.usefulness, *sets.safety)]
        return " ".join(parts) or "I have nothing to say to this."


def topic(text: str) -> str:
    """A few of the longer words of a text, in order."""
    return " ".join(list(dict.fromkeys(_WORD.findall(text)))[:TOPIC_WORDS]).lower() or "this"


def _towards(held: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """All that is wanted, after what is held of it: a rewrite, which the projection will cut to one edit."""
    return (*(s for s in held if s in wanted), *(s for s in wanted if s not in held))


def _filled(text: str, query: Query) -> str:
    return text.replace("{TOPIC}", topic(query.query))


@cache
def _packaged() -> dict[str, Any]:
    return tomllib.loads(files("demur.constructive").joinpath("templates.toml").read_text(encoding="utf-8"))
