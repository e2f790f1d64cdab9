"""A transformers model on this machine: requests gathered, sorted by length and decoded in batches.

Greedy by default, with the true stop reason and per-row token counts; the chat template is
tokenized once, without a second beginning-of-sequence token.
"""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from demur.core.chat import ChatReply, ChatRequest, EnoughSeen
from demur.core.errors import BackendError, BadInputError, MissingExtraError
from demur.core.exchange import StopReason
from demur.models.untrusted import check_splitting, safe_messages

BATCH_ROWS = 64
BATCH_TOKENS = 24_576  # prompt and reply together: bounds the memory of keys and values
GATHER_SECONDS = 0.02
CHECK_EVERY_TOKENS = 8
DEFAULT_MAX_TOKENS = 256


@dataclass(slots=True)
class _Job:
    request: ChatRequest
    enough: EnoughSeen | None
    done: asyncio.Future[ChatReply]
    token_ids: list[int] = field(default_factory=list)


@dataclass(slots=True)
class TransformersModel:
    """Answers chat requests from a local folder or hub id.

    Attributes:
        source: Folder or hub id.
        name: Identity string.
        revision: Hub revision; the newest stored one by default.
        dtype: 'auto' takes bfloat16 where the hardware computes in it, else float32.
        batch_rows: Most rows decoded together.
    """

    source: str
    name: str
    revision: str | None = None
    dtype: str = "auto"
    batch_rows: int = BATCH_ROWS
    _model: Any = None
    _tokenizer: Any = None
    _waiting: list[_Job] = field(default_factory=list)
    _worker: asyncio.Task[None] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def complete(self, request: ChatRequest, /, *, enough: EnoughSeen | None = None) -> ChatReply:
        job = _Job(request=request, enough=enough, done=asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await job.done

    async def _work(self) -> None:
        await asyncio.sleep(GATHER_SECONDS)  # let the caller's other requests arrive
        while self._waiting:
            jobs, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._prepare, jobs)
            except Exception as error:
                _fail(jobs, error)
                raise
            jobs.sort(key=lambda job: (job.request.max_tokens or 0, len(job.token_ids)), reverse=True)
            for batch in self._batches(jobs):
                await self._run(batch)

    def _batches(self, jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
        """Rows of like length together; jobs come longest first, so the first row of a batch sets its width."""
        batch: list[_Job] = []
        for job in jobs:
            width = len((batch or [job])[0].token_ids) + (job.request.max_tokens or DEFAULT_MAX_TOKENS)
            if batch and (len(batch) >= self.batch_rows or (len(batch) + 1) * width > BATCH_TOKENS):
                yield batch
                batch = []
            batch.append(job)
        if batch:
            yield batch

    async def _run(self, jobs: list[_Job]) -> None:
        try:
            replies = await asyncio.to_thread(self._generate, jobs)
        except Exception as error:  # one bad row must not fail its neighbours
            if len(jobs) > 1:
                for job in jobs:
                    await self._run([job])
            else:
                _fail(jobs, error)
            return
        for job, reply in zip(jobs, replies, strict=True):
            if not job.done.done():
                job.done.set_result(reply)

    def _prepare(self, jobs: Sequence[_Job]) -> None:
        self._load()
        tokens = _control_tokens(self._tokenizer)
        for job in jobs:
            messages = safe_messages(job.request.messages, tokens)
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            job.token_ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _load(self) -> None:
        with self._lock:
            if self._model is not None:
                return
            torch, transformers = _libraries()
            options = {"revision": self.revision} if self.revision else {}
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.source, padding_side="left", **options)
                model = transformers.AutoModelForCausalLM.from_pretrained(
                    self.source, dtype=_dtype(torch, self.dtype), **options
                )
            except (OSError, ValueError) as error:
                first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise BadInputError(
                    f"model 'hf/{self.source}': expected a local folder or hub id; {first_line}"
                ) from None
            if tokenizer.chat_template is None:
                raise BadInputError(
                    f"model 'hf/{self.source}' has no chat template; use a chat model or add one to its tokenizer"
                )
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
            tokens = _control_tokens(tokenizer)
            check_splitting(
                lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
                tokens,
                tokenizer.convert_tokens_to_ids(list(tokens)),
            )
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._tokenizer, self._model = tokenizer, model.to(device).eval()

    def _generate(self, jobs: Sequence[_Job]) -> list[ChatReply]:
        torch, transformers = _libraries()
        budget = jobs[0].request.max_tokens or DEFAULT_MAX_TOKENS
        self._check_length(jobs, budget)
        batch = self._tokenizer.pad({"input_ids": [job.token_ids for job in jobs]}, return_tensors="pt").to(
            self._model.device
        )
        n_input = batch["input_ids"].shape[1]
        stopper = _Settled(torch, self._tokenizer, jobs, n_input)
        request = jobs[0].request
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if request.temperature:
            sampling = {"do_sample": True, "temperature": request.temperature}
            torch.manual_seed(request.seed or 0)
        with torch.inference_mode():
            output = self._model.generate(
                **batch,
                max_new_tokens=budget,
                pad_token_id=self._tokenizer.pad_token_id,
                stopping_criteria=transformers.StoppingCriteriaList([stopper]),
                **sampling,
            )
        rows = output[:, n_input:].tolist()
        return [
            self._reply(job, row, stopper.stopped_at[i]) for i, (job, row) in enumerate(zip(jobs, rows, strict=True))
        ]

    def _check_length(self, jobs: Sequence[_Job], budget: int) -> None:
        limit = getattr(self._model.config, "max_position_embeddings", None)
        longest = max(len(job.token_ids) for job in jobs)
        if limit is not None and longest + budget > limit:
            raise BackendError(
                f"prompt of {longest} tokens and {budget} to come exceed the context of {limit}", retriable=False
            )

    def _reply(self, job: _Job, row: list[int], stopped_at: int | None) -> ChatReply:
        row = row[:stopped_at]
        ends = _end_tokens(self._model, self._tokenizer)
        n_out = next((i for i, token in enumerate(row) if token in ends), len(row))
        ended = n_out < len(row)
        stop: StopReason = "stop" if ended else "settled" if stopped_at is not None else "max_tokens"
        text, reasoning = split_reasoning(self._tokenizer.decode(row[:n_out], skip_special_tokens=True))
        return ChatReply(
            text=text, reasoning=reasoning, stop_reason=stop, input_tokens=len(job.token_ids), output_tokens=n_out
        )


