"""From scores to decisions: every rule of the refusal-token papers and code, as pure functions of cached scores.

With p the probabilities of the chosen view and temperature, c* the likeliest category token:

two_way       decline iff sum_c p[c] >= p[respond]                     (the code's T = -1)
sum           decline iff sum_c p[c] >= T                              (one token: the code's global threshold)
bias          decline iff log sum_c p[c] + b >= log p[respond]         (threshold sigmoid(-b) on the two-way posterior)
category_set  if c* has a rule: decline iff p[c*] >= T_c*; else do whatever the model's likeliest token says
per_category  decline iff p[c] >= T_c for any c; the category is the likeliest of those

Source:
    Jain et al. (2024), "Refusal Tokens", and its released code; `per_category` and `bias` are generalisations.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.core.policy import Decision, Policy
from demur.core.signal import Floats, SignalScores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decisions:
    """Decisions on many requests, in columns of equal length.

    Attributes:
        refused: Whether the request is not simply answered.
        category: Column of the category that decided, or of the likeliest one.
        p: Probability compared.
        threshold: What it was compared with.
        token: Column of the control token to force; -1 = none.
    """

    refused: NDArray[np.bool_]
    category: NDArray[np.int64]
    p: Floats
    threshold: Floats
    token: NDArray[np.int64]


def decide(policy: Policy, scores: SignalScores) -> Decisions:
    """Apply a policy to scores.

    A rule whose action is 'answer' switches its category off: its probability never counts.
    """
    p = scores.p(policy.view, temperature=policy.temperature)
    on = np.array([policy.rule(c).action != "answer" for c in scores.categories])
    refusal, respond = np.where(on, p[:, :-1], 0.0), p[:, -1]
    n, likeliest = len(p), np.where(on.any(), refusal.argmax(axis=1), p[:, :-1].argmax(axis=1))
    rows, total = np.arange(n), np.clip(refusal.sum(axis=1), 0.0, 1.0)
    if policy.kind == "category_set":
        return _category_set(policy, scores, p)
    if policy.kind == "per_category":
        thresholds = np.array([policy.threshold_of(c) for c in scores.categories])
        tripped = (p[:, :-1] >= thresholds) & on
        refused = tripped.any(axis=1)
        category = np.where(refused, np.where(tripped, p[:, :-1], -1.0).argmax(axis=1), likeliest)
        compared, threshold = p[rows, category], thresholds[category]
    else:
        category, compared = likeliest, total
        threshold = _global_threshold(policy, total, respond)
        refused = (total >= threshold) & on.any()
    return Decisions(
        refused=refused,
        category=category,
        p=compared,
        threshold=threshold,
        token=np.where(refused, category, len(scores.categories)),
    )


def decide_one(policy: Policy, scores: SignalScores, *, row: int = 0) -> Decision:
    """The decision on one request."""
    found = decide(policy, scores[row : row + 1])
    category = scores.categories[int(found.category[0])]
    action = (
        (policy.rule(category).action if policy.rule(category).action != "answer" else "refuse")
        if (found.refused[0])
        else "answer"
    )
    return Decision(
        action=action,
        category=category,
        p=float(np.clip(found.p[0], 0.0, 1.0)),
        threshold=float(found.threshold[0]),
        policy=policy.name,
        token=int(found.token[0]),
    )


def stricter(chosen: Decision, floor: Decision) -> Decision:
    """The chosen decision, unless a floor declines what it would answer."""
    return floor.model_copy(update={"origin": "floor"}) if floor.refused and not chosen.refused else chosen


def _global_threshold(policy: Policy, total: Floats, respond: Floats) -> Floats:
    """What the summed probability is compared with, by row."""
    if policy.kind == "two_way":
        return np.clip(respond, 0.0, 1.0)
    if policy.kind == "bias":
        # log total + b >= log respond, as a threshold on total.
        with np.errstate(over="ignore"):
            return np.asarray(np.minimum(respond * np.exp(-policy.bias), 1.0))
    return np.full(len(total), policy.threshold)


def _category_set(policy: Policy, scores: SignalScores, p: Floats) -> Decisions:
    rows, category = np.arange(len(p)), p[:, :-1].argmax(axis=1)
    thresholds = np.array([policy.threshold_of(c) for c in scores.categories])
    controlled = np.array([c in policy.rules for c in scores.categories])[category]
    off = np.array([policy.rule(c).action == "answer" for c in scores.categories])[category]
    compared, threshold, respond = p[rows, category], thresholds[category], len(scores.categories)
    declines = (compared >= threshold) & ~off
    said = scores.top
    return Decisions(
        refused=np.where(controlled, declines, (said >= 0) & (said < respond)),
        category=np.where(~controlled & (said >= 0) & (said < respond), said, category),
        p=compared,
        threshold=threshold,
        token=np.where(controlled, np.where(declines, category, respond), said),
    )
