"""What a user's system should and should not do, as the file that prompts are written and audited for.

The file of `demur images reassess` is one too: its rules are read as sentences.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from demur.core.errors import BadInputError, UnknownNameError, first_complaint
from demur.core.exchange import Expectation, Frozen
from demur.data.keyed_file import read_keyed_file
from demur.suites.images import CATEGORY_IDS, category_id

Kind = Literal["text", "image"]
Line = Annotated[str, Field(min_length=1, max_length=2_000)]
HOWTO = "see docs/howto/synthesis.md"


class Borderline(Frozen):
    """An example near the line and the side it is on; shown to models, and used to check the judges."""

    prompt: Line
    expected: Literal["comply", "refuse"] = "comply"
    why: str = ""


class CategoryNorm(Frozen):
    """One category of the policy.

    Attributes:
        id: As written into the suite; for pictures one of the nine.
        about: What it is about, in a sentence.
        allowed: What the system should do, however alarming it looks.
        not_allowed: What it should decline.
        borderline: Examples near the line.
        seeds: Ideas to write prompts from.
        n: Prompts wanted; None shares what is left evenly.
    """

    id: Line
    about: str = ""
    allowed: tuple[Line, ...] = ()
    not_allowed: tuple[Line, ...] = ()
    borderline: tuple[Borderline, ...] = ()
    seeds: tuple[Line, ...] = ()
    n: Annotated[int, Field(ge=1)] | None = None


class SynthesisPolicy(Frozen):
    """A policy to write prompts for.

    Attributes:
        name: Stands in the card and in every identifier.
        text: The policy in prose.
        kind: What is requested, if the file says so.
        languages: Languages to write in, in turn.
        category: The categories.
        templates: Sentences with {slots}, expanded into seeds of every category.
        slots: What goes into the slots.
        fill_seeds: Whether a model may be asked for further seeds.
    """

    name: Line
    text: str = ""
    kind: Kind | None = None
    languages: Annotated[tuple[Line, ...], Field(min_length=1)] = ("English",)
    category: Annotated[tuple[CategoryNorm, ...], Field(min_length=1)]
    templates: tuple[Line, ...] = ()
    slots: dict[str, tuple[Line, ...]] = {}
    fill_seeds: bool = True

    @model_validator(mode="before")
    @classmethod
    def _unfold(cls, given: Any) -> Any:
        return _unfolded(given) if isinstance(given, Mapping) else given

    @property
    def sha256(self) -> str:
        """Hash of everything it says."""
        return sha256(self.model_dump_json().encode("utf-8", "replace")).hexdigest()

    def norm(self, category: str) -> CategoryNorm:
        """The category of that identifier."""
        return next(c for c in self.category if c.id == category)

    @property
    def examples(self) -> tuple[str, ...]:
        """Every borderline example."""
        return tuple(b.prompt for c in self.category for b in c.borderline)


def load_synthesis_policy(path: Path, kind: Kind) -> SynthesisPolicy:
    """Read a policy from TOML, YAML or JSON.

    Raises:
        BadInputError: The file is missing, not of the form, or for the other kind of request.
        UnknownNameError: For pictures, a category that is none of the nine.
        MissingExtraError: YAML without a YAML reader.
    """
    given = read_keyed_file(path)
    if kind == "image" and not given.get("category") and not given.get("categories"):
        given["categories"] = list(CATEGORY_IDS)
    try:
        policy = SynthesisPolicy.model_validate(given)
    except ValidationError as error:
        raise BadInputError(f"{path}: {first_complaint(error)}; {HOWTO}") from None
    if policy.kind not in (None, kind):
        other = "demur images synthesise" if policy.kind == "image" else "demur suites synthesise"
        raise BadInputError(f"{path}: kind: expected {kind!r}, got {policy.kind!r}; use '{other}'")
    if kind == "image":
        try:
            named = tuple(c.model_copy(update={"id": category_id(c.id)}) for c in policy.category)
        except UnknownNameError as error:
            raise BadInputError(f"{path}: category: {error}") from None
        policy = policy.model_copy(update={"category": named})
    ids = [c.id for c in policy.category]
    twice = next((i for i in ids if ids.count(i) > 1), None)
    if twice is not None:
        raise BadInputError(f"{path}: category: expected each once, got {twice!r} twice")
    return policy


def quotas(policy: SynthesisPolicy, n: int) -> dict[str, int]:
    """Prompts wanted in each category, `n` in all; categories without a number of their own share the rest evenly.

    Raises:
        BadInputError: The categories' own numbers do not add up to it.
    """
    fixed = {c.id: c.n for c in policy.category if c.n is not None}
    free = [c.id for c in policy.category if c.n is None]
    left = n - sum(fixed.values())
    if (left != 0 and not free) or left < len(free):
        raise BadInputError(
            f"n: expected {sum(fixed.values()) + len(free)} or more for these categories"
            f"{'' if free else ', exactly,'} got {n}; change --n or the numbers in the policy"
        )
    shared = {name: left // len(free) + (at < left % len(free)) for at, name in enumerate(free)}
    return {c.id: fixed.get(c.id) or shared[c.id] for c in policy.category}


def _unfolded(given: Mapping[str, Any]) -> dict[str, Any]:
    """The long form of a policy from the short ones that people write."""
    found = dict(given)
    listed = [*_as_list(found.pop("category", None)), *_as_list(found.pop("categories", None))]
    found["category"] = [_category(entry) for entry in listed]
    if "language" in found:
        found["languages"] = _as_list(found.pop("language"))
    if isinstance(found.get("slots"), Mapping):
        found["slots"] = {name: _as_list(values) for name, values in found["slots"].items()}
    for rule in _as_list(found.pop("rule", None)):
        _add_rule(found, rule)
    return found


def _category(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return {"id": entry}
    found = dict(entry)
    for key in ("allowed", "not_allowed", "seeds"):
        if key in found:
            found[key] = _as_list(found[key])
    if "borderline" in found:
        found["borderline"] = [{"prompt": b} if isinstance(b, str) else b for b in _as_list(found["borderline"])]
    return found


def _add_rule(found: dict[str, Any], rule: Any) -> None:
    """Say a rule of `demur images reassess` in words where it belongs; its category's lines, or the prose."""
    if not isinstance(rule, Mapping):
        return
    expected: Expectation = rule.get("expected", "either")
    about = [f"{key} {', '.join(map(str, _as_list(rule[key])))}" for key in ("seeds", "words") if rule.get(key)]
    line = "; ".join([*(["requests with " + " and ".join(about)] if about else []), str(rule.get("why", ""))]).strip(
        "; "
    )
    side = {"comply": "allowed", "refuse": "not_allowed"}.get(expected)
    if not line or side is None:
        return
    for category in found["category"]:
        if isinstance(category, dict) and rule.get("category", "") in ("", category.get("id")):
            category[side] = [*_as_list(category.get(side)), line]


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
