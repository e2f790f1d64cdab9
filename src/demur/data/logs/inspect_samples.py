"""Samples of Inspect's logs, read without Inspect."""

from collections.abc import Mapping
from typing import Any

from demur.core.exchange import ApiSignal, Message, StopReason
from demur.data.logs.conversations import messages_of
from demur.data.logs.replies import (
    Parts,
    ProviderReply,
    first,
    joined,
    listed,
    mapping,
    parts_of,
    split_thinking,
    string,
)
from demur.data.logs.signals import error_signals, signal, stop_signals

# What is kept of a sample beside the exchange; its events and store can be a thousand times as large.
SAMPLE_FIELDS = ("id", "epoch", "target", "metadata", "scores", "error", "limit")


def is_sample(record: Mapping[str, Any]) -> bool:
    """Whether a record is one sample of an Inspect log."""
    return "epoch" in record and "input" in record and isinstance(record.get("output"), dict)


def inspect_reply(record: Mapping[str, Any]) -> ProviderReply:
    """The first choice of a sample's output; text under a filter's stop reason is the provider's, not the model's."""
    output = mapping(record.get("output"))
    choices = output.get("choices")
    choice = mapping(choices[0]) if isinstance(choices, list) and choices else {}
    message = mapping(choice.get("message"))
    parts = parts_of(message.get("content"))
    details = mapping(choice.get("stop_details"))
    stop, signals = _stop(choice, details, parts)
    text = "" if stop == "content_filter" else parts.text
    if parts.refusal:
        signals = (*signals, signal("refusal_field", parts.refusal, "model"))
    if not signals and not choice:
        signals = error_signals(first(output, "error") or first(record, "error"))
    text, thought = split_thinking(text)
    asked = record.get("input")
    messages = (Message(role="user", text=asked),) if isinstance(asked, str) else messages_of(listed(asked))
    if mapping(message.get("metadata")).get("demur_stop") == "settled":
        stop = "settled"
    return ProviderReply(
        text=text or parts.refusal or "",
        reasoning=joined((parts.reasoning, thought)),
        stop_reason=stop,
        signals=signals,
        model=string(output.get("model")),
        messages=messages,
        created=first(record, "completed_at", "started_at", "created"),
        record_id=_name(record),
    )


def _stop(
    choice: Mapping[str, Any], details: Mapping[str, Any], parts: Parts
) -> tuple[StopReason, tuple[ApiSignal, ...]]:
    named = first(details, "category", "explanation", "type")
    stop, signals = stop_signals(choice.get("stop_reason"), parts.text or named)
    if details and (details.get("type") == "refusal" or details.get("category")):
        signals = (*signals, signal("stop_details", named))
    return stop, signals


def _name(record: Mapping[str, Any]) -> str:
    name, epoch = str(record.get("id", "")), record.get("epoch", 1)
    return name if epoch == 1 else f"{name}#{epoch}"
