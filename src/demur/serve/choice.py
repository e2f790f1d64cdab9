"""Which policy a request gets: chosen once, never by silent default, and never looser than its key allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demur.core.controlled import ControlledModel
from demur.core.errors import UnknownNameError
from demur.core.policy import Policy
from demur.core.signal import ANY, RESPOND
from demur.serve.book import HeldPolicy, PolicyBook
from demur.serve.calls import ChatCall
from demur.serve.faults import Fault, bad_request, forbidden
from demur.serve.fields import shown
from demur.serve.keys import ApiKey

# Name of the one threshold of a policy of kind 'sum', in a request's thresholds.


@dataclass(frozen=True, slots=True)
class Choice:
    """What a request is decided by.

    Attributes:
        name: The model, as requests call it.
        model: The model.
        policy: The policy with the request's own thresholds in it.
        version: Version of the policy as the book has it.
        floor: What the request cannot go below.
    """

    name: str
    model: ControlledModel
    policy: Policy
    version: str
    floor: HeldPolicy | None


def choose(
    call: ChatCall, header: str | None, key: ApiKey, models: Mapping[str, ControlledModel], book: PolicyBook
) -> Choice:
    """The model and policy a request asks for.

    A policy can be named after the model's name ('smollm2@lenient'), in the body's `demur` object and in the header
    X-Demur-Policy; where two of them speak they must agree.

    Raises:
        Fault: 404 unknown model, 400 unknown policy or category, or a conflict, 403 what the key may not do.
    """
    name, suffix = model_and_policy(call.model, models)
    shelf = book.shelves[name]
    wanted = _agreed({"model": suffix, "demur.policy": call.options.policy, "X-Demur-Policy": header})
    if wanted is not None and wanted[1] not in shelf:
        raise _unknown("policy", wanted[1], list(shelf), param=wanted[0])
    chosen = wanted[1] if wanted else book.defaults[name]
    if key.policies is not None and chosen not in key.policies:
        raise forbidden(
            f"policy {chosen!r} is not for this key; it may choose {', '.join(key.policies) or 'none'}",
            param=wanted[0] if wanted else "demur.policy",
        )
    held = shelf[chosen]
    policy = with_thresholds(
        held.policy, call.options.thresholds, categories_of(models[name]), may_loosen=key.may_loosen
    )
    return Choice(name, models[name], policy, held.version, shelf[key.floor] if key.floor else None)


def model_and_policy(typed: str, models: Mapping[str, ControlledModel]) -> tuple[str, str | None]:
    """A model's name and the policy named after it.

    Raises:
        Fault: 404 for a model that is not served.
    """
    if typed in models:
        return typed, None
    name, at, policy = typed.rpartition("@")
    if at and name in models:
        return name, policy
    message = str(UnknownNameError("model", typed[:100], models))
    raise Fault(404, message, param="model", code="model_not_found")


def categories_of(model: ControlledModel) -> list[str]:
    """Categories of a model's signal, as far as it tells before it has scored anything."""
    return list(model.categories) or [c for c in model.token_ids if c != RESPOND]


def with_thresholds(
    policy: Policy, thresholds: Mapping[str, float], categories: Sequence[str], *, may_loosen: bool
) -> Policy:
    """A policy with a request's own thresholds.

    Lower thresholds decline more, whatever the policy's kind; raising one needs `may_loosen`.

    Args:
        policy: The policy chosen.
        thresholds: What the request wants, by category.
        categories: Those of the signal; empty if it does not tell.
        may_loosen: Whether a threshold may be raised.

    Raises:
        Fault: 400 where the policy has no such threshold, 403 where it would be raised.
    """
    if not thresholds:
        return policy
    if policy.kind in ("two_way", "bias"):
        raise bad_request(
            f"demur.thresholds: policy {policy.name!r} is of kind {policy.kind!r} and has no thresholds",
            param="demur.thresholds",
            code="invalid_value",
        )
    current = {category: _current(policy, category, categories) for category in thresholds}
    for category, threshold in thresholds.items():
        if threshold > current[category] and not may_loosen:
            raise forbidden(
                f"demur.thresholds.{category}: this key may only lower it from {current[category]:g}, got "
                f"{threshold:g}",
                param=f"demur.thresholds.{category}",
            )
    if policy.kind == "sum":
        return policy.model_copy(update={"threshold": thresholds[ANY]})
    changed = {c: policy.rule(c).model_copy(update={"threshold": t}) for c, t in thresholds.items()}
    return policy.model_copy(update={"rules": {**policy.rules, **changed}})


def _current(policy: Policy, category: str, categories: Sequence[str]) -> float:
    param = f"demur.thresholds.{category[:60]}"
    if policy.kind == "sum":
        if category != ANY:
            raise bad_request(
                f"{param}: policy {policy.name!r} sums all categories; its one threshold is called {ANY!r}",
                param=param,
                code="unknown_category",
            )
        return policy.threshold
    known = list(categories) or list({**policy.rules, **policy.reference})
    if category not in known:
        raise _unknown("category", category, known, param=param)
    if policy.rule(category).action == "answer":
        raise bad_request(f"{param}: policy {policy.name!r} switches this category off", param=param)
    if policy.kind == "category_set" and category not in policy.rules:
        raise bad_request(
            f"{param}: policy {policy.name!r} leaves this category to the model; it has "
            f"{', '.join(policy.rules) or 'no rules'}",
            param=param,
        )
    return policy.threshold_of(category)


def _agreed(named: Mapping[str, str | None]) -> tuple[str, str] | None:
    found = [(where, name) for where, name in named.items() if name is not None]
    for where, name in found[1:]:
        if name != found[0][1]:
            raise bad_request(
                f"{where} names policy {shown(name)}, {found[0][0]} names {shown(found[0][1])}; name one",
                param=where,
                code="conflict",
            )
    return found[0] if found else None


def _unknown(kind: str, name: str, known: list[str], *, param: str) -> Fault:
    return bad_request(str(UnknownNameError(kind, name[:100], known)), param=param, code=f"unknown_{kind}")
