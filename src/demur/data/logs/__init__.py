"""Logs of any kind as batches of one shape: provider records, batch files, chat dumps, tables, Inspect logs."""

from demur.data.logs.batches import (
    BATCH_ROWS,
    FORMATS,
    LOG_COLUMNS,
    MAX_ROW_BYTES,
    SHARD_BYTES,
    LogBatch,
    OnBad,
    Shard,
)
from demur.data.logs.reading import list_shards, read_log_batches, read_shard
from demur.data.logs.shapes import exchange_from_record
from demur.data.logs.signals import refusal_origin

__all__ = [
    "BATCH_ROWS",
    "FORMATS",
    "LOG_COLUMNS",
    "MAX_ROW_BYTES",
    "SHARD_BYTES",
    "LogBatch",
    "OnBad",
    "Shard",
    "exchange_from_record",
    "list_shards",
    "read_log_batches",
    "read_shard",
    "refusal_origin",
]
