"""A controlled model behind any OpenAI-compatible server, by two calls and no plug-in.

Call 1 asks for one token and its log-probabilities, call 2 continues an assistant turn that begins with the control
token. Where a server reports no log-probabilities or knows no control tokens, a signal of our own decides, and the
reply is passed through.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from demur.core.chat import ChatRequest
from demur.core.controlled import Piece
from demur.core.errors import BackendError
from demur.core.exchange import StopReason
from demur.core.signal import Signal, SignalScores, stacked
from demur.models.adapter import ControlTokens
from demur.models.controlled_dialects import (
    Kind,
    completed,
    kind_of,
    lifted_reading,
    reading,
    reported,
    served_name,
    writing,
)
from demur.models.controlled_http import Address, Connection
from demur.models.controlled_reported import scores_of
from demur.models.controlled_source import DecidedBy
from demur.models.controlled_text import ReplyFilter
from demur.models.untrusted import safe_messages

_CHAT = "/chat/completions"
_STOPS: Mapping[str, StopReason] = {
    "stop": "stop",
    "length": "max_tokens",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
}


@dataclass(slots=True, eq=False)
class UpstreamControlled(DecidedBy):
    """A controlled model that another server runs.

    Attributes:
        name: What requests to demur call it.
        address: Where the server is.
        model: What the server calls it; '' asks it.
        identity: Identity of the signal.
        control: Control tokens that the served model has learnt; None if it has none.
        own_signal: Decides where the server cannot tell; needed if `control` is None.
        kind: Kind of server; None asks it.
        exact_temperatures: Temperatures at which probabilities over the whole vocabulary are exact.
    """

    name: str
    address: Address
    model: str
    identity: str
    control: ControlTokens | None = None
    own_signal: Signal | None = None
    kind: Kind | None = None
    exact_temperatures: tuple[float, ...] = (1.0,)
    _connection: Connection | None = None

    @property
    def numerics(self) -> str:
        """How exactly the scores are computed: the key, beside the identity, of whatever remembers scores."""
        return f"upstream {self.address.base}"

    async def open(self, request: ChatRequest, /) -> "UpstreamTurn":
        connection, messages = self._connected(), self._messages(request)
        if self.kind is None or not self.model:
            await self._ask(connection)
        if self.control is None:
            assert self.own_signal is not None
            return UpstreamTurn(self, request, await self.own_signal.score([request]))
        kind = self.kind or "openai"
        asked = {"model": self.model, "messages": messages}
        answer = await connection.post(_CHAT, {**asked, **reading(kind, self.control)})
        found = reported(answer, self.control)
        missing = [n for n in self.control.ids if found is not None and n not in found.logp]
        if found is not None and missing and kind == "llamacpp":
            lifted = await connection.post(_CHAT, {**asked, **lifted_reading(self.control)})
            found = completed(found, lifted, self.control)
        elif found is None or len(missing) == len(self.control.ids):
            what = "no log-probabilities" if found is None else "none of the control tokens"
            raise BackendError(
                f"the upstream reports {what} for model {self.model!r}; serve the merged model, or name a signal",
                retriable=False,
            )
        return UpstreamTurn(self, request, scores_of(found, self.control), found.n_tokens)

    async def score(self, requests: Sequence[ChatRequest], /) -> SignalScores:
        """Score requests without answering them, so that the model is a `Signal` too."""
        turns = await asyncio.gather(*map(self.open, requests))
        return stacked([turn.scores for turn in turns])

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self.address)
        return self._connection

    def _messages(self, request: ChatRequest) -> list[dict[str, str]]:
        return safe_messages(request.messages, self.control.texts if self.control else ())

    async def _ask(self, connection: Connection) -> None:
        """Find out what kind of server it is and what it calls the model.

        Raises:
            BackendError: It cannot be reached, or serves several models and none of this name.
        """
        try:
            models = await connection.get("/models")
        except BackendError as error:
            if error.retriable:
                raise
            models = {}
        self.kind = self.kind or kind_of(models)
        self.model = self.model or served_name(self.name, models)


class UpstreamTurn:
    """One request that has been scored.

    Attributes:
        input_tokens: Tokens of the prompt; 0 if the server does not tell.
    """

    def __init__(
        self, model: UpstreamControlled, request: ChatRequest, scores: SignalScores, n_tokens: int = 0
    ) -> None:
        self.input_tokens = n_tokens
        self._model, self._request, self._scores = model, request, scores
        self._used = False

    @property
    def scores(self) -> SignalScores:
        return self._scores

    async def reply(self, *, token: int = -1) -> AsyncGenerator[Piece, None]:
        if self._used:
            raise RuntimeError("a turn replies once")
        self._used = True
        model = self._model
        control = model.control
        connection = model._connected()
        forced = control.texts[token] if control is not None and token >= 0 else ""
        answer = _Answer(ReplyFilter(control.texts if control else ()), forced, self.input_tokens)
        async with aclosing(connection.stream(_CHAT, self._body(token))) as parts:
            async for part in parts:
                if text := answer.add(part, connection):
                    yield Piece(text=text)
        yield answer.last()

    async def close(self) -> None:
        self._used = True

    def _body(self, token: int) -> dict[str, Any]:
        model, request = self._model, self._request
        messages = model._messages(request)
        body: dict[str, Any] = {
            "model": model.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            **writing(model.kind or "openai", model.control, messages, token),
        }
        wanted = (("max_tokens", request.max_tokens), ("temperature", request.temperature), ("seed", request.seed))
        return body | {key: value for key, value in wanted if value is not None}


class _Answer:
    """Puts a streamed chat completion together."""

    def __init__(self, spelled: ReplyFilter, forced: str, input_tokens: int) -> None:
        self.filter, self.echo, self.head, self.input_tokens = spelled, forced, "", input_tokens
        self.stop: StopReason | None = None
        self.usage: Mapping[str, Any] = {}
        self.n_parts = 0

    def add(self, part: Any, connection: Connection) -> str:
        """Text to pass on.

        Raises:
            BackendError: The part is an error.
        """
        if not isinstance(part, dict):
            return ""
        if part.get("error"):
            detail = part["error"]
            said = detail.get("message", "") if isinstance(detail, dict) else detail
            raise BackendError(f"the upstream failed: {connection.shown(str(said))}", retriable=True)
        if isinstance(part.get("usage"), dict):
            self.usage = part["usage"]
        choices = part.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        self.stop = _STOPS.get(str(choice.get("finish_reason") or ""), self.stop)
        message = choice.get("delta") or choice.get("message") or {}
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str) or not content:
            return ""
        self.n_parts += 1
        return self.filter.add(self._without_echo(content))

    def last(self) -> Piece:
        """The end of the reply.

        Raises:
            BackendError: The upstream stopped in the middle.
        """
        if self.stop is None:
            raise BackendError("the upstream ended its answer early", retriable=True)
        return Piece(
            text=self.filter.add(self.head) + self.filter.end(),
            stop_reason=self.stop,
            input_tokens=self.input_tokens or _count(self.usage, "prompt_tokens", 0),
            output_tokens=_count(self.usage, "completion_tokens", self.n_parts),
        )

    def _without_echo(self, text: str) -> str:
        """The text without the forced token that some servers repeat at its beginning."""
        if not self.echo:
            return text
        self.head += text
        if len(self.head) < len(self.echo) and self.echo.startswith(self.head):
            return ""
        text, self.head, self.echo = self.head.removeprefix(self.echo), "", ""
        return text


def _count(usage: Mapping[str, Any], key: str, otherwise: int) -> int:
    value = usage.get(key)
    return value if isinstance(value, int) and value >= 0 else otherwise
