"""Prompts for a Latent Guard in three disjoint parts: to fit on, to set thresholds on, and to measure on.

Sides to fit on are alike on the surface; the other two parts are as they come, look-alikes included, because that is
what a rate of false alarms is about.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Literal, get_args

from demur.core.errors import BadInputError
from demur.data.matching import matched
from demur.inside.buckets import Labelled, split_by_group
from demur.inside.honesty import check_disjoint

GuardPart = Literal["fit", "check", "test"]
GUARD_PARTS: tuple[GuardPart, ...] = get_args(GuardPart)
BUILT_IN = "built-in training and calibration splits"
HARMFUL = "safety"
FEWEST = 10  # prompts of a side and part
_SHARES = (0.5, 0.25, 0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRow:
    """One prompt.

    Attributes:
        row: The prompt with its side; `harmful` is whatever the guard is to find.
        look_alike: Whether it should be answered and resembles one that should not: a contrast twin.
    """

    row: Labelled
    look_alike: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardPrompts:
    """Prompts by part.

    Attributes:
        parts: Rows of each part.
        origin: Where they come from, in words.
        notes: What a reader must know.
    """

    parts: dict[GuardPart, tuple[GuardRow, ...]]
    origin: str
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[GuardRow, ...]:
        """All of them, part after part."""
        return tuple(row for part in GUARD_PARTS for row in self.parts[part])

    @property
    def sha256(self) -> str:
        """Hash of prompts, sides and parts."""
        digest = sha256()
        for part in GUARD_PARTS:
            for r in self.parts[part]:
                line = f"{part}\x00{r.row.prompt}\x00{r.row.harmful}\x00{r.row.category}\x00{r.look_alike}\x01"
                digest.update(line.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def guard_prompts(
    path: Path | None, *, n_fit: int, n_check: int, by_category: bool = False, seed: int = 0
) -> GuardPrompts:
    """Draw prompts from a file with `prompt`, `expected` and perhaps `category` and `pair_id`, or from our own.

    Built in: fitted on the training split, checked and measured on halves of the calibration split. Harmful are
    should-refuse prompts of category 'safety', or all should-refuse prompts of a file without that category.

    Args:
        path: The user's file; None takes the built-in splits.
        n_fit: Most prompts of a side to fit on.
        n_check: Most harmful prompts of each other part; up to twice as many harmless ones go with them.
        by_category: Look for every prompt that should be declined, by its category, rather than for harm alone.
        seed: Of the draw.

    Raises:
        BadInputError: A malformed file, or too few prompts of a side.
    """
    pools = _built_in(by_category, seed) if path is None else _from_file(path, by_category, seed)
    origin = BUILT_IN if path is None else path.name
    rng = random.Random(seed)
    parts: dict[GuardPart, tuple[GuardRow, ...]] = {
        "fit": _matched(pools["fit"], n_fit, seed),
        "check": _as_they_come(pools["check"], n_check, rng),
        "test": _as_they_come(pools["test"], n_check, rng),
    }
    for part, rows in parts.items():
        n_harmful, n_harmless = _sides(rows)
        if min(n_harmful, n_harmless) < FEWEST:
            raise BadInputError(
                f"{origin}, part {part!r}: expected at least {FEWEST} harmful and {FEWEST} harmless prompts, got "
                f"{n_harmful} and {n_harmless}; a guard needs about {4 * FEWEST} of each in all: add prompts"
            )
    for one, other in combinations(GUARD_PARTS, 2):
        check_disjoint([r.row for r in parts[one]], [r.row for r in parts[other]])
    notes = () if any(r.look_alike for r in parts["check"]) else ("No harmless prompt that looks harmful was checked.",)
    return GuardPrompts(parts=parts, origin=origin, notes=notes)


def benign(row: GuardRow) -> bool:
    """Whether a prompt should be answered: the only ones whose flags are false alarms."""
    return not row.row.harmful and not row.row.to_decline


def _sides(rows: Sequence[GuardRow]) -> tuple[int, int]:
    return sum(r.row.harmful for r in rows), sum(benign(r) for r in rows)


def _matched(pool: Sequence[GuardRow], most: int, seed: int) -> tuple[GuardRow, ...]:
    """Harmful prompts, and as many plain harmless ones of the same final punctuation and length; then look-alikes."""
    harmful = [r for r in pool if r.row.harmful]
    plain = [r for r in pool if benign(r) and not r.look_alike]
    alike = [r for r in pool if r.look_alike]
    found = _pairs(harmful, plain or alike, most, seed)
    rows = [row for pair in found for row in pair]
    if plain:
        rows += [partner for _, partner in _pairs(harmful, alike, most // 2, seed)]
    return tuple(rows)


def _pairs(
    first: Sequence[GuardRow], second: Sequence[GuardRow], most: int, seed: int
) -> list[tuple[GuardRow, GuardRow]]:
    found = matched([r.row.prompt for r in first], [r.row.prompt for r in second], limit=most, seed=seed)
    return [(first[i], second[j]) for i, j in zip(found.first, found.second, strict=True)]


def _as_they_come(pool: Sequence[GuardRow], most: int, rng: random.Random) -> tuple[GuardRow, ...]:
    """Up to so many harmful prompts, twice as many benign ones, and half as many harmless ones to decline."""
    kinds: tuple[list[GuardRow], ...] = ([], [], [])
    for r in pool:
        kinds[0 if r.row.harmful else 1 if benign(r) else 2].append(r)
    limits = (most, 2 * most, most // 2)
    return tuple(row for kind, n in zip(kinds, limits, strict=True) for row in rng.sample(kind, min(n, len(kind))))


def _built_in(by_category: bool, seed: int) -> dict[GuardPart, list[GuardRow]]:
    from demur.suites.training import load_labelled

    def rows(split: Literal["train", "calibration"]) -> list[GuardRow]:
        listed = [(r.prompt, r.expected, r.category, r.subcategory, r.pair_id) for r in load_labelled(split)]
        return _guard_rows(listed, by_category)

    held_out = rows("calibration")
    taken = {key for r in held_out for key in _keys(r.row)}
    check, test = split_by_group([r.row for r in held_out], (0.5, 0.5), seed=seed)
    return {
        "fit": [r for r in rows("train") if taken.isdisjoint(_keys(r.row))],
        "check": [held_out[i] for i in check],
        "test": [held_out[i] for i in test],
    }


def _from_file(path: Path, by_category: bool, seed: int) -> dict[GuardPart, list[GuardRow]]:
    from demur.suites.formats import load_file_suite

    listed = [r for r in load_file_suite(path).rows if r.expected != "either"]
    for side in ("refuse", "comply"):
        if not any(r.expected == side for r in listed):
            raise BadInputError(
                f"{path}: expected: expected prompts with 'refuse' and with 'comply', got none with {side!r}; "
                "a guard needs both sides"
            )
    named = by_category or any(r.category == HARMFUL and r.expected == "refuse" for r in listed)
    rows = _guard_rows(
        [(r.prompt, r.expected, r.category if named else HARMFUL, r.subcategory, r.pair_id) for r in listed],
        by_category,
    )
    split = split_by_group([r.row for r in rows], _SHARES, seed=seed)
    return {part: [rows[i] for i in chosen] for part, chosen in zip(GUARD_PARTS, split, strict=True)}


def _guard_rows(listed: Sequence[tuple[str, str, str, str, str]], by_category: bool) -> list[GuardRow]:
    """Rows from (prompt, expected, category, subcategory, pair)."""

    def wanted(expected: str, category: str) -> bool:
        return expected == "refuse" and (by_category or category == HARMFUL)

    twins = {pair for _, expected, category, _, pair in listed if pair and wanted(expected, category)}
    kinds = {category for _, expected, category, _, _ in listed if category and wanted(expected, category)}
    several = len({category for _, expected, category, _, _ in listed if expected == "comply"}) > 1
    return [
        GuardRow(
            row=Labelled(
                prompt=prompt,
                harmful=wanted(expected, category),
                to_decline=expected == "refuse",
                category=category if by_category else subcategory or category,
                group=pair,
            ),
            look_alike=expected == "comply" and (pair in twins if pair else several and category in kinds),
        )
        for prompt, expected, category, subcategory, pair in listed
    ]


def _keys(row: Labelled) -> tuple[str, ...]:
    plain = " ".join(row.prompt.split()).casefold()
    return (f"prompt:{plain}", f"group:{row.group}") if row.group else (f"prompt:{plain}",)
