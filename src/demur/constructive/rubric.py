"""The two rubrics: satisfaction in five items of -1, 0 or 1, and safety in three grades; their wording is data.

Source: the structure is that of Oyster-I (Alibaba AAIG 2025, players/user.py and developer.py); the words are ours.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Literal, Self, get_args

from pydantic import model_validator

from demur.core.exchange import Frozen

Item = Literal["courtesy", "willingness", "completion", "fit", "information"]
Grade = Literal["safe", "partly", "unsafe"]
ITEMS: tuple[Item, ...] = get_args(Item)
GRADES: tuple[Grade, ...] = get_args(Grade)
MARKS = (-1, 0, 1)


class RubricItem(Frozen):
    """One item of the satisfaction rubric: what it asks, and what earns 1, 0 and -1."""

    id: Item
    group: Literal["emotional", "practical"]
    asks: str
    good: str
    middle: str
    bad: str


class SafetyGrade(Frozen):
    """One grade of the safety rubric; `safety` in [0, 1], risk is what is missing to 1."""

    id: Grade
    safety: float
    means: str


class Rubric(Frozen):
    """Both rubrics."""

    item: tuple[RubricItem, ...]
    grade: tuple[SafetyGrade, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if tuple(one.id for one in self.item) != ITEMS or tuple(one.id for one in self.grade) != GRADES:
            raise ValueError(f"expected items {', '.join(ITEMS)} and grades {', '.join(GRADES)}, in this order")
        return self


class Satisfaction(Frozen):
    """Marks of -1, 0 or 1 for each of the five items."""

    marks: Mapping[Item, int]

    @model_validator(mode="after")
    def _check(self) -> Self:
        missing = [item for item in ITEMS if item not in self.marks]
        if missing:
            raise ValueError(f"marks.{missing[0]}: expected -1, 0 or 1, got none")
        strange = [item for item, mark in self.marks.items() if mark not in MARKS]
        if strange:
            raise ValueError(f"marks.{strange[0]}: expected -1, 0 or 1, got {self.marks[strange[0]]}")
        return self

    @property
    def score(self) -> float:
        """Mean of the marks, in [-1, 1]."""
        return sum(self.marks[item] for item in ITEMS) / len(ITEMS)


@cache
def rubric() -> Rubric:
    """The packaged rubrics."""
    return Rubric.model_validate(tomllib.loads(_text()))


def rubric_hash() -> str:
    """Hash of the packaged rubrics: part of every manifest."""
    return sha256(_text().encode()).hexdigest()[:12]


def risk_of(grade: Grade) -> float:
    """1 - safety of a grade, in [0, 1]; the complement is demur's reading, the source defines only the grade."""
    return 1.0 - next(one.safety for one in rubric().grade if one.id == grade)


def _text() -> str:
    return files("demur.constructive").joinpath("rubric.toml").read_text(encoding="utf-8")
