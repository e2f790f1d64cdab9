"""Replies begun for a model, and texts without chat tags: the model goes on from there.

Three engines behind one protocol: a transformers model in memory (exact tokens), a chat interface that continues a
final assistant message (words, since its tokens are not known), and any of them behind a journal.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, Protocol

from demur.core.chat import ChatModel, ChatRequest
from demur.core.errors import BadInputError, MissingExtraError
from demur.core.exchange import Frozen, Message, StopReason
from demur.data.journal import KeyedJournal
from demur.models.untrusted import safe_messages, safe_text

Say = Callable[[str, int, int], None]
Unit = Literal["tokens", "words"]
ROWS = 16
# Inspect providers that go on with a final assistant message instead of answering it. vLLM, SGLang and SageMaker are
# told to by Inspect; Anthropic's newer models reject such a request, which then shows as an error, never as a reply.
CONTINUING = ("vllm", "sglang", "sagemaker", "anthropic", "mockllm")


class Begun(Frozen):
    """A reply to go on with.

    Attributes:
        messages: The conversation; empty for a text without chat tags.
        answer: The reply whose beginning is forced, or the bare text.
        forced: How much of it; None for all.
    """

    messages: tuple[Message, ...] = ()
    answer: str = ""
    forced: int | None = None


class Continued(Frozen):
    """What a model wrote after what was forced; `prefix` is the forced part as text."""

    prefix: str
    text: str
    stop_reason: StopReason = "stop"


class Continuer(Protocol):
    """Goes on with begun replies."""

    @property
    def unit(self) -> Unit:
        """What `Begun.forced` counts."""
        ...

    def length(self, answer: str) -> int:
        """Length of a reply in that unit."""
        ...

    def go_on(self, begun: Sequence[Begun], *, max_tokens: int, say: Say) -> list[Continued]:
        """Continuations, in order."""
        ...


def silent(*_: object) -> None:
    """Progress nobody watches."""


@dataclass(slots=True)
class TransformersContinuer:
    """A transformers model in memory, greedy, in batches of like length.

    Attributes:
        model: Causal language model; its mode is left as it was.
        tokenizer: With a chat template.
        rows: Most rows decoded together.
    """

    model: Any
    tokenizer: Any
    rows: int = ROWS
    unit: Unit = "tokens"

    def length(self, answer: str) -> int:
        return len(self._ids(safe_text(answer, self._control())))

    def go_on(self, begun: Sequence[Begun], *, max_tokens: int, say: Say) -> list[Continued]:
        inputs = [self._input(one) for one in begun]
        order = sorted(range(len(begun)), key=lambda i: len(inputs[i][0]), reverse=True)
        done: dict[int, Continued] = {}
        was_training = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(order), self.rows):
                batch = order[start : start + self.rows]
                replies = self._generate([inputs[i][0] for i in batch], max_tokens)
                for i, (text, stop) in zip(batch, replies, strict=True):
                    done[i] = Continued(prefix=inputs[i][1], text=text, stop_reason=stop)
                say("continuing", len(done), len(order))
        finally:
            self.model.train(was_training)
        return [done[i] for i in range(len(begun))]

    def _input(self, begun: Begun) -> tuple[list[int], str]:
        """Token ids to go on from, and the forced part as text."""
        control = self._control()
        answer = safe_text(begun.answer, control)
        if not begun.messages:
            ids = list(self.tokenizer(answer)["input_ids"])  # with a beginning-of-sequence token where there is one
            return ids, answer
        text = self.tokenizer.apply_chat_template(
            safe_messages(begun.messages, control), tokenize=False, add_generation_prompt=True
        )
        start = self._ids(text)
        # What follows the template's last character may be tokenized with it, as it is in training.
        whole = self._ids(text + answer)
        own = whole[len(start) :] if whole[: len(start)] == start else self._ids(answer)
        own = own[: begun.forced]
        return start + own, str(self.tokenizer.decode(own))

    def _generate(self, rows: Sequence[list[int]], max_tokens: int) -> list[tuple[str, StopReason]]:
        torch = _torch()
        width = max(map(len, rows))
        ends = self._ends()
        pad = self.tokenizer.pad_token_id
        pad = next(iter(ends), 0) if pad is None else pad
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.model.device)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_tokens,
                pad_token_id=pad,
                eos_token_id=sorted(ends) or None,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
            )
        return [self._read(row, ends) for row in output[:, width:].tolist()]

    def _read(self, row: list[int], ends: set[int]) -> tuple[str, StopReason]:
        n = next((i for i, token in enumerate(row) if token in ends), len(row))
        return str(self.tokenizer.decode(row[:n], skip_special_tokens=True)), "stop" if n < len(row) else "max_tokens"

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _ends(self) -> set[int]:
        declared = getattr(self.model.generation_config, "eos_token_id", None)
        ids = declared if isinstance(declared, list) else [declared]
        return {i for i in (*ids, self.tokenizer.eos_token_id) if i is not None}

    def _control(self) -> tuple[str, ...]:
        added = [
            str(t) for t in self.tokenizer.added_tokens_decoder.values() if t.special or not str(t).strip().isalnum()
        ]
        return tuple({*map(str, self.tokenizer.all_special_tokens), *(text for text in added if text.strip())})


@dataclass(slots=True)
class ChatContinuer:
    """A chat interface that goes on with a final assistant message; lengths are in words.

    Attributes:
        model: The model.
        connections: Requests in flight.
    """

    model: ChatModel
    connections: int = 8
    unit: Unit = "words"

    def length(self, answer: str) -> int:
        return len(answer.split())

    def go_on(self, begun: Sequence[Begun], *, max_tokens: int, say: Say) -> list[Continued]:
        if any(not one.messages for one in begun):
            raise BadInputError(
                f"model {self.model.name!r}: expected a local transformers or GGUF model for a text without chat tags; "
                "a chat interface always adds them"
            )
        return asyncio.run(self._all(begun, max_tokens, say))

    async def _all(self, begun: Sequence[Begun], max_tokens: int, say: Say) -> list[Continued]:
        gate, done = asyncio.Semaphore(self.connections), 0

        async def one(item: Begun) -> Continued:
            nonlocal done
            async with gate:
                prefix = first_words(item.answer, item.forced)
                last = (Message(role="assistant", text=prefix),) if prefix else ()
                request = ChatRequest(messages=(*item.messages, *last), max_tokens=max_tokens, temperature=0.0)
                reply = await self.model.complete(request)
                done += 1
                say("continuing", done, len(begun))
                # Some interfaces return the whole message, others what they added.
                text = reply.text.removeprefix(prefix) if prefix else reply.text
                return Continued(prefix=prefix, text=text, stop_reason=reply.stop_reason)

        return list(await asyncio.gather(*(one(item) for item in begun)))


@dataclass(slots=True)
class JournalledContinuer:
    """Another continuer, asked only for what its journal does not hold.

    Attributes:
        inner: Who goes on.
        journal: Continuations by key.
        identity: Identity of the model; part of every key.
    """

    inner: Continuer
    journal: KeyedJournal[Continued]
    identity: str

    @property
    def unit(self) -> Unit:
        return self.inner.unit

    def length(self, answer: str) -> int:
        return self.inner.length(answer)

    def go_on(self, begun: Sequence[Begun], *, max_tokens: int, say: Say) -> list[Continued]:
        keys = [self._key(one, max_tokens) for one in begun]
        missing = sorted({key: i for i, key in enumerate(keys) if key not in self.journal.found}.values())
        # Rows of like length together, and on disk after every batch.
        missing.sort(key=lambda i: len(begun[i].answer) + sum(len(m.text) for m in begun[i].messages))
        held = len(begun) - len(missing)
        for start in range(0, len(missing), ROWS):
            batch = missing[start : start + ROWS]
            replies = self.inner.go_on([begun[i] for i in batch], max_tokens=max_tokens, say=silent)
            self.journal.add_all({keys[i]: reply for i, reply in zip(batch, replies, strict=True)})
            say("continuing", held + start + len(batch), len(begun))
        return [self.journal.found[key] for key in keys]

    def _key(self, begun: Begun, max_tokens: int) -> str:
        text = f"{self.identity}\x1f{max_tokens}\x1f{begun.model_dump_json()}"
        return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def continuation_journal(path: Any) -> KeyedJournal[Continued]:
    """Journal of continuations."""
    return KeyedJournal(
        path, field="continued", read=Continued.model_validate, write=lambda one: one.model_dump(mode="json")
    )


def check_continuing(name: str) -> None:
    """Make sure that a provider goes on with a final assistant message.

    Raises:
        BadInputError: It is not among those known to.
    """
    provider = name.partition("/")[0]
    # llama.cpp goes on with a final assistant message; our transformers engine opens a new turn after it.
    llama_cpp = name.startswith(("demur/smollm2", "demur/gguf/")) and "+" not in name
    if provider not in CONTINUING and not llama_cpp:
        raise BadInputError(
            f"model {name!r}: expected demur/smollm2, demur/gguf/PATH or a provider that continues a final assistant "
            f"message ({', '.join(CONTINUING[:-1])}); {provider!r} would answer it as a new turn"
        )


def first_words(text: str, n: int | None) -> str:
    """The first words of a text with the spaces between them; all of it for None."""
    if n is None:
        return text
    end = 0
    for word in text.split()[:n]:
        end = text.index(word, end) + len(word)
    return text[:end]


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("forced prefixes", extra="hf") from None
    return torch
