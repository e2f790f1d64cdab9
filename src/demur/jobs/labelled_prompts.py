"""Prompts with labels, from a user's file or our own calibration split: what thresholds are set on."""

from dataclasses import dataclass
from pathlib import Path

from demur.control.labelled import EVERY
from demur.core.errors import BadInputError

BUILT_IN = "built-in calibration split"
FEWEST = 10  # prompts of a side, below which nothing worth promising follows


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPrompts:
    """Prompts with labels, in columns; see `demur.control.labelled.labelled`."""

    prompts: tuple[str, ...]
    refuse: tuple[bool, ...]
    category: tuple[str, ...]
    pair: tuple[str, ...]
    origin: str
    n_left_out: int = 0


def read_labelled_prompts(path: Path | None) -> LabelledPrompts:
    """Prompts of a file with `prompt`, `expected` (refuse, comply) and `category`, or the built-in calibration split.

    Raises:
        BadInputError: A malformed row, a missing label, or too few prompts of a side.
    """
    data = _built_in() if path is None else _from_file(path)
    for side, word in ((True, "refuse"), (False, "comply")):
        n = sum(label is side for label in data.refuse)
        if n < FEWEST:
            raise BadInputError(
                f"{data.origin}: expected: expected at least {FEWEST} prompts with {word!r}, got {n}; thresholds need "
                "both sides"
            )
    return data


def _from_file(path: Path) -> LabelledPrompts:
    from demur.suites.formats import load_file_suite

    suite = load_file_suite(path)
    rows = [row for row in suite.rows if row.expected != "either"]
    if not rows:
        raise BadInputError(f"{path}: expected: expected refuse or comply in each row, got no label; add the column")
    nameless = next((row for row in rows if not row.category), None)
    if nameless is not None:
        raise BadInputError(f"{path}: row {nameless.id!r}: category: expected a category, got none; add the column")
    if any(row.category == EVERY for row in rows):
        raise BadInputError(f"{path}: category: 'all' means every category in targets; rename that category")
    return LabelledPrompts(
        prompts=tuple(row.prompt for row in rows),
        refuse=tuple(row.expected == "refuse" for row in rows),
        category=tuple(row.category for row in rows),
        pair=tuple(row.pair_id for row in rows),
        origin=path.name,
        n_left_out=len(suite.rows) - len(rows),
    )


def _built_in() -> LabelledPrompts:
    from demur.suites.training import load_labelled

    rows = load_labelled("calibration")
    return LabelledPrompts(
        prompts=tuple(row.prompt for row in rows),
        refuse=tuple(row.expected == "refuse" for row in rows),
        category=tuple(row.category for row in rows),
        pair=tuple(row.pair_id for row in rows),
        origin=BUILT_IN,
    )
