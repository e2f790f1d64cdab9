"""JSON files that are no JSON Lines: an array of records, read element by element, or an object around its rows."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from demur.core.errors import BadInputError
from demur.data.logs.batches import MAX_ROW_BYTES, LogBatch, Shard
from demur.data.logs.conversations import is_turns, turns_of
from demur.data.logs.inspect_files import log_samples
from demur.data.logs.recording import Bin, Numbered, batches_of
from demur.data.logs.shapes import shape_of
from demur.data.logs.streams import Damaged, chunks
from demur.data.tables import SKIP

_BETWEEN = re.compile(r"[\s,]*")
_MAX_OBJECT_BYTES = 1 << 30
_DECODER = json.JSONDecoder(strict=False)


def read_json(shard: Shard, batch_rows: int, bin_: Bin) -> Iterator[LogBatch]:
    """Batches of a JSON file; `line` is the number of the record."""
    yield from batches_of(json_records(shard.path, shard.compression), shard, batch_rows, bin_)


def json_records(path: str, compression: str) -> Iterator[Numbered | BadInputError]:
    """The records of a JSON file, numbered from 1, with an error in the place of what cannot be read."""
    source = _texts(path, compression)
    head = ""
    try:
        for head in source:
            if head.strip():
                break
        if head.lstrip().startswith("["):
            yield from _elements(path, head, source)
            return
        yield from _whole(path, head, source)
    except Damaged as error:
        yield BadInputError(
            f"{path}: expected a whole {compression} file, got {error}; copy or download it again, "
            "or pass --skip-bad to read what came before"
        )


def _texts(path: str, compression: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    begun = False
    for chunk in chunks(path, compression):
        text = decoder.decode(chunk)
        yield text if begun else text.removeprefix("\ufeff")
        begun = True


def _elements(path: str, head: str, source: Iterator[str]) -> Iterator[Numbered | BadInputError]:
    buffer, at, number = head, head.index("[") + 1, 1
    while True:
        at = _BETWEEN.match(buffer, at).end()  # type: ignore[union-attr]  # the pattern matches anything
        if buffer.startswith("]", at):
            return
        reason = "it ends early"
        if at < len(buffer):
            try:
                value, end = _DECODER.raw_decode(buffer, at)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else "deep nesting"
            else:
                # A number or a word may go on in the next chunk.
                if end < len(buffer):
                    yield _checked(path, number, value, buffer, (at, end))
                    at, number = end, number + 1
                    continue
        more = next(source, None) if len(buffer) - at <= MAX_ROW_BYTES else None
        if more is None:
            if len(buffer) - at > MAX_ROW_BYTES:
                reason = f"none within {MAX_ROW_BYTES >> 20} MiB"
            yield BadInputError(
                f"{path}:{number}: expected a JSON object, got {reason}; mend it and what follows, "
                "or pass --skip-bad to read what came before"
            )
            return
        buffer, at = buffer[at:] + more, 0


def _checked(path: str, number: int, value: Any, text: str, span: tuple[int, int]) -> Numbered | BadInputError:
    raw = text[span[0] : span[1]]
    if not raw.isascii() and any("\udc80" <= c <= "\udcff" for c in raw):
        return BadInputError(f"{path}:{number}: expected UTF-8, got other bytes; {SKIP}")
    return number, value


def _whole(path: str, head: str, source: Iterator[str]) -> Iterator[Numbered | BadInputError]:
    """One object: a record by itself, an Inspect log, or a frame around a list of records."""
    pieces, size = [head], len(head)
    for piece in source:
        pieces.append(piece)
        size += len(piece)
        if size > _MAX_OBJECT_BYTES:
            yield BadInputError(f"{path}: expected JSON Lines for so large a file, got one object; convert it")
            return
    text = "".join(pieces)
    try:
        whole = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "deep nesting"
        yield BadInputError(f"{path}:{line}: expected JSON, got {reason}; write it as JSON Lines")
        return
    for number, value in enumerate(_rows_of(whole), start=1):
        yield _checked(path, number, value, text if number == 1 else "", (0, len(text)))


def _rows_of(whole: Any) -> list[Any]:
    if not isinstance(whole, dict):
        return [whole]
    if (samples := log_samples(whole)) is not None:
        return samples
    if shape_of(whole) is not None or turns_of(whole) is not None:
        return [whole]
    lists = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return lists[0] if len(lists) == 1 and not is_turns(lists[0]) else [whole]
