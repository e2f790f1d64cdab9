"""What is noted about one request while it is served: times, decision and counts; never its text."""

import time
from dataclasses import dataclass, field
from uuid import uuid4

from demur.core.exchange import StopReason
from demur.core.policy import Decision

# What logs and metrics call a client that left; servers have long written 499 for it.
GONE = 499


@dataclass(slots=True)
class Visit:
    """One request's notes.

    Attributes:
        id: Of the reply.
        key: Name of the caller's key.
        model: Name of the model; '' until it is known.
        policy: Name of the policy chosen.
        decision: What was decided, once it is.
        status: HTTP status of the reply, or `GONE`.
        started: Clock when the request's head had arrived, like the following in seconds.
        admitted: When it got its turn.
        read: When the model had read it.
        decided: When it was decided.
        first: When the first text was sent.
        input_tokens: Tokens of the prompt; 0 where the engine does not tell.
        output_tokens: Tokens of the reply; 0 for wording.
        stop_reason: Why the reply ended.
    """

    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    key: str = ""
    model: str = ""
    policy: str = ""
    decision: Decision | None = None
    status: int = 0
    started: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    read: float = 0.0
    decided: float = 0.0
    first: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    stop_reason: StopReason = "stop"

    @property
    def action(self) -> str:
        """What was done, '' where nothing was decided."""
        return self.decision.action if self.decision else ""

    @property
    def category(self) -> str:
        """The category that decided, '' where the request was answered."""
        return self.decision.category if self.decision and self.decision.refused else ""

    @property
    def timing(self) -> str:
        """The Server-Timing header: waiting, reading and deciding, in milliseconds."""
        spans = (
            ("queue", self.started, self.admitted),
            ("read", self.admitted, self.read),
            ("decide", self.read, self.decided),
        )
        return ", ".join(f"{name};dur={1e3 * max(0.0, end - start):.3f}" for name, start, end in spans)

    def line(self) -> str:
        """One line for the access log."""
        seconds = time.perf_counter() - self.started
        return (
            f"{self.id} key={self.key} model={self.model} policy={self.policy} action={self.action} "
            f"category={self.category} status={self.status} in={self.input_tokens} out={self.output_tokens} "
            f"s={seconds:.3f}"
        )
