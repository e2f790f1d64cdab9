"""What an interface itself says about a refusal: stop reasons, filters' errors, and who refused.

Providers report a refusal in any one of five ways, and the same word does not mean the same everywhere; the tables
below are the only place where their words are known.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demur.core.exchange import ApiSignal, Exchange, Origin, SignalKind, StopReason

MAX_DETAIL = 300
_OUTERMOST_FIRST: tuple[Origin, ...] = ("guard", "provider_filter", "model")


@dataclass(frozen=True, slots=True)
class Stop:
    """What a provider's word for the end of a reply means, and the refusal it reports, if any."""

    reason: StopReason
    kind: SignalKind | None = None
    origin: Origin = ""


_FILTERED = Stop("content_filter", "content_filter", "provider_filter")
_GUARDED = Stop("content_filter", "content_filter", "guard")
_UNKNOWN = Stop("unknown")
_STOPS: dict[str, Stop] = {
    **dict.fromkeys(
        ("stop", "endturn", "stopsequence", "eos", "eostoken", "complete", "completed", "finished", "done", "end",
         "pauseturn", "finishreasonstop"),
        Stop("stop"),
    ),
    **dict.fromkeys(
        ("length", "maxtokens", "maxoutputtokens", "modellength", "modelcontextwindowexceeded", "maxnewtokens",
         "tokenlimit", "truncated", "finishreasonmaxtokens"),
        Stop("max_tokens"),
    ),
    **dict.fromkeys(("toolcalls", "toolcall", "tooluse", "functioncall"), Stop("tool_calls")),
    **dict.fromkeys(
        ("contentfilter", "contentfiltered", "safety", "recitation", "prohibitedcontent", "blocklist", "spii",
         "imagesafety", "imageprohibitedcontent", "imagerecitation", "sensitive", "errortoxic", "moderation", "flagged",
         "blocked", "finishreasonsafety", "finishreasonrecitation", "contentpolicyviolation"),
        _FILTERED,
    ),
    **dict.fromkeys(("guardrailintervened", "guardrail", "modelarmor"), _GUARDED),
    # Anthropic's classifiers end the reply, not the model: its own refusals end in "end_turn".
    "refusal": Stop("content_filter", "stop_details", "provider_filter"),
    "settled": Stop("settled"),
}  # fmt: skip
_NOT_LETTERS = re.compile(r"[^a-z]+")

# Codes and sentences by which an error says that a filter, not a failure, stopped the request.
_FILTER_CODE = re.compile(
    r"content_?filter|content_?policy|responsible_?ai|invalid_prompt|(?:bio|cyber|usage|safety|moderation)_?policy|"
    r"policy_?violation|data_?inspection_?failed|prompt_?blocked|prohibited_?content|safety_?violation|guardrail",
    re.IGNORECASE,
)
_FILTER_TEXT = re.compile(
    r"content management policy|content[ _-]?filter|contentpolicyviolation|content policy|usage policy|"
    r"usage guidelines|safety system|flagged (?:as|by|for)|responsibleaipolicyviolation|content exists risk|"
    r"blocked by (?:our |the )?(?:content|safety|moderation)|inappropriate content|prohibited_content|"
    r"violat\w+ (?:our |the )?(?:safety|content|moderation|guardrail)|guardrail",
    re.IGNORECASE,
)
_GUARD = re.compile(r"guardrail|model ?armor|llama ?guard|prompt ?shield|lakera|presidio", re.IGNORECASE)
_HARMLESS = re.compile(r"content_?filter_?error|rate.?limit|quota|timeout|timed out", re.IGNORECASE)


def refusal_origin(exchange: Exchange) -> Origin:
    """Who refused, as far as the interface tells; empty if it reported no refusal.

    A guard that the deployment put in front outweighs the provider's own filter, and a filter the model's own
    refusal: where several report, the outermost is the one the user met. "capability" is a matter of the text.
    """
    return origin_of(exchange.api_signals, exchange.stop_reason)


def origin_of(signals: Sequence[ApiSignal], stop_reason: str) -> Origin:
    """`refusal_origin` of an exchange's parts; a signal that names nobody is judged by its kind."""
    origins = {signal.origin for signal in signals}
    for origin in _OUTERMOST_FIRST:
        if origin in origins:
            return origin
    if stop_reason == "content_filter":
        return "provider_filter"
    if not signals:
        return ""
    return "model" if {signal.kind for signal in signals} == {"refusal_field"} else "provider_filter"


