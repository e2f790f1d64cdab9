"""The seam between a policy and a model: read the request's scores, decide, then have the reply written."""

from collections.abc import AsyncIterator
from typing import Literal, Protocol, runtime_checkable

from demur.core.chat import ChatRequest
from demur.core.exchange import Frozen, StopReason
from demur.core.signal import SignalScores


class Piece(Frozen):
    """A part of a streamed reply; the last one has a stop reason and the counts, and may have no text."""

    text: str = ""
    stop_reason: StopReason | None = None
    input_tokens: int = 0
    output_tokens: int = 0


@runtime_checkable
class Turn(Protocol):
    """One request, read but not yet answered."""

    @property
    def scores(self) -> SignalScores:
        """The request's scores; one row."""
        ...

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt; 0 if not known."""
        ...

    def reply(self, *, token: int = -1) -> AsyncIterator[Piece]:
        """Write the reply after the control token of that column (-1: no token), which is never part of the text.

        Ending the iteration early ends the work. May be called once.

        Raises:
            BackendError: The model failed.
        """
        ...

    async def close(self) -> None:
        """Let go of whatever was kept for the reply; harmless when repeated."""
        ...


@runtime_checkable
class ControlledModel(Protocol):
    """A model whose requests can be decided upon before they are answered."""

    @property
    def name(self) -> str:
        """What requests call it, e.g. 'smollm2'."""
        ...

    @property
    def identity(self) -> str:
        """Identity of its signal, as in a policy's `source.identity`."""
        ...

    @property
    def signal(self) -> str:
        """Kind of signal, as in a policy's `source.name`."""
        ...

    @property
    def categories(self) -> tuple[str, ...]:
        """Columns of its scores."""
        ...

    @property
    def token_ids(self) -> dict[str, int]:
        """Ids of the control tokens by category, plus 'respond'; empty if it has none."""
        ...

    @property
    def text_follows(self) -> Literal["token", "nothing"]:
        """Whether the model's own words follow a forced token (LoRA mode), or only templates can refuse (rows mode)."""
        ...

    async def open(self, request: ChatRequest, /) -> Turn:
        """Read a request: one forward pass over its prompt.

        Raises:
            BadInputError: The prompt does not fit the model's context.
            BackendError: The model failed.
        """
        ...

    async def close(self) -> None:
        """Free the model."""
        ...
