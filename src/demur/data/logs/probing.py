"""What a file is: how it is stored, what its records look like, which column holds what."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError
from demur.data.logs.assembly import OTHER_FIELDS, is_text, load_pyarrow
from demur.data.logs.batch_requests import is_request
from demur.data.logs.batches import FileKind
from demur.data.logs.columnar import first_rows
from demur.data.logs.conversations import turns_of
from demur.data.logs.csv_rows import read_header, read_sample
from demur.data.logs.inspect_files import INSPECT_FIELDS
from demur.data.logs.json_files import json_records
from demur.data.logs.json_lines import json_line_records
from demur.data.logs.recording import Numbered
from demur.data.logs.replies import RecordError
from demur.data.logs.shapes import is_row, read_record, shape_of, wire_body
from demur.data.logs.streams import Damaged, chunks
from demur.data.logs.tables import missing, resolve

_KINDS: dict[str, FileKind] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
    ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".eval": "inspect",
}  # fmt: skip
_PACKED = {".gz": "gzip", ".zst": "zstd"}
_TEXT: tuple[FileKind, ...] = ("jsonl", "json", "csv")
_N_SAMPLE = 200


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file is; `is_requests` marks a batch's request file, which holds prompts and no replies."""

    kind: FileKind
    compression: str = ""
    format: str = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    is_requests: bool = False


def stored_as(path: str) -> tuple[FileKind, str] | None:
    """Kind and compression by the file's name; None if it is no log by its name."""
    suffixes = [suffix.casefold() for suffix in Path(path).suffixes]
    compression = _PACKED.get(suffixes[-1], "") if suffixes else ""
    if compression:
        suffixes.pop()
    kind = _KINDS.get(suffixes[-1]) if suffixes else None
    if kind is None or (compression and kind not in _TEXT):
        return None
    return kind, compression


def probe(path: str, format: str | None, columns: Mapping[str, str] | None) -> Probe:
    """Look into a file.

    Raises:
        BadInputError: It is no log, is empty, or lacks a column; names the nearest.
    """
    stored = stored_as(path)
    if stored is None:
        known = ", ".join(sorted(_KINDS))
        raise BadInputError(f"{path}: expected a file ending in {known} (text also .gz, .zst), got another; convert it")
    kind, compression = stored
    if not Path(path).is_file():
        raise BadInputError(f"{path}: expected a readable file; there is none of that name")
    if kind == "inspect":
        return Probe("inspect", format="inspect", extra=INSPECT_FIELDS)
    if kind in ("parquet", "arrow"):
        return _columnar(path, kind, format, columns)
    if kind == "csv":
        header = read_header(path, compression)
        found = list(read_sample(path, compression, header, _N_SAMPLE))
        records = _good(path, found)
        chosen = _decide(path, header.names, records, format, columns)
        return Probe(kind, compression, chosen[0], chosen[1], header.names)
    kind = _json_kind(path, compression, kind)
    source = json_line_records(path, compression) if kind == "jsonl" else json_records(path, compression)
    records = _good(path, list(islice(source, _N_SAMPLE)))
    if all(is_request(record) for _, record in records):
        return Probe(kind, compression, is_requests=True)
    if format in (None, "inspect") and all(shape_of(record) == "inspect" for _, record in records):
        return Probe(kind, compression, "inspect", extra=INSPECT_FIELDS)
    names = tuple(dict.fromkeys(key for _, record in records for key in record if key != OTHER_FIELDS))
    chosen = _decide(path, names, records, format, columns)
    return Probe(kind, compression, chosen[0], chosen[1], names)


def _columnar(path: str, kind: FileKind, format: str | None, columns: Mapping[str, str] | None) -> Probe:
    schema, rows = first_rows(path, kind, _N_SAMPLE)
    records = [row for row in rows if not isinstance(row, BadInputError)]
    names = tuple(schema.names)
    # Columns of nulls only are left out of records; they count as columns all the same.
    chosen, found = _decide(path, names, _typed(records), format, columns)
    if chosen == "plain":
        for role in ("response", "prompt"):
            kind_of = schema.field(found[role]).type if role in found else None
            if kind_of is not None and not _is_plain(kind_of):
                nested = load_pyarrow().types.is_nested(kind_of)
                if not nested:
                    raise BadInputError(
                        f"{path}:1:{found[role]}: expected text, got {kind_of}; name another column as {role}=COLUMN"
                    )
                chosen = "auto"
    return Probe(kind, "", chosen, found, names)


