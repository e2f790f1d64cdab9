"""One conversation and the reply it got: the unit that is judged, classified and scanned."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

Role = Literal["system", "user", "assistant", "tool"]
# "settled": demur itself stopped the reply, because its judges could not change their verdict any more.
StopReason = Literal["stop", "max_tokens", "content_filter", "tool_calls", "settled", "unknown"]
Expectation = Literal["comply", "refuse", "either"]
SignalKind = Literal["content_filter", "refusal_field", "stop_details", "blocked_prompt", "filter_error"]
# "guard" is a filter the deployment itself put in front of the model; "" where the interface does not tell.
Origin = Literal["model", "provider_filter", "guard", ""]


class Frozen(BaseModel):
    """Immutable record that rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Frozen):
    """One turn of a conversation."""

    role: Role
    text: str


class ApiSignal(Frozen):
    """One way in which an interface itself reported a refusal, before any text is read."""

    kind: SignalKind
    detail: str = ""
    origin: Origin = ""


def signal_text(signals: Sequence[ApiSignal]) -> str:
    """Signals on one line, as logs and rationales show them."""
    return "; ".join(f"{s.kind}: {s.detail}" if s.detail else s.kind for s in signals)


class Exchange(Frozen):
    """A conversation that ends with the user's turn, and the model's reply to it.

    `response` is what the user would read: reasoning is kept apart in `reasoning`, and the
    text of an error is in `api_signals`, never in `response`.
    """

    id: str
    messages: tuple[Message, ...]
    response: str
    reasoning: str = ""
    model: str = "unknown"
    stop_reason: StopReason = "unknown"
    api_signals: tuple[ApiSignal, ...] = ()
    expected: Expectation | None = None
    subcategory: str | None = None
    metadata: dict[str, JsonValue] = {}

    @property
    def prompt(self) -> str:
        """Text of the last user turn; empty if there is none."""
        return next((m.text for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def is_truncated(self) -> bool:
        """Whether the reply was cut off by a token limit rather than ended by the model."""
        return self.stop_reason == "max_tokens"
