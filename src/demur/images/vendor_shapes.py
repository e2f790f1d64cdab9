"""Bodies of images interfaces read into slots, by their shape: proxies relay one vendor's body under another's address.

Every reader gives a slot for each image it finds word of. `read_answer` fills up to the number asked for: a vendor
known to filter silently (`silent`) has then blocked the rest, of any other the rest is missing without a reason.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from demur.images.answer import MAX_DETAIL, Answer, Slot, broken
from demur.images.vendor_codes import (
    DONE_WORDS,
    FAILED_WORDS,
    FINISH_REASONS,
    STATUS_WORDS,
    UNEXPLAINED_REASONS,
    ruling_of_code,
    ruling_of_message,
    stage_of_message,
    support_code,
)
from demur.images.vendor_errors import Complaint, complaint_of, error_slot, filtered_by, transport_slot

Body = Mapping[str, Any]


def read_answer(answer: Answer, n: int, *, silent: bool = False) -> list[Slot]:
    """Slots of one answer, exactly `n` of them.

    Args:
        answer: What the interface sent.
        n: Images that were asked for.
        silent: The vendor leaves filtered images out without a word.
    """
    if answer.image is not None and answer.status == 200:
        found = [Slot(data=answer.image)]
    elif complaint := _complaint(answer):
        return [error_slot(complaint, answer)] * n
    elif answer.status != 200 or not isinstance(answer.body, Mapping):
        return [transport_slot(answer)] * n
    else:
        found = _read_body(answer.body)
    missing = Slot(outcome="blocked_output" if silent else "no_image_unexplained", evidence="missing")
    if silent:
        missing = Slot(outcome="blocked_output", evidence="missing", stage="output", detail="left out without a word")
    if len(found) == 1 and _is_about_all(found[0]):
        missing = found[0]
    return [*found, *[missing] * n][:n]


def _is_about_all(slot: Slot) -> bool:
    """Whether one verdict stands for the whole request, and not for one image of a batch."""
    whole = slot.outcome in ("blocked_input", "declined_in_text") or slot.evidence in ("finish_reason", "text")
    return whole and slot.outcome is not None and slot.data is None


def _complaint(answer: Answer) -> Complaint | None:
    body = answer.body
    if isinstance(body, Mapping) and str(body.get("status", "")).casefold() in FAILED_WORDS | set(STATUS_WORDS):
        return None  # a task that ended: its own reader knows the status words
    return complaint_of(body)


def _read_body(body: Body) -> list[Slot]:
    for belongs, read in _READERS:
        if belongs(body):
            return read(body)
    return []


def _data(body: Body) -> list[Slot]:
    """OpenAI's shape, with xAI's flag, Azure's filters and ByteDance's errors image by image."""
    return [_item(item) for item in body["data"] if isinstance(item, Mapping)]


def _item(item: Body) -> Slot:
    inner = complaint_of(item)
    if inner is not None:
        return error_slot(inner, Answer(status=200))
    revised = _text(item.get("revised_prompt"))
    if item.get("respect_moderation") is False:
        return Slot(
            outcome="blocked_output", evidence="flag", code="respect_moderation=false", stage="output",
            revised_prompt=revised,
        )  # fmt: skip
    slot = _picture(item.get("b64_json") or item.get("image"), item.get("url"), revised_prompt=revised)
    stopped = filtered_by(item)
    if slot.outcome == "no_image_unexplained" and stopped:
        return Slot(
            outcome="blocked_output", evidence="flag", code="content_filter", category=stopped, stage="output",
            revised_prompt=revised,
        )  # fmt: skip
    return slot


def _predictions(body: Body) -> list[Slot]:
    """Imagen on Vertex and through Gemini's interface."""
    items = body.get("predictions") or body.get("generatedImages") or []
    return [_prediction(item) for item in items if isinstance(item, Mapping)]


def _prediction(item: Body) -> Slot:
    reason = _text(item.get("raiFilteredReason"))
    if reason:
        code, category, _ = support_code(reason)
        outcome, stage = stage_of_message(reason) if code else ("blocked_output", "output")
        return Slot(
            outcome=outcome, evidence="finish_reason", code=code or "raiFilteredReason", category=category, stage=stage,
            detail=reason[:MAX_DETAIL],
        )  # fmt: skip
    image = item.get("image")
    data = item.get("bytesBase64Encoded") or (image.get("imageBytes") if isinstance(image, Mapping) else None)
    return _picture(data, item.get("gcsUri"), revised_prompt=_text(item.get("prompt") or item.get("enhancedPrompt")))


