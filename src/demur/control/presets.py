"""Policies to begin with, and what a reply says where the policy has no words of its own."""

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from demur.core.errors import BadInputError, UnknownNameError
from demur.core.policy import Action, Decision, Policy, Rule, RuleKind, SignalSource
from demur.core.signal import ANY

# Thresholds on the probability of one category, or of all together; the bias that is the same on two-way odds.
PRESETS: dict[str, dict[str, float]] = {
    "strict": {"per_category": 0.2, "sum": 0.25, "category_set": 0.2, "bias": 1.0986},
    "default": {"per_category": 0.4, "sum": 0.5, "category_set": 0.4, "bias": 0.0},
    "lenient": {"per_category": 0.7, "sum": 0.75, "category_set": 0.7, "bias": -1.0986},
}
# Conduct that suits a category where all declining is the same to a threshold: what is missing is asked for.
ACTIONS: dict[str, Action] = {"incomplete": "clarify", "humanizing": "guide"}


def preset(name: str, source: SignalSource, categories: Sequence[str], *, kind: RuleKind = "per_category") -> Policy:
    """A policy of one of the names in `PRESETS`; its thresholds promise nothing until they are calibrated.

    Args:
        name: 'strict', 'default' or 'lenient'.
        source: The signal it is for.
        categories: Columns of the signal.
        kind: How scores become a decision.

    Raises:
        UnknownNameError: No preset of that name.
        BadInputError: A kind without a threshold.
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    if kind not in PRESETS[name]:
        raise BadInputError(f"preset {name}: expected one of {', '.join(PRESETS[name])}, got {kind!r}; choose one")
    value = PRESETS[name][kind]
    rules = {c: Rule(action=ACTIONS.get(c, "refuse")) for c in categories}
    where = {"bias": value} if kind == "bias" else {"threshold": value}
    return Policy.model_validate({"name": name, "source": source, "kind": kind, "rules": rules, **where})


def wording_of(policy: Policy, decision: Decision) -> str:
    """Words of a reply that declines: the rule's own, else the packaged ones; '' for a request that is answered."""
    if not decision.refused:
        return ""
    return policy.rule(decision.category).wording or packaged_wording(decision.category, decision.action)


def packaged_wording(category: str, action: Action) -> str:
    """Our own words for an action on a category; those for any request where the category has none.

    Raises:
        UnknownNameError: 'answer' has no words.
    """
    words = _wordings()
    if action not in words[ANY]:
        raise UnknownNameError("action", action, words[ANY])
    return words.get(category, words[ANY])[action]


@cache
def _wordings() -> dict[str, dict[str, str]]:
    text = files("demur.control").joinpath("wordings.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text))
