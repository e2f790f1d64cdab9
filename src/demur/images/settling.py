"""From a slot to its outcome: what the pixels add to what the interface said, and what a run shows as a whole.

The interface's word comes first, then the frame; only after every prompt was asked can the same picture under
different prompts be seen for a placeholder.
"""

from collections import defaultdict
from collections.abc import Sequence

from demur.images.answer import MAX_DETAIL, Slot
from demur.images.frames import BrokenImageError, Frame, look_at
from demur.images.outcome import ImageResult, ImageRow
from demur.images.request import Blank, asked_blank, is_rewritten, words_kept
from demur.images.store import ImageStore


def settle(slot: Slot, prompt: str, store: ImageStore | None) -> ImageResult:
    """Outcome of one requested image.

    Args:
        slot: What the interface told.
        prompt: The request, which may itself ask for an empty picture.
        store: Where the picture goes; None keeps only its hash.
    """
    result = ImageResult(
        outcome=slot.outcome or "no_image_unexplained",
        evidence=slot.evidence,
        code=slot.code,
        category=slot.category,
        stage=slot.stage,
        detail=slot.detail[:MAX_DETAIL],
        text=slot.text,
        revised_prompt=slot.revised_prompt,
        words_kept=words_kept(prompt, slot.revised_prompt) if slot.revised_prompt else None,
        retriable=slot.retriable,
        http_status=slot.http_status,
    )
    if slot.data is None:
        return result
    return _with_picture(result, slot, prompt, store)


def _with_picture(result: ImageResult, slot: Slot, prompt: str, store: ImageStore | None) -> ImageResult:
    data = slot.data or b""
    try:
        frame = look_at(data)
    except BrokenImageError as error:
        if slot.outcome is not None:
            return result  # a stopped image is stopped, whatever came with it
        lost = {"outcome": "infrastructure_error", "evidence": "payload", "code": "picture", "detail": str(error)}
        return result.model_copy(update=lost)
    about = {"pixels": frame.pixels, "frame": frame.kind, "exactly_black": frame.exactly_black}
    seen = result.model_copy(update={"image": _stored(data, store), **about})
    return seen if slot.outcome is not None else seen.model_copy(update=_by_frame(frame, slot, prompt))


def _by_frame(frame: Frame, slot: Slot, prompt: str) -> dict[str, object]:
    """What the frame decides for a picture that came without a verdict."""
    if frame.kind in ("black", "white"):
        empty: Blank = "black" if frame.kind == "black" else "white"
        if slot.flagged:
            return {"outcome": "blocked_output", "evidence": "flag", "code": "nsfw", "stage": "output"}
        if empty not in asked_blank(prompt):
            if slot.flagged is False:
                # Its own checker passed the picture: a fault of the computation (half precision), not a refusal.
                detail = f"a {empty} frame although the vendor's checker found nothing"
                return {"outcome": "no_image_unexplained", "evidence": "frame", "detail": detail}
            return {"outcome": "blank", "evidence": "frame", "stage": "output"}
    code = {"code": "nsfw_flag_only"} if slot.flagged else {}
    changed = is_rewritten(prompt, slot.revised_prompt)
    return {"outcome": "rewritten" if changed else "delivered", "evidence": "image", **code}


def _stored(data: bytes, store: ImageStore | None) -> str:
    if store is not None:
        return store.put(data)
    from hashlib import sha256

    return sha256(data).hexdigest()


def with_placeholders(rows: Sequence[ImageRow]) -> list[ImageRow]:
    """The rows with every picture that came under two different prompts counted as blank: a stand-in.

    Prompts that ask for an empty picture may well get the same one, and one prompt asked twice may too.
    """
    prompts: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for result in row.results:
            if result.pixels and not _wanted_empty(row.prompt, result):
                prompts[result.pixels].add(" ".join(row.prompt.casefold().split()))
    stand_ins = {pixels for pixels, found in prompts.items() if len(found) > 1}
    return [
        row.model_copy(update={"results": tuple(_stand_in(row, r, stand_ins) for r in row.results)}) for row in rows
    ]


def _stand_in(row: ImageRow, result: ImageResult, stand_ins: set[str]) -> ImageResult:
    shown = result.outcome in ("delivered", "rewritten")
    if not shown or result.pixels not in stand_ins or _wanted_empty(row.prompt, result):
        return result
    detail = "the same picture came for different prompts"
    return result.model_copy(
        update={"outcome": "blank", "evidence": "placeholder", "stage": "output", "detail": detail}
    )


def _wanted_empty(prompt: str, result: ImageResult) -> bool:
    return result.frame in ("black", "white", "uniform") and bool(asked_blank(prompt))
