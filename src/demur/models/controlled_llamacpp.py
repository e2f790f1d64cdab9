"""A controlled model on llama.cpp: the fast path for GGUF files on processors without an accelerator.

Reading a request is a one-token completion that reports log-probabilities before any sampling; the reply is a second
completion of the same prompt, plus the forced token, in the same slot, so that one token is evaluated for it.
Every control token is banned while text is written: none can appear, and unforced replies begin with text.
"""

import asyncio
import atexit
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demur.core.chat import ChatRequest
from demur.core.controlled import Piece
from demur.core.errors import BackendError, BadInputError, MissingExtraError
from demur.core.exchange import StopReason
from demur.core.signal import Signal, SignalScores, stacked
from demur.models.adapter import ControlTokens
from demur.models.controlled_reported import N_PROBS, biased_call, complaint, plain_call, scores_of, with_biased
from demur.models.controlled_slots import Slot, Slots
from demur.models.controlled_source import DecidedBy
from demur.models.controlled_stream import PieceStream
from demur.models.controlled_template import ChatTemplate
from demur.models.gguf_header import FILE_TYPES, GgufHeader, read_header
from demur.models.llamacpp import default_copies, n_cores
from demur.models.untrusted import safe_messages

N_SLOTS = 8
N_CONTEXT = 16_384
DEFAULT_MAX_TOKENS = 512
_STOPS: Mapping[str, StopReason] = {"stop": "stop", "length": "max_tokens"}


