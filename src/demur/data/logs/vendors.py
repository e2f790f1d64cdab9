"""The answers of the providers' interfaces, each read into a `ProviderReply`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from demur.core.exchange import ApiSignal, Origin, StopReason
from demur.data.logs.replies import (
    Parts,
    ProviderReply,
    RecordError,
    first,
    joined,
    listed,
    mapping,
    parts_of,
    reasoning_of,
    split_thinking,
    string,
)
from demur.data.logs.signals import error_signals, filtered_categories, shown, signal, stop_signals

Body = Mapping[str, Any]


def openai_chat(body: Body) -> ProviderReply:
    """Chat and text completions: OpenAI, Azure, Mistral, vLLM, LiteLLM and everything that speaks alike.

    Azure's verdict on the prompt counts only where it blocked: annotations of what passed are no refusal.
    """
    choices = [choice for choice in listed(body.get("choices")) if isinstance(choice, dict)]
    choice = choices[0] if choices else {}
    message = mapping(choice.get("message") or choice.get("delta"))
    content = message.get("content")
    parts = parts_of(content if content is not None else choice.get("text"))
    refusal = message.get("refusal") if isinstance(message.get("refusal"), str) else parts.refusal
    blocked = filtered_categories(choice.get("content_filter_results"))
    stop, signals = stop_signals(
        first(choice, "finish_reason", "stop_reason", "native_finish_reason"), blocked and f"content_filter: {blocked}"
    )
    if not signals and (blocked or (not choices and (blocked := _prompt_filter(body)))):
        signals = (signal("content_filter" if choices else "blocked_prompt", blocked),)
    if refusal:
        signals = (*signals, signal("refusal_field", refusal, "model"))
    failed = choice.get("error") or body.get("error")
    if message.get("tool_calls") or message.get("function_call"):
        parts = replace(parts, n_tool_calls=parts.n_tool_calls + 1)
    if thought := reasoning_of(message):
        parts = replace(parts, reasoning=joined((thought, parts.reasoning)))
    return _reply(parts, body, stop=stop, signals=signals or error_signals(failed), refusal=refusal)


def _prompt_filter(body: Body) -> str:
    results = first(body, "prompt_filter_results", "prompt_annotations")
    for result in results if isinstance(results, list) else []:
        if found := filtered_categories(mapping(result).get("content_filter_results")):
            return found
    return ""


def openai_responses(body: Body) -> ProviderReply:
    """The Responses interface: output items, refusal parts, `incomplete_details`, a failed response's error."""
    texts: list[str] = []
    thoughts: list[str] = []
    refusals: list[str] = []
    n_tools = 0
    for item in listed(body.get("output")):
        if not isinstance(item, dict):
            continue
        kind = str(item.get("type") or "message")
        parts = parts_of(item.get("content")) if kind == "message" else parts_of([item])
        texts.append(parts.text if kind == "message" else "")
        thoughts.append(parts.reasoning)
        n_tools += parts.n_tool_calls
        if parts.refusal:
            refusals.append(parts.refusal)
    why = mapping(body.get("incomplete_details")).get("reason")
    status = body.get("status")
    stop, signals = stop_signals(why or ("completed" if status == "completed" else None))
    refusal = joined(refusals) or None
    if refusal:
        signals = (*signals, signal("refusal_field", refusal, "model"))
    parts = Parts(joined(texts) or string(body.get("output_text")), joined(thoughts), refusal, n_tools)
    return _reply(parts, body, stop=stop, signals=signals or error_signals(body.get("error")), refusal=refusal)


def anthropic(body: Body) -> ProviderReply:
    """Messages: `stop_reason: refusal` comes from the provider's classifiers and names a category since 2025."""
    parts = parts_of(body.get("content") if body.get("content") is not None else body.get("completion"))
    details = mapping(body.get("stop_details"))
    category = first(details, "category", "explanation")
    stop, signals = stop_signals(body.get("stop_reason"), category)
    if not signals and details.get("type") == "refusal":
        stop, signals = "content_filter", (signal("stop_details", category or "refusal"),)
    return _reply(parts, body, stop=stop, signals=signals or error_signals(body.get("error")), refusal=parts.refusal)


_GOOGLE_UNSAID = frozenset(("", "BLOCK_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED"))


def google(body: Body) -> ProviderReply:
    """generateContent: no candidate and a `blockReason`, or a candidate that ended in SAFETY and its like."""
    candidates = [c for c in listed(body.get("candidates")) if isinstance(c, dict)]
    candidate = candidates[0] if candidates else {}
    parts = parts_of(candidate.get("content"))
    word = first(candidate, "finishReason", "finish_reason")
    feedback = mapping(first(body, "promptFeedback", "prompt_feedback"))
    reason = string(first(feedback, "blockReason", "block_reason"))
    stop, signals = stop_signals(word, first(candidate, "finishMessage", "finish_message"))
    if reason not in _GOOGLE_UNSAID:
        message = string(first(feedback, "blockReasonMessage", "block_reason_message"))
        origin: Origin = "guard" if reason == "MODEL_ARMOR" else "provider_filter"
        signals = (*signals, signal("blocked_prompt", f"{reason}: {message}" if message else reason, origin))
        stop = "content_filter"
    return _reply(parts, body, stop=stop, signals=signals or error_signals(body.get("error")))


