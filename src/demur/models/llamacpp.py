"""A GGUF model on this machine, through llama.cpp's own continuous batching.

No more threads than cores: with more, llama.cpp's spinning workers stall each other and
throughput falls by an order of magnitude. A small model is loaded once per core, each copy
decoding its own slots on one thread: threads that share a step wait for each other some two
hundred times a token, copies never do (measured 8 % faster on whole replies, 20 % on short ones).
"""

import asyncio
import atexit
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demur.core.chat import ChatReply, ChatRequest, EnoughSeen
from demur.core.errors import BackendError, BadInputError, MissingExtraError
from demur.core.exchange import StopReason
from demur.models.embedded import control_tokens
from demur.models.untrusted import safe_messages

N_SLOTS = 16
SMALL_MODEL_BYTES = 500_000_000
MAX_COPIES = 8
CHECK_EVERY_CHARS = 24
_STOP_REASONS: dict[str, StopReason] = {"stop": "stop", "length": "max_tokens", "tool_calls": "tool_calls"}


def n_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_copies(path: Path, /) -> int:
    """One copy per core (eight at most) of a model small enough to hold several times, else one."""
    small = path.exists() and path.stat().st_size < SMALL_MODEL_BYTES
    return min(n_cores(), MAX_COPIES) if small else 1


@dataclass(slots=True)
class LlamaCppModel:
    """Answers chat requests from a GGUF file; requests run side by side in the slots of its copies.

    Attributes:
        path: The GGUF file.
        name: Identity string.
        n_context: Tokens shared by the slots of one copy; a single prompt and its reply must fit.
        n_slots: Requests that one copy decodes together.
        n_copies: Copies of the model; None = one per core for a small model, else one.
    """

    path: Path
    name: str
    n_context: int = 16_384
    n_slots: int = N_SLOTS
    n_copies: int | None = None
    _copies: "list[_Copy]" = field(default_factory=list)
    _tokens: tuple[str, ...] = ()
    _pool: ThreadPoolExecutor | None = None
    _streams: "set[_Stream]" = field(default_factory=set)
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def complete(self, request: ChatRequest, /, *, enough: EnoughSeen | None = None) -> ChatReply:
        async with self._loading:
            if not self._copies:
                await asyncio.to_thread(self._load)
        stream = _Stream(enough)
        self._streams.add(stream)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._complete, request, stream)
        finally:
            stream.abandoned = True  # a thread cannot be cancelled; the next token ends it
            self._streams.discard(stream)

    def close(self) -> None:
        """End what is running and free the model; it loads again when asked again."""
        for stream in tuple(self._streams):
            stream.abandoned = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._copies, self._pool = [], None

    def _load(self) -> None:
        try:
            import xllamacpp
        except ImportError:
            raise MissingExtraError("running GGUF models", extra="local") from None
        n_copies = self.n_copies or default_copies(self.path)
        try:
            self._copies = [
                _Copy(xllamacpp.Server(self._params(xllamacpp, n_threads=max(1, n_cores() // n_copies))))
                for _ in range(n_copies)
            ]
        except Exception as error:  # the binding raises bare RuntimeError and ValueError
            raise BadInputError(f"{self.path}: expected a model that llama.cpp can load; {error}") from None
        self._tokens = control_tokens(self.path)
        self._pool = ThreadPoolExecutor(self.n_slots * n_copies, thread_name_prefix="llamacpp")
        # Left to the interpreter's own end, the library's threads would outlive what they point to.
        atexit.register(self.close)

    def _params(self, xllamacpp: Any, /, *, n_threads: int) -> Any:
        params = xllamacpp.CommonParams()
        params.model.path = str(self.path)
        params.n_parallel = self.n_slots
        params.n_ctx = self.n_context
        params.kv_unified = False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads
        params.use_jinja, params.ui, params.warmup, params.verbosity = True, False, False, -1
        return params

    def _complete(self, request: ChatRequest, stream: "_Stream") -> ChatReply:
        body: dict[str, Any] = {
            "messages": safe_messages(request.messages, self._tokens),
            "temperature": 0.0 if request.temperature is None else request.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_prompt": True,
        }
        if request.max_tokens is not None:
            body["max_tokens"] = request.max_tokens
        if request.seed is not None:
            body["seed"] = request.seed
        copy = min(self._copies, key=lambda copy: copy.n_running)
        copy.n_running += 1
        try:
            copy.server.handle_chat_completions(body, stream)
        finally:
            copy.n_running -= 1
        return stream.reply()


@dataclass(slots=True)
class _Copy:
    """One loaded copy of the model; `n_running` is how busy it is, near enough to share out the work."""

    server: Any
    n_running: int = 0


class _Stream:
    """Collects the chunks of one streamed reply; returning True ends it."""

    def __init__(self, enough: EnoughSeen | None) -> None:
        self.enough = enough
        self.text = ""
        self.reasoning = ""
        self.finish: str | None = None
        self.error: str | None = None
        self.n_tokens = 0
        self.usage: dict[str, int] = {}
        self.checked = 0
        self.settled = False
        self.abandoned = False

    def __call__(self, chunk: Any) -> bool:
        if self.abandoned:
            return True
        for part in chunk if isinstance(chunk, list) else [chunk]:
            if "error" in part or ("message" in part and "code" in part):
                detail = part.get("error", part)
                self.error = str(detail.get("message", detail)) if isinstance(detail, dict) else str(detail)
                return True
            self.usage = part.get("usage") or self.usage
            for choice in part.get("choices", ()):
                delta = choice.get("delta", {})
                self.text += delta.get("content") or ""
                self.reasoning += delta.get("reasoning_content") or ""
                self.finish = choice.get("finish_reason") or self.finish
                self.n_tokens += bool(delta.get("content"))
        if self.enough is not None and len(self.text) >= self.checked + CHECK_EVERY_CHARS and self.finish is None:
            self.checked = len(self.text)
            self.settled = self.enough(self.text)
        return self.settled

    def reply(self) -> ChatReply:
        if self.error is not None:
            raise BackendError(f"llama.cpp: {self.error}", retriable=False)
        stop: StopReason = "settled" if self.settled else _STOP_REASONS.get(self.finish or "", "unknown")
        return ChatReply(
            text=self.text,
            reasoning=self.reasoning,
            stop_reason=stop,
            input_tokens=self.usage.get("prompt_tokens", 0),
            output_tokens=self.usage.get("completion_tokens", self.n_tokens),
        )
