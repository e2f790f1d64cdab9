"""Records one after the other, from wherever they come, into batches; and what happens to the bad ones."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from demur.core.errors import BadInputError
from demur.core.exchange import Message
from demur.data.logs.assembly import BatchBuilder
from demur.data.logs.batches import LogBatch, OnBad, Shard
from demur.data.logs.replies import ProviderReply, RecordError
from demur.data.logs.shapes import read_record
from demur.data.tables import SKIP, preview

Numbered = tuple[int, Any]


@dataclass(frozen=True, slots=True)
class Bin:
    """Where bad rows go: an exception, or a callback and on."""

    skip_bad: bool = False
    on_bad: OnBad | None = None

    def drop(self, error: BadInputError) -> None:
        """Raise the error, or count it if bad rows are to be skipped."""
        if not self.skip_bad:
            raise error
        if self.on_bad is not None:
            self.on_bad(error)


class RecordReader:
    """Reads one record the way a shard says, with the prompt from the batch's request file where there is one."""

    def __init__(self, shard: Shard) -> None:
        from demur.data.logs.batch_requests import RequestIndex

        self.path = shard.path
        self._format = shard.format
        self._columns = dict(shard.columns)
        self._requests = RequestIndex(shard.requests) if shard.requests else None

    def read(self, record: object, line: int) -> ProviderReply:
        """The reply in a record.

        Raises:
            BadInputError: It is none; names file, line and field.
        """
        if isinstance(record, list):
            record = {"messages": record}
        if not isinstance(record, dict):
            raise BadInputError(f"{self.path}:{line}: expected a JSON object, got {preview(record)}; {SKIP}")
        try:
            reply = read_record(record, format=self._format, columns=self._columns)
        except RecordError as error:
            raise error.at(self.path, line) from None
        except RecursionError:
            raise BadInputError(f"{self.path}:{line}: expected plain values, got deep nesting; {SKIP}") from None
        if self._requests is not None and not reply.messages:
            asked: tuple[Message, ...] = self._requests.messages(reply.record_id)
            reply = replace(reply, messages=asked)
        return reply


def batches_of(
    items: Iterable[Numbered | BadInputError], shard: Shard, batch_rows: int, bin_: Bin
) -> Iterator[LogBatch]:
    """Numbered records, with errors among them, as batches."""
    has_other = shard.kind in ("jsonl", "json") and shard.format != "inspect"
    builder = BatchBuilder(shard.path, shard.extra, batch_rows, has_other=has_other)
    reader = RecordReader(shard)
    for item in items:
        if isinstance(item, BadInputError):
            bin_.drop(item)
            continue
        line, record = item
        try:
            reply = reader.read(record, line)
        except BadInputError as error:
            bin_.drop(error)
            continue
        builder.add(reply, line, _kept(record, shard))
        if builder.is_full and (batch := builder.take()) is not None:
            yield batch
    if (batch := builder.take()) is not None:
        yield batch


def _kept(record: Any, shard: Shard) -> dict[str, Any]:
    """What is kept of a record beside the exchange: all of it, but of an Inspect sample only what is small."""
    if isinstance(record, list):
        return {"messages": record}
    if shard.format == "inspect":
        return {name: record[name] for name in shard.extra if name in record}
    found: dict[str, Any] = record
    return found
