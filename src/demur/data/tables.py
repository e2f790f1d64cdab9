"""Rows of a file as written: JSON Lines, JSON, CSV or Parquet, plain or gzipped, with the line each row began on.

Files of strangers are broken in the same dozen ways (truncated downloads, byte order marks, stray bytes, unclosed
quotes), so every complaint names the file, the line and what to do, and `skip_bad` goes on and counts.
"""

import csv
import io
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError, MissingExtraError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
SKIP = "mend it, or pass --skip-bad to leave it out"
REPLACEMENT = "\ufffd"
_MAX_CELL = 2**31 - 1  # csv refuses cells over 131,072 characters unless told otherwise
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One row.

    Attributes:
        file: The file it stands in.
        line: Line it begins on, from 1; the number of the row where a file has no lines (JSON arrays, Parquet).
        values: Cells by column.
        n_replaced: Characters that are no text (lone surrogates), replaced by U+FFFD.
    """

    file: Path
    line: int
    values: dict[str, Any]
    n_replaced: int = 0

    def cell(self, column: str) -> Any:
        """The cell of a column, in any case; None if there is none."""
        if column in self.values:
            return self.values[column]
        return next((value for key, value in self.values.items() if key.lower() == column), None)

    def bad(self, field: str, expected: str, got: object, remedy: str = SKIP) -> BadInputError:
        """The error that says what is wrong with one cell of this row."""
        return BadInputError(f"{self.file}:{self.line}:{field}: expected {expected}, got {preview(got)}; {remedy}")


@dataclass(frozen=True, slots=True)
class Table:
    """The readable rows of a file, in order, and how many were left out."""

    records: tuple[Record, ...]
    n_skipped: int = 0


def preview(value: object) -> str:
    """A value as an error shows it: short, and on one line."""
    if value is None:
        return "none"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_table(path: Path, *, skip_bad: bool = False) -> Table:
    """Read a file by its suffix.

    Args:
        path: .jsonl, .ndjson, .json, .csv, .tsv or .parquet; the text formats may end in .gz as well.
        skip_bad: Leave unreadable rows out and count them.

    Raises:
        BadInputError: The file or a row is unreadable; or no row is left.
        MissingExtraError: Parquet without polars.
    """
    suffix = "".join(path.suffixes[-2:]).lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    kind = suffix.removesuffix(".gz")
    if kind not in SUFFIXES or (kind == ".parquet" and suffix.endswith(".gz")):
        raise BadInputError(
            f"{path}: expected a file ending in {', '.join(SUFFIXES)} (or .gz), got {suffix!r}; convert it"
        )
    if kind == ".parquet":
        return _finish(path, _parquet(path), skip_bad, 0)
    data, n_cut = _contents(path, gzipped=suffix.endswith(".gz"), skip_bad=skip_bad)
    text = _decode(path, data, skip_bad)
    if not text.strip():
        raise BadInputError(f"{path}: expected rows, got an empty file; check that it was written or downloaded whole")
    if kind in (".csv", ".tsv"):
        return _finish(path, _csv(path, text, "\t" if kind == ".tsv" else ","), skip_bad, n_cut)
    return _finish(path, _json(path, text) if kind == ".json" else _jsonl(path, text), skip_bad, n_cut)


def _finish(path: Path, found: Iterator[Record | BadInputError], skip_bad: bool, n_skipped: int) -> Table:
    records: list[Record] = []
    for item in found:
        cleaned = _cleaned(item) if isinstance(item, Record) else item
        if isinstance(cleaned, Record):
            records.append(cleaned)
        elif skip_bad:
            n_skipped += 1
        else:
            raise cleaned
    if not records:
        raise BadInputError(f"{path}: expected at least one row, got none (left out: {n_skipped}); give it some rows")
    replaced = sum(record.n_replaced for record in records)
    if replaced:
        _LOG.warning("%s: %d characters that are no text (lone surrogates) were replaced by U+FFFD", path, replaced)
    return Table(tuple(records), n_skipped)


def _contents(path: Path, *, gzipped: bool, skip_bad: bool) -> tuple[bytes, int]:
    """The bytes of a file, and 1 if a cut-off last line was dropped from them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path}: expected a readable file; {error.strerror or error}") from None
    if not gzipped:
        return data, 0
    unpacked, problem = _gunzip(data)
    if problem is None:
        return unpacked, 0
    if not skip_bad or not unpacked:
        raise BadInputError(f"{path}: expected a whole gzip file, got {problem}; copy or download it again")
    whole, _, _ = unpacked.rpartition(b"\n")
    return whole, 1


def _gunzip(data: bytes) -> tuple[bytes, str | None]:
    """What can be unpacked, and what is wrong with the rest; members of a concatenated file follow each other."""
    parts: list[bytes] = []
    while data:
        stream = zlib.decompressobj(wbits=31)
        try:
            parts.append(stream.decompress(data))
        except zlib.error as error:
            return b"".join(parts), f"damaged data ({error})"
        if not stream.eof:
            return b"".join(parts), "one that ends early"
        data = stream.unused_data.lstrip(b"\0")
    return b"".join(parts), None


