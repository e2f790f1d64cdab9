"""One shard from its file to its verdicts: written whole, and only then called done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from demur.core.errors import BadInputError
from demur.data.folder import write_bytes, write_json
from demur.data.logs import read_shard
from demur.scan import strata
from demur.scan.settings import Piece, ScanFolder, ScanSettings
from demur.scan.tally import Tally
from demur.scan.verdicts import column_names, judge_batch, with_verdicts

if TYPE_CHECKING:
    import pyarrow

N_NAMED = 5  # unreadable rows a manifest quotes
_WIDE = 64  # mean characters beyond which a column of text is not worth a dictionary
OnRows = Callable[[int], None]


def scan_shard(piece: Piece, settings: ScanSettings, out: Path, on_rows: OnRows | None = None) -> dict[str, Any]:
    """Judge one shard and write its verdicts and manifest.

    Returns:
        The manifest without its tally: name, shard, rows, rows left out, seconds.

    Raises:
        BadInputError: A row cannot be read and is not to be skipped, or the folder cannot be written; nothing of this
            shard is left behind.
    """
    folder, started, tally = ScanFolder(out), time.monotonic(), Tally()
    complaints: list[str] = []
    n_bad = 0

    def on_bad(error: BadInputError) -> None:
        nonlocal n_bad
        n_bad += 1
        if len(complaints) < N_NAMED:
            complaints.append(str(error)[:500])

    codes, clashes = [], []
    with WholeFile(folder.verdicts(piece)) as file:
        for batch in read_shard(piece.shard, skip_bad=settings.skip_bad, on_bad=on_bad):
            judged = judge_batch(batch, settings)
            file.write(with_verdicts(batch, judged))
            tally.add(batch, judged, language_every=settings.language_every)
            clashes = [name for name in column_names(batch.extra.schema.names) if name.endswith("_demur")]
            if settings.escalate is not None:
                codes.append(strata.packed(strata.priorities(batch), strata.strata_of(judged)))
            if on_rows is not None:
                on_rows(len(batch))
    if settings.escalate is not None:
        write_codes(folder.strata(piece), np.concatenate(codes) if codes else np.zeros(0, dtype=np.uint64))
    summary = {
        "name": piece.name,
        "shard": piece.shard.id,
        "path": piece.shard.path,
        "settings": settings.digest,
        "n_rows": tally.n_rows,
        "n_bytes": piece.shard.n_bytes,
        "n_bad": n_bad,
        "bad": complaints,
        "renamed": clashes,
        "seconds": round(time.monotonic() - started, 3),
    }
    write_json(folder.manifest(piece), {**summary, "tally": tally.to_json()})
    return summary


class WholeFile:
    """A Parquet file that appears under its name only once it is complete; none appears if nothing was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._writer: Any = None

    def write(self, rows: pyarrow.RecordBatch) -> None:
        """Add rows; all must have the same columns."""
        if self._writer is None:
            import pyarrow.parquet as pq

            self.path.parent.mkdir(parents=True, exist_ok=True)
            narrow = [name for name in rows.schema.names if not _is_wide(rows, name)]
            self._writer = pq.ParquetWriter(
                self.partial,
                rows.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=narrow,
                write_statistics=narrow,
            )
        self._writer.write_batch(rows)

    def __enter__(self) -> WholeFile:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
                if kind is None:
                    self.partial.replace(self.path)
        finally:
            if kind is not None or self._writer is not None:
                with suppress(OSError):
                    self.partial.unlink(missing_ok=True)


def write_codes(path: Path, codes: Any) -> None:
    """Keep an array whole or not at all."""
    import io

    buffer = io.BytesIO()
    np.save(buffer, codes, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def _is_wide(rows: pyarrow.RecordBatch, name: str) -> bool:
    import pyarrow as pa

    column = rows[name]
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return is_text and int(column.nbytes) > _WIDE * max(1, len(column))
