"""What a vLLM request asks of demur: policies named by environment variables, and requests checked against them.

The class that vLLM checks requests with never sees the engine's configuration, and the engine runs in another
process: the environment is what both of them can read. Both refuse what they cannot honour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from demur.control.policy_file import read_policy
from demur.core.errors import BadInputError, UnknownNameError, UserError
from demur.core.policy import Policy, SignalSource
from demur.core.signal import RESPOND, TEMPERATURES
from demur.serve.book import load_book, policy_files
from demur.serve.choice import with_thresholds
from demur.serve.faults import Fault
from demur.serve.fields import number_of, object_of, parse_object, shown, text_of

XARG = "demur_policy"
_MODEL = "the model"
# Sampling parameters that change, before or after us, the probabilities that a policy reads or the token it forces.
_CHANGING = (
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "structured_outputs",
    "thinking_token_budget",
    "trace_decode_token_ids",
)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an operator sets.

    Attributes:
        policies: DEMUR_POLICIES, a policy file or a folder of them.
        default: DEMUR_DEFAULT_POLICY, for requests that name none; '' = the one called 'default', or the only one.
        floor: DEMUR_FLOOR_POLICY; what it declines is declined whatever a request names; '' = none.
        may_loosen: DEMUR_MAY_LOOSEN=1 lets requests raise thresholds too.
        tokens: DEMUR_TOKENS, folder of the control tokens' record where the model is not served from a folder.
    """

    policies: str
    default: str = ""
    floor: str = ""
    may_loosen: bool = False
    tokens: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "EngineSettings":
        """The settings in environment variables.

        Raises:
            BadInputError: No policies are named, or a switch is neither 0 nor 1.
        """
        if not environ.get("DEMUR_POLICIES"):
            raise BadInputError("DEMUR_POLICIES: expected a policy file or a folder of them, got nothing")
        switch = environ.get("DEMUR_MAY_LOOSEN", "0")
        if switch not in ("0", "1"):
            raise BadInputError(f"DEMUR_MAY_LOOSEN: expected 0 or 1, got {switch!r}")
        return cls(
            policies=environ["DEMUR_POLICIES"],
            default=environ.get("DEMUR_DEFAULT_POLICY", ""),
            floor=environ.get("DEMUR_FLOOR_POLICY", ""),
            may_loosen=switch == "1",
            tokens=environ.get("DEMUR_TOKENS", ""),
        )


@dataclass(frozen=True, slots=True)
class EngineBook:
    """The policies of one engine.

    Attributes:
        policies: By name.
        default: Name of the one for requests that name none.
        floor: Applies to every request beside its own; None = no floor.
        may_loosen: Whether requests may raise thresholds.
    """

    policies: Mapping[str, Policy]
    default: str
    floor: Policy | None = None
    may_loosen: bool = False

    def policy_for(self, params: Any) -> Policy:
        """The policy of a request, its own thresholds in it.

        Args:
            params: vLLM's SamplingParams.

        Raises:
            ValueError: What it asks for does not exist, is not allowed, or would falsify the decision.
        """
        try:
            policy = self._chosen(_asked(getattr(params, "extra_args", None) or {}))
        except (Fault, UserError) as error:
            raise ValueError(f"vllm_xargs.{XARG}: {error}") from None
        for read in (policy, self.floor):
            if read is not None:
                _check_undisturbed(read, params)
        return policy

    def _chosen(self, asked: object) -> Policy:
        if asked is None:
            return self.policies[self.default]
        typed = text_of(asked, XARG)
        if not typed.lstrip().startswith("{"):
            return self._named(typed)
        wanted = parse_object(typed.encode("utf-8"))
        name = wanted.pop("policy", None)
        policy = self._named(self.default if name is None else text_of(name, "policy"))
        thresholds = {category: _threshold(category, value) for category, value in wanted.items()}
        categories = [name for name in policy.source.token_ids if name != RESPOND]
        return with_thresholds(policy, thresholds, categories, may_loosen=self.may_loosen)

    def _named(self, name: str) -> Policy:
        if name not in self.policies:
            raise UnknownNameError("policy", name[:100], self.policies)
        return self.policies[name]


