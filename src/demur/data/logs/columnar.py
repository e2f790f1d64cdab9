"""Parquet and Arrow files: columns as they are where the rows are plain, rows as records where they are nested."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from demur.core.errors import BadInputError
from demur.data.logs.assembly import canonical, is_text, load_pyarrow, slices
from demur.data.logs.batches import MAX_ROW_BYTES, LogBatch, Shard
from demur.data.logs.recording import Bin, Numbered, batches_of
from demur.data.tables import SKIP

_READ_BUFFER = 1 << 20


def open_parquet(path: str) -> Any:
    """A Parquet file, opened for streaming.

    Raises:
        BadInputError: It is none, or broken.
    """
    pa = load_pyarrow("reading Parquet files")
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path, buffer_size=_READ_BUFFER, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, "Parquet", error) from None


def open_arrow(path: str) -> Any:
    """An Arrow file or stream, opened for reading batch by batch.

    Raises:
        BadInputError: It is none, or broken.
    """
    pa = load_pyarrow("reading Arrow files")
    try:
        source = pa.OSFile(path)
        try:
            return pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            return pa.ipc.open_stream(pa.OSFile(path))
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, "Arrow", error) from None


def _broken(path: str, kind: str, error: Exception) -> BadInputError:
    reason = (str(error).splitlines() or ["unreadable"])[0]
    return BadInputError(f"{path}: expected {kind} data; {reason}; copy or download it again")


def first_rows(path: str, kind: str, n_rows: int = 200) -> tuple[Any, list[Numbered | BadInputError]]:
    """Schema and first rows of a file.

    Raises:
        BadInputError: It cannot be read.
    """
    pa = load_pyarrow()
    source = open_parquet(path) if kind == "parquet" else open_arrow(path)
    schema = source.schema_arrow if kind == "parquet" else source.schema
    try:
        batch = next(_raw(source, kind, Shard(id="", path=path, kind="parquet"), n_rows), None)
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, kind.title(), error) from None
    found = [] if batch is None else list(_as_records(batch.slice(0, n_rows), path, 1))
    return schema, found


def _raw(source: Any, kind: str, shard: Shard, batch_rows: int) -> Iterator[Any]:
    if kind == "parquet":
        stop = shard.stop if shard.stop >= 0 else source.num_row_groups
        groups = list(range(shard.start, stop))
        found = source.iter_batches(batch_size=batch_rows, row_groups=groups, use_threads=False)
    elif hasattr(source, "num_record_batches"):
        found = map(source.get_batch, range(source.num_record_batches))
    else:
        found = source
    for batch in found:
        yield _without_views(batch)


def _without_views(batch: Any) -> Any:
    """The batch with its string views as strings: half of Arrow's functions do not know them."""
    for position, field in enumerate(batch.schema):
        plain = _unviewed(field.type)
        if plain != field.type:
            batch = batch.set_column(position, field.name, _converted(batch.column(position), plain))
    return batch


def _unviewed(kind: Any) -> Any:
    """A type with strings in the place of string views, however deep."""
    pa = load_pyarrow()
    types = pa.types
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_binary_view(kind):
        return pa.large_binary()
    if types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _unviewed(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([field.with_type(_unviewed(field.type)) for field in kind])
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_unviewed(kind.value_type)))
    return pa.list_(kind.value_field.with_type(_unviewed(kind.value_type))) if types.is_list(kind) else kind


def _converted(column: Any, kind: Any) -> Any:
    pa = load_pyarrow()
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(column.indices, column.dictionary.cast(kind.value_type))
    return column.cast(kind)


def read_columnar(shard: Shard, batch_rows: int, bin_: Bin) -> Iterator[LogBatch]:
    """Batches of a Parquet or Arrow file, or of a range of its row groups."""
    pa = load_pyarrow()
    source = open_parquet(shard.path) if shard.kind == "parquet" else open_arrow(shard.path)
    row = shard.first_line
    stored = _raw(source, shard.kind, shard, batch_rows)
    while True:
        try:
            batch = next(stored, None)
        except (pa.ArrowException, OSError) as error:
            bin_.drop(_broken(shard.path, shard.kind.title(), error))
            return
        if batch is None:
            return
        if shard.format == "plain":
            yield from slices(_plain(batch, shard, row, bin_), batch_rows)
        else:
            yield from _nested(batch, shard, row, batch_rows, bin_)
        row += batch.num_rows


def _plain(batch: Any, shard: Shard, row: int, bin_: Bin) -> LogBatch:
    import numpy as np

    pa = load_pyarrow()
    columns = dict(shard.columns)
    lines = pa.array(np.arange(row, row + batch.num_rows, dtype=np.int64))
    bad = _bad_rows(batch, columns, shard.path, row)
    if bad:
        for number in sorted(bad):
            bin_.drop(bad[number])
        keep = np.ones(batch.num_rows, bool)
        keep[sorted(bad)] = False
        mask = pa.array(keep)
        batch, lines = batch.filter(mask), lines.filter(mask)
    table = _as_text(batch, columns)
    return LogBatch(canonical(table, columns, file=shard.path, lines=lines), batch)


