"""Between Inspect's records and demur's: messages in, replies with every refusal signal out."""

from collections.abc import Sequence

from inspect_ai.model import ChatMessage, ContentReasoning, ContentText, ModelOutput

from demur.core.chat import ChatReply
from demur.core.exchange import ApiSignal, Message, Role, StopReason

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_STOP: dict[str, StopReason] = {
    "stop": "stop",
    "max_tokens": "max_tokens",
    "model_length": "max_tokens",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}


def to_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Inspect's conversation as demur's."""
    return tuple(Message(role=_ROLES[m.role], text=m.text) for m in messages)


def to_reply(output: ModelOutput) -> ChatReply:
    """What a provider returned, with its three kinds of refusal signal OR-ed.

    The text of a filter's error is the provider's, not the model's: it becomes the detail of the
    signal and never the reply.
    """
    if output.error or not output.choices:
        return ChatReply(text="", stop_reason="unknown")
    choice = output.choices[0]
    text, reasoning, refusal_text = _parts(choice.message.content)
    signals: list[ApiSignal] = []
    details = choice.stop_details
    if choice.stop_reason == "content_filter":
        signals.append(ApiSignal(kind="content_filter", detail=text[:300], origin="provider_filter"))
        text = ""
    if details is not None and (details.type == "refusal" or details.category):
        signals.append(
            ApiSignal(
                kind="stop_details",
                detail=details.category or details.explanation or details.type or "",
                origin="provider_filter",
            )
        )
    if refusal_text is not None:
        signals.append(ApiSignal(kind="refusal_field", detail=refusal_text[:300], origin="model"))
    usage = output.usage
    metadata = choice.message.metadata or {}
    stop = _STOP.get(choice.stop_reason, "unknown")
    if metadata.get("demur_stop") == "settled":
        stop = "settled"
    return ChatReply(
        text=text or (refusal_text or ""),
        reasoning=reasoning,
        stop_reason=stop,
        api_signals=tuple(signals),
        input_tokens=usage.input_tokens if usage else 0,
        output_tokens=usage.output_tokens if usage else 0,
    )


def _parts(content: str | Sequence[object]) -> tuple[str, str, str | None]:
    """Reply text, reasoning text, and the text the provider itself flagged as a refusal (None if none)."""
    if isinstance(content, str):
        return content, "", None
    texts = [c for c in content if isinstance(c, ContentText)]
    refusals = [c.text for c in texts if c.refusal]
    reasoning = "\n".join(c.reasoning for c in content if isinstance(c, ContentReasoning))
    plain = "\n".join(c.text for c in texts if not c.refusal)
    return plain, reasoning, "\n".join(refusals) if refusals else None
