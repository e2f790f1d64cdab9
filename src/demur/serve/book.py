"""The policies a server holds at one moment: immutable, so that a request keeps the book it began with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from demur.control.policy_file import NAME, read_policy
from demur.core.errors import BadInputError
from demur.core.policy import Policy, SignalSource

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class HeldPolicy:
    """A policy and the hash of its content, by which replies name it."""

    policy: Policy
    version: str


@dataclass(frozen=True, slots=True)
class PolicyBook:
    """Every policy that requests may choose.

    Attributes:
        shelves: Policies by name, for each served model.
        defaults: The policy of requests that choose none, for each served model.
        version: Hash of all of them.
    """

    shelves: Mapping[str, Mapping[str, HeldPolicy]]
    defaults: Mapping[str, str]
    version: str


def make_book(
    policies: Iterable[tuple[str, Policy]], sources: Mapping[str, SignalSource], *, default: str | None = None
) -> PolicyBook:
    """A book of policies for the models served.

    Args:
        policies: Where each came from, for messages, and the policy.
        sources: Signal of each served model, by the name requests use.
        default: Policy of requests that choose none; None = the one called 'default', or the only one.

    Raises:
        BadInputError: A policy for a model that is not served, two of one name, a name that cannot stand in a header,
            a model without policies, or no default.
    """
    shelves: dict[str, dict[str, HeldPolicy]] = {model: {} for model in sources}
    for where, policy in policies:
        if not NAME.fullmatch(policy.name):
            raise BadInputError(
                f"{where}: name: expected letters, digits, '.', '_' and '-' (at most 64), got {policy.name[:64]!r}"
            )
        held = HeldPolicy(policy, sha256(policy.model_dump_json().encode("utf-8")).hexdigest()[:8])
        for model in _models_of(where, policy, sources):
            if policy.name in shelves[model]:
                raise BadInputError(f"{where}: a second policy {policy.name!r} for {model}; rename one of them")
            shelves[model][policy.name] = held
    defaults = {model: _default(model, shelf, default) for model, shelf in shelves.items()}
    marks = [(m, n, held.version) for m, shelf in sorted(shelves.items()) for n, held in sorted(shelf.items())]
    return PolicyBook(
        shelves=MappingProxyType({model: MappingProxyType(shelf) for model, shelf in shelves.items()}),
        defaults=MappingProxyType(defaults),
        version=sha256(repr((marks, sorted(defaults.items()))).encode("utf-8")).hexdigest()[:8],
    )


def load_book(path: Path, sources: Mapping[str, SignalSource], *, default: str | None = None) -> PolicyBook:
    """The book of a policy file, or of every .toml in a folder.

    Raises:
        BadInputError: A file is not a policy, or as for `make_book`.
    """
    return make_book([(str(p), read_policy(p)) for p in policy_files(path)], sources, default=default)


def policy_files(path: Path) -> list[Path]:
    """The policy files at a path: the file itself, or every .toml of a folder, in order of name."""
    return sorted(p for p in path.glob("*.toml") if p.is_file()) if path.is_dir() else [path]


def _models_of(where: str, policy: Policy, sources: Mapping[str, SignalSource]) -> list[str]:
    ours = policy.source
    found = [
        model
        for model, source in sources.items()
        if (source.name, source.identity) == (ours.name, ours.identity)
        and (not ours.token_ids or dict(ours.token_ids) == dict(source.token_ids))
    ]
    if not found:
        served = "; ".join(f"{s.name} of {s.identity}" for s in sources.values())
        raise BadInputError(
            f"{where}: policy {policy.name!r} was made for {ours.name} of {ours.identity}, served is {served}; "
            "calibrate it for this model or take the file away"
        )
    return found


def _default(model: str, shelf: Mapping[str, HeldPolicy], wanted: str | None) -> str:
    names = ", ".join(sorted(shelf))
    if not shelf:
        raise BadInputError(f"no policy for {model}; make one with 'demur calibrate' and name its folder with --policy")
    if wanted is not None and wanted not in shelf:
        raise BadInputError(f"default policy {wanted!r}: {model} has {names}; choose one of these")
    if wanted is not None or DEFAULT in shelf:
        return wanted or DEFAULT
    if len(shelf) > 1:
        raise BadInputError(f"{model} has the policies {names}; say which is the default with --default-policy")
    return next(iter(shelf))