def signal(kind: SignalKind, detail: object = "", origin: Origin = "provider_filter") -> ApiSignal:
    """A signal with its detail cut to a readable length."""
    return ApiSignal(kind=kind, detail=shown(detail), origin=origin)


def shown(detail: object) -> str:
    """A detail on one line of at most 300 characters."""
    text = detail if isinstance(detail, str) else "" if detail is None else json.dumps(detail, default=str)
    return " ".join(text[: 4 * MAX_DETAIL].split())[:MAX_DETAIL]


def stop_of(word: object) -> Stop:
    """What a provider's stop reason means; unknown words and none are "unknown" without a signal."""
    if not isinstance(word, str) or not word:
        return _UNKNOWN
    return _STOPS.get(_NOT_LETTERS.sub("", word.casefold()), _UNKNOWN)


def stop_signals(word: object, detail: object = "") -> tuple[StopReason, tuple[ApiSignal, ...]]:
    """Stop reason, and the signal it carries."""
    stop = stop_of(word)
    if stop.kind is None:
        return stop.reason, ()
    return stop.reason, (signal(stop.kind, detail or word, stop.origin),)


def is_filter_error(code: object, text: str) -> bool:
    """Whether an error's code or words say that the request was refused rather than that something failed."""
    name = code if isinstance(code, str) else ""
    if _HARMLESS.search(name) or (not name and _HARMLESS.search(text)):
        return False
    if name == "invalid_prompt" and text and not _FILTER_TEXT.search(text):
        return False
    return bool(_FILTER_CODE.search(name) or _FILTER_TEXT.search(text))


def error_signals(error: object) -> tuple[ApiSignal, ...]:
    """Signals of an error as logs hold it: an object, a list of them, or its text. Failures give none."""
    if isinstance(error, list):
        return next((found for item in error if (found := error_signals(item))), ())
    if isinstance(error, str):
        return _text_error(error)
    if not isinstance(error, dict):
        return ()
    inner = error.get("error")
    if isinstance(inner, dict | str) and (found := error_signals(inner)):
        return found
    message = _text(error, "message", "error_message", "detail", "msg", "exception")
    codes = [error.get(key) for key in ("code", "type", "error_class", "status", "reason", "name")]
    details = _filter_details(error)
    for code in codes:
        if isinstance(code, str) and is_filter_error(code, message):
            return (_filter_error(f"{code} {message}", details or f"{code}: {message}"),)
    if details or is_filter_error(None, message):
        return (_filter_error(message, details or message),)
    return ()


def _text_error(error: str) -> tuple[ApiSignal, ...]:
    text = error.strip()
    if text.startswith("{"):
        try:
            return error_signals(json.loads(text))
        except (ValueError, RecursionError):
            pass
    return (_filter_error(text, text),) if is_filter_error(None, text) else ()


def _filter_error(words: str, detail: str) -> ApiSignal:
    return signal("filter_error", detail, "guard" if _GUARD.search(words) else "provider_filter")


def _filter_details(error: Mapping[str, Any]) -> str:
    """Categories that Azure's or OpenRouter's filter names inside an error."""
    fields = error.get("provider_specific_fields")
    for holder in (error, fields if isinstance(fields, dict) else {}):
        inner = holder.get("innererror") or holder.get("inner_error")
        if isinstance(inner, dict):
            found = filtered_categories(inner.get("content_filter_result") or inner.get("content_filter_results"))
            if found or inner.get("code") == "ResponsibleAIPolicyViolation":
                return f"content_filter: {found}" if found else "ResponsibleAIPolicyViolation"
    metadata = error.get("metadata")
    if isinstance(metadata, dict) and (metadata.get("flagged_input") is not None and metadata.get("reasons")):
        return shown(metadata["reasons"])
    return ""


def filtered_categories(results: object) -> str:
    """Names of the categories that Azure's filter blocked, with their severity; empty if it let everything pass."""
    if not isinstance(results, dict):
        return ""
    names = []
    for name, result in results.items():
        if isinstance(result, dict) and result.get("filtered") is True:
            severity = result.get("severity")
            names.append(f"{name} ({severity})" if isinstance(severity, str) else str(name))
    return ", ".join(names)


def _text(holder: Mapping[str, Any], *keys: str) -> str:
    return next((holder[key] for key in keys if isinstance(holder.get(key), str)), "")
