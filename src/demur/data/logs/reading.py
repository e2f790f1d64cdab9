"""Files into batches: what there is to read, in pieces, and each piece read on its own."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from demur.core.errors import BadInputError
from demur.data.logs.batches import BATCH_ROWS, SHARD_BYTES, LogBatch, OnBad, Shard
from demur.data.logs.columnar import open_parquet, read_columnar
from demur.data.logs.csv_rows import read_csv
from demur.data.logs.inspect_files import read_inspect
from demur.data.logs.json_files import read_json
from demur.data.logs.json_lines import read_json_lines
from demur.data.logs.probing import Probe, log_files, probe
from demur.data.logs.recording import Bin
from demur.data.logs.shapes import check_format
from demur.data.logs.streams import open_file

_READERS: dict[str, Callable[[Shard, int, Bin], Iterator[LogBatch]]] = {
    "jsonl": read_json_lines,
    "json": read_json,
    "csv": read_csv,
    "parquet": read_columnar,
    "arrow": read_columnar,
    "inspect": read_inspect,
}
_LOG = logging.getLogger(__name__)
_SEEK_BYTES = 1 << 20
_COUNT_BYTES = 16 << 20
_FINGERPRINT_BYTES = 64 << 10


def list_shards(
    paths: Iterable[str | Path],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    shard_bytes: int | None = SHARD_BYTES,
    skip_bad: bool = False,
    on_bad: OnBad | None = None,
) -> list[Shard]:
    """Split logs into pieces, always the same for the same files, in the order of the files and of their rows.

    Args:
        paths: Files, or folders (the logs under them, sorted). Request files of a batch lend their prompts to the
            result files beside them and are no pieces themselves.
        format: One of `FORMATS`; None recognises it, file by file.
        columns: Canonical column (prompt, response, reasoning, model, stop_reason, time, id, error) and the input's
            column that holds it, where the usual names do not find it.
        shard_bytes: About how large a piece shall be; only JSON Lines and Parquet can be split. None: whole files.
        skip_bad: Leave unreadable files out.
        on_bad: Told of each file left out.

    Raises:
        BadInputError: A file is no log, is empty, or has no column with replies.
        MissingExtraError: A format needs a package that is not installed.
        UnknownNameError: No format of that name.
    """
    check_format(format)
    bin_ = Bin(skip_bad, on_bad)
    found: list[tuple[str, Probe]] = []
    for path in log_files(str(path) for path in paths):
        try:
            found.append((path, probe(path, format, columns)))
        except BadInputError as error:
            bin_.drop(error)
    for path, what in found:
        if what.format == "plain" and "prompt" not in what.columns:
            _LOG.warning("%s: no column with prompts under a usual name; replies are read without", path)
    requests = tuple(path for path, what in found if what.is_requests)
    for path, what in found:
        if what.is_requests and what.compression:
            raise BadInputError(f"{path}: expected an unpacked file of batch requests, got a packed one; unpack it")
    shards = [shard for path, what in found if not what.is_requests for shard in _shards(path, what, shard_bytes)]
    if requests and not shards:
        raise BadInputError(
            f"{requests[0]}: expected replies, got a batch's requests only; give its result file as well"
        )
    return [_named(replace(shard, requests=() if shard.format == "plain" else requests)) for shard in shards]


def _shards(path: str, what: Probe, shard_bytes: int | None) -> Iterator[Shard]:
    whole = Shard(
        id="",
        path=path,
        kind=what.kind,
        compression=what.compression,
        n_bytes=os.path.getsize(path),
        format=what.format,
        columns=tuple(sorted(what.columns.items())),
        extra=what.extra,
    )
    if what.kind == "parquet":
        yield from _row_groups(whole, shard_bytes)
    elif what.kind == "jsonl" and not what.compression and shard_bytes and whole.n_bytes > shard_bytes:
        yield from _byte_ranges(whole, shard_bytes)
    else:
        yield whole


def _row_groups(whole: Shard, shard_bytes: int | None) -> Iterator[Shard]:
    meta = open_parquet(whole.path).metadata
    start, first_row, n_bytes, n_rows = 0, 1, 0, 0
    for group in range(meta.num_row_groups):
        n_bytes += meta.row_group(group).total_byte_size
        n_rows += meta.row_group(group).num_rows
        if group + 1 == meta.num_row_groups or (shard_bytes and n_bytes >= shard_bytes):
            yield replace(whole, start=start, stop=group + 1, first_line=first_row, n_bytes=n_bytes, n_rows=n_rows)
            start, first_row, n_bytes, n_rows = group + 1, first_row + n_rows, 0, 0


def _byte_ranges(whole: Shard, shard_bytes: int) -> Iterator[Shard]:
    with open_file(whole.path) as file:
        start, line = 0, 1
        while start < whole.n_bytes:
            stop = min(start + shard_bytes, whole.n_bytes)
            file.seek(stop)
            while stop < whole.n_bytes and (piece := file.read(_SEEK_BYTES)):
                end = piece.find(b"\n")
                stop += len(piece) if end < 0 else end + 1
                if end >= 0:
                    break
            yield replace(whole, start=start, stop=stop, first_line=line, n_bytes=stop - start)
            file.seek(start)
            left = stop - start
            while left > 0 and (piece := file.read(min(_COUNT_BYTES, left))):
                line += piece.count(b"\n")
                left -= len(piece)
            start = stop


def _named(shard: Shard) -> Shard:
    """The shard with its id: of the file's size, beginning and end, the range, and the way it is read."""
    size = os.path.getsize(shard.path)
    with open_file(shard.path) as file:
        head = file.read(_FINGERPRINT_BYTES)
        file.seek(max(0, size - _FINGERPRINT_BYTES))
        tail = file.read(_FINGERPRINT_BYTES)
    digest = hashlib.sha256(json.dumps(asdict(shard), sort_keys=True).encode("utf-8", "replace"))
    digest.update(size.to_bytes(8, "big") + head + tail)
    return replace(shard, id=digest.hexdigest()[:16])


def read_shard(
    shard: Shard, *, batch_rows: int = BATCH_ROWS, skip_bad: bool = False, on_bad: OnBad | None = None
) -> Iterator[LogBatch]:
    """Read one piece, in any process, holding a few megabytes of it at a time.

    Args:
        shard: Out of `list_shards`.
        batch_rows: Most rows of a batch.
        skip_bad: Leave bad rows out and go on.
        on_bad: Told of each row left out.

    Raises:
        BadInputError: A row is bad and `skip_bad` is off; names file, line and field.
    """
    yield from _READERS[shard.kind](shard, batch_rows, Bin(skip_bad, on_bad))


def read_log_batches(
    paths: Iterable[str | Path],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    batch_rows: int = BATCH_ROWS,
    skip_bad: bool = False,
    on_bad: OnBad | None = None,
) -> Iterator[LogBatch]:
    """Read logs in order, in constant memory.

    Args:
        paths: Files or folders, as in `list_shards`.
        format: One of `FORMATS`; None recognises it.
        columns: Canonical column and the input's own, as in `list_shards`.
        batch_rows: Most rows of a batch.
        skip_bad: Leave bad rows and unreadable files out and go on.
        on_bad: Told of each.

    Raises:
        BadInputError: A file or a row is bad and `skip_bad` is off.
        MissingExtraError: A format needs a package that is not installed.
        UnknownNameError: No format of that name.
    """
    shards = list_shards(paths, format=format, columns=columns, shard_bytes=None, skip_bad=skip_bad, on_bad=on_bad)
    for shard in shards:
        yield from read_shard(shard, batch_rows=batch_rows, skip_bad=skip_bad, on_bad=on_bad)
