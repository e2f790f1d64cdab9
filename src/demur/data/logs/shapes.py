"""One record of any kind as a reply: wrappers taken off, the shape recognised, the request found beside it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from demur.core.errors import UnknownNameError
from demur.core.exchange import Exchange, Message
from demur.data.logs.batches import FORMATS
from demur.data.logs.conversations import CHAT_KEYS, PROMPT_KEYS, chat_reply, is_turns, request_messages, turns_of
from demur.data.logs.inspect_samples import inspect_reply, is_sample
from demur.data.logs.replies import ProviderReply, RecordError, first, mapping, string
from demur.data.logs.tables import ROLES, cell_text, guess
from demur.data.logs.times import as_time
from demur.data.logs.vendors import READERS, failure, text_reply

Record = Mapping[str, Any]

_REPLY_KEYS = (
    "response", "output", "completion", "result", "response_body", "raw_response", "response_obj", "api_response",
    "outputs", "modelOutput", "outputBodyJson", "raw", "body",
)  # fmt: skip
_REQUEST_KEYS = (
    "request", "request_body", "params", "input", "inputs", "modelInput", "body", "payload", "kwargs",
    "model_parameters",
)  # fmt: skip
_FAILURES = ("error", "exception", "error_information", "error_str", "errors")
_ASKING = frozenset((*_REQUEST_KEYS, *CHAT_KEYS, *PROMPT_KEYS))
_MAX_WRAPPERS = 4


def exchange_from_record(
    record: Record, *, format: str | None = None, request: Record | None = None, id: str = ""
) -> Exchange:
    """Read one record of a log: a provider's answer, with or without its request, a batch line, a chat, a plain row.

    Args:
        record: The record as decoded from JSON.
        format: One of `FORMATS`; None recognises it.
        request: What was asked, where the record does not hold it.
        id: Name of the exchange; by default the record's own.

    Returns:
        The exchange, with the interface's own refusal signals and who raised them. A reply that never came is empty,
        with stop reason "unknown". `metadata` holds "time" (ISO 8601) where the record tells it.

    Raises:
        BadInputError: The record is of no known shape, or not of the one named.
        UnknownNameError: No format of that name.
    """
    check_format(format)
    reply = read_record(dict(record), format=format)
    if request is not None and not reply.messages:
        reply = replace(reply, messages=request_messages(request))
    created = as_time(reply.created)
    return Exchange(
        id=id or reply.record_id or "record",
        messages=reply.messages,
        response=reply.text,
        reasoning=reply.reasoning,
        model=reply.model or "unknown",
        stop_reason=reply.stop_reason,
        api_signals=reply.signals,
        metadata={"time": created.isoformat()} if created else {},
    )


def check_format(format: str | None) -> None:
    """Refuse an unknown format's name.

    Raises:
        UnknownNameError: No format of that name; names the nearest.
    """
    if format is not None and format not in (*FORMATS, "auto"):
        raise UnknownNameError("log format", format, FORMATS)


def read_record(record: Record, *, format: str | None = None, columns: Record | None = None) -> ProviderReply:
    """The reply a record holds, and what was asked if the record says so.

    Args:
        record: The record.
        format: One of `FORMATS`; None or "auto" recognises it.
        columns: Canonical columns and the record's own, for plain rows.

    Raises:
        RecordError: It is of no known shape, or not of the one named.
    """
    named = None if format in (None, "auto") else format
    mapped = columns or guess(record)
    if named == "plain" or (columns and is_row(record, columns)):
        return plain_reply(record, mapped)
    found = _read(record, named, 0)
    if found is None and named is None and mapped.get("response", "") in record:
        return plain_reply(record, mapped)
    if found is None:
        raise RecordError("response", f"a record of format {named}" if named else "a reply of any known shape", record)
    return found


def is_row(record: Record, columns: Record) -> bool:
    """Whether a record is a plain row: text in the reply's column, and nothing else in it that is a conversation."""
    if "response" not in columns:
        return False
    value = record.get(columns["response"])
    if not any(isinstance(cell, list | dict) for cell in record.values()):
        return value is None or isinstance(value, str)
    return isinstance(value, str) and shape_of(record) is None and turns_of(record) is None


