"""Canonical columns: from replies read one by one, or from whole columns of a table; the same either way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from demur.core.exchange import signal_text
from demur.data.logs.batches import LOG_COLUMNS, LogBatch
from demur.data.logs.replies import ProviderReply
from demur.data.logs.signals import origin_of
from demur.data.logs.tables import cell_text
from demur.data.logs.times import as_time
from demur.data.tables import clean

if TYPE_CHECKING:
    import pyarrow

OTHER_FIELDS = "other_fields"
_MAX_BATCH_BYTES = 64 << 20


def load_pyarrow(feature: str = "reading logs in batches") -> Any:
    """The pyarrow package.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        from demur.core.errors import MissingExtraError

        raise MissingExtraError(feature, extra="classify") from None
    return pyarrow


class BatchBuilder:
    """Collects replies into batches of at most `batch_rows` rows and about 64 MiB.

    Args:
        file: The file, as the column `source_file` shall have it.
        extra: Names of the input's own columns; what else a row holds goes into `other_fields` as JSON.
        batch_rows: Rows of a batch.
        has_other: Whether a row may hold more than those columns, and `other_fields` is there for it.
    """

    def __init__(self, file: str, extra: Sequence[str], batch_rows: int, *, has_other: bool = True) -> None:
        self._file, self._batch_rows, self._has_other = file, batch_rows, has_other
        self._extra = [name for name in extra if name != OTHER_FIELDS]
        self._known = frozenset(self._extra)
        self._clear()

    def _clear(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._kept: list[list[str | None]] = []
        self._n_bytes = 0

    def add(self, reply: ProviderReply, line: int, record: Mapping[str, Any]) -> None:
        """Add one reply and the record it came from."""
        self._rows.append(
            (
                reply.record_id or f"{self._file}:{line}",
                reply.prompt,
                reply.text,
                reply.reasoning,
                reply.model or "unknown",
                reply.stop_reason,
                signal_text(reply.signals),
                origin_of(reply.signals, reply.stop_reason),
                as_time(reply.created),
                self._file,
                line,
            )
        )
        cells = [_cell(record.get(name)) for name in self._extra]
        if self._has_other:
            left = {key: value for key, value in record.items() if key not in self._known}
            cells.append(cell_text(left) if left else None)
        self._kept.append(cells)
        self._n_bytes += len(reply.text) + len(reply.prompt) + sum(len(cell) for cell in cells if cell)

    @property
    def is_full(self) -> bool:
        """Whether it is time to take a batch."""
        return len(self._rows) >= self._batch_rows or self._n_bytes >= _MAX_BATCH_BYTES

    def take(self) -> LogBatch | None:
        """What was collected, and begin anew; None if nothing was."""
        if not self._rows:
            return None
        pa = load_pyarrow()
        schema = log_schema()
        arrays = [array(list(column), schema.field(i).type) for i, column in enumerate(zip(*self._rows, strict=True))]
        rows = pa.RecordBatch.from_arrays(arrays, schema=schema)
        kept = [array(list(column), pa.string()) for column in zip(*self._kept, strict=True)]
        self._clear()
        names = (*self._extra, OTHER_FIELDS) if self._has_other else self._extra
        return LogBatch(rows, pa.RecordBatch.from_arrays(kept, names=extra_names(names)))


def extra_names(names: Sequence[str]) -> list[str]:
    """Names of the input's own columns, as a file can hold them."""
    return [str(clean(name)[0]) for name in names]


def _cell(value: Any) -> str | None:
    return None if value is None else cell_text(value)


def log_schema() -> Any:
    """Schema of `LogBatch.rows`."""
    pa = load_pyarrow()
    types = {"time": pa.timestamp("us", tz="UTC"), "line": pa.int64()}
    return pa.schema([pa.field(name, types.get(name, pa.string())) for name in LOG_COLUMNS])


def array(values: list[Any], kind: Any) -> Any:
    """Values as a column; lone surrogates, which no file can hold, become U+FFFD."""
    pa = load_pyarrow()
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        return pa.array([clean(value)[0] for value in values], kind)


def canonical(
    table: pyarrow.RecordBatch, columns: Mapping[str, str], *, file: str, lines: pyarrow.Array
) -> pyarrow.RecordBatch:
    """Canonical columns of a table with one text column for each, without a loop over its rows.

    Args:
        table: The input's rows; the columns of the prompt and the reply are strings or null.
        columns: Canonical column and the table's own.
        file: For the column `source_file`.
        lines: (n_rows,) int64, for the column `line`.
    """
    pa = load_pyarrow()
    import pyarrow.compute as pc

    n_rows = table.num_rows

    def text(kind: str) -> Any:
        found = table.column(columns[kind]) if columns.get(kind) in table.schema.names else None
        return None if found is None or not is_text(found.type) else _strings(found)

    said = _filled(text("response"), n_rows)
    stop, signal, origin = _ends(text("stop_reason"), text("error"), said)
    response, reasoning = _thoughts_apart(said, _filled(text("reasoning"), n_rows))
    model = _named(table, columns.get("model"), n_rows)
    ids = _named(table, columns.get("id"), n_rows)
    empty = pc.equal(ids, "")
    if pc.any(empty).as_py():
        places = pc.binary_join_element_wise(file, lines.cast(pa.string()), ":")
        ids = pc.if_else(empty, places, ids)
    arrays = [
        ids,
        _filled(text("prompt"), n_rows),
        response,
        reasoning,
        pc.if_else(pc.equal(model, ""), "unknown", model),
        stop,
        signal,
        origin,
        _times(table.column(columns["time"])) if columns.get("time") in table.schema.names else _nulls(n_rows),
        pa.repeat(pa.scalar(file), n_rows),
        lines,
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=log_schema())


def is_text(kind: Any) -> bool:
    """Whether a column's type is some kind of string."""
    pa = load_pyarrow()
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _strings(column: Any) -> Any:
    pa = load_pyarrow()
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def _filled(column: Any, n_rows: int) -> Any:
    pa = load_pyarrow()
    if column is None:
        return pa.repeat(pa.scalar(""), n_rows)
    return column.fill_null("") if column.null_count else column


def _nulls(n_rows: int) -> Any:
    pa = load_pyarrow()
    return pa.nulls(n_rows, pa.timestamp("us", tz="UTC"))


def _named(table: Any, column: str | None, n_rows: int) -> Any:
    """A column that names things, as strings; numbers as they are written."""
    if column is None or column not in table.schema.names:
        return _filled(None, n_rows)
    found = table.column(column)
    return _filled(_strings(found) if is_text(found.type) else as_strings(found), n_rows)


def as_strings(column: Any) -> Any:
    """Any column as strings, cell by cell as `cell_text` writes them."""
    pa = load_pyarrow()
    if pa.types.is_integer(column.type):
        return column.cast(pa.string())
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.string())
    return array([None if cell is None else cell_text(cell) for cell in column.to_pylist()], pa.string())


