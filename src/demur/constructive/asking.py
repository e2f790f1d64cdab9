"""A model whose every reply is kept at once: after a kill nothing that was answered is asked again."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256

from demur.core.chat import ChatModel, ChatReply, ChatRequest, EnoughSeen
from demur.core.errors import BackendError
from demur.data.journal import ReplyJournal

HOPELESS = 8  # failures in a row after which a model is given up


@dataclass(slots=True)
class KeptModel:
    """A `ChatModel` with a journal, a limit on requests in flight, and tries.

    Attributes:
        model: Whom to ask.
        journal: What was answered before.
        connections: Requests in flight.
        tries: How often a request that fails for a passing reason is sent.
        pause: Seconds before the second try; doubled each time.
        counts: 'asked', 'replayed' and 'failed'.
    """

    model: ChatModel
    journal: ReplyJournal
    connections: int = 8
    tries: int = 3
    pause: float = 1.0
    counts: Counter[str] = field(default_factory=Counter)
    _in_row: int = 0
    _gate: asyncio.Semaphore | None = None

    @property
    def name(self) -> str:
        return self.model.name

    async def complete(self, request: ChatRequest, /, *, enough: EnoughSeen | None = None) -> ChatReply:
        key = sha256(f"{self.name}\x1f{request.model_dump_json()}".encode("utf-8", "replace")).hexdigest()[:32]
        if key in self.journal.replies:
            self.counts["replayed"] += 1
            return self.journal.replies[key]
        if self._gate is None:
            self._gate = asyncio.Semaphore(self.connections)
        async with self._gate:
            if self._in_row >= HOPELESS:
                raise BackendError(f"{self.name}: failed {HOPELESS} times in a row; given up", retriable=False)
            try:
                reply = await self._sent(request, enough)
            except BackendError:
                self.counts["failed"] += 1
                self._in_row += 1
                raise
            self._in_row = 0
            self.journal.add(key, reply)
            return reply

    async def _sent(self, request: ChatRequest, enough: EnoughSeen | None) -> ChatReply:
        for attempt in range(self.tries):
            self.counts["asked"] += 1
            try:
                return await self.model.complete(request, enough=enough)
            except BackendError as error:
                if not error.retriable or attempt + 1 == self.tries:
                    raise
                await asyncio.sleep(self.pause * 2**attempt)
        raise AssertionError("tries: expected 1 or more")