def shape_of(record: Record) -> str | None:
    """Which provider's answer this is; None if it is none. The order matters: later marks are weaker."""
    if is_sample(record):
        return "inspect"
    for shape, test in _MARKS.items():
        if test(record):
            return shape
    return None


def _has_choices(record: Record) -> bool:
    """Choices of a model, not of a multiple-choice question."""
    choices = record.get("choices")
    if not isinstance(choices, list):
        return "prompt_filter_results" in record and "object" in record
    if not choices:
        return "object" in record or "model" in record
    marks = ("message", "delta", "finish_reason", "finishReason")
    return any(mark in mapping_only(choices[0]) for mark in marks) or record.get("object") == "text_completion"


def _has_candidates(record: Record) -> bool:
    if any(key in record for key in ("promptFeedback", "prompt_feedback", "usageMetadata", "usage_metadata")):
        return True
    candidates = record.get("candidates")
    if not isinstance(candidates, list) or not candidates:
        return candidates == []
    marks = ("content", "finishReason", "finish_reason")
    return any(mark in mapping_only(candidates[0]) for mark in marks)


def _has_items(record: Record) -> bool:
    output = record.get("output")
    return record.get("object") == "response" or (isinstance(output, list) and _is_items(output))


def _has_converse(record: Record) -> bool:
    marked = "stopReason" in record or "amazon-bedrock-guardrailAction" in record
    return marked or isinstance(mapping_only(record.get("output")).get("message"), dict)


def _has_blocks(record: Record) -> bool:
    if "content" in record:
        return "stop_reason" in record or record.get("type") == "message"
    return "completion" in record and "stop_reason" in record and record.get("type") == "completion"


def _has_done(record: Record) -> bool:
    said = isinstance(record.get("message"), dict) or isinstance(record.get("response"), str)
    return "done" in record and said


_MARKS: dict[str, Callable[[Record], bool]] = {
    "openai": _has_choices,
    "google": _has_candidates,
    "responses": _has_items,
    "bedrock": _has_converse,
    "anthropic": _has_blocks,
    "ollama": _has_done,
}
# Of JSON text in a cell more is asked: a model's reply may be JSON as well.
_WIRE = {
    "openai": ("choices", "model"),
    "google": ("candidates", "usageMetadata"),
    "responses": ("object", "output"),
    "bedrock": ("output", "stopReason"),
    "anthropic": ("type", "role", "content", "stop_reason"),
    "ollama": ("model", "done"),
}


def wire_body(cell: object) -> Record | None:
    """A provider's whole answer kept as JSON text in a cell; None if the cell is anything else."""
    inner = mapping(cell) if isinstance(cell, str) else {}
    shape = shape_of(inner) if inner else None
    return inner if shape in _WIRE and all(key in inner for key in _WIRE[shape]) else None


def mapping_only(value: object) -> Record:
    """A mapping as it is; empty for everything else, JSON text included."""
    return value if isinstance(value, dict) else {}


def _is_items(output: list[Any]) -> bool:
    kinds = ("message", "reasoning", "function_call")
    return bool(output) and all(isinstance(item, dict) for item in output) and output[0].get("type") in kinds


def _read(record: Record, named: str | None, depth: int) -> ProviderReply | None:
    """Read a record, or what it wraps; None if nothing in it is a reply."""
    shape = named if named and _fits(named, record) else shape_of(record)
    if named and shape != named and shape is not None:
        shape = None
    if shape == "inspect":
        return inspect_reply(record)
    if shape in READERS:
        return _asked_beside(READERS[shape](record), record)
    inside = _unwrapped(record, named, depth) if depth < _MAX_WRAPPERS else None
    if inside is not None:
        return inside
    turns = turns_of(record)
    if turns is not None and named in (None, "chat") and not (_has_text(record) or _failed(record)):
        return chat_reply(record, turns)
    if _has_text(record) and (turns is not None or depth) and named in (None, "chat"):
        return _asked_beside(plain_reply(record, guess(record)), record)
    if _failed(record):
        return _asked_beside(failure(record), record, outer=True)
    return None


def _fits(named: str, record: Record) -> bool:
    """Whether a record may be read as the named shape although it lacks the usual marks."""
    needed = {"openai": "choices", "responses": "output", "anthropic": "content", "google": "candidates",
              "bedrock": "output", "ollama": "message"}  # fmt: skip
    key = needed.get(named)
    return key is not None and isinstance(record.get(key), list | dict) and shape_of(record) in (None, named)


