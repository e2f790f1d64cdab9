"""What an interface complains of, whatever envelope it comes in, and whether the complaint is a refusal.

Order of evidence: server faults and rate limits, the account, the vendor's code, the wording of the message. What
none of these explains is infrastructure: a refusal is never guessed from a bare status.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from demur.images.answer import MAX_DETAIL, Answer, Slot, broken
from demur.images.outcome import Stage
from demur.images.vendor_codes import (
    Ruling,
    is_account_matter,
    named_violations,
    ruling_of_code,
    ruling_of_message,
    stage_of_message,
    support_code,
)

NEVER_REFUSALS = frozenset({401, 402, 404, 405, 408, 413, 415, 425, 429})
PAYLOADS = frozenset(
    {"data", "images", "image", "output", "predictions", "generatedImages", "candidates", "choices", "artifacts"}
)
RETRIABLE = frozenset({0, 408, 425, 429})


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error as an interface words it.

    Attributes:
        code: Its most specific code; '' if it has none.
        message: Its wording.
        categories: Kinds of harm it names, comma-separated.
        stage: What the vendor itself says was stopped.
        codes: Every code-like word, most specific first.
    """

    code: str
    message: str
    categories: str = ""
    stage: Stage = ""
    codes: tuple[str, ...] = ()


def complaint_of(body: Any) -> Complaint | None:
    """The error inside a body, in any of the vendors' envelopes; None if it holds none."""
    if not isinstance(body, Mapping):
        return None
    error = body.get("error")
    if isinstance(error, Mapping) and error:
        return _from_mapping(error)
    if isinstance(error, str) and error.strip():
        return _from_mapping({"message": body.get("message") or error, "code": error if " " not in error else ""})
    errors = body.get("errors")
    if isinstance(errors, list) and errors:
        parts = [e if isinstance(e, str) else str(e.get("message", e)) for e in errors if isinstance(e, (str, Mapping))]
        return Complaint(code=_word(body.get("name")), message=" ".join(parts), codes=(_word(body.get("name")),))
    return _from_detail(body)


def error_slot(complaint: Complaint, answer: Answer) -> Slot:
    """The slot that a complaint makes of every image asked for with it."""
    status = answer.status
    if status in NEVER_REFUSALS or status >= 500 or status == 0:
        return _lost(complaint, answer, retriable=status in RETRIABLE or status >= 500)
    if is_account_matter(complaint.code, complaint.message):
        return _lost(complaint, answer, retriable=_passing(complaint))
    by_code = next((ruling for code in complaint.codes if (ruling := ruling_of_code(code))), None)
    ruling = by_code or ruling_of_message(complaint.message)
    if ruling is None:
        return _lost(complaint, answer, retriable=False)
    outcome, stage = _located(ruling, complaint)
    number, category, _ = support_code(complaint.message)
    return Slot(
        outcome=outcome,
        evidence="error_code" if by_code else "error_message",
        code=complaint.code or number,
        category=complaint.categories or category,
        stage=stage,
        detail=complaint.message[:MAX_DETAIL],
        http_status=status,
    )


def transport_slot(answer: Answer) -> Slot:
    """The slot of an answer that holds neither images nor a readable complaint."""
    status = answer.status
    what = answer.text.strip()[:200] or "empty body"
    return broken(
        f"HTTP {status}: {what}" if status else what,
        code=str(status or "connection"),
        retriable=status in RETRIABLE or status >= 500,
        http_status=status,
    )


def _located(ruling: Ruling, complaint: Complaint) -> Ruling:
    if complaint.stage:
        return ("blocked_output", "output") if complaint.stage == "output" else ("blocked_input", "input")
    return stage_of_message(complaint.message) if not ruling[1] else ruling


def _lost(complaint: Complaint, answer: Answer, *, retriable: bool) -> Slot:
    return broken(
        complaint.message or answer.text,
        code=complaint.code or str(answer.status),
        retriable=retriable,
        http_status=answer.status,
    )


def _passing(complaint: Complaint) -> bool:
    text = f"{complaint.code} {complaint.message}".casefold()
    return any(word in text for word in ("rate", "too many", "throttl", "overload", "capacity", "timed", "unavailable"))


def _from_mapping(error: Mapping[str, Any]) -> Complaint:
    inner = error.get("inner_error") or error.get("innererror") or {}
    reasons = list(_reasons(error.get("details")))
    codes = tuple(
        word
        for value in (error.get("code"), *_codes_in(inner), *reasons, error.get("status"), error.get("type"))
        if (word := _word(value))
    )
    message = _text(error.get("message")) or _text(error.get("msg"))
    details = error.get("moderation_details")
    details = details if isinstance(details, Mapping) else {}
    named = details.get("categories")
    categories = ",".join(str(c) for c in named) if isinstance(named, list) else named_violations(message)
    return Complaint(
        code=codes[0] if codes else "",
        message=message,
        categories=categories or _filtered(inner) or _filtered(error),
        stage=_stage(details.get("moderation_stage")),
        codes=codes,
    )


def _from_detail(body: Mapping[str, Any]) -> Complaint | None:
    """Envelopes without an 'error': fal's list of details, a plain detail, a flat code with message."""
    if PAYLOADS & set(body):
        return None
    detail = body.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], Mapping):
        first = detail[0]
        code = _word(first.get("type"))
        return Complaint(code=code, message=_text(first.get("msg")), codes=(code,))
    if isinstance(detail, str) and detail.strip():
        return Complaint(code=_word(body.get("title")), message=detail, codes=())
    code, message = _word(body.get("code")), _text(body.get("message"))
    if code and message:
        return Complaint(code=code, message=message, codes=(code,))
    return None


def _reasons(details: Any) -> Iterator[str]:
    for item in details if isinstance(details, list) else ():
        if isinstance(item, Mapping) and item.get("reason"):
            yield str(item["reason"])


def _codes_in(inner: Any) -> Iterator[str]:
    if isinstance(inner, Mapping) and inner.get("code"):
        yield str(inner["code"])


def _filtered(holder: Any) -> str:
    """Names of Azure's filters that fired."""
    if not isinstance(holder, Mapping):
        return ""
    names = []
    for key in ("content_filter_results", "content_filter_result", "prompt_filter_results"):
        results = holder.get(key)
        if isinstance(results, Mapping):
            names += [
                n for n, r in results.items() if isinstance(r, Mapping) and (r.get("filtered") or r.get("detected"))
            ]
    return ",".join(dict.fromkeys(names))


def filtered_by(item: Mapping[str, Any]) -> str:
    """Names of the filters that stopped one image of a batch; '' if none did."""
    return _filtered(item)


def _stage(value: Any) -> Stage:
    return value if value in ("input", "output") else ""


def _word(value: Any) -> str:
    return str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