def _decode(path: Path, data: bytes, skip_bad: bool) -> str:
    """The text; bytes that are no UTF-8 become low surrogates where rows holding them are to be skipped."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not skip_bad:
            line = data.count(b"\n", 0, error.start) + 1
            got = f"byte 0x{data[error.start]:02x}"
            raise BadInputError(f"{path}:{line}: expected UTF-8, got {got}; convert the file, or {SKIP}") from None
    return data.decode("utf-8-sig", "surrogateescape")


def _is_escaped(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= c <= "\udcff" for c in text)


def _jsonl(path: Path, text: str) -> Iterator[Record | BadInputError]:
    # Only "\n" ends a line: U+2028 and its like are legal inside JSON strings.
    for line, raw in enumerate(text.split("\n"), start=1):
        if not raw.strip():
            continue
        if _is_escaped(raw):
            yield BadInputError(f"{path}:{line}: expected UTF-8, got other bytes; {SKIP}")
            continue
        try:
            values = json.loads(raw, strict=False)
        except (ValueError, RecursionError) as error:
            yield BadInputError(f"{path}:{line}: expected a JSON object, got {preview(raw)} ({_reason(error)}); {SKIP}")
            continue
        yield _record(path, line, values)


def _record(path: Path, line: int, values: object) -> Record | BadInputError:
    if isinstance(values, dict):
        return Record(path, line, {str(key): value for key, value in values.items()})
    return BadInputError(f"{path}:{line}: expected a JSON object, got {preview(values)}; {SKIP}")


def _json(path: Path, text: str) -> Iterator[Record | BadInputError]:
    try:
        whole = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            yield from _jsonl(path, text)  # JSON Lines under the wrong name
            return
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise BadInputError(f"{path}:{line}: expected JSON, got {_reason(error)}; write it as JSON Lines") from None
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        whole = lists[0] if len(lists) == 1 else [whole]
    if not isinstance(whole, list):
        raise BadInputError(f"{path}: expected a JSON array of objects, got {preview(whole)}; write one object per row")
    for number, values in enumerate(whole, start=1):
        yield _record(path, number, values)


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error).splitlines()[0]


def _csv(path: Path, text: str, delimiter: str) -> Iterator[Record | BadInputError]:
    with _wide_cells():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if header is None:
                    raise BadInputError(f"{path}:{line}: expected a header of column names; {error}") from None
                yield BadInputError(f"{path}:{line}: expected a CSV row; {error} (an unclosed quote?); {SKIP}")
                continue
            if header is None:
                header = [name.strip() for name in cells]
            elif cells:
                yield _csv_row(path, line, header, cells)


def _csv_row(path: Path, line: int, header: list[str], cells: list[str]) -> Record | BadInputError:
    if len(cells) != len(header):
        return BadInputError(f"{path}:{line}: expected {len(header)} cells, got {len(cells)}; {SKIP}")
    if any(map(_is_escaped, cells)):
        return BadInputError(f"{path}:{line}: expected UTF-8, got other bytes; {SKIP}")
    return Record(path, line, dict(zip(header, cells, strict=True)))


@contextmanager
def _wide_cells() -> Iterator[None]:
    before = csv.field_size_limit(_MAX_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path) -> Iterator[Record | BadInputError]:
    if not path.is_file():
        raise BadInputError(f"{path}: expected a readable file; there is none of that name")
    try:
        import polars
    except ImportError:
        raise MissingExtraError("reading Parquet files", extra="classify") from None
    try:
        rows = polars.read_parquet(path).to_dicts()
    except (polars.exceptions.PolarsError, OSError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise BadInputError(f"{path}: expected a Parquet file; {reason}; copy or download it again") from None
    for number, values in enumerate(rows, start=1):
        yield Record(path, number, values)


def _cleaned(record: Record) -> Record | BadInputError:
    try:
        values, n_replaced = clean(record.values)
    except RecursionError:
        return BadInputError(f"{record.file}:{record.line}: expected plain values, got deep nesting; {SKIP}")
    return Record(record.file, record.line, values, n_replaced)


def clean(value: Any) -> tuple[Any, int]:
    """The value with lone surrogates replaced, however deep they lie, and how many there were."""
    if isinstance(value, str):
        if value.isascii():
            return value, 0
        text = "".join(REPLACEMENT if "\ud800" <= c <= "\udfff" else c for c in value)
        return text, 0 if text == value else sum("\ud800" <= c <= "\udfff" for c in value)
    if isinstance(value, list):
        items = [clean(item) for item in value]
        return [item for item, _ in items], sum(n for _, n in items)
    if isinstance(value, dict):
        pairs = [(clean(str(key)), clean(item)) for key, item in value.items()]
        return {key: item for (key, _), (item, _) in pairs}, sum(n + m for (_, n), (_, m) in pairs)
    return value, 0


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of equal length as .jsonl or .parquet, whole or not at all.

    Raises:
        MissingExtraError: Parquet without polars.
    """
    from demur.data.folder import write_bytes

    if path.suffix == ".jsonl":
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        write_bytes(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows).encode("ascii"))
        return
    try:
        import polars
    except ImportError:
        raise MissingExtraError("writing Parquet files", extra="classify") from None
    buffer = io.BytesIO()
    polars.DataFrame(dict(columns)).write_parquet(buffer)
    write_bytes(path, buffer.getvalue())
