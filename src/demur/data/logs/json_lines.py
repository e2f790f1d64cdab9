"""JSON Lines: whole blocks through Arrow where the rows are plain, line by line where they are not."""

import json
from collections.abc import Iterator
from typing import Any

from demur.core.errors import BadInputError
from demur.data.logs.assembly import (
    OTHER_FIELDS,
    array,
    as_strings,
    canonical,
    extra_names,
    is_text,
    load_pyarrow,
    slices,
)
from demur.data.logs.batches import MAX_ROW_BYTES, LogBatch, Shard
from demur.data.logs.recording import Bin, Numbered, batches_of
from demur.data.logs.streams import Block, blocks, lines_of
from demur.data.tables import SKIP, preview

_DECODER = json.JSONDecoder(strict=False)
_EXACT = float(2**53)
_SHORTEST_LINE = 8  # a line of fewer bytes may be blank, so that rows and lines must be matched one by one
_TEXT_ROLES = ("prompt", "response", "reasoning", "stop_reason", "error")


def read_json_lines(shard: Shard, batch_rows: int, bin_: Bin) -> Iterator[LogBatch]:
    """Batches of a JSON Lines file, or of a range of it."""
    parts = blocks(shard.path, shard.compression, start=shard.start, stop=shard.stop, first_line=shard.first_line)
    if shard.format != "plain":
        yield from batches_of(_records(shard.path, parts), shard, batch_rows, bin_)
        return
    columns = dict(shard.columns)
    texts = {columns[role] for role in _TEXT_ROLES if role in columns}
    for part in parts:
        batch = None if isinstance(part, BadInputError) else _through_arrow(part, shard, texts)
        if batch is not None:
            yield from slices(batch, batch_rows)
        else:
            yield from batches_of(_records(shard.path, iter((part,))), shard, batch_rows, bin_)


def _records(path: str, parts: Iterator[Block | BadInputError]) -> Iterator[Numbered | BadInputError]:
    for part in parts:
        if isinstance(part, BadInputError):
            yield part
            continue
        for item in lines_of(path, part):
            yield item if isinstance(item, BadInputError) else _decoded(path, *item)


def json_line_records(path: str, compression: str) -> Iterator[Numbered | BadInputError]:
    """The records of a whole file, numbered by line, with an error in the place of what cannot be read."""
    yield from _records(path, blocks(path, compression))


def _decoded(path: str, line: int, raw: str) -> Numbered | BadInputError:
    try:
        return line, _DECODER.decode(raw)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error).splitlines()[0]
        return BadInputError(f"{path}:{line}: expected a JSON object, got {preview(raw)} ({reason}); {SKIP}")


def _through_arrow(block: Block, shard: Shard, texts: set[str]) -> LogBatch | None:
    """A block of plain rows in one go; None if anything in it asks for a closer look.

    `texts` are the columns to be read as text and nothing else; those whose texts look like dates are added.
    """
    data = block.data
    if len(data) > MAX_ROW_BYTES or not _is_utf8(data):
        return None
    columns = dict(shard.columns)
    table = _parsed(data, texts, shard.extra)
    if table is None:
        return None
    lines = _lines(block, table.num_rows)
    if lines is None:
        return None
    pa = load_pyarrow()
    empty = pa.nulls(table.num_rows, pa.string())
    if _column(table, columns["response"], empty).null_count and _is_anywhere_blank(table, columns, empty):
        return None
    kept = []
    for name in shard.extra:
        column = _column(table, name, empty)
        text = column if pa.types.is_string(column.type) else _as_text(column)
        if text is None:
            return None
        kept.append(text)
    rows = canonical(table, columns, file=shard.path, lines=lines)
    return LogBatch(rows, pa.RecordBatch.from_arrays([*kept, empty], names=extra_names([*shard.extra, OTHER_FIELDS])))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _parsed(data: bytes, texts: set[str], extra: tuple[str, ...]) -> Any:
    pa = load_pyarrow()
    from pyarrow import json as arrow_json

    # Left to itself Arrow reads a text that looks like a date as one; a number in a text column ends the fast path.
    schema = pa.schema([(name, pa.string()) for name in sorted(texts)])
    try:
        table = arrow_json.read_json(
            pa.BufferReader(data),
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=arrow_json.ParseOptions(explicit_schema=schema, newlines_in_values=False),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError):
        return None
    dates = {field.name for field in table.schema if pa.types.is_temporal(field.type)}
    if dates:
        texts |= dates
        return _parsed(data, texts, extra)
    if not all(_is_plain(field.type) for field in table.schema) or not frozenset(table.schema.names) <= set(extra):
        return None
    combined = table.combine_chunks().to_batches()
    return combined[0] if len(combined) == 1 else None


def _is_plain(kind: Any) -> bool:
    types = load_pyarrow().types
    tests = (is_text, types.is_integer, types.is_boolean, types.is_floating, types.is_null)
    return any(test(kind) for test in tests)


def _lines(block: Block, n_rows: int) -> Any:
    """The line of each row; None if rows and lines do not correspond."""
    import numpy as np

    pa = load_pyarrow()
    ends = np.flatnonzero(np.frombuffer(block.data, np.uint8) == 10)
    if not block.data.endswith(b"\n"):
        ends = np.append(ends, len(block.data))
    if len(ends) == n_rows and int(np.diff(ends, prepend=-1).min()) > _SHORTEST_LINE:
        return pa.array(np.arange(block.line, block.line + n_rows, dtype=np.int64))
    full = [line for line, raw in enumerate(block.data.split(b"\n"), start=block.line) if raw.strip()]
    return pa.array(full, pa.int64()) if len(full) == n_rows else None


def _column(table: Any, name: str, empty: Any) -> Any:
    return table.column(name) if name in table.schema.names else empty


def _is_anywhere_blank(table: Any, columns: dict[str, str], empty: Any) -> bool:
    """Whether some row has neither prompt nor reply: such a row is bad and must be named."""
    import pyarrow.compute as pc

    asked = _column(table, columns.get("prompt", ""), empty)
    said = _column(table, columns["response"], empty)
    return bool(pc.any(pc.and_(pc.is_null(asked), pc.is_null(said))).as_py())


def _as_text(column: Any) -> Any:
    """A column of numbers or truth values as text; None where Arrow has rounded what it read."""
    pa = load_pyarrow()
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        whole = pc.abs(column)
        if pc.any(pc.greater_equal(whole, _EXACT)).as_py():
            return None
    if pa.types.is_boolean(column.type):
        return array([None if v is None else str(v).lower() for v in column.to_pylist()], pa.string())
    return as_strings(column)
