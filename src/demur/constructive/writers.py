"""Who writes: replies, the chain behind a reply, replies from a chain, and better chains; here, a language model."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from demur.constructive.chain import Chain, parse_chain, tagged
from demur.constructive.prompts import MAX_WORDS, extract_prompt, recombine_prompt, update_prompt, update_task
from demur.constructive.risk import RiskRecord
from demur.constructive.trajectory import Draft, Task
from demur.core.chat import ChatModel, ChatReply, ChatRequest
from demur.core.exchange import Message
from demur.suites.constructive import Query

MAX_TOKENS = 1024
TEMPERATURE = 0.4  # of the released code's one back-end


@runtime_checkable
class Writer(Protocol):
    """Whoever writes; every method but `answer` gives None for a reply that cannot be read.

    Raises (all methods):
        BackendError: The model failed.
    """

    @property
    def name(self) -> str:
        """Written into results."""
        ...

    async def answer(self, query: Query, risk: RiskRecord, /) -> Draft:
        """The model's own reply."""
        ...

    async def extract(self, query: Query, draft: Draft, guideline: str, /) -> Chain | None:
        """The chain behind a reply."""
        ...

    async def recombine(self, query: Query, chain: Chain, /) -> Draft | None:
        """Thoughts and a reply that follow a chain."""
        ...

    async def update(self, query: Query, chain: Chain, response: str, feedback: str, task: Task, /) -> Chain | None:
        """A better chain; how much of it is taken is not its business."""
        ...


@dataclass(frozen=True, slots=True)
class ModelWriter:
    """A language model in all four parts.

    Attributes:
        model: The model.
        seed: Sent with every request, for providers that take one.
        temperature: Of every reply.
        words: Most words of a reply.
    """

    model: ChatModel
    seed: int = 0
    temperature: float = TEMPERATURE
    words: int = MAX_WORDS

    @property
    def name(self) -> str:
        return f"model:{self.model.name}"

    async def answer(self, query: Query, risk: RiskRecord, /) -> Draft:
        reply = await self._asked(query.query)
        return Draft(think=reply.reasoning, response=reply.text)

    async def extract(self, query: Query, draft: Draft, guideline: str, /) -> Chain | None:
        return _chain(await self._asked(extract_prompt(query, draft.think, draft.response, guideline)))

    async def recombine(self, query: Query, chain: Chain, /) -> Draft | None:
        reply = await self._asked(recombine_prompt(query, chain, words=self.words))
        found = tagged(reply.text, ("think", "reply"))
        return Draft(think=found["think"], response=found["reply"]) if found and found["reply"] else None

    async def update(self, query: Query, chain: Chain, response: str, feedback: str, task: Task, /) -> Chain | None:
        return _chain(await self._asked(update_prompt(query, chain, response, feedback, update_task(task))))

    async def _asked(self, text: str) -> ChatReply:
        request = ChatRequest(
            messages=(Message(role="user", text=text),),
            max_tokens=MAX_TOKENS,
            temperature=self.temperature,
            seed=self.seed,
        )
        return await self.model.complete(request)


def _chain(reply: ChatReply) -> Chain | None:
    return None if reply.stop_reason in ("max_tokens", "content_filter") else parse_chain(reply.text)