def _has_text(record: Record) -> bool:
    column = guess(record).get("response")
    return column is not None and isinstance(record.get(column), str)


def _failed(record: Record) -> bool:
    if record.get("type") == "error" or any(record.get(key) for key in _FAILURES):
        return True
    # Vertex writes what went wrong with a line of a batch into its status.
    return isinstance(record.get("status"), str) and bool(record["status"]) and isinstance(record.get("request"), dict)


def _unwrapped(record: Record, named: str | None, depth: int) -> ProviderReply | None:
    """The reply inside a batch line, a proxy's log line or any pair of request and answer."""
    for key in _REPLY_KEYS:
        value = record.get(key)
        inner: Record = (wire_body(value) or {}) if isinstance(value, str) else mapping_only(value)
        if not inner and is_turns(value):
            inner = {"messages": value}
        elif inner.get("role") in ("assistant", "model") and "content" in inner and shape_of(inner) is None:
            inner = {"messages": [inner]}
        if not inner or (key == "body" and record.get("method") is not None):
            continue
        if key == "result" and inner.get("type") in ("errored", "canceled", "expired"):
            found: ProviderReply | None = failure(mapping(inner.get("error")))
        elif key == "result" and isinstance(inner.get("message"), dict):
            found = _read(inner["message"], named, depth + 1)
        else:
            found = _read(inner, named, depth + 1)
        if found is not None:
            return _asked_beside(found, record, outer=True)
    return None


def _asked_beside(reply: ProviderReply, record: Record, *, outer: bool = False) -> ProviderReply:
    """Add what stands beside the answer: the request, the log's own id and time, the model asked for."""
    messages, asked_of = reply.messages, ""
    if not messages and not _ASKING.isdisjoint(record):
        messages, asked_of = _asked(record)
    name = first(record, "custom_id", "key", "recordId", "request_id", "requestId", "id") if outer else None
    created = first(record, "timestamp", "created_at", "time", "startTime", "request_time") if outer else None
    model = reply.model or string(first(record, "model", "model_name", "model_id", "modelId")) or asked_of
    changed = messages is not reply.messages or model != reply.model
    if not (changed or name is not None or created is not None):
        return reply
    return replace(
        reply,
        messages=messages,
        model=model,
        created=created or reply.created,
        record_id=str(name or reply.record_id),
    )


def _asked(record: Record) -> tuple[tuple[Message, ...], str]:
    """What was asked, from the request inside a record or from the record itself; and of which model."""
    for key in _REQUEST_KEYS:
        request = mapping(record.get(key)) if key in record else {}
        bodies = (request, mapping(request.get("body")), mapping(request.get("inputBodyJson"))) if request else ()
        for inner in bodies:
            if messages := request_messages(inner):
                return messages, string(inner.get("model"))
    return request_messages({k: v for k, v in record.items() if not (k == "input" and isinstance(v, dict))}), ""


def plain_reply(record: Record, columns: Record) -> ProviderReply:
    """A table's row: text in columns.

    Raises:
        RecordError: A cell of the prompt or the reply is no text.
    """
    cells = {role: record.get(columns[role]) if columns.get(role) else None for role in ROLES}
    prompt, text = cells["prompt"], cells["response"]
    field = str(columns.get("response") or "response")
    if text is None and prompt is None:
        raise RecordError(field, "the reply's text", None)
    if prompt is not None and not isinstance(prompt, str | list | dict):
        raise RecordError(str(columns["prompt"]), "the prompt's text", prompt)
    asked = (Message(role="user", text=prompt),) if isinstance(prompt, str) else request_messages({"input": prompt})
    reply = text_reply(text, {}, field=field, stop=cells["stop_reason"], error=cells["error"])
    thought = string(cells["reasoning"])
    return replace(
        reply,
        reasoning="\n".join(piece for piece in (thought, reply.reasoning) if piece),
        model=as_text(cells["model"]),
        messages=asked,
        created=cells["time"],
        record_id=as_text(cells["id"]),
    )


def as_text(value: object) -> str:
    """A cell that names something, as text; nothing is empty."""
    return "" if value is None else cell_text(value)
