"""Rows that close a gap of tense: a share of refusals of past asks among ordinary rows.

Goals are split before anything else, so that no goal is asked in training in one tense and in the test in another.
Reworded goals come as data; nothing here rewords.

Source: Andriushchenko and Flammarion (2025), "Does Refusal Training in LLMs Generalize to the Past Tense?"; shares from
the names of its published artifacts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from demur.core.errors import BadInputError
from demur.train.lesson import Lesson, drawn

Tense = Literal["present", "past", "future"]
# Asks in other tenses: by tense, then by the goal's id.
Reworded = Mapping[str, Mapping[str, str]]
SHARES = (0.02, 0.05, 0.1, 0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One off-limits wish, asked in every tense; a tense that was not reworded is empty."""

    id: str
    present: str
    past: str = ""
    future: str = ""

    def ask(self, tense: Tense) -> str:
        """The wish in a tense.

        Raises:
            BadInputError: It was not reworded into that tense.
        """
        text = str(getattr(self, tense))
        if not text.strip():
            raise BadInputError(f"goal {self.id!r}: {tense}: expected the ask in that tense, got none; reword it first")
        return text


def split_goals(goals: Sequence[Goal], share: float, seed: int) -> tuple[list[Goal], list[Goal]]:
    """Goals to train on and goals to test on; no goal is in both, whatever its tense.

    Raises:
        BadInputError: One side would be empty, or two goals share an id.
    """
    if len({goal.id for goal in goals}) != len(goals):
        raise BadInputError("goals: id: expected distinct ids, got one twice; give every goal its own")
    n = round(share * len(goals))
    if not 0 < n < len(goals):
        raise BadInputError(f"goals: expected some to train and some to test on, got {len(goals)} at share {share:g}")
    chosen = set(np.random.default_rng(seed).permutation(len(goals))[:n].tolist())
    train = [goal for i, goal in enumerate(goals) if i in chosen]
    return train, [goal for i, goal in enumerate(goals) if i not in chosen]


def refusals(goals: Sequence[Goal], tenses: Sequence[Tense], refusal: str) -> list[Lesson]:
    """A refusal for each goal in each tense."""
    return [
        Lesson(id=f"{goal.id}-{tense}", prompt=goal.ask(tense), good=refusal, side="refuse", kind="plain", group=tense)
        for tense in tenses
        for goal in goals
    ]


def defence_lessons(
    refused: Sequence[Lesson],
    ordinary: Sequence[Lesson],
    *,
    refusal_share: float,
    seed: int,
    rows: int | None = None,
) -> list[Lesson]:
    """Refusals and ordinary lessons, so many of each that the refusals make up the share.

    Args:
        refused: Off-limits asks with their refusal.
        ordinary: Everything else.
        refusal_share: Share of refusals, as published 0.02, 0.05, 0.1 or 0.3.
        seed: Of the draws and the order.
        rows: Rows in all, refusals repeated where there are too few; None = as many as there are without repeating.

    Raises:
        BadInputError: Too few rows for the share, with `rows` or without.
    """
    if rows is None:
        rows = int(min(len(refused) / refusal_share, len(ordinary) / (1 - refusal_share)))
    n_refused = round(refusal_share * rows)
    if not refused or n_refused < 1 or rows - n_refused > len(ordinary):
        raise BadInputError(
            f"defence: expected at least one refusal and {max(1, rows - n_refused)} ordinary rows, got "
            f"{len(refused)} and {len(ordinary)}; give more rows or another defence.refusal_share"
        )
    kept = [*_repeated(refused, n_refused, seed), *drawn(ordinary, rows - n_refused, seed)]
    return [kept[i] for i in np.random.default_rng(seed).permutation(len(kept))]


def _repeated(lessons: Sequence[Lesson], wanted: int, seed: int) -> list[Lesson]:
    whole, rest = divmod(wanted, len(lessons))
    again = [replace(x, id=f"{x.id}-{k}") if k else x for k in range(whole) for x in lessons]
    return again + [replace(x, id=f"{x.id}-{whole}") if whole else x for x in drawn(lessons, rest, seed)]