class _Settled:
    """Per-row stopping: a row ends once its reply so far is enough, or nobody waits for it any more."""

    def __init__(self, torch: Any, tokenizer: Any, jobs: Sequence[_Job], n_input: int) -> None:
        self.torch, self.tokenizer, self.jobs, self.n_input = torch, tokenizer, jobs, n_input
        self.stopped_at: list[int | None] = [None] * len(jobs)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        n_new = input_ids.shape[1] - self.n_input
        if n_new % CHECK_EVERY_TOKENS == 0:
            for row, job in enumerate(self.jobs):
                if self.stopped_at[row] is None and (job.done.cancelled() or self._has_enough(job, input_ids[row])):
                    self.stopped_at[row] = n_new
        done = [at is not None for at in self.stopped_at]
        return self.torch.tensor(done, dtype=self.torch.bool, device=input_ids.device)

    def _has_enough(self, job: _Job, row: Any) -> bool:
        if job.enough is None:
            return False
        return job.enough(self.tokenizer.decode(row[self.n_input :], skip_special_tokens=True))


def split_reasoning(text: str) -> tuple[str, str]:
    """Take a leading `<think>` span off a reply: (reply, reasoning). An unclosed span is all reasoning."""
    stripped = text.lstrip()
    if not stripped.startswith("<think>"):
        return text, ""
    reasoning, closed, reply = stripped.removeprefix("<think>").partition("</think>")
    return (reply.lstrip(), reasoning.strip()) if closed else ("", reasoning.strip())


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    kept = error if isinstance(error, BackendError | BadInputError | MissingExtraError) else None
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(kept or BackendError(f"{type(error).__name__}: {error}", retriable=False))


def _control_tokens(tokenizer: Any) -> tuple[str, ...]:
    # Added tokens steer even where they are not called special (<think>, <tool_call>); runs of spaces are text.
    added = [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special or not str(t).strip().isalnum()]
    return tuple({*map(str, tokenizer.all_special_tokens), *(text for text in added if text.strip())})


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    declared = model.generation_config.eos_token_id
    ids = declared if isinstance(declared, list) else [declared]
    return {i for i in (*ids, tokenizer.eos_token_id) if i is not None}


def _dtype(torch: Any, wanted: str) -> Any:
    if wanted != "auto":
        return getattr(torch, wanted)
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    # Without these instructions a CPU emulates bfloat16 and is slower than in float32.
    native = (
        getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        or getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    )
    return torch.bfloat16 if native else torch.float32


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError:
        raise MissingExtraError("running transformers models", extra="hf") from None
    return torch, transformers
