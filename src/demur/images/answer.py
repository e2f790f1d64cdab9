"""An interface's answer before it is interpreted, and the slots it was read into: one for each image asked for."""

from dataclasses import dataclass
from typing import Any

from demur.images.outcome import Evidence, ImageOutcome, Stage

MAX_DETAIL = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer.

    Attributes:
        status: HTTP status; 0 when the connection failed.
        body: Parsed JSON; None if the body was none.
        text: Beginning of the body, or what went wrong with the connection.
        image: The body itself, where it is an image.
        retry_after: Seconds the server asked to wait; None if it did not.
    """

    status: int
    body: Any = None
    text: str = ""
    image: bytes | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One requested image as the interface told of it, before its pixels are looked at.

    Attributes:
        outcome: None while an image came and its pixels decide.
        evidence: Where the outcome was seen.
        data: The image; None if it is at `url` or there is none.
        url: Where the image can be fetched.
        flagged: What the vendor's checker said of this image; None when none ran or it is not told.
        code: The vendor's own code.
        category: The vendor's own word for the harm.
        stage: Whether the request or the picture was stopped.
        detail: The vendor's message.
        text: What the model wrote.
        revised_prompt: The prompt the vendor says it used.
        retriable: Asking again may help.
        http_status: Status of the answer this came with.
    """

    outcome: ImageOutcome | None = None
    evidence: Evidence = "image"
    data: bytes | None = None
    url: str = ""
    flagged: bool | None = None
    code: str = ""
    category: str = ""
    stage: Stage = ""
    detail: str = ""
    text: str = ""
    revised_prompt: str = ""
    retriable: bool = False
    http_status: int = 0


def broken(detail: str, *, code: str = "", retriable: bool = False, http_status: int = 0) -> Slot:
    """A slot lost to infrastructure: never a refusal."""
    return Slot(
        outcome="infrastructure_error",
        evidence="transport",
        code=code,
        detail=detail[:MAX_DETAIL],
        retriable=retriable,
        http_status=http_status,
    )
