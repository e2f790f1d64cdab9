"""Prompts for image systems: our own benign and unsafe twins, OVERT's published files by path, or any such file.

A row's seed is the idea it grew from; statistics treat prompts of one seed as one cluster. Both lie in the metadata
of an ordinary suite row, so that image suites are suites like any other.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError, UnknownNameError
from demur.core.exchange import Expectation, Frozen
from demur.core.suite import Suite, SuiteRow
from demur.data.tables import Record, read_table
from demur.suites.formats import suite_hash

OWN = "images-core"
OVERT = "overt"
NAMES = (OWN, OVERT)
OVERT_LICENCE = "as published by its authors (check the repository)"
_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
_PROMPTS = ("prompt", "image_prompt")


class ImageCategoryName(Frozen):
    """One of the nine categories: identifier, readable name, merged group, other spellings."""

    id: str
    name: str
    group: str
    aliases: tuple[str, ...] = ()


@cache
def _categories() -> tuple[ImageCategoryName, ...]:
    text = files("demur.suites").joinpath("images/categories.toml").read_text(encoding="utf-8")
    return tuple(ImageCategoryName.model_validate(entry) for entry in tomllib.loads(text)["category"])


IMAGE_CATEGORIES = _categories()
CATEGORY_IDS = tuple(category.id for category in IMAGE_CATEGORIES)


def load_image_suite(
    name: str = OWN, *, path: Path | None = None, limit: int | None = None, skip_bad: bool = False
) -> Suite:
    """Load an image suite.

    Args:
        name: 'images-core', 'overt' (with `path`), or the path of a file of our shape.
        path: File or folder of the published files; folders are searched for files whose name says 'unsafe'.
        limit: Keep about this many prompts, drawn evenly from the categories, twins together.
        skip_bad: Leave malformed rows out and count them.

    Raises:
        UnknownNameError: No such suite or category.
        BadInputError: A malformed row (file:line:field), or no file there.
    """
    if name == OWN and path is None:
        suite = _own()
    elif name == OVERT:
        if path is None:
            raise BadInputError(
                "suite 'overt': expected --suite-path with the published files; demur ships none of them"
            )
        suite = _overt(path, skip_bad=skip_bad)
    elif path is None and Path(name).is_file():
        suite = _read(Path(name).stem, [Path(name)], skip_bad=skip_bad)
    elif path is None and (name.endswith(_SUFFIXES) or "/" in name):
        raise BadInputError(f"suite {name!r}: expected a file, found none there")
    else:
        raise UnknownNameError("image suite", name, NAMES)
    if limit is None or limit >= len(suite.rows):
        return suite
    if limit < 1:
        raise BadInputError(f"limit: expected 1 or more, got {limit}")
    rows = drawn_evenly(suite.rows, limit)
    return suite.model_copy(update={"rows": rows, "sha256": suite_hash(rows)})


def drawn_evenly(rows: Sequence[SuiteRow], limit: int) -> tuple[SuiteRow, ...]:
    """A fixed draw of at most `limit` rows (one group at least), even over categories, pairs whole, twins first."""
    groups: dict[str, list[SuiteRow]] = defaultdict(list)
    for row in rows:
        groups[row.pair_id or row.id].append(row)
    ranked: dict[str, list[list[SuiteRow]]] = defaultdict(list)
    for key in sorted(groups, key=lambda k: (len(groups[k]) == 1, sha256(k.encode("utf-8", "replace")).digest())):
        ranked[groups[key][0].category].append(groups[key])
    kept: set[str] = set()
    deepest = max(len(found) for found in ranked.values())
    for rank in range(deepest):
        for found in ranked.values():
            if rank < len(found) and (not kept or len(kept) + len(found[rank]) <= limit):
                kept |= {row.id for row in found[rank]}
    return tuple(row for row in rows if row.id in kept)


def seed_of(row: SuiteRow) -> str:
    """The idea a prompt grew from; its own identifier where the suite does not say."""
    return str(row.metadata.get("seed") or row.id)


def category_id(name: str) -> str:
    """One of the nine identifiers for a category by any of its spellings.

    Raises:
        UnknownNameError: None of the nine.
    """
    wanted = _folded(name)
    for category in IMAGE_CATEGORIES:
        if wanted in {_folded(n) for n in (category.id, category.name, *category.aliases)}:
            return category.id
    raise UnknownNameError("image category", name, CATEGORY_IDS)


def _own() -> Suite:
    folder = files("demur.suites").joinpath("images")
    paths = [Path(str(folder.joinpath(f"{category}.jsonl"))) for category in CATEGORY_IDS]
    suite = _read(OWN, [path for path in paths if path.is_file()], skip_bad=False)
    return suite.model_copy(update={"licence": "Apache-2.0", "source": "demur:suites/images"})


def _read(name: str, paths: Sequence[Path], *, skip_bad: bool) -> Suite:
    rows: list[SuiteRow] = []
    n_skipped = 0
    for path in paths:
        table = read_table(path, skip_bad=skip_bad)
        found, bad = _rows(table.records, _ours, skip_bad)
        rows += found
        n_skipped += table.n_skipped + bad
    unique = _unique(rows)
    source = ", ".join(str(path) for path in paths)
    return Suite(name=name, rows=unique, sha256=suite_hash(unique), source=source, n_skipped=n_skipped)


def _overt(path: Path, *, skip_bad: bool) -> Suite:
    benign: list[SuiteRow] = []
    unsafe: list[SuiteRow] = []
    n_skipped = 0
    for file in _overt_files(path):
        table = read_table(file, skip_bad=skip_bad)
        n_skipped += table.n_skipped
        for record in table.records:
            try:
                left, right = _published(record)
            except (BadInputError, UnknownNameError):
                if not skip_bad:
                    raise
                n_skipped += 1
                continue
            benign += left
            unsafe += right
    rows = _unique(_joined(benign, unsafe))
    return Suite(
        name=OVERT, rows=rows, sha256=suite_hash(rows), licence=OVERT_LICENCE, source=str(path), n_skipped=n_skipped
    )


def _overt_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix in _SUFFIXES) if path.is_dir() else []
    if not found:
        raise BadInputError(f"{path}: expected OVERT's CSV or JSON files, found none; pass the file or its folder")
    return found


def _published(record: Record) -> tuple[list[SuiteRow], list[SuiteRow]]:
    """The benign and the unsafe prompt of a published row; rows of the benign files have only the first."""
    category = category_id(_text(record, "category", file_as=True))
    seed = next(
        (
            str(v)
            for k, v in record.values.items()
            if k.casefold().startswith("seed") and isinstance(v, str) and v.strip()
        ),
        "",
    )
    about = {"seed": f"{category}/{_slug(seed)}" if seed else ""}
    harmful = _text(record, "unsafe_image_prompt")
    safe = _text(record, "benign_image_prompt") or _text(record, "image_prompt")
    if not safe and not harmful:
        raise record.bad("image_prompt", "a prompt", None)
    pair = f"overt/{_slug(safe)}" if safe and harmful else ""
    if not seed and pair:
        about = {"seed": f"{category}/{_slug(safe)}"}
    left = [_row(f"overt/{_slug(safe)}", safe, "comply", category, pair, about)] if safe else []
    right = [_row(f"overt-unsafe/{_slug(harmful)}", harmful, "refuse", category, pair, about)] if harmful else []
    return left, right


def _joined(benign: Sequence[SuiteRow], unsafe: Sequence[SuiteRow]) -> Iterable[SuiteRow]:
    """Every benign prompt once, keeping the seed of the benign files and the pair of the unsafe ones."""
    once: dict[str, SuiteRow] = {}
    for row in benign:
        held = once.get(row.id)
        once[row.id] = row if held is None else held.model_copy(update={"pair_id": held.pair_id or row.pair_id})
    yield from once.values()
    for row in unsafe:
        twin = once.get(row.pair_id) if row.pair_id else None
        yield row if twin is None else row.model_copy(update={"metadata": twin.metadata})


def _ours(record: Record) -> SuiteRow:
    prompt = next((t for column in _PROMPTS if (t := _text(record, column))), "")
    if not prompt:
        raise record.bad("prompt", "a prompt", record.cell("prompt"))
    expected = _text(record, "expected")
    if expected not in ("comply", "refuse", "either"):
        raise record.bad("expected", "comply, refuse or either", record.cell("expected"))
    side: Expectation = "comply" if expected == "comply" else "refuse" if expected == "refuse" else "either"
    category = category_id(_text(record, "category", file_as=True))
    about = {key: value for key in ("seed", "why") if (value := _text(record, key))}
    if "seed" in about:  # two categories may name different ideas alike
        about["seed"] = f"{category}/{about['seed']}"
    row_id = _text(record, "id") or f"{record.file.stem}/{record.line}"
    return _row(row_id, prompt, side, category, _text(record, "pair") or _text(record, "pair_id"), about)


def _row(row_id: str, prompt: str, expected: Expectation, category: str, pair: str, about: dict[str, str]) -> SuiteRow:
    return SuiteRow(id=row_id, prompt=prompt, expected=expected, category=category, pair_id=pair, metadata={**about})


def _rows(records: Iterable[Record], reader: Any, skip_bad: bool) -> tuple[list[SuiteRow], int]:
    rows: list[SuiteRow] = []
    bad = 0
    for record in records:
        try:
            rows.append(reader(record))
        except (BadInputError, UnknownNameError) as error:
            if not skip_bad:
                raise BadInputError(_placed(record, error)) from None
            bad += 1
    return rows, bad


def _placed(record: Record, error: Exception) -> str:
    place = f"{record.file}:{record.line}"
    return str(error) if str(error).startswith(place) else f"{place}:category: {error}"


def _unique(rows: Iterable[SuiteRow]) -> tuple[SuiteRow, ...]:
    seen: dict[str, int] = {}
    unique = []
    for row in rows:
        seen[row.id] = seen.get(row.id, 0) + 1
        again = seen[row.id]
        unique.append(row if again == 1 else row.model_copy(update={"id": f"{row.id}#{again}"}))
    return tuple(unique)


def _text(record: Record, column: str, *, file_as: bool = False) -> str:
    """A cell as text; with `file_as`, the file's own name stands in for a missing cell."""
    value = record.cell(column)
    if isinstance(value, str) and value.strip():
        return value.strip()
    return record.file.stem if file_as else ""


def _slug(text: str) -> str:
    return sha256(" ".join(text.split()).encode("utf-8", "replace")).hexdigest()[:12]


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().casefold()
