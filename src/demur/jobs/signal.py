"""Signal: how strongly prompts call for noncompliance, by category, before any is answered; remembered on disk."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from demur.core.chat import ChatRequest
from demur.core.errors import BadInputError
from demur.core.exchange import Message
from demur.core.policy import SignalSource
from demur.core.signal import ANY, Signal, SignalScores, stacked
from demur.data.score_cache import ScoreCache
from demur.data.tables import read_table
from demur.jobs.guarded import GUARD, guard_signal
from demur.models.embedded import cache_dir

Progress = Callable[[int, int], None]
PREDICTOR = "predictor:"
SCORED_AT_ONCE = 64
SUFFIXES = (".jsonl", ".parquet")


def signal_of(model: str) -> Signal:
    """The signal of a model with refusal tokens, a steering gate or a guard, or by itself of a fitted predictor
    ('predictor:FOLDER') or a guard ('guard:FOLDER').

    Weights are read when it is first asked.

    Raises:
        BadInputError: The model has no refusal tokens, or there is no such predictor.
    """
    if model.startswith(PREDICTOR):
        from demur.classify.signal import load_predictor_signal

        return load_predictor_signal(Path(model.removeprefix(PREDICTOR)))
    if model.startswith(GUARD):
        return guard_signal(model)
    from demur.jobs.steering import controlled

    # The engine that would serve it: a threshold set on its scores is then compared with the same numbers.
    found = controlled(model)
    if not isinstance(found, Signal):
        raise BadInputError(f"model {model!r}: expected a model whose refusal tokens run on this machine")
    return found


def score_prompts(
    model: str, prompts: Sequence[str], *, progress: Progress | None = None
) -> tuple[SignalSource, SignalScores]:
    """Scores of prompts, each as a conversation of one user turn; asked once, then remembered by the model's identity.

    Args:
        model: Model with refusal tokens, or 'predictor:FOLDER'.
        prompts: What users ask.
        progress: Called with (prompts done, prompts).

    Raises:
        BadInputError: The model has no signal.
        BackendError: The model failed; what was scored is kept.
    """
    signal = signal_of(model)
    requests = [ChatRequest(messages=(Message(role="user", text=prompt),)) for prompt in prompts]
    scores = asyncio.run(_scored(signal, requests, progress or (lambda *_: None)))
    return source_of(signal), scores


def source_of(signal: Signal) -> SignalSource:
    """What a policy records about its signal."""
    token_ids = getattr(signal, "token_ids", {})
    name = getattr(signal, "signal", None) or signal.name
    return SignalSource(name=name, identity=signal.identity, token_ids=dict(token_ids))


def write_signal(model: str, file: Path, out: Path, *, skip_bad: bool = False, progress: Progress | None = None) -> int:
    """Score the prompts of a file and write one row for each: id, a column for each category, any, mass.

    Args:
        model: Model with refusal tokens, or 'predictor:FOLDER'.
        file: Rows with a prompt column and perhaps an id.
        out: A .parquet or .jsonl file.
        skip_bad: Leave malformed rows out.
        progress: Called with (prompts done, prompts).

    Returns:
        Rows written.

    Raises:
        BadInputError: A malformed row (file:line:field), or the model has no signal.
    """
    if out.suffix not in SUFFIXES:
        raise BadInputError(f"{out}: expected a file ending in .parquet or .jsonl, got {out.suffix!r}; rename --out")
    ids, prompts = _prompts(file, skip_bad)
    _, scores = score_prompts(model, prompts, progress=progress)
    _write(out, ids, scores)
    return len(ids)


async def _scored(signal: Signal, requests: Sequence[ChatRequest], progress: Progress) -> SignalScores:
    # Engines share an identity, so that policies travel; their numbers differ by rounding, so scores do not.
    made_by = f"{signal.identity} {getattr(signal, 'numerics', '')}".strip()
    cache = ScoreCache(cache_dir() / "signals", identity=made_by, categories=signal.categories)
    rows = cache.get(requests)
    missing = [i for i, row in enumerate(rows) if row is None]
    # Batches of like length waste no padding; the longest first, so that the time left is not underrated.
    missing.sort(key=lambda i: len(requests[i].messages[-1].text), reverse=True)
    try:
        for start in range(0, len(missing), SCORED_AT_ONCE):
            batch = missing[start : start + SCORED_AT_ONCE]
            found = await signal.score([requests[i] for i in batch])
            cache.put([requests[i] for i in batch], found)
            for place, i in enumerate(batch):
                rows[i] = found[place : place + 1]
            progress(len(requests) - len(missing) + start + len(batch), len(requests))
    finally:
        close = getattr(signal, "close", None)
        if close is not None:
            await close()
    return stacked([row for row in rows if row is not None])


def _prompts(file: Path, skip_bad: bool) -> tuple[list[str], list[str]]:
    ids, prompts = [], []
    for record in read_table(file, skip_bad=skip_bad).records:
        prompt = record.cell("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            if skip_bad:
                continue
            raise record.bad("prompt", "the text a user asks", prompt)
        own = record.cell("id")
        ids.append(str(own) if own is not None else f"{file.name}:{record.line}")
        prompts.append(prompt)
    if not prompts:
        raise BadInputError(f"{file}: expected at least one row with a prompt, got none; check the column's name")
    return ids, prompts


def _write(out: Path, ids: Sequence[str], scores: SignalScores) -> None:
    from demur.data.tables import write_table

    p = scores.p()
    columns: dict[str, list[Any]] = {"id": list(ids)}
    if scores.categories != (ANY,):
        columns |= {category: p[:, i].tolist() for i, category in enumerate(scores.categories)}
    columns |= {ANY: scores.p_any.tolist(), "mass": scores.mass.tolist()}
    write_table(out, columns)
