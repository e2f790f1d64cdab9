"""A Latent Guard as a signal that policies decide on: one pass over the prompt, stopped at the last layer needed."""

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from demur.activations.spans import PromptTokens
from demur.core.chat import ChatRequest
from demur.core.errors import BackendError, BadInputError, DemurError
from demur.core.exchange import Message
from demur.core.signal import SignalScores, scores_from_probabilities
from demur.inside.guard import LatentGuard
from demur.models.untrusted import safe_messages

if TYPE_CHECKING:
    from demur.activations.subject import Subject
    from demur.steer.suffix import TemplateSuffix

NAME = "latent-guard"
_POST = re.compile(r"t_post\[(-?\d{1,4})\]")


class GuardSignal:
    """Probability that a request is harmful: under 'any', or by category for guards that score by the nearest one.

    The conversation is read up to its last user turn.

    Args:
        guard: Calibrated.
        load: Makes the guard's model; called once, when it is first asked.
        identity: What it is, for caches and policies.
    """

    name = NAME
    numerics = "transformers float32"  # as models are opened to be looked into

    def __init__(self, guard: LatentGuard, load: "Callable[[], Subject]", *, identity: str) -> None:
        if guard.calibration is None:
            raise BadInputError("guard: expected a calibrated guard; fit it again with 'demur guard fit'")
        self.guard, self.identity, self.categories = guard, identity, guard.columns
        self._load = load
        self._subject: Subject | None = None
        self._lock = threading.Lock()

    async def score(self, requests: Sequence[ChatRequest], /) -> SignalScores:
        try:
            return await asyncio.to_thread(self._score, requests)
        except DemurError:
            raise
        except Exception as failed:
            raise BackendError(f"{type(failed).__name__}: {failed}", retriable=False) from failed

    async def close(self) -> None:
        """Let go of the model."""
        self._subject = None

    def _score(self, requests: Sequence[ChatRequest]) -> SignalScores:
        from demur.activations.record import record

        with self._lock:
            subject = self._subject = self._subject or self._load()
            tokens = [conversation_tokens(subject, request.messages) for request in requests]
            found = record(subject, tokens, spans=(self.guard.options.span,), layers=self.guard.layers)
        return scores_from_probabilities(self.categories, self.guard.column_proba(self.guard.states(found)))


def conversation_tokens(subject: "Subject", messages: Sequence[Message]) -> PromptTokens:
    """A conversation up to its last user turn in the chat template, spans named as in a single prompt.

    Control tokens in its texts are split.

    Raises:
        BadInputError: There is no user turn, the template refuses it, or does not end it as it ends a user's turn.
    """
    from demur.steer.suffix import suffix_of

    tokenizer = subject.tokenizer
    suffix = suffix_of(tokenizer)
    if suffix is None:
        raise BadInputError("guard: expected a chat template that ends the user's turn, found none; use a chat model")
    last = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
    if last < 0:
        raise BadInputError("guard: expected a conversation with a user's turn, got none")
    read = safe_messages(messages[: last + 1], control_texts(tokenizer))
    try:
        text = tokenizer.apply_chat_template(read, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates raise whatever they like
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInputError(f"the chat template refuses this conversation: {reason}") from None
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return PromptTokens(ids=ids, spans=_spans(ids, suffix), ranges={"post": (len(ids) - len(suffix.ids), len(ids))})


def from_end(span: str, n_post: int) -> int:
    """Position of a prompt's span counted from its end, -1 being the last token.

    Args:
        span: 't_inst' or 't_post[k]'.
        n_post: Tokens that the chat template adds after the user's text.

    Raises:
        BadInputError: It is not one of a prompt.
    """
    found = _POST.fullmatch(span)
    at = -n_post - 1 if span == "t_inst" else int(found[1]) if found else 0
    offset = at - n_post if found and at >= 0 else at
    if not -n_post - 1 <= offset <= -1:
        raise BadInputError(f"guard: expected a span of the prompt (t_inst, t_post[k], k below {n_post}), got {span!r}")
    return offset


def control_texts(tokenizer: Any) -> frozenset[str]:
    """Everything a user's text must not be able to form."""
    added = [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special or not str(t).strip().isalnum()]
    return frozenset((*map(str, tokenizer.all_special_tokens), *(text for text in added if text.strip())))


def _spans(ids: Sequence[int], suffix: "TemplateSuffix") -> dict[str, int]:
    n, post = len(ids), len(suffix.ids)
    if tuple(ids[-post:]) != suffix.ids or n <= post:
        raise BadInputError(
            "guard: expected a chat template that ends every conversation as it ends a single prompt; "
            "use another template"
        )
    counted = {f"t_post[{k}]": n - post + k for k in range(post)} | {f"t_post[{k}]": n + k for k in range(-post, 0)}
    return {"t_inst": n - post - 1, **counted}
