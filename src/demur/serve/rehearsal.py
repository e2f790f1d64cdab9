"""A model that follows a script in the prompt: for trying out a client, a policy or the server without weights.

'safety=0.9 how are you?' is scored 0.9 for safety; the reply repeats the prompt, word by word. Its source is named
`SOURCE` in policies.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Literal

import numpy as np

from demur.core.chat import ChatRequest
from demur.core.controlled import Piece
from demur.core.policy import SignalSource
from demur.core.signal import RESPOND, SignalScores, scores_from_probabilities

NAME = "rehearsal"
CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")
TOKEN_IDS = {name: i for i, name in enumerate((*CATEGORIES, RESPOND))}
SOURCE = SignalSource(name=NAME, identity=f"{NAME}@1", token_ids=TOKEN_IDS)
DEFAULT_P = 0.01
_SCRIPT = re.compile(rf"\b({'|'.join(CATEGORIES)})=(0?\.\d{{1,6}}|[01])(?![\d.])")


class Rehearsal:
    """A controlled model without a model.

    Attributes:
        n_open: Turns opened and not yet closed.
    """

    name = NAME
    identity = SOURCE.identity
    signal = SOURCE.name
    token_ids = dict(TOKEN_IDS)
    categories = CATEGORIES

    def __init__(self, *, text_follows: Literal["token", "nothing"] = "token", delay_s: float = 0.0) -> None:
        self.text_follows: Literal["token", "nothing"] = text_follows
        self.delay_s = delay_s
        self.n_open = 0

    async def open(self, request: ChatRequest, /) -> "RehearsedTurn":
        """Read a script."""
        await asyncio.sleep(self.delay_s)
        return RehearsedTurn(self, request)

    async def close(self) -> None:
        """Nothing is held."""


class RehearsedTurn:
    """One scripted turn."""

    def __init__(self, model: Rehearsal, request: ChatRequest) -> None:
        self._model, self._request, self._closed = model, request, False
        self._prompt = request.messages[-1].text
        self.scores = scripted_scores(self._prompt)
        self.input_tokens = sum(len(message.text.split()) for message in request.messages)
        model.n_open += 1

    async def reply(self, *, token: int = -1) -> AsyncIterator[Piece]:
        """The prompt's own words, after what the forced token means."""
        limit = self._request.max_tokens or 1_000_000
        words = rehearsed_words(self._prompt, token)
        for word in words[:limit]:
            await asyncio.sleep(self._model.delay_s)
            yield Piece(text=word)
        yield Piece(
            stop_reason="max_tokens" if len(words) > limit else "stop",
            input_tokens=self.input_tokens,
            output_tokens=min(limit, len(words)),
        )

    async def close(self) -> None:
        """Count this turn no more."""
        self._model.n_open -= not self._closed
        self._closed = True


def scripted_scores(prompt: str) -> SignalScores:
    """Scores that a prompt asks for; what it does not name has a probability of 0.01. Sums beyond 1 are scaled."""
    said = {name: float(value) for name, value in _SCRIPT.findall(prompt)}
    p = np.array([[said.get(name, DEFAULT_P) for name in CATEGORIES]])
    return scores_from_probabilities(CATEGORIES, p / max(1.0, p.sum()))


def rehearsed_words(prompt: str, token: int) -> list[str]:
    """The words of the reply after a forced token, each with the space before it."""
    opening = f"Declined, {CATEGORIES[token]}:" if 0 <= token < len(CATEGORIES) else "Answer:"
    return [opening, *(f" {word}" for word in prompt.split())]
