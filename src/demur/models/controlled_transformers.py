"""A controlled model on transformers: the reference engine, exact at every temperature, on any hardware torch knows.

One worker thread owns the model: it reads what is waiting as one micro-batch, then decodes one token of every
open reply, and so on. The keys and values of a prompt are kept from the decision to the reply.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from demur.core.chat import ChatRequest
from demur.core.controlled import Piece
from demur.core.errors import BackendError
from demur.core.signal import TEMPERATURES, Signal, SignalScores, stacked
from demur.models.adapter import ControlTokens
from demur.models.controlled_source import DecidedBy
from demur.models.controlled_stream import PieceStream
from demur.models.controlled_worker import ReadJob, Worker

if TYPE_CHECKING:
    from demur.models.controlled_worker import Outfit
    from demur.models.controlled_writing import Reply

DEFAULT_MAX_TOKENS = 512
MAX_OPEN = 64
MAX_ROWS = 32
SCORED_AT_ONCE = 256


@dataclass(slots=True, eq=False)
class TransformersControlled(DecidedBy):
    """A controlled model from base and adapter, or from one folder that holds both.

    Attributes:
        name: What requests call it.
        identity: Identity of its signal.
        control: Its control tokens; None where a signal of its own decides.
        load: Makes (model, tokenizer); called once, in the worker.
        own_signal: Decides where the model has no control tokens.
        max_open: Requests that may be read and not yet answered; further ones wait.
        max_rows: Replies decoded together.
        exact_temperatures: Temperatures at which probabilities over the whole vocabulary are exact.
        outfit: Changes how prompts are read and replies written, in the worker; None = as the model alone does.
    """

    name: str
    identity: str
    control: ControlTokens | None
    load: Callable[[], tuple[Any, Any]]
    own_signal: Signal | None = None
    max_open: int = MAX_OPEN
    max_rows: int = MAX_ROWS
    exact_temperatures: tuple[float, ...] = TEMPERATURES
    outfit: "Outfit | None" = None
    _worker: Worker | None = None
    _open: asyncio.Semaphore | None = None

    @property
    def numerics(self) -> str:
        """How exactly the scores are computed: the key, beside the identity, of whatever remembers scores."""
        import torch

        return f"transformers {number_type(torch)}"

    async def open(self, request: ChatRequest, /) -> "TransformersTurn":
        if self._open is None:
            self._open = asyncio.Semaphore(self.max_open)
        await self._open.acquire()
        try:
            job = await self._read(request, keep=True)
            found = job.done.result()
            scores = found.scores
            if scores is None:
                assert self.own_signal is not None
                scores = await self.own_signal.score([request])
        except BaseException:
            self._open.release()
            raise
        return self._turn(job, scores, found.kept)

    async def score(self, requests: Sequence[ChatRequest], /) -> SignalScores:
        """Score requests without answering them, so that the model is a `Signal` too."""
        if self.control is None and self.own_signal is not None:
            return await self.own_signal.score(requests)
        parts: list[SignalScores] = []
        for start in range(0, len(requests), SCORED_AT_ONCE):
            batch = requests[start : start + SCORED_AT_ONCE]
            jobs = await asyncio.gather(*(self._read(request, keep=False) for request in batch))
            parts += [scores for job in jobs if (scores := job.done.result().scores) is not None]
        return stacked(parts)

    async def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await asyncio.to_thread(worker.stop)

    @property
    def _hidden(self) -> tuple[str, ...]:
        """Texts that no reply may spell out."""
        return self.control.texts if self.control is not None else ()

    def _turn(self, job: ReadJob, scores: SignalScores, kept: Any) -> "TransformersTurn":
        return TransformersTurn(self, job, scores, kept)

    async def _read(self, request: ChatRequest, *, keep: bool) -> ReadJob:
        if self._worker is None:
            self._worker = Worker(self.load, self.control, max_rows=self.max_rows, outfit=self.outfit)
        loop = asyncio.get_running_loop()
        job = ReadJob(request, keep, loop, loop.create_future())
        self._worker.inbox.put(job)
        await job.done
        return job


def number_type(torch: Any) -> str:
    """Name of the type that weights are loaded in: exact on a processor, fast on an accelerator."""
    return "bfloat16" if torch.cuda.is_available() else "float32"


class TransformersTurn:
    """One request with the keys and values of its prompt.

    Attributes:
        input_tokens: Tokens of the prompt.
        evaluated: Prompt tokens that are evaluated for the reply; the rest were kept.
    """

    evaluated = 1

    def __init__(self, model: TransformersControlled, job: ReadJob, scores: SignalScores, kept: Any) -> None:
        self.input_tokens = len(job.prompt)
        self._model, self._job, self._scores, self._kept = model, job, scores, kept
        self._stream: PieceStream | None = None
        self._closed = False

    @property
    def scores(self) -> SignalScores:
        return self._scores

    async def reply(self, *, token: int = -1) -> AsyncGenerator[Piece, None]:
        if self._stream is not None or self._closed:
            raise RuntimeError("a turn replies once")
        worker = self._model._worker
        if worker is None:
            raise BackendError("the model was closed", retriable=False)
        stream = self._stream = PieceStream(self._model._hidden)
        kept, self._kept = self._kept, None
        worker.inbox.put(self._reply(stream, kept, token))
        del kept
        try:
            async with aclosing(stream.pieces()) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            await self.close()

    def _reply(self, stream: PieceStream, kept: Any, token: int) -> "Reply":
        """The reply to write after the control token of a column; -1 for none."""
        from demur.models.controlled_writing import Reply

        control, request = self._model.control, self._job.request
        return Reply(
            stream=stream,
            prompt=self._job.prompt,
            kept=kept,
            forced=control.ids[token] if control and token >= 0 else -1,
            budget=request.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=request.temperature or 0.0,
            seed=request.seed,
        )

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.abandoned = True
        if not self._closed:
            self._closed, self._kept = True, None
            assert self._model._open is not None
            self._model._open.release()
