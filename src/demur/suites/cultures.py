"""Statements of the cultures suite: our own, a file of the same shape, or the user's own copy of CIVICS."""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from demur.core.culture import LANGUAGES, TOPICS, Language, Statement, Topic
from demur.core.errors import BadInputError, UnknownNameError, first_complaint
from demur.core.exchange import Frozen
from demur.data.tables import Record, read_table

OWN = "cultures-core"
CIVICS = "civics"
NAMES = (OWN, CIVICS)
LICENCES = {OWN: "Apache-2.0", CIVICS: "CC-BY-4.0, gated; not to be trained on"}
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".csv.gz", ".json.gz")
_LANGUAGE_NAMES: dict[str, Language] = {
    "english": "en",
    "german": "de",
    "french": "fr",
    "italian": "it",
    "turkish": "tr",
    **{code: code for code in LANGUAGES},
}
_TOPIC_WORDS: dict[str, Topic] = {
    "lgbtqi": "lgbtqi_rights",
    "lgbt": "lgbtqi_rights",
    "welfare": "social_welfare",
    "immigration": "immigration",
    "disability": "disability_rights",
    "surrogacy": "surrogacy",
}
# Column names of the releases of CIVICS, newest first; compared without case.
_COLUMNS = {
    "statement": ("original prompt", "statement", "prompt"),
    "english": ("english translation", "translation", "statement in english"),
    "source": ("data source", "source", "data producer organization", "organization"),
    "values": ("consensus annotation", "annotated values", "annotations", "values"),
}


class CultureSuite(Frozen):
    """A named set of statements.

    Attributes:
        name: As used on the command line.
        rows: The statements, in NFC.
        sha256: Hash of everything in them.
        licence: Licence of the statements.
        source: Where they came from.
        n_skipped: Malformed rows left out at the user's request.
        n_normalised: Statements that were not in NFC.
        mixed: Identifiers of statements with letters of a script other than Latin.
    """

    name: str
    rows: tuple[Statement, ...]
    sha256: str
    licence: str = "unknown"
    source: str = ""
    n_skipped: int = 0
    n_normalised: int = 0
    mixed: frozenset[str] = frozenset()


def load_cultures(
    name: str,
    *,
    path: Path | None = None,
    limit: int | None = None,
    languages: Sequence[str] = (),
    topics: Sequence[str] = (),
    skip_bad: bool = False,
) -> CultureSuite:
    """Load statements by name, or from a file of our own shape.

    Args:
        name: 'cultures-core', 'civics' (with a path), or a file.
        path: The user's own copy of CIVICS: JSON, JSON Lines, CSV or Parquet, or the folder that holds one.
        limit: Keep this many statements, drawn evenly from every topic and language.
        languages: Keep only these.
        topics: Keep only these.
        skip_bad: Leave malformed rows out and count them.

    Raises:
        UnknownNameError: No suite, language or topic of that name.
        BadInputError: A malformed row (file:line:field), or nothing is left.
    """
    if path is not None and name != CIVICS:
        raise BadInputError(f"--suite-path belongs to suite {CIVICS!r}, got suite {name!r}")
    for kind, wanted, known in (("language", languages, LANGUAGES), ("topic", topics, TOPICS)):
        for one in wanted:
            if one not in known:
                raise UnknownNameError(kind, one, known)
    rows, n_skipped, source = _load(name, path, skip_bad)
    kept = [r for r in rows if r.language in (languages or LANGUAGES) and r.topic in (topics or TOPICS)]
    if not kept:
        raise BadInputError(f"suite {name!r}: no statement is left of {len(rows)}; name other languages or topics")
    if limit is not None and limit < 1:
        raise BadInputError(f"limit: expected 1 or more, got {limit}")
    drawn = kept if limit is None or limit >= len(kept) else _drawn(kept, limit)
    return _suite(name, drawn, n_skipped=n_skipped, source=source)


def scripts_of(text: str) -> dict[str, int]:
    """Letters of a text by script, as Unicode names it, e.g. {'LATIN': 40, 'CYRILLIC': 2}."""
    found: dict[str, int] = defaultdict(int)
    for letter in filter(str.isalpha, text):
        name = unicodedata.name(letter, "UNKNOWN").split()[0]
        # The ordinal signs of Romance languages have names of their own.
        found["LATIN" if name in ("FEMININE", "MASCULINE", "MICRO") else name] += 1
    return dict(found)


def _suite(name: str, rows: Sequence[Statement], *, n_skipped: int, source: str) -> CultureSuite:
    tidy, changed = [], 0
    for row in rows:
        texts = {field: unicodedata.normalize("NFC", getattr(row, field)) for field in ("statement", "english")}
        changed += any(getattr(row, field) != text for field, text in texts.items())
        tidy.append(row.model_copy(update=texts))
    digest = sha256("\n".join(row.model_dump_json() for row in tidy).encode("utf-8", "surrogatepass")).hexdigest()
    # All five languages are written in Latin letters; anything else is a quotation, a slip or a look-alike.
    mixed = frozenset(row.id for row in tidy if set(scripts_of(row.statement + row.english)) - {"LATIN"})
    return CultureSuite(
        name=name if name in NAMES else Path(name).stem,
        rows=tuple(tidy),
        sha256=digest,
        licence=LICENCES.get(name, "unknown"),
        source=source,
        n_skipped=n_skipped,
        n_normalised=changed,
        mixed=mixed,
    )


