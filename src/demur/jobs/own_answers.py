"""A base model's own answers to prompts it should answer: what it keeps saying after the respond token."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from demur.core.chat import ChatModel, ChatRequest
from demur.core.exchange import Message
from demur.data.folder import write_json
from demur.jobs.following import outcomes
from demur.models import build_model, parse_model
from demur.suites.training import TrainingRow

FILE = "own_answers.json"
_BEYOND = 8  # tokens asked for beyond those learnt, so that a cut answer is never taken for one that ends there


def own_answers(
    model: str, rows: Sequence[TrainingRow], *, tokens: int, kept: Path, say: Callable[[int, int], None]
) -> dict[str, str]:
    """Greedy beginnings of answers by row id; those that decline or are degenerate are left out.

    Args:
        model: The base.
        rows: Rows that should be answered.
        tokens: Tokens of an answer that will be learnt.
        kept: Where the answers are remembered for a resumed run.
        say: Told (answers done, answers).
    """
    if kept.is_file():
        return {str(k): str(v) for k, v in json.loads(kept.read_text(encoding="utf-8")).items()}
    built = build_model(parse_model(model), identity=model)
    try:
        texts = asyncio.run(_asked(built, [row.prompt for row in rows], tokens + _BEYOND, say))
    finally:
        if (close := getattr(built, "close", None)) is not None:
            close()
    verdicts = outcomes([row.prompt for row in rows], texts)
    found = {r.id: t for r, t, v in zip(rows, texts, verdicts, strict=True) if v.outcome == "complied" and t.strip()}
    write_json(kept, found)
    return found


async def _asked(model: ChatModel, prompts: Sequence[str], tokens: int, say: Callable[[int, int], None]) -> list[str]:
    done = 0

    async def one(prompt: str) -> str:
        nonlocal done
        request = ChatRequest(messages=(Message(role="user", text=prompt),), max_tokens=tokens, temperature=0.0)
        text = (await model.complete(request)).text
        done += 1
        say(done, len(prompts))
        return text

    return list(await asyncio.gather(*map(one, prompts)))
