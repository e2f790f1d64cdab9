"""The thread that owns a transformers model: reads what waits as one micro-batch, then takes one step of every reply.

Imported with the engine; torch only once the model is loaded.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from demur.core.chat import ChatRequest
from demur.core.errors import BackendError, BadInputError, DemurError
from demur.models.adapter import ControlTokens
from demur.models.untrusted import check_splitting, safe_messages

if TYPE_CHECKING:
    from demur.models.controlled_reading import Read, Reader
    from demur.models.controlled_writing import Reply, Writer

    # Makes other readers and writers of the plain ones, e.g. ones that steer: acts in the thread that owns the model.
    Outfit = Callable[[Reader, Writer], tuple[Reader, Writer]]


@dataclass(slots=True, eq=False)
class ReadJob:
    """A request on its way to the worker; `prompt` is set there."""

    request: ChatRequest
    keep: bool
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[Read]"
    prompt: list[int] = field(default_factory=list)

    def settle(self, found: "Read | Exception") -> None:
        """Hand the result over; nobody may be waiting any more."""

        def hand() -> None:
            if not self.done.done():
                if isinstance(found, Exception):
                    self.done.set_exception(found)
                else:
                    self.done.set_result(found)

        try:
            self.loop.call_soon_threadsafe(hand)
        except RuntimeError:  # the loop is closed
            pass


class Worker:
    """The thread that owns the model.

    Args:
        load: Makes (model, tokenizer).
        control: Control tokens; None for none.
        max_rows: Replies decoded together.
        outfit: Changes how prompts are read and replies written; None = as the model alone does.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Any, Any]],
        control: ControlTokens | None,
        *,
        max_rows: int,
        outfit: "Outfit | None" = None,
    ) -> None:
        self.load, self.control, self.max_rows, self.outfit = load, control, max_rows, outfit
        self.inbox: SimpleQueue[ReadJob | Reply | None] = SimpleQueue()
        self.reads: list[ReadJob] = []
        self.replies: list[Reply] = []
        self.reader: Reader | None = None
        self.writer: Writer | None = None
        self.tokenizer: Any = None
        self._forbidden: tuple[str, ...] = ()
        self._limit = 0
        self.thread = threading.Thread(target=self._run, name="controlled-transformers", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End what is running and let go of the model."""
        self.inbox.put(None)
        self.thread.join()

    def _run(self) -> None:
        error: Exception = BackendError("the model was closed", retriable=False)
        stopped = False
        try:
            self._load()
            while self._hear():
                self._read_batch()
                self._write_step()
            stopped = True
        except DemurError as failed:
            error = failed
        except Exception as failed:
            error = BackendError(f"{type(failed).__name__}: {failed}", retriable=False)
        self._refuse_all(error)
        # A worker that cannot work answers everything with the reason, until it is stopped.
        while not stopped:
            late = self.inbox.get()
            stopped = late is None
            _refuse(late, error)

    def _load(self) -> None:
        import torch

        from demur.models.controlled_reading import Reader
        from demur.models.controlled_writing import Writer, may_batch

        model, self.tokenizer = self.load()
        model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        control, batched = self.control, may_batch(model.config)
        self._forbidden = _steering(self.tokenizer, control)
        if control is not None:
            check_splitting(self._encoded, self._forbidden, control.ids)
        self.reader = Reader(model, control, prefix=self._common_beginning(), batched=batched)
        banned = control.ids if control else ()
        self.writer = Writer(model, self.tokenizer, banned=banned, max_rows=self.max_rows, batched=batched)
        if self.outfit is not None:
            self.reader, self.writer = self.outfit(self.reader, self.writer)
        self._limit = getattr(model.config, "max_position_embeddings", None) or 1 << 30

    def _hear(self) -> bool:
        """Take in what has arrived; waits when there is nothing else to do. False at the end."""
        assert self.writer is not None
        while True:
            idle = not (self.reads or self.replies or self.writer.active)
            if not idle and self.inbox.empty():
                return True
            item = self.inbox.get()
            if item is None:
                return False
            if isinstance(item, ReadJob):
                self.reads.append(item)
            else:
                self.replies.append(item)

    def _read_batch(self) -> None:
        assert self.reader is not None
        jobs = [job for job in self.reads if not job.done.cancelled() and self._encode(job)]
        self.reads = []
        if not jobs:
            return
        # The batch of whoever waits longest: nobody is overtaken for ever.
        numbers = next(found for found in self.reader.batches([job.prompt for job in jobs]) if 0 in found)
        self.reads = [job for i, job in enumerate(jobs) if i not in numbers]
        batch = [jobs[i] for i in numbers]
        try:
            found = self.reader.read([job.prompt for job in batch], keep=any(job.keep for job in batch))
        except Exception as error:  # one bad row must not fail its neighbours
            self._read_alone(batch, error)
            return
        for job, read in zip(batch, found, strict=True):
            job.settle(read)

    def _read_alone(self, batch: Sequence[ReadJob], error: Exception) -> None:
        assert self.reader is not None
        for job in batch:
            try:
                if len(batch) == 1:
                    raise error
                job.settle(self.reader.read([job.prompt], keep=job.keep)[0])
            except DemurError as failed:
                job.settle(failed)
            except Exception as failed:
                job.settle(BackendError(f"{type(failed).__name__}: {failed}", retriable=False))

    def _encode(self, job: ReadJob) -> bool:
        """Set a job's token ids; a prompt that does not fit is answered at once."""
        if job.prompt:
            return True
        try:
            job.prompt = self._ids(safe_messages(job.request.messages, self._forbidden))
        except Exception as error:
            job.settle(BackendError(f"the chat template does not take these messages: {error}", retriable=False))
            return False
        if len(job.prompt) + 2 > self._limit:
            n, limit = len(job.prompt), self._limit - 2
            job.settle(
                BadInputError(f"prompt of {n} tokens: expected at most {limit}, the model's context; shorten it")
            )
            return False
        return True

    def _ids(self, messages: list[dict[str, str]]) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self._encoded(text)

    def _encoded(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _common_beginning(self) -> list[int]:
        first, second = (self._ids([{"role": "user", "content": text}]) for text in ("Ask", "7 times"))
        n = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
        return first[:n]

    def _write_step(self) -> None:
        assert self.writer is not None
        while self.replies and len(self.writer.active) < self.writer.max_rows:
            reply = self.replies.pop(0)
            if not reply.stream.abandoned:
                try:
                    self.writer.add(reply)
                except Exception as error:
                    reply.stream.fail(error)
        try:
            self.writer.step()
        except Exception as error:
            self.writer.fail(error)

    def _refuse_all(self, error: Exception) -> None:
        for job in self.reads:
            job.settle(error)
        for reply in self.replies:
            reply.stream.fail(error)
        if self.writer is not None:
            self.writer.fail(error)
        while not self.inbox.empty():
            _refuse(self.inbox.get(), error)
        self.reader = self.writer = None


def _refuse(item: "ReadJob | Reply | None", error: Exception) -> None:
    if isinstance(item, ReadJob):
        item.settle(error)
    elif item is not None:
        item.stream.fail(error)


def _steering(tokenizer: Any, control: ControlTokens | None) -> tuple[str, ...]:
    """Everything a user's text must not be able to form."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return tuple({*map(str, tokenizer.all_special_tokens), *added, *(control.texts if control else ())})
