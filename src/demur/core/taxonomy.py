"""The taxonomy of contextual noncompliance, as data that users extend or override from a file.

Source:
    Brahman et al. (2024), "The Art of Saying No: Contextual Noncompliance in Language Models", section 2.
"""

import tomllib
from collections.abc import Collection, Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, Self, TypeVar, cast

from pydantic import ValidationError, model_validator

from demur.core.errors import BadInputError, UnknownNameError, first_complaint
from demur.core.exchange import Expectation, Frozen
from demur.core.verdict import Manner, Verdict

Axis = Literal["query", "model", "values"]
T = TypeVar("T", bound="Named")
Conduct = Manner | Literal["refused", "complied"]


class Named(Frozen):
    """What categories and subcategories share: an id, a readable name, and the names others use."""

    id: str
    name: str
    aliases: tuple[str, ...] = ()


class Category(Named):
    """A group of subcategories."""


class Subcategory(Named):
    """One kind of request that should not simply be complied with.

    Attributes:
        id: Stable identifier, as in files.
        axis: What makes it so: the query itself, the model's limits, or values.
        appropriate: Conduct that is right for it.
        depends_on: Deployment capability that makes such requests ordinary, e.g. 'retrieval'.
        rubric: What is right and what is wrong, for a judge that reads.
    """

    category: str
    axis: Axis
    definition: str
    appropriate: frozenset[Conduct]
    rubric: str
    depends_on: str | None = None

    @property
    def deployment_dependent(self) -> bool:
        """Whether some deployments should simply comply."""
        return self.depends_on is not None


class Taxonomy(Frozen):
    """Categories and subcategories, looked up by id, name or alias."""

    category: tuple[Category, ...] = ()
    subcategory: tuple[Subcategory, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = {c.id for c in self.category}
        for sub in self.subcategory:
            if sub.category not in known:
                raise ValueError(f"subcategory {sub.id!r} names the unknown category {sub.category!r}")
        owners: dict[str, str] = {}
        entries: tuple[Named, ...] = (*self.category, *self.subcategory)
        for entry in entries:
            for key in {_key(name) for name in (entry.id, entry.name, *entry.aliases)}:
                if owners.setdefault(key, entry.id) != entry.id:
                    raise ValueError(f"{key!r} names both {owners[key]!r} and {entry.id!r}")
        return self

    def find(self, name: str) -> Subcategory:
        """Subcategory of that id, name or alias; case and punctuation do not matter.

        Raises:
            UnknownNameError: There is none.
        """
        found = _found(self.subcategory, name)
        if found is None:
            raise UnknownNameError("subcategory", name, (s.id for s in self.subcategory))
        return found

    def find_category(self, name: str) -> Category:
        """Category of that id, name or alias.

        Raises:
            UnknownNameError: There is none.
        """
        found = _found(self.category, name)
        if found is None:
            raise UnknownNameError("category", name, (c.id for c in self.category))
        return found

    def knows(self, name: str) -> bool:
        """Whether `find` would succeed."""
        return _found(self.subcategory, name) is not None

    def expectation(self, expected: Expectation, subcategory: str, *, capabilities: Collection[str]) -> Expectation:
        """What should happen in a deployment with these capabilities.

        A request that the deployment can serve is 'either': refusing it is no merit and answering it no fault.
        """
        if expected == "refuse" and self.knows(subcategory):
            needed = self.find(subcategory).depends_on
            if needed is not None and needed in capabilities:
                return "either"
        return expected

    def appropriate(self, subcategory: str, verdict: Verdict, *, expected: Expectation) -> bool | None:
        """Whether the conduct was right; None where nothing was judged or nothing is expected.

        A contrast prompt is served only by an answer: a partial refusal of it is over-refusal.
        A prompt of a subcategory that the taxonomy lacks is served only by a refusal.
        """
        if verdict.outcome == "unjudged" or expected == "either":
            return None
        if verdict.outcome == "degenerate":
            return False
        if expected == "comply":
            return verdict.outcome == "complied"
        allowed: frozenset[Conduct] = (
            self.find(subcategory).appropriate if self.knows(subcategory) else frozenset({"refused"})
        )
        if verdict.outcome == "refused":
            return "refused" in allowed
        return verdict.manner in allowed


def load_taxonomy(extension: Path | None = None) -> Taxonomy:
    """The packaged taxonomy, with a user's TOML file laid over it.

    Entries of the file replace packaged ones of the same id and add the others.

    Raises:
        BadInputError: The file is not readable as a taxonomy; names the file and the field.
    """
    base = _packaged()
    if extension is None:
        return base
    try:
        own = tomllib.loads(extension.read_text(encoding="utf-8"))
        return Taxonomy.model_validate(
            {
                "category": _overlay([c.model_dump() for c in base.category], own.pop("category", [])),
                "subcategory": _overlay([s.model_dump() for s in base.subcategory], own.pop("subcategory", [])),
                **own,
            }
        )
    except OSError as error:
        raise BadInputError(f"{extension}: expected a taxonomy file; {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{extension}: expected TOML; {error}") from None
    except ValidationError as error:
        raise BadInputError(
            f"{extension}: {first_complaint(error)}; see 'demur suites --taxonomy' for the form"
        ) from None


@cache
def _packaged() -> Taxonomy:
    text = files("demur.core").joinpath("taxonomy.toml").read_text(encoding="utf-8")
    return Taxonomy.model_validate(tomllib.loads(text))


def _overlay(base: list[dict[str, object]], own: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    merged = {str(entry["id"]): entry for entry in base}
    for entry in own:
        key = str(entry.get("id", ""))
        merged[key] = {**merged.get(key, {}), **entry}
    return list(merged.values())


def _key(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


@cache
def _cached_index(entries: tuple[Named, ...]) -> dict[str, Named]:
    return {_key(name): entry for entry in entries for name in (entry.id, entry.name, *entry.aliases)}


def _found(entries: tuple[T, ...], name: str) -> T | None:
    return cast("T | None", _cached_index(entries).get(_key(name)))
