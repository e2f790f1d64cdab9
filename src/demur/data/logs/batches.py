"""What reading a log gives: batches of one shape, and the pieces of work that can be read independently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from demur.core.errors import BadInputError
from demur.core.exchange import ApiSignal, Exchange, Message, Origin, SignalKind

if TYPE_CHECKING:
    import pyarrow

FORMATS = (
    "plain",
    "chat",
    "openai",
    "responses",
    "anthropic",
    "google",
    "bedrock",
    "ollama",
    "inspect",
)
LOG_COLUMNS = (
    "id",
    "prompt",
    "response",
    "reasoning",
    "model",
    "stop_reason",
    "signal",
    "origin",
    "time",
    "source_file",
    "line",
)
MAX_ROW_BYTES = 32 << 20
BATCH_ROWS = 8192
SHARD_BYTES = 64 << 20

FileKind = Literal["jsonl", "json", "csv", "parquet", "arrow", "inspect"]
OnBad = Callable[[BadInputError], None]


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Some rows of a log.

    Attributes:
        rows: The columns `LOG_COLUMNS`. All are strings without nulls, but `time` (microseconds, UTC, null where the
            log tells none) and `line` (int64, from 1; the row's number where a file has no lines). `signal` is empty
            or `kind: detail`, several joined by "; ". `origin` is model, provider_filter, guard or empty.
        extra: The input's own columns, row by row beside `rows`. Parquet and Arrow columns are untouched; cells of
            text formats are strings (numbers and nested values as JSON).
    """

    rows: pyarrow.RecordBatch
    extra: pyarrow.RecordBatch

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def exchanges(self) -> list[Exchange]:
        """The rows as exchanges of one user turn, for judges; each is named by its place, `source_file:line`."""
        return [_exchange(row) for row in self.rows.drop_columns(["time"]).to_pylist()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A piece of a log that can be read on its own, in any process: a file, or a range of one.

    Attributes:
        id: 16 hexadecimal digits; the same for the same content, range and way of reading.
        path: The file.
        kind: How it is stored.
        compression: "", "gzip" or "zstd".
        start, stop: Bytes of a text file, row groups of a Parquet file, record batches of an Arrow file; stop is
            exclusive, and -1 stands for the end of what is packed.
        first_line: Line (or row) number of the first row, from 1.
        n_bytes: Bytes on disk (for Parquet: unpacked bytes) of this piece, for progress.
        n_rows: Rows, where the file says so.
        format: Name of the record's shape out of `FORMATS`; "auto" decides record by record.
        columns: Canonical column and the input's column that holds it, for plain rows.
        extra: Names of the input's own columns, in order.
        requests: Batch files that hold the prompts of this one's replies.
    """

    id: str
    path: str
    kind: FileKind
    compression: str = ""
    start: int = 0
    stop: int = -1
    first_line: int = 1
    n_bytes: int = 0
    n_rows: int | None = None
    format: str = "auto"
    columns: tuple[tuple[str, str], ...] = ()
    extra: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()


def _exchange(row: dict[str, object]) -> Exchange:
    signals: tuple[ApiSignal, ...] = ()
    if row["signal"]:
        kind, _, detail = str(row["signal"]).partition(": ")
        known = kind.partition(";")[0]
        origin = row["origin"] if row["origin"] in get_args(Origin) else ""
        if known in get_args(SignalKind):
            signals = (ApiSignal.model_validate({"kind": known, "detail": detail, "origin": origin}),)
    return Exchange.model_validate(
        {
            "id": f"{row['source_file']}:{row['line']}",
            "messages": (Message(role="user", text=str(row["prompt"])),),
            "response": row["response"],
            "reasoning": row["reasoning"],
            "model": row["model"],
            "stop_reason": row["stop_reason"],
            "api_signals": signals,
        }
    )
