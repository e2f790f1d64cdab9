"""Trigger: which part of a prompt makes a model refuse it?"""

import asyncio
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from demur.core.defaults import DEFAULT_JUDGE
from demur.core.errors import BadInputError, MissingExtraError
from demur.core.exchange import Exchange, Message
from demur.core.judge import Judge

if TYPE_CHECKING:
    from demur.classify.trigger import Refuses, Trigger
    from demur.core.chat import ChatModel

Progress = Callable[[int, int], None]
REPLY_TOKENS = 128


def find_trigger(
    prompt: str,
    *,
    model: str | None = None,
    predictor: Path | None = None,
    judge: str = DEFAULT_JUDGE,
    max_calls: int = 200,
    progress: Progress | None = None,
) -> "Trigger":
    """The smallest part of a prompt that a model still refuses, or that a predictor still expects it to refuse.

    A model is asked greedily with each part as it stands, no system message, nothing added; a reply that cannot be
    judged counts as no refusal.

    Raises:
        UserError: Neither or both of model and predictor, an unknown name, an empty prompt.
        BackendError: The model failed.
    """
    if (model is None) == (predictor is None):
        raise BadInputError("trigger: expected either a model or a predictor; pass --model or --predictor")
    if not prompt.strip():
        raise BadInputError("prompt: expected some text, got none; give the prompt in quotes")
    if max_calls < 1:
        raise BadInputError(f"--max-calls: expected 1 or more, got {max_calls}")
    from demur.classify.trigger import minimal_trigger

    refuses = _asking(model, judge) if model is not None else _predicting(predictor)
    n_asked = 0

    async def counted(text: str) -> bool | None:
        nonlocal n_asked
        answer = await refuses(text)
        n_asked += 1
        if progress is not None:
            progress(n_asked, max_calls)
        return answer

    return asyncio.run(minimal_trigger(prompt, counted, max_calls=max_calls))


def _asking(name: str, judge_name: str) -> "Refuses":
    from demur.core.chat import ChatRequest
    from demur.judges.safely import judge_safely

    judge = named_judge(judge_name)
    chat = chat_model_of(name)
    settles: Callable[[str, str], bool] | None = getattr(judge, "is_settled", None)

    async def refuses(text: str) -> bool | None:
        request = ChatRequest(
            messages=(Message(role="user", text=text),), max_tokens=REPLY_TOKENS, temperature=0.0, seed=0
        )
        enough = None if settles is None else lambda prefix: settles(text, prefix)
        reply = await chat.complete(request, enough=enough)
        exchange = Exchange(
            id="0",
            messages=request.messages,
            response=reply.text,
            reasoning=reply.reasoning,
            model=name,
            stop_reason=reply.stop_reason,
            api_signals=reply.api_signals,
        )
        (verdict,) = await judge_safely(judge, [exchange])
        return None if verdict.outcome == "unjudged" else verdict.outcome in ("refused", "partial")

    return refuses


def _predicting(folder: Path | None) -> "Refuses":
    assert folder is not None
    needs_sklearn()
    from demur.classify.predictor_store import load_predictor

    predictor, _ = load_predictor(folder)

    async def refuses(text: str) -> bool | None:
        return bool(predictor.predict_proba([text])[0, 1] >= 0.5)

    return refuses


def chat_model_of(name: str) -> "ChatModel":
    """A model by name: local ones directly, all others through Inspect."""
    from demur.models import build_model, identity_of, parse_model

    spec = parse_model(name)
    if not spec.is_local:
        from demur.evals.asking import chat_model

        return chat_model(name)
    return build_model(spec, identity=str(identity_of(spec)))


def named_judge(name: str) -> Judge:
    """A judge by name; models of rubric judges by demur's or Inspect's names."""
    from demur.judges import load_judge

    return load_judge(name, chat_model=chat_model_of)


def needs_sklearn() -> None:
    """Say which extra is missing before anything is read.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    if find_spec("sklearn") is None:
        raise MissingExtraError("predicting refusals", extra="classify")