def _as_text(batch: Any, columns: dict[str, str]) -> Any:
    """The batch with binary columns of text read as such."""
    pa = load_pyarrow()
    for name in {columns[role] for role in ("prompt", "response") if role in columns}:
        position = batch.schema.get_field_index(name)
        if pa.types.is_binary(batch.schema.field(position).type) or pa.types.is_large_binary(
            batch.schema.field(position).type
        ):
            batch = batch.set_column(position, name, batch.column(position).cast(pa.string()))
    return batch


def _bad_rows(batch: Any, columns: dict[str, str], path: str, row: int) -> dict[int, BadInputError]:
    """Rows with neither prompt nor reply, too long a cell, or bytes that are no text."""
    pa = load_pyarrow()
    import pyarrow.compute as pc

    bad: dict[int, BadInputError] = {}
    said = batch.column(columns["response"])
    asked = batch.column(columns["prompt"]) if "prompt" in columns else pa.nulls(batch.num_rows)
    if said.null_count and asked.null_count:
        for i in pc.indices_nonzero(pc.and_(pc.is_null(said), pc.is_null(asked))).to_pylist():
            place = f"{path}:{row + i}:{columns['response']}"
            bad[i] = BadInputError(f"{place}: expected the reply's text, got none; {SKIP}")
    for name in batch.schema.names:
        kind = batch.schema.field(name).type
        if is_text(kind) or name in (columns["response"], columns.get("prompt")):
            for i, what in _bad_cells(batch.column(name), kind):
                bad.setdefault(i, BadInputError(f"{path}:{row + i}:{name}: expected {what}; {SKIP}"))
    return bad


def _bad_cells(column: Any, kind: Any) -> Iterator[tuple[int, str]]:
    pa = load_pyarrow()
    import pyarrow.compute as pc

    if pa.types.is_null(kind):
        return
    if pa.types.is_dictionary(kind):
        if _is_valid(column.dictionary):
            return
        column = column.dictionary_decode()
    sizes = pc.binary_length(column)
    if (pc.max(sizes).as_py() or 0) > MAX_ROW_BYTES:
        for i in pc.indices_nonzero(pc.greater(sizes, MAX_ROW_BYTES)).to_pylist():
            yield i, f"a cell of at most {MAX_ROW_BYTES >> 20} MiB, got {sizes[i].as_py() >> 20} MiB"
    if _is_valid(column):
        return
    for i, cell in enumerate(column.cast(pa.large_binary()).to_pylist()):
        try:
            (cell or b"").decode("utf-8")
        except UnicodeDecodeError as error:
            yield i, f"UTF-8, got byte 0x{cell[error.start]:02x}"


def _is_valid(column: Any) -> bool:
    """Whether every cell of a column of strings or bytes is text."""
    pa = load_pyarrow()
    try:
        if is_text(column.type):
            column.validate(full=True)
        else:
            column.cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _nested(batch: Any, shard: Shard, row: int, batch_rows: int, bin_: Bin) -> Iterator[LogBatch]:
    """Rows as records; the input's columns stay what they were."""
    import pyarrow.compute as pc

    bare = replace(shard, extra=())
    for found in batches_of(_as_records(batch, shard.path, row), bare, batch_rows, bin_):
        yield LogBatch(found.rows, batch.take(pc.subtract(found.rows.column("line"), row)))


def _as_records(batch: Any, path: str, row: int) -> Iterator[Numbered | BadInputError]:
    """Rows with their numbers, without the cells that are null."""
    pa = load_pyarrow()
    columns = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            column = column.cast(pa.timestamp("us", tz=field.type.tz), safe=False)
        columns.append(column)
    plain = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
    try:
        rows = plain.to_pylist()
    except UnicodeDecodeError:
        rows = [_decodable(plain, i) for i in range(plain.num_rows)]
    for i, cells in enumerate(rows):
        if cells is None:
            yield BadInputError(f"{path}:{row + i}: expected UTF-8, got other bytes; {SKIP}")
        else:
            yield row + i, {name: _present(cell) for name, cell in cells.items() if cell is not None}


def _decodable(table: Any, i: int) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = table.slice(i, 1).to_pylist()[0]
    except UnicodeDecodeError:
        return None
    return found


def _present(value: Any) -> Any:
    """A nested cell without the fields that Arrow fills with null because other rows have them."""
    if isinstance(value, dict):
        return {key: _present(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_present(inner) for inner in value]
    return value