def _candidates(body: Body) -> list[Slot]:
    """Gemini's native images: block reason, finish reasons, pictures among the parts, or words alone."""
    feedback = body.get("promptFeedback")
    reason = _text(feedback.get("blockReason")) if isinstance(feedback, Mapping) else ""
    if reason and reason != "BLOCK_REASON_UNSPECIFIED":
        return [Slot(outcome="blocked_input", evidence="finish_reason", code=reason, stage="input")]
    slots: list[Slot] = []
    for candidate in body.get("candidates") or ():
        if isinstance(candidate, Mapping):
            slots += _candidate(candidate)
    return slots


def _candidate(candidate: Body) -> list[Slot]:
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, Mapping) else None
    parts = [p for p in parts or () if isinstance(p, Mapping) and not p.get("thought")]
    inline = [p.get("inlineData") or p.get("inline_data") for p in parts]
    pictures = [_picture(i.get("data"), None) for i in inline if isinstance(i, Mapping)]
    words = " ".join(_text(p.get("text")) for p in parts).strip()
    return pictures or [_ended(_text(candidate.get("finishReason")), words, _text(candidate.get("finishMessage")))]


def _ended(reason: str, words: str, message: str) -> Slot:
    """A candidate without a picture."""
    ruling = FINISH_REASONS.get(reason.upper())
    if ruling:
        _, category, stage = support_code(message)
        outcome = "blocked_input" if stage == "input" else ruling[0]
        return Slot(
            outcome=outcome, evidence="finish_reason", code=reason, category=category, stage=stage or ruling[1],
            detail=message[:MAX_DETAIL], text=words,
        )  # fmt: skip
    if reason.upper() in UNEXPLAINED_REASONS:
        return Slot(outcome="no_image_unexplained", evidence="finish_reason", code=reason, detail=message, text=words)
    return Slot(outcome="no_image_unexplained", evidence="text" if words else "missing", code=reason, text=words)


def _choices(body: Body) -> list[Slot]:
    """Chat completions that may carry images; what a chat product says instead is text."""
    slots: list[Slot] = []
    for choice in body["choices"]:
        message = choice.get("message") if isinstance(choice, Mapping) else None
        if not isinstance(message, Mapping):
            continue
        urls = [_image_url(i) for i in [*(message.get("images") or ()), *_blocks(message)] if isinstance(i, Mapping)]
        refusal, reason = _text(message.get("refusal")), _text(choice.get("finish_reason"))
        words = refusal or _text(message.get("content")) or " ".join(_text(b.get("text")) for b in _blocks(message))
        if any(urls):
            slots += [_picture(None, url) for url in urls if url]
        elif refusal:
            slots.append(Slot(outcome="declined_in_text", evidence="flag", code="refusal", text=refusal))
        else:
            slots.append(_ended(reason, words.strip(), ""))
    return slots


def _blocks(message: Body) -> list[Body]:
    content = message.get("content")
    return [b for b in content if isinstance(b, Mapping)] if isinstance(content, list) else []


def _image_url(item: Body) -> str:
    address = item.get("image_url") or item.get("url")
    return _text(address.get("url")) if isinstance(address, Mapping) else _text(address)


def _images(body: Body) -> list[Slot]:
    """fal: a list of images beside the checker's flags, which are true where the picture was blacked out."""
    images = body["images"] if isinstance(body["images"], list) else [body["images"]]
    flags = body.get("has_nsfw_concepts")
    flags = flags if isinstance(flags, list) else []
    slots = []
    for number, item in enumerate(images):
        item = item if isinstance(item, Mapping) else {"url": item}
        flag = bool(flags[number]) if number < len(flags) else None
        slots.append(_picture(item.get("b64_json"), item.get("url"), flagged=flag))
    return slots


def _artifacts(body: Body) -> list[Slot]:
    """Stability, first generation: a finish reason for each image; filtered ones come blurred."""
    return [_finished(a.get("base64"), a.get("finishReason")) for a in body["artifacts"] if isinstance(a, Mapping)]


def _single(body: Body) -> list[Slot]:
    """Stability, second generation, and others with one picture under 'image'."""
    image = body["image"]
    if isinstance(image, Mapping):
        return [_picture(image.get("b64_json"), image.get("url"), flagged=_first_flag(body))]
    return [_finished(image, body.get("finish_reason") or body.get("finishReason"))]


