"""Inspect's logs without Inspect: `.eval` archives, sample by sample, and `.json` logs."""

import json
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError
from demur.data.logs.batches import LogBatch, Shard
from demur.data.logs.inspect_samples import SAMPLE_FIELDS, is_sample
from demur.data.logs.recording import Bin, Numbered, batches_of
from demur.data.logs.streams import load_zstandard
from demur.data.tables import SKIP, preview

ZSTD = 93
MAX_SAMPLE_BYTES = 256 << 20
INSPECT_FIELDS = (*SAMPLE_FIELDS, "task")
_ATTACHMENT = "attachment://"


def read_inspect(shard: Shard, batch_rows: int, bin_: Bin) -> Iterator[LogBatch]:
    """Batches of an `.eval` archive; `line` is the number of the sample in it."""
    yield from batches_of(eval_samples(shard.path), shard, batch_rows, bin_)


def eval_samples(path: str) -> Iterator[Numbered | BadInputError]:
    """The samples of an archive, numbered from 1 in the order in which they were written."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        yield BadInputError(f"{path}: expected an Inspect log, got {error}; copy it again, or let the run finish")
        return
    with archive:
        head = _head(path, archive)
        members = [m for m in archive.infolist() if m.filename.startswith("samples/") and m.filename.endswith(".json")]
        for number, member in enumerate(members, start=1):
            try:
                record = json.loads(_content(path, archive, member), strict=False)
            except (ValueError, RecursionError, zipfile.BadZipFile, OSError, _Unpacking) as error:
                yield BadInputError(f"{path}:{number}: expected a sample, got {preview(str(error))}; {SKIP}")
                continue
            yield number, trimmed(record, head)


class _Unpacking(Exception):
    """A member of an archive cannot be unpacked."""


def _head(path: str, archive: zipfile.ZipFile) -> Mapping[str, Any]:
    for name in ("header.json", "_journal/start.json"):
        try:
            head = json.loads(_content(path, archive, archive.getinfo(name)))
        except (KeyError, ValueError, zipfile.BadZipFile, OSError, _Unpacking):
            continue
        if isinstance(head, dict) and isinstance(head.get("eval"), dict):
            found: Mapping[str, Any] = head["eval"]
            return found
    return {}


def _content(path: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes. Zstandard is unpacked by hand: zipfile knows it from Python 3.14 on only."""
    if member.file_size > MAX_SAMPLE_BYTES:
        raise _Unpacking(f"more than {MAX_SAMPLE_BYTES >> 20} MiB")
    if member.compress_type != ZSTD:
        with archive.open(member) as file:
            return file.read(MAX_SAMPLE_BYTES)
    zstandard = load_zstandard("reading Inspect logs")
    with Path(path).open("rb") as raw:
        raw.seek(member.header_offset)
        n_name, n_extra = struct.unpack("<HH", raw.read(30)[26:30])
        raw.seek(n_name + n_extra, 1)
        packed = raw.read(member.compress_size)
    try:
        with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as reader:
            data: bytes = reader.read(MAX_SAMPLE_BYTES)
    except zstandard.ZstdError as error:
        raise _Unpacking(str(error)) from None
    return data


def log_samples(whole: Mapping[str, Any]) -> list[Any] | None:
    """The samples of a `.json` log; None if it is none."""
    head = whole.get("eval")
    if not isinstance(head, dict) or "version" not in whole or "status" not in whole:
        return None
    samples = whole.get("samples")
    return [trimmed(sample, head) for sample in samples] if isinstance(samples, list) else []


def trimmed(sample: Any, head: Mapping[str, Any]) -> Any:
    """A sample without its events and store, its attachments put back, with the log's model, task and time."""
    if not isinstance(sample, dict) or not is_sample(sample):
        return sample
    attachments = sample.get("attachments")
    pool = attachments if isinstance(attachments, dict) else {}
    output = dict(_attached(sample["output"], pool))
    output["model"] = output.get("model") or head.get("model") or ""
    kept = {name: sample[name] for name in SAMPLE_FIELDS if sample.get(name) is not None}
    created = sample.get("completed_at") or sample.get("started_at") or head.get("created")
    return {
        **kept,
        "input": _attached(sample["input"], pool),
        "output": output,
        "task": head.get("task"),
        "created": created,
    }


def _attached(value: Any, pool: Mapping[str, Any]) -> Any:
    if not pool:
        return value
    if isinstance(value, str):
        return pool.get(value.removeprefix(_ATTACHMENT), value) if value.startswith(_ATTACHMENT) else value
    if isinstance(value, list):
        return [_attached(item, pool) for item in value]
    if isinstance(value, dict):
        return {key: _attached(item, pool) for key, item in value.items()}
    return value
