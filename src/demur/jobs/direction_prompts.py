"""Prompts for a study of directions: three disjoint parts, harmful and harmless sides alike on the surface.

Built in: fitted on the training split, selected and tested on the calibration split, which no adapter of ours has seen.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from demur.core.direction_study import Attrition
from demur.core.errors import BadInputError
from demur.data.matching import Matched, matched
from demur.inside.buckets import Labelled, split_by_group
from demur.inside.honesty import check_disjoint
from demur.inside.study import PARTS, Part, StudyPrompts

BUILT_IN = "built-in training and calibration splits"
HARMFUL = "safety"  # the category whose should-refuse prompts are harmful
FEWEST = 8  # prompts of a side and part
_SHARES = (0.5, 0.2, 0.3)  # of a user's file: fit, selection, test
_FEWEST_TO_DECLINE = 4


def study_prompts(path: Path | None, sizes: dict[Part, int], *, seed: int = 0) -> StudyPrompts:
    """Draw prompts from a file with `prompt`, `expected` (refuse, comply) and perhaps `category`, or from our own.

    Harmful are should-refuse prompts of category 'safety', or all should-refuse prompts of a file without that
    category. Harmless partners are prompts to comply with, of the same final punctuation and length. Half as many
    harmless prompts that should still be declined go along, where there are any: they tell 'harmful' from 'will be
    refused'.

    Args:
        path: The user's file; None takes the built-in splits.
        sizes: Most harmful prompts of each part.
        seed: Of the draw.

    Raises:
        BadInputError: A malformed file, or too few prompts of a side.
    """
    pools = _built_in(seed) if path is None else _from_file(path, seed)
    origin = BUILT_IN if path is None else path.name
    rows: list[Labelled] = []
    parts: dict[Part, tuple[int, ...]] = {}
    pairs: dict[Part, tuple[tuple[int, int], ...]] = {}
    attrition, notes = [], []
    for part in PARTS:
        drawn, found = _drawn(pools[part], sizes[part], seed=seed, origin=f"{origin}, part {part!r}")
        n = len(found)
        pairs[part] = tuple((len(rows) + 2 * i, len(rows) + 2 * i + 1) for i in range(n))
        parts[part] = tuple(range(len(rows), len(rows) + len(drawn)))
        rows += drawn
        attrition.append(_matching(part, found, sizes[part]))
        if len(drawn) == 2 * n:
            notes.append(f"Part {part!r} has no harmless prompts that should be declined.")
    study = StudyPrompts(
        rows=tuple(rows), parts=parts, pairs=pairs, origin=origin, attrition=tuple(attrition), notes=tuple(notes)
    )
    for one, other in combinations(PARTS, 2):
        check_disjoint(study.of(one), study.of(other))
    return study


def _drawn(pool: Sequence[Labelled], most: int, *, seed: int, origin: str) -> tuple[list[Labelled], Matched]:
    """Matched pairs one after the other, then harmless prompts to decline that are matched with the harmful ones."""
    harmful = [row for row in pool if row.harmful]
    harmless = [row for row in pool if not row.to_decline]
    to_decline = [row for row in pool if row.to_decline and not row.harmful]
    found = matched([r.prompt for r in harmful], [r.prompt for r in harmless], limit=most, seed=seed)
    if len(found) < FEWEST:
        raise BadInputError(
            f"{origin}: expected at least {FEWEST} harmful prompts with a harmless partner of the same final "
            f"punctuation and length, got {len(found)} (of {len(harmful)} harmful and {len(harmless)} harmless); "
            "add prompts of both kinds"
        )
    chosen = [harmful[i] for i in found.first]
    drawn = [row for i, j in zip(found.first, found.second, strict=True) for row in (harmful[i], harmless[j])]
    limit = max(1, len(found) // 2)
    extra = matched([r.prompt for r in chosen], [r.prompt for r in to_decline], limit=limit, seed=seed)
    if len(extra) >= _FEWEST_TO_DECLINE:
        drawn += [to_decline[j] for j in extra.second]
    return drawn, found


def _built_in(seed: int) -> dict[Part, list[Labelled]]:
    from demur.suites.training import load_labelled

    held_out = [_row(r.prompt, r.expected, r.category, r.subcategory, r.pair_id) for r in load_labelled("calibration")]
    taken = {key for row in held_out for key in _keys(row)}
    fit = [_row(r.prompt, r.expected, r.category, r.subcategory, r.pair_id) for r in load_labelled("train")]
    shares = _SHARES[1] / (_SHARES[1] + _SHARES[2])
    selection, test = split_by_group(held_out, (shares, 1 - shares), seed=seed)
    return {
        "fit": [row for row in fit if taken.isdisjoint(_keys(row))],
        "selection": [held_out[i] for i in selection],
        "test": [held_out[i] for i in test],
    }


def _from_file(path: Path, seed: int) -> dict[Part, list[Labelled]]:
    from demur.suites.formats import load_file_suite

    listed = [row for row in load_file_suite(path).rows if row.expected != "either"]
    for side in ("refuse", "comply"):
        if not any(row.expected == side for row in listed):
            raise BadInputError(
                f"{path}: expected: expected prompts with 'refuse' and with 'comply', got none with {side!r}; "
                "a direction needs both sides"
            )
    named = any(row.category == HARMFUL and row.expected == "refuse" for row in listed)
    rows = [_row(r.prompt, r.expected, r.category if named else HARMFUL, r.subcategory, r.pair_id) for r in listed]
    parts = split_by_group(rows, _SHARES, seed=seed)
    return {part: [rows[i] for i in chosen] for part, chosen in zip(PARTS, parts, strict=True)}


def _row(prompt: str, expected: str, category: str, subcategory: str, group: str) -> Labelled:
    return Labelled(
        prompt=prompt,
        harmful=expected == "refuse" and category == HARMFUL,
        to_decline=expected == "refuse",
        category=subcategory or category,
        group=group,
    )


def _keys(row: Labelled) -> tuple[str, ...]:
    plain = " ".join(row.prompt.split()).casefold()
    return (f"prompt:{plain}", f"group:{row.group}") if row.group else (f"prompt:{plain}",)


def _matching(part: Part, found: Matched, most: int) -> Attrition:
    before, after = found.length_auroc_before, found.length_auroc
    told = f"; length told the sides apart at {before:.2f}, now at {after:.2f}" if before and after else ""
    return Attrition(
        name=f"matching on final punctuation and length ({part})",
        n=min(found.n_first, most),
        kept=len(found),
        reason=f"{found.n_first} harmful and {found.n_second} harmless prompts to draw from{told}",
    )
