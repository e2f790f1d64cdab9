"""Asks models with a limit on requests in flight, keeps every reply, and stops when a model answers nothing at all."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from demur.core.chat import ChatModel, ChatReply, ChatRequest
from demur.core.errors import BackendError
from demur.core.exchange import Message
from demur.synthesis.journal import ReplyJournal

HOPELESS = 8  # failures in a row after which a model is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question to one model; `step` and `item` say what for."""

    step: str
    item: str
    text: str
    max_tokens: int = 700
    temperature: float = 0.0
    seed: int | None = None


@dataclass(slots=True)
class Asker:
    """The one way to a model in a synthesis.

    Attributes:
        journal: What was answered before.
        connections: Requests in flight.
        tries: How often a question that fails for a passing reason is sent.
        pause: Seconds before the second try; doubled each time.
        n_asked: Questions sent in this process.
        n_replayed: Questions answered from the journal.
        failed: Questions without an answer, by model.
        errors: What each model that failed said last.
    """

    journal: ReplyJournal
    connections: int = 8
    tries: int = 3
    pause: float = 1.0
    n_asked: int = 0
    n_replayed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    errors: dict[str, str] = field(default_factory=dict)
    _in_row: Counter[str] = field(default_factory=Counter)
    _answered: set[str] = field(default_factory=set)
    _gate: asyncio.Semaphore | None = None

    async def ask(self, model: ChatModel, question: Question, *, essential: bool = False) -> ChatReply | None:
        """The reply; None if the model failed, which is not kept, so that the next run asks again.

        Args:
            model: Whom to ask.
            question: What.
            essential: Raise once the model has failed `HOPELESS` times in a row, or for good before it ever answered.

        Raises:
            BackendError: An essential model answers nothing.
        """
        key = self.journal.key(model.name, question.step, question.item, question.text)
        if key in self.journal.replies:
            self.n_replayed += 1
            return self.journal.replies[key]
        if self._gate is None:
            self._gate = asyncio.Semaphore(self.connections)
        async with self._gate:
            if not essential and self._in_row[model.name] >= HOPELESS:
                self.failed[model.name] += 1
                return None
            try:
                reply = await self._sent(model, question)
            except BackendError as error:
                self.failed[model.name] += 1
                self._in_row[model.name] += 1
                self.errors[model.name] = " ".join(str(error).split())[:200]
                never = model.name not in self._answered  # a wrong key or name, rather than one prompt it will not have
                if essential and (self._in_row[model.name] >= HOPELESS or (never and not error.retriable)):
                    raise
                return None
            self._in_row[model.name] = 0
            self._answered.add(model.name)
            self.journal.add(key, reply)
            return reply

    async def _sent(self, model: ChatModel, question: Question) -> ChatReply:
        request = ChatRequest(
            messages=(Message(role="user", text=question.text),),
            max_tokens=question.max_tokens,
            temperature=question.temperature,
            seed=question.seed,
        )
        for attempt in range(self.tries):
            self.n_asked += 1
            try:
                return await model.complete(request)
            except BackendError as error:
                if not error.retriable or attempt + 1 == self.tries:
                    raise
                await asyncio.sleep(self.pause * 2**attempt)
        raise AssertionError("tries: expected 1 or more")