def engine_book(settings: EngineSettings, source: SignalSource | None = None) -> EngineBook:
    """Read the policies, each of which an engine must be able to apply.

    Args:
        settings: Where they are.
        source: Signal of the served model; None = whatever the first policy was made for.

    Raises:
        BadInputError: A file is no policy, was made for another model, or needs more than an engine can do.
    """
    path = Path(settings.policies)
    files = policy_files(path) if path.exists() else []
    if not files:
        raise BadInputError(f"DEMUR_POLICIES: expected a policy file or a folder of them at {path}, found none")
    made_for = source or read_policy(files[0]).source
    try:
        book = load_book(path, {_MODEL: made_for}, default=settings.default or None)
    except BadInputError as error:
        raise BadInputError(f"DEMUR_POLICIES, DEMUR_DEFAULT_POLICY: {error}") from None
    policies = {name: held.policy for name, held in book.shelves[_MODEL].items()}
    for policy in policies.values():
        _check_expressible(policy)
    if settings.floor and settings.floor not in policies:
        raise BadInputError(f"DEMUR_FLOOR_POLICY: {UnknownNameError('policy', settings.floor, policies)}")
    floor = policies[settings.floor] if settings.floor else None
    return EngineBook(policies, book.defaults[_MODEL], floor, settings.may_loosen)


@lru_cache(maxsize=4)
def held_book(settings: EngineSettings) -> EngineBook:
    """The policies as they were when first read: a process never changes them under a running request."""
    return engine_book(settings)


def _asked(extra: Mapping[str, Any]) -> object:
    """The value of our argument; a misspelt one must not pass for none."""
    for name in extra:
        if name.lower().startswith("demur") and name != XARG:
            raise UnknownNameError("argument", name[:100], [XARG])
    if XARG in extra and extra[XARG] is None:
        raise BadInputError("expected the name of a policy or a JSON object, got null; leave it out for the default")
    return extra.get(XARG)


def _threshold(category: str, value: object) -> float:
    param = shown(category).strip("'\"")
    fields = object_of(value, param)
    found = number_of(fields.get("t"), f"{param}.t", low=0.0, high=1.0)
    if found is None or set(fields) != {"t"}:
        raise BadInputError(f'{param}: expected {{"t": THRESHOLD}} and nothing else, got {sorted(fields)}')
    return found


def _check_undisturbed(policy: Policy, params: Any) -> None:
    for name in _CHANGING:
        if getattr(params, name, None):
            raise ValueError(f"{name}: not together with demur policy {policy.name!r}, whose decision it would change")
    if getattr(params, "thinking_token_budget", None) is not None:
        raise ValueError(f"thinking_token_budget: not together with demur policy {policy.name!r}")
    if set(getattr(params, "stop_token_ids", None) or ()) & set(policy.source.token_ids.values()):
        raise ValueError("stop_token_ids: expected no control token of demur's among them")
    whole_vocabulary = policy.view == "full" or policy.kind == "category_set"
    if whole_vocabulary and getattr(params, "repetition_penalty", 1.0) != 1.0:
        raise ValueError(
            f"repetition_penalty: expected 1.0, since demur policy {policy.name!r} reads the whole vocabulary's "
            "probabilities"
        )


def _check_expressible(policy: Policy) -> None:
    gateway = "put 'demur serve' in front of this engine instead"
    if not policy.source.token_ids:
        raise BadInputError(
            f"policy {policy.name!r} reads the signal {policy.source.name!r}; inside an engine only control tokens can "
            f"be read; {gateway}"
        )
    worded = [category for category, rule in policy.rules.items() if rule.wording or rule.rewritten]
    if worded:
        field = "wording" if policy.rules[worded[0]].wording else "rewritten"
        raise BadInputError(
            f"policy {policy.name!r}: rules.{worded[0]}.{field}: an engine writes tokens, not fixed texts; {gateway}"
        )
    if policy.view == "full" and policy.temperature not in TEMPERATURES:
        raise BadInputError(
            f"policy {policy.name!r}: temperature: expected one of {TEMPERATURES} for the full view, "
            f"got {policy.temperature:g}"
        )