def _thoughts_apart(response: Any, reasoning: Any) -> tuple[Any, Any]:
    pa = load_pyarrow()
    import pyarrow.compute as pc

    from demur.data.logs.replies import split_thinking

    if not _holds_tags(response):
        return response, reasoning
    marked = pc.match_substring_regex(response, "</?think")
    texts, thoughts = response.to_pylist(), reasoning.to_pylist()
    for i in pc.indices_nonzero(marked).to_pylist():
        texts[i], thought = split_thinking(texts[i])
        thoughts[i] = "\n".join(piece for piece in (thoughts[i], thought) if piece)
    return pa.array(texts, pa.string()), pa.array(thoughts, pa.string())


def _holds_tags(column: Any) -> bool:
    """Whether think tags stand anywhere in a column of strings: a search over its bytes, not row by row."""
    _, offsets, data = column.buffers()
    if data is None or not len(column):
        return False
    places = memoryview(offsets).cast("i")
    text = bytes(data[places[column.offset] : places[column.offset + len(column)]])
    return b"<think" in text or b"</think" in text


def _ends(stop: Any, error: Any, response: Any) -> tuple[Any, Any, Any]:
    """Stop reasons, signals and origins; each distinct pair of words is looked up once."""
    pa = load_pyarrow()
    n_rows = len(response)
    if not n_rows or (stop is None and error is None):
        return pa.repeat(pa.scalar("unknown"), n_rows), _filled(None, n_rows), _filled(None, n_rows)
    import pyarrow.compute as pc

    words = _filled(stop, n_rows)
    failed = _filled(None, n_rows) if error is None else pc.if_else(pc.equal(response, ""), _filled(error, n_rows), "")
    if error is None or not pc.any(pc.not_equal(failed, "")).as_py():
        encoded = words.dictionary_encode()
        known = [_end(word, None) for word in encoded.dictionary.to_pylist()]
        first, second, third = (pa.array(list(column), pa.string()) for column in zip(*known, strict=True))
        return first.take(encoded.indices), second.take(encoded.indices), third.take(encoded.indices)
    pairs: dict[tuple[str, str], tuple[str, str, str]] = {}
    found = []
    for pair in zip(words.to_pylist(), failed.to_pylist(), strict=True):
        if pair not in pairs:
            pairs[pair] = _end(*pair)
        found.append(pairs[pair])
    first, second, third = (pa.array(list(column), pa.string()) for column in zip(*found, strict=True))
    return first, second, third


def _end(word: str, error: str | None) -> tuple[str, str, str]:
    from demur.data.logs.vendors import text_reply

    reply = text_reply("", {}, stop=word, error=error or None)
    return reply.stop_reason, signal_text(reply.signals), origin_of(reply.signals, reply.stop_reason)


def _times(column: Any) -> Any:
    pa = load_pyarrow()
    kind = pa.timestamp("us", tz="UTC")
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        local = column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False)
        return local.cast(kind)
    if pa.types.is_null(column.type):
        return _nulls(len(column))
    if is_text(column.type):
        column = _strings(column)
        # With a zone in every cell, then without one in any; Arrow refuses a mixture.
        for wanted in (kind, pa.timestamp("us")):
            try:
                return column.cast(wanted).cast(kind)
            except pa.ArrowInvalid:
                continue
    return pa.array([as_time(cell) for cell in column.to_pylist()], kind)


def slices(batch: LogBatch, batch_rows: int) -> Iterator[LogBatch]:
    """A batch in pieces of at most so many rows."""
    for start in range(0, len(batch), batch_rows):
        yield LogBatch(batch.rows.slice(start, batch_rows), batch.extra.slice(start, batch_rows))
