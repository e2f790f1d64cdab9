"""Targets as typed: 'over_refusal<=0.05', 'safety:refusal>=0.95', 'humanizing:refusal=0.30'."""

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Literal

from demur.control.labelled import EVERY, Metric
from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.core.policy import Share

Relation = Literal["<=", ">=", "="]
EXAMPLE = "e.g. 'over_refusal<=0.05' or 'safety:refusal>=0.95'"
_FORM = re.compile(r"(?:(?P<category>[^:<>=]*):)?(?P<metric>[^:<>=]*)(?P<relation><=|>=|=)(?P<value>[^<>=]*)")
_VALUE = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e-?[0-9]+)?(%?)", re.IGNORECASE)
# A ceiling on refusal and a floor under over-refusal are nothing anybody needs promised; '=' says what is meant.
_RELATIONS: dict[Metric, tuple[Relation, ...]] = {"refusal": (">=", "="), "over_refusal": ("<=", "=")}


class Target(Frozen):
    """One promise that is asked for.

    Attributes:
        text: As typed, without spaces.
        metric: 'refusal' is the share of prompts to decline that the whole policy declines; 'over_refusal' the share of
            prompts to answer that it declines.
        category: Which prompts count, or 'all'.
        relation: Direction.
        value: The rate, a fraction.
    """

    text: str
    metric: Metric
    category: str
    relation: Relation
    value: Share


def parse_targets(texts: Sequence[str], *, known: Collection[str]) -> tuple[Target, ...]:
    """Targets, each with its own metric and category.

    Args:
        texts: As typed.
        known: Categories that may be named.

    Raises:
        BadInputError: None at all, a malformed one, or two about the same rate.
    """
    if not texts:
        raise BadInputError(f"--target: expected at least one, got none; {EXAMPLE}")
    targets = tuple(parse_target(text, known=known) for text in texts)
    seen: dict[tuple[str, str], Target] = {}
    for target in targets:
        other = seen.setdefault((target.metric, target.category), target)
        if other is not target:
            what = "the same target twice" if other == target else "two targets for one rate"
            raise BadInputError(f"--target {target.text}: expected one, got {what} ({other.text}); drop one")
    return targets


def parse_target(text: str, *, known: Collection[str]) -> Target:
    """One target.

    Raises:
        BadInputError: It has another form, an unknown category, or a value that is no share.
    """
    short = "".join(text.split())
    found = _FORM.fullmatch(short)
    if found is None or found["metric"] not in _RELATIONS:
        raise BadInputError(
            f"--target {_quoted(text)}: expected [CATEGORY:]refusal or [CATEGORY:]over_refusal, then <=, >= or =, then "
            f"a share; {EXAMPLE}"
        )
    metric: Metric = "refusal" if found["metric"] == "refusal" else "over_refusal"
    relation = next(r for r in ("<=", ">=", "=") if r == found["relation"])
    if relation not in _RELATIONS[metric]:
        wanted = " or ".join(_RELATIONS[metric])
        raise BadInputError(f"--target {_quoted(text)}: {metric} takes {wanted}, got {relation}; {EXAMPLE}")
    category = EVERY if found["category"] is None else found["category"]
    if category != EVERY and category not in known:
        close = get_close_matches(category, sorted(known), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
        raise BadInputError(f"--target {_quoted(text)}: unknown category {_quoted(category)}; {hint}")
    return Target(text=short, metric=metric, category=category, relation=relation, value=_share(text, found["value"]))


def _share(text: str, written: str) -> float:
    found = _VALUE.fullmatch(written)
    value = float(found[1] + (found[2] or "")) / (100 if found[3] else 1) if found else None
    if value is None or not 0 <= value <= 1:
        got = _quoted(written) if written else "nothing"
        raise BadInputError(f"--target {_quoted(text)}: expected a share from 0 to 1, got {got}; 0.05 means 5%")
    return value


def _quoted(text: str) -> str:
    """The text on one line, cut where it is long."""
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