def _typed(records: list[Numbered]) -> list[Numbered]:
    return [
        (n, {k: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for k, v in r.items()}) for n, r in records
    ]


def _is_plain(kind: Any) -> bool:
    types = load_pyarrow().types
    return is_text(kind) or any(
        t(kind) for t in (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_null)
    )


def _json_kind(path: str, compression: str, kind: FileKind) -> FileKind:
    """Whether a file is JSON Lines or one JSON value, whatever its name says."""
    try:
        head = next((chunk for chunk in chunks(path, compression) if chunk.strip()), b"")
    except Damaged:
        return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"[":
        first = text.split(b"\n", 1)[0].rstrip()
        return "jsonl" if kind == "jsonl" and first.endswith(b"]") and first[1:].lstrip()[:1] == b"{" else "json"
    if kind == "jsonl" or text[:1] != b"{":
        return kind
    first, newline, rest = text.partition(b"\n")
    return "jsonl" if newline and rest.strip() and first.rstrip().endswith(b"}") else "json"


def _good(path: str, found: Sequence[Numbered | BadInputError]) -> list[Numbered]:
    """The readable records of a sample.

    Raises:
        BadInputError: There are none: the first complaint, or that the file is empty.
    """
    good: list[Numbered] = []
    first: BadInputError | None = None
    for item in found:
        if isinstance(item, BadInputError):
            first = first or item
            continue
        line, record = item
        record = {"messages": record} if isinstance(record, list) else record
        if isinstance(record, dict):
            good.append((line, record))
        else:
            first = first or BadInputError(f"{path}:{line}: expected a JSON object, got {type(record).__name__}")
    if not good:
        raise first or BadInputError(
            f"{path}: expected rows, got an empty file; check that it was written or downloaded whole"
        )
    return good


def _decide(
    path: str,
    names: Sequence[str],
    records: Sequence[Numbered],
    format: str | None,
    columns: Mapping[str, str] | None,
) -> tuple[str, dict[str, str]]:
    """Format and columns of a file: the user's word, else plain rows if most are, else record by record."""
    if format == "plain" or (columns and "response" in columns and format is None):
        return "plain", resolve(path, names, columns)
    found = resolve(path, names, columns, needs_reply=False)
    if format not in (None, "auto"):
        return str(format), found
    if "response" in found:
        rows = [record for _, record in records if is_row(record, found)]
        n_text = sum(isinstance(record.get(found["response"]), str) for record in rows)
        if (n_text or not records) and 2 * len(rows) >= len(records) and not any(map(_is_disguised, rows[:20])):
            return "plain", found
    complaint: BadInputError | None = None
    for line, record in records:
        try:
            read_record(record, columns=found)
        except RecordError as error:
            complaint = complaint or (error.at(path, line) if "response" in found else None)
        else:
            return "auto", found
    raise complaint or missing(path, "response", names, "response")


def _is_disguised(record: Mapping[str, Any]) -> bool:
    """Whether a row of texts holds a conversation or a provider's answer as JSON text."""
    if turns_of(record) is not None:
        return True
    return any(wire_body(cell) is not None for cell in record.values())


def log_files(paths: Iterator[str]) -> Iterator[str]:
    """Files, with folders replaced by the logs under them, sorted by name.

    Raises:
        BadInputError: A folder holds no log.
    """
    for path in paths:
        folder = Path(path)
        if not folder.is_dir():
            yield path
            continue
        found = sorted(str(file) for file in folder.rglob("*") if file.is_file() and _is_log(file, folder))
        if not found:
            raise BadInputError(f"{path}: expected a folder with logs ({', '.join(sorted(_KINDS))}), got none in it")
        yield from found


def _is_log(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    return not hidden and stored_as(str(file)) is not None