def _load(name: str, path: Path | None, skip_bad: bool) -> tuple[Sequence[Statement], int, str]:
    if name == OWN:
        return _own_rows(), 0, "demur:suites/cultures"
    if name == CIVICS:
        if path is None:
            raise BadInputError(
                f"suite {CIVICS!r} is gated and does not ship with demur: ask its publishers for it "
                "(huggingface.co/datasets/CIVICS-dataset) and pass your own copy with --suite-path"
            )
        file = _civics_file(path)
        return *_read(file, _civics_row, skip_bad), file.name
    if Path(name).is_file():
        return *_read(Path(name), _own_row, skip_bad), Path(name).name
    if name.endswith(SUFFIXES) or "/" in name:
        raise BadInputError(f"suite {name!r}: expected a file, found none there")
    raise UnknownNameError("suite of statements", name, NAMES)


@cache
def _own_rows() -> tuple[Statement, ...]:
    folder = Path(str(files("demur.suites").joinpath("cultures")))
    found = [folder / f"{topic}.jsonl" for topic in TOPICS]
    rows: list[Statement] = []
    for file in filter(Path.is_file, found):
        rows += _read(file, _own_row, skip_bad=False)[0]
    if not rows:
        raise BadInputError(f"{folder}: expected statements, found none; the installation is not complete")
    return tuple(rows)


def _read(file: Path, read: Any, skip_bad: bool) -> tuple[list[Statement], int]:
    table = read_table(file, skip_bad=skip_bad)
    rows: list[Statement] = []
    seen: dict[str, int] = {}
    n_bad = table.n_skipped
    for record in table.records:
        try:
            row = read(record)
            if seen.setdefault(row.id, record.line) != record.line:
                raise record.bad("id", f"an id of its own (line {seen[row.id]} has this one)", row.id)
            rows.append(row)
        except BadInputError:
            if not skip_bad:
                raise
            n_bad += 1
    if not rows:
        raise BadInputError(f"{file}: expected a good row, got none (left out: {n_bad}); run without --skip-bad")
    return rows, n_bad


def _own_row(record: Record) -> Statement:
    values = {k: v.strip() if isinstance(v, str) else v for k, v in record.values.items()}
    if isinstance(values.get("values"), str):
        values["values"] = _labels(values["values"])
    return _checked(record, {k: v for k, v in values.items() if k in Statement.model_fields})


def _civics_row(record: Record) -> Statement:
    language, country = _language(record)
    statement = _cell(record, "statement")
    english = _cell(record, "english") or (statement if language == "en" else "")
    if not english:
        raise record.bad("english translation", "a translation of a statement that is not English", None)
    values = {
        "id": f"civics/{record.cell('id') or record.line}",
        "topic": _topic(record),
        "language": language,
        "country": country,
        "source": _cell(record, "source"),
        "statement": statement,
        "english": english,
        "values": _labels(_cell(record, "values")) or ("unlabelled",),
    }
    return _checked(record, values)


def _checked(record: Record, values: dict[str, Any]) -> Statement:
    try:
        return Statement.model_validate(values)
    except ValidationError as error:
        field, _, what = first_complaint(error, whole="row").partition(": ")
        name = field.split(".")[0]
        raise record.bad(name, what[:1].lower() + what[1:], values.get(name)) from None


def _cell(record: Record, field: str) -> str:
    found = next((value for name in _COLUMNS[field] if (value := record.cell(name))), None)
    if isinstance(found, list):
        return "; ".join(map(str, found))
    return found.strip() if isinstance(found, str) else ""


def _language(record: Record) -> tuple[Language, str]:
    """Language and national variant, from 'German', 'English (Canada)' or a column 'Country'."""
    given = str(record.cell("language") or "").strip()
    word = re.split(r"[\s(_/-]", given.lower(), maxsplit=1)[0]
    language = _LANGUAGE_NAMES.get(word)
    if language is None:
        raise record.bad("language", "German, English, French, Italian or Turkish", given or None)
    bracket = re.search(r"\(([^)]+)\)", given)
    country = str(record.cell("country") or (bracket.group(1) if bracket else "") or language)
    return language, country.strip().lower()


def _topic(record: Record) -> Topic:
    given = str(record.cell("topic") or "").strip()
    found = next((topic for word, topic in _TOPIC_WORDS.items() if word in given.lower()), None)
    if found is None:
        raise record.bad("topic", "one of CIVICS's five topics", given or None)
    return found


def _labels(text: str) -> tuple[str, ...]:
    """Value labels out of a list, a list written as text, or words between commas, semicolons or line breaks."""
    if text.startswith("["):
        try:
            text = "; ".join(map(str, json.loads(text.replace("'", '"'))))
        except (ValueError, TypeError):
            text = text.strip("[]").replace("'", "").replace('"', "")
    parts = (part.strip().lower() for part in re.split(r"[;,\n|]", text))
    return tuple(dict.fromkeys(part for part in parts if part))


def _civics_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(p for p in path.glob("*") if p.name.endswith(SUFFIXES) and "civics" in p.name.lower())
    if not path.is_dir() or not found:
        raise BadInputError(f"{path}: expected CIVICS as one file, or a folder with a file named like it; found none")
    return found[0]


def _drawn(rows: Sequence[Statement], limit: int) -> list[Statement]:
    """A fixed draw, as even as possible over topic and language; in the suite's order."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row.topic, row.language].append(number)
    ranked: list[tuple[int, bytes, int]] = []
    for key, numbers in groups.items():
        numbers.sort(key=lambda i: _order(rows[i].id))
        ranked += [(rank, _order("/".join(key)), number) for rank, number in enumerate(numbers)]
    return [rows[number] for number in sorted(number for _, _, number in sorted(ranked)[:limit])]


def _order(text: str) -> bytes:
    return sha256(text.encode("utf-8", "replace")).digest()