@dataclass(slots=True, eq=False, repr=False)
class LlamaCppControlled(DecidedBy):
    """A controlled model from a GGUF file that demur exported, or any GGUF file with a signal of its own.

    Attributes:
        path: The GGUF file.
        name: What requests call it.
        own_signal: Decides where the file has no control tokens.
        control: The adapter's own record where the file was made of one: what was measured after the file was made
            is only there. None = the file's.
        n_context: Tokens shared by the slots of one copy; each slot has its equal part.
        n_slots: Requests that one copy holds at once; further ones wait.
        n_copies: Copies of the model; None = one per core for a small model, else one.
        full_cache: Keep keys and values in 32 bits, without flash attention: scores hardly depend on what else is
            read (p moved by 0.02 at most on an 8-bit model, in 16 bits by 0.07), and agree with transformers to 1e-5
            where weights have 32 bits. Needs twice the memory.
        exact_temperatures: Temperatures at which probabilities over the whole vocabulary are exact.
    """

    path: Path
    name: str
    own_signal: Signal | None = None
    control: ControlTokens | None = None
    n_context: int = N_CONTEXT
    n_slots: int = N_SLOTS
    n_copies: int | None = None
    full_cache: bool = True
    exact_temperatures: tuple[float, ...] = (1.0,)
    _key: str = field(default_factory=lambda: secrets.token_hex(16))
    _header: GgufHeader | None = None
    _template: ChatTemplate | None = None
    _forbidden: tuple[str, ...] = ()
    _slots: Slots | None = None
    _pool: ThreadPoolExecutor | None = None
    _streams: set[PieceStream] = field(default_factory=set)
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        header = self._header = read_header(self.path)
        adapters, self.control = self.control, header.control
        if self.control is not None and adapters is not None:
            if adapters.tokens != self.control.tokens:
                raise BadInputError(f"{self.path}: expected the adapter's control tokens, got others; export it again")
            self.control = adapters.model_copy(update={"identity": self.control.identity})
        if self.control is None and self.own_signal is None:
            raise BadInputError(
                f"{self.path}: expected control tokens in the file, found none; "
                "make one with 'demur export BASE+ADAPTER --gguf FILE', or name a signal"
            )
        if not header.chat_template:
            raise BadInputError(f"{self.path}: expected a chat template in the file, found none; use a chat model")
        bos = header.special_token("bos")
        tokens = {"bos_token": bos, "eos_token": header.special_token("eos")}
        self._template = ChatTemplate(header.chat_template, tokens=tokens, origin=str(self.path))
        self._forbidden = tuple({*header.steering_tokens, *(self.control.texts if self.control else ())})

    @property
    def identity(self) -> str:
        if self.control is not None:
            return self.control.identity
        return self.own_signal.identity if self.own_signal else ""

    @property
    def numerics(self) -> str:
        """How exactly the scores are computed: the key, beside the identity, of whatever remembers scores."""
        stored = self._header.values.get("general.file_type", -1) if self._header else -1
        return f"llama.cpp {FILE_TYPES.get(stored, stored)}{' full cache' if self.full_cache else ''}"

    async def open(self, request: ChatRequest, /) -> "LlamaCppTurn":
        prompt = self._prompt(request)
        slots = await self._loaded()
        own = await self.own_signal.score([request]) if self.control is None and self.own_signal else None
        slot = await slots.take(prompt)
        if own is not None:
            return LlamaCppTurn(self, request, slot, own)
        try:
            scores, n_tokens = await self._in_slot(slot, lambda: self._read(slot))
        except Exception:
            slot.give_back()
            raise
        return LlamaCppTurn(self, request, slot, scores, n_tokens)

    async def score(self, requests: Sequence[ChatRequest], /) -> SignalScores:
        """Score requests without answering them, so that the model is a `Signal` too."""

        async def one(request: ChatRequest) -> SignalScores:
            turn = await self.open(request)
            await turn.close()
            return turn.scores

        return stacked(await asyncio.gather(*map(one, requests)))

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for stream in tuple(self._streams):
            stream.abandoned = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._slots, self._pool = None, None
        atexit.unregister(self._close)

    def _prompt(self, request: ChatRequest) -> str:
        assert self._template is not None
        assert self._header is not None
        text = self._template.render(safe_messages(request.messages, self._forbidden))
        # llama.cpp puts the beginning-of-sequence token there itself.
        adds = self._header.values.get("tokenizer.ggml.add_bos_token", False)
        return text.removeprefix(self._header.special_token("bos")) if adds else text

    async def _loaded(self) -> Slots:
        async with self._loading:
            if self._slots is None:
                servers = await asyncio.to_thread(self._load)
                self._slots = Slots(servers, self.n_slots)
            return self._slots

    def _load(self) -> list[Any]:
        try:
            import xllamacpp
        except ImportError:
            raise MissingExtraError("running GGUF models", extra="local") from None
        n_copies = self.n_copies or default_copies(self.path)
        params = [self._params(xllamacpp, n_threads=max(1, n_cores() // n_copies)) for _ in range(n_copies)]
        try:
            servers = [xllamacpp.Server(p) for p in params]
        except Exception as error:  # the binding raises bare RuntimeError and ValueError
            raise BadInputError(f"{self.path}: expected a model that llama.cpp can load; {error}") from None
        self._pool = ThreadPoolExecutor(self.n_slots * n_copies, thread_name_prefix="controlled")
        # Left to the interpreter's own end, the library's threads would outlive what they point to.
        atexit.register(self._close)
        return servers

    def _params(self, xllamacpp: Any, /, *, n_threads: int) -> Any:
        params = xllamacpp.CommonParams()
        params.model.path = str(self.path)
        params.n_parallel, params.n_ctx, params.kv_unified = self.n_slots, self.n_context, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads
        params.use_jinja, params.ui, params.warmup, params.verbosity = True, False, False, -1
        # The library also listens on loopback: nobody else may ask the model past the policy.
        params.api_keys = [self._key]
        params.cache_ram_mib = 0  # slots are pinned, so prompts of idle slots are never looked for elsewhere
        if self.full_cache:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return params

    async def _in_slot(self, slot: Slot, work: Callable[[], tuple[SignalScores, int]]) -> tuple[SignalScores, int]:
        """Run work in a thread; when the caller is cancelled, the slot is returned once the thread is done."""
        assert self._pool is not None
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            running.add_done_callback(lambda done: _give_after(done, slot))
            raise

    def _read(self, slot: Slot) -> tuple[SignalScores, int]:
        assert self.control is not None
        reported = plain_call(slot.server, self._body(slot, n_probs=N_PROBS), self.control.ids)
        if any(number not in reported.logp for number in self.control.ids):
            body = self._body(slot, n_probs=len(self.control.ids) + N_PROBS)
            reported = with_biased(reported, biased_call(slot.server, body, self.control.ids), self.control.ids)
        return scores_of(reported, self.control), reported.n_tokens

    def _body(self, slot: Slot, **more: Any) -> dict[str, Any]:
        return {
            "prompt": slot.prompt,
            "id_slot": slot.number,
            "cache_prompt": True,
            "n_predict": 1,
            "temperature": 0.0,
            **more,
        }


class LlamaCppTurn:
    """One request in its slot.

    Attributes:
        input_tokens: Tokens of the prompt; 0 if not known yet.
        evaluated: Prompt tokens that were evaluated for the reply; the rest came from the cache.
    """

    def __init__(
        self, model: LlamaCppControlled, request: ChatRequest, slot: Slot, scores: SignalScores, n_tokens: int = 0
    ) -> None:
        self.input_tokens, self.evaluated = n_tokens, 0
        self._model, self._request, self._slot, self._scores = model, request, slot, scores
        self._stream: PieceStream | None = None
        self._closed = False

    @property
    def scores(self) -> SignalScores:
        return self._scores

    async def reply(self, *, token: int = -1) -> AsyncGenerator[Piece, None]:
        model = self._model
        if self._stream is not None or self._closed:
            raise RuntimeError("a turn replies once")
        control = model.control
        stream = self._stream = PieceStream(control.texts if control else ())
        model._streams.add(stream)
        body = self._body(control, token)
        pool = model._pool
        if pool is None:
            raise BackendError("the model was closed", retriable=False)
        running = asyncio.get_running_loop().run_in_executor(pool, self._write, body, stream)
        running.add_done_callback(self._done)
        async with aclosing(stream.pieces()) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.abandoned = True
        elif not self._closed:
            self._closed = True
            self._slot.give_back()

    def _done(self, running: "asyncio.Future[None]") -> None:
        if self._stream is not None:
            self._model._streams.discard(self._stream)
        self._closed = True
        _give_after(running, self._slot)

    def _body(self, control: ControlTokens | None, token: int) -> dict[str, Any]:
        request = self._request
        forced = token >= 0 and control is not None
        body = self._model._body(
            self._slot,
            prompt=[self._slot.prompt, control.ids[token]] if forced and control else self._slot.prompt,
            n_predict=request.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=request.temperature or 0.0,
            # Plain sampling at the temperature asked for, as every other engine does it.
            top_k=0,
            top_p=1.0,
            min_p=0.0,
            logit_bias=[[number, False] for number in control.ids] if control else [],
            stream=True,
            stream_options={"include_usage": True},
        )
        if request.seed is not None:
            body["seed"] = request.seed
        return body

    def _write(self, body: dict[str, Any], stream: PieceStream) -> None:
        forced = isinstance(body["prompt"], list)
        listener = _Listener(self, stream, n_forced=int(forced))
        try:
            if not stream.abandoned:
                self._slot.server.handle_completions(body, listener)
            listener.finish()
        except Exception as error:
            stream.fail(error)


def _give_after(done: "asyncio.Future[Any]", slot: Slot) -> None:
    if not done.cancelled():
        done.exception()  # seen: nobody is left to tell
    slot.give_back()


class _Listener:
    """Hears the chunks of one streamed completion; returning True ends it."""

    def __init__(self, turn: LlamaCppTurn, stream: PieceStream, *, n_forced: int) -> None:
        self.turn, self.stream, self.n_forced = turn, stream, n_forced
        self.stop: StopReason = "unknown"
        self.usage: dict[str, int] = {}

    def __call__(self, chunk: Any) -> bool:
        for part in chunk if isinstance(chunk, list) else [chunk]:
            if "error" in part:
                self.stream.fail(complaint(part["error"]))
                return True
            self.usage = part.get("usage") or self.usage
            self.turn.evaluated = part.get("timings", {}).get("prompt_n", self.turn.evaluated)
            for choice in part.get("choices", ()):
                self.stream.text(choice.get("text") or "")
                self.stop = _STOPS.get(choice.get("finish_reason") or "", self.stop)
        return self.stream.abandoned

    def finish(self) -> None:
        self.stream.end(
            self.stop,
            input_tokens=max(0, self.usage.get("prompt_tokens", 0) - self.n_forced),
            output_tokens=self.usage.get("completion_tokens", 0),
        )