def _finished(data: Any, reason: Any) -> Slot:
    word = _text(reason).upper()
    ruling = FINISH_REASONS.get(word)
    if ruling:
        decoded = _picture(data, None).data
        return Slot(outcome=ruling[0], evidence="finish_reason", code=word, stage=ruling[1], data=decoded)
    if word == "ERROR":
        return broken("the vendor reports an error for this image", code=word)
    return _picture(data, None)


def _first_flag(body: Body) -> bool | None:
    flags = body.get("has_nsfw_concepts")
    return bool(flags[0]) if isinstance(flags, list) and flags else None


def _task(body: Body) -> list[Slot]:
    """Tasks that were polled to their end: BFL's status words, Replicate's predictions, Alibaba's tasks."""
    status = str(body.get("status", "")).casefold()
    ruling = STATUS_WORDS.get(status)
    if ruling:
        return [Slot(outcome=ruling[0], evidence="finish_reason", code=str(body["status"]), stage=ruling[1],
                     category=_reasons(body), detail=_text(body.get("message"))[:MAX_DETAIL])]  # fmt: skip
    if status in FAILED_WORDS:
        return [_failed(body)]
    if status not in DONE_WORDS:
        return [
            broken(f"the task was still {status!r} when waiting ended", code=str(body.get("status")), retriable=True)
        ]
    result = body.get("result")
    if isinstance(result, Mapping):
        return [_picture(None, result.get("sample"), revised_prompt=_text(result.get("prompt")))]
    return _outputs(body)


def _outputs(body: Body) -> list[Slot]:
    output = body.get("output")
    listed = output if isinstance(output, list) else [output] if output else []
    if not listed:
        ruling = ruling_of_message(_text(body.get("logs")))
        if ruling:
            return [Slot(outcome="blocked_output", evidence="error_message", stage="output", code="logs",
                         detail=_text(body.get("logs"))[-MAX_DETAIL:])]  # fmt: skip
        return [Slot(outcome="no_image_unexplained", evidence="missing", code=str(body.get("status", "")))]
    return [_picture(None, o.get("url") if isinstance(o, Mapping) else o) for o in listed]


def _failed(body: Body) -> Slot:
    error = body.get("error") or body.get("message") or body.get("details") or ""
    message = str(error.get("message", error)) if isinstance(error, Mapping) else str(error)
    first = message.partition(" ")[0].strip("():,[]")
    code = first if ruling_of_code(first) else str(body.get("status", ""))
    return error_slot(Complaint(code=code, message=message, codes=(code,)), Answer(status=200))


def _reasons(body: Body) -> str:
    details = body.get("details")
    found = details.get("Moderation Reasons") if isinstance(details, Mapping) else None
    return ",".join(str(r) for r in found) if isinstance(found, list) else ""


def _picture(data: Any, url: Any, *, flagged: bool | None = None, revised_prompt: str = "") -> Slot:
    address = _text(url)
    if isinstance(data, str) and data.strip():
        return _decoded(data, flagged, revised_prompt)
    if address.startswith("data:"):
        return _decoded(address, flagged, revised_prompt)
    if address:
        return Slot(url=address, flagged=flagged, revised_prompt=revised_prompt)
    if flagged:
        return Slot(outcome="blocked_output", evidence="flag", code="nsfw", stage="output", flagged=True)
    return Slot(outcome="no_image_unexplained", evidence="missing", flagged=flagged, revised_prompt=revised_prompt)


def _decoded(data: str, flagged: bool | None, revised_prompt: str) -> Slot:
    text = data.partition(",")[2] if data.startswith("data:") else data
    try:
        decoded = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        return Slot(
            outcome="infrastructure_error", evidence="payload", code="base64",
            detail=f"the image's base64 is broken: {error}", revised_prompt=revised_prompt,
        )  # fmt: skip
    return Slot(data=decoded, flagged=flagged, revised_prompt=revised_prompt)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _has(*keys: str) -> Callable[[Body], bool]:
    return lambda body: any(isinstance(body.get(key), list) for key in keys)


_READERS: tuple[tuple[Callable[[Body], bool], Callable[[Body], list[Slot]]], ...] = (
    (_has("data"), _data),
    (_has("predictions", "generatedImages"), _predictions),
    (lambda body: "candidates" in body or "promptFeedback" in body, _candidates),
    (_has("choices"), _choices),
    (_has("artifacts"), _artifacts),
    (lambda body: "images" in body, _images),
    (lambda body: "image" in body, _single),
    (lambda body: "status" in body, _task),
)