def bedrock(body: Body) -> ProviderReply:
    """Converse: a guardrail's canned text is its detail, not the model's reply; a guardrail that only masks is none."""
    message = mapping(mapping(body.get("output")).get("message")) or mapping(body.get("message"))
    parts = parts_of(message.get("content"))
    word = first(body, "stopReason", "stop_reason")
    stop, signals = stop_signals(word)
    intervened = body.get("amazon-bedrock-guardrailAction") == "INTERVENED"
    if intervened and not signals:
        stop, signals = stop_signals("guardrail_intervened")
    if any(s.origin == "guard" for s in signals):
        actions = _actions(body.get("trace"))
        if "ANONYMIZED" in actions and "BLOCKED" not in actions:
            stop, signals = "stop", ()
        else:
            signals = (signal("content_filter", parts.text or "guardrail_intervened", "guard"),)
            parts = Parts(reasoning=parts.reasoning)
    return _reply(parts, body, stop=stop, signals=signals or error_signals(body.get("error")))


def _actions(trace: object, depth: int = 0) -> set[str]:
    """What the policies of a guardrail did, wherever in its trace they say so."""
    if depth > 12:
        return set()
    if isinstance(trace, list):
        return set().union(*(_actions(item, depth + 1) for item in trace))
    if not isinstance(trace, dict):
        return set()
    own = {trace["action"]} if isinstance(trace.get("action"), str) else set()
    return own.union(*(_actions(value, depth + 1) for value in trace.values()))


def ollama(body: Body) -> ProviderReply:
    """Ollama's chat and generate; its `done_reason` knows no filter."""
    message = mapping(body.get("message"))
    parts = parts_of(message.get("content") if message else body.get("response"))
    stop, signals = stop_signals(body.get("done_reason") or ("stop" if body.get("done") is True else None))
    reply = _reply(parts, body, stop=stop, signals=signals or error_signals(body.get("error")))
    if message.get("tool_calls"):
        reply = replace(reply, stop_reason="tool_calls")
    return replace(reply, reasoning=joined((reasoning_of(message or body), reply.reasoning)))


def failure(body: Body) -> ProviderReply:
    """An error in the reply's place: a signal if a filter raised it, else a reply that never came."""
    error = first(body, "error", "exception", "error_information", "error_str", "errors") or body
    signals = error_signals(error)
    return _reply(Parts(), body, stop="content_filter" if signals else "unknown", signals=signals)


def text_reply(
    text: object, body: Body, *, field: str = "response", stop: object = None, error: object = None
) -> ProviderReply:
    """A reply that is just text, in a table's row or beside its request.

    Raises:
        RecordError: It is no text.
    """
    if text is not None and not isinstance(text, str):
        raise RecordError(field, "the reply's text", text)
    reason, signals = stop_signals(stop)
    signals = signals or (() if text else error_signals(error))
    if signals and reason == "unknown":
        reason = "content_filter"
    reply = _reply(Parts(text or ""), body, stop=reason, signals=signals)
    return replace(reply, reasoning=joined((reasoning_of(body), reply.reasoning)))


def _reply(
    parts: Parts,
    body: Body,
    *,
    stop: StopReason,
    signals: tuple[ApiSignal, ...],
    refusal: str | None = None,
) -> ProviderReply:
    text, thought = split_thinking(parts.text)
    if not text and refusal:
        text = refusal
    if signals and any(s.kind == "filter_error" for s in signals) and stop == "unknown":
        stop = "content_filter"
    if parts.n_tool_calls and stop in ("unknown", "stop"):
        stop = "tool_calls"
    return ProviderReply(
        text=text,
        reasoning=joined((parts.reasoning, thought)),
        stop_reason=stop,
        signals=signals,
        model=shown(first(body, "model", "modelVersion", "model_version", "modelId", "model_id", "model_name") or ""),
        created=first(
            body, "created", "created_at", "createTime", "create_time", "timestamp", "time", "date", "startTime"
        ),
        record_id=str(first(body, "id", "responseId", "response_id") or ""),
    )


READERS: dict[str, Callable[[Body], ProviderReply]] = {
    "openai": openai_chat,
    "responses": openai_responses,
    "anthropic": anthropic,
    "google": google,
    "bedrock": bedrock,
    "ollama": ollama,
    "error": failure,
}
