"""The reasoning chain: needs (Z_u), risk and intent (Z_I), guidelines (Z_G) and two sets of strategies (Z_S)."""

import re
from collections.abc import Iterable, Sequence

from demur.constructive.risk import Strategies
from demur.core.exchange import Frozen

DELIMITER = ";"  # the only one, in and out: the released code mixes it with commas
_SPLIT = re.compile("[;\uff1b\n]")
_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d{1,2}[.)])\s+")
NODES = ("needs", "intent", "guidelines", "usefulness", "safety")
MAX_STRATEGIES = 8
MAX_CHARS = 600  # of one node; a model that rambles is cut, not believed


class Chain(Frozen):
    """One chain of reasoning; empty `intent` and `guidelines` mean that nothing is at stake.

    Attributes:
        needs: User needs analysis, Z_u.
        intent: Risk intent analysis, Z_I.
        guidelines: Safety guidelines, Z_G.
        strategies: Response strategy, Z_S: one set for usefulness and one for safety.
    """

    needs: str
    intent: str = ""
    guidelines: str = ""
    strategies: Strategies = Strategies()

    @property
    def is_general(self) -> bool:
        """Whether nothing is at stake: no risk was found, or no guideline applies."""
        return not self.intent.strip() or not self.guidelines.strip()

    @property
    def general(self) -> "Chain":
        """The chain as it is used: without risk, needs and usefulness strategies are all there is to follow."""
        if not self.is_general:
            return self
        return Chain(needs=self.needs, strategies=Strategies(usefulness=self.strategies.usefulness))

    def as_text(self) -> str:
        """The chain as prompts show it and as `parse_chain` reads it."""
        sets = self.strategies
        values = {
            "needs": self.needs,
            "intent": self.intent,
            "guidelines": self.guidelines,
            "usefulness": joined(sets.usefulness),
            "safety": joined(sets.safety),
        }
        return "\n".join(f"<{name}>{value}</{name}>" for name, value in values.items())


def joined(strategies: Iterable[str]) -> str:
    """Strategies as one text."""
    return f"{DELIMITER} ".join(strategies)


def strategy_set(text: str) -> tuple[str, ...]:
    """Strategies of one text, each once, in order; list marks are dropped, at most `MAX_STRATEGIES` are kept."""
    parts = (_BULLET.sub("", part).strip(" \t.") for part in _SPLIT.split(text))
    return tuple(dict.fromkeys(part[:MAX_CHARS] for part in parts if part))[:MAX_STRATEGIES]


def tagged(text: str, names: Sequence[str]) -> dict[str, str] | None:
    """The contents of each tag; None unless every one of them stands there exactly once, closed."""
    found = {}
    for name in names:
        parts = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL | re.IGNORECASE)
        if len(parts) != 1 or len(re.findall(rf"<{name}>", text, re.IGNORECASE)) != 1:
            return None
        found[name] = parts[0].strip()
    return found


def parse_chain(text: str) -> Chain | None:
    """The chain in a model's answer; None if a node is missing, stands twice, or there is no strategy at all."""
    found = tagged(text, NODES)
    if found is None:
        return None
    sets = Strategies(usefulness=strategy_set(found["usefulness"]), safety=strategy_set(found["safety"]))
    if not found["needs"] or not (sets.usefulness or sets.safety):
        return None
    nodes = {name: found[name][:MAX_CHARS] for name in ("needs", "intent", "guidelines")}
    return Chain(**nodes, strategies=sets)
