"""What a model does with the prompts of a study: a judge's verdict on its reply, or the control token it says.

A model with control tokens decides by its token; whether its words follow is another matter. Both labels are
offered, and where both are known they are compared.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

from demur.core.chat import ChatModel, ChatRequest
from demur.core.errors import BadInputError
from demur.core.exchange import Message
from demur.data.journal import KeyedJournal
from demur.inside.buckets import Labelled, refused_by
from demur.jobs.following import outcomes
from demur.models import build_model, identity_of, parse_model
from demur.models.controlled import checked_adapter, control_of

RefusedBy = Literal["auto", "reply", "token"]
Progress = Callable[[str, int, int], None]
REPLIES = "replies.jsonl"
_AT_ONCE = 64


def chosen_label(model: str, wanted: RefusedBy) -> Literal["reply", "token"]:
    """What 'refused' means for a model: its token where its words were measured not to follow it, else its reply.

    Raises:
        BadInputError: The token was asked for and the model has none.
    """
    spec = parse_model(model)
    has_tokens = has_control_tokens(model)
    if wanted == "token" and not has_tokens:
        raise BadInputError(
            f"--refused-by token: model {model!r} has no control tokens; use 'reply', or train them with "
            "'demur train refusal-tokens'"
        )
    if wanted != "auto":
        return wanted
    control, _ = control_of(spec, checked_adapter(spec)) if has_tokens else (None, "")
    return "token" if control is not None and control.text_follows == "nothing" else "reply"


def has_control_tokens(model: str) -> bool:
    """Whether a model says a control token before it answers."""
    from demur.models.adapter import TOKENS_FILE

    spec = parse_model(model)
    if spec.adapter and not (Path(spec.adapter) / TOKENS_FILE).is_file():
        return False  # an adapter of another kind
    return control_of(spec, checked_adapter(spec))[0] is not None


def by_token(model: str, rows: Sequence[Labelled], *, progress: Progress) -> list[Labelled]:
    """Rows with what the model's control token says; scores are remembered, so a second run asks nothing."""
    from demur.jobs.signal import score_prompts

    _, scores = score_prompts(
        model, [row.prompt for row in rows], progress=lambda done, total: progress("reading tokens", done, total)
    )
    declines = scores.logits.argmax(axis=1) < len(scores.categories)
    return [
        replace(row, refused=bool(said), outcome="refused" if said else "complied")
        for row, said in zip(rows, declines, strict=True)
    ]


def by_reply(
    model: str,
    rows: Sequence[Labelled],
    journal: Path,
    *,
    judge: str,
    max_tokens: int,
    progress: Progress,
    chat: ChatModel | None = None,
) -> list[Labelled]:
    """Rows with a judge's verdict on the model's greedy reply; replies are kept on disk and never asked for twice.

    Args:
        model: As typed.
        rows: Prompts.
        journal: JSON Lines file of replies.
        judge: Name of the judge.
        max_tokens: Longest reply.
        progress: Told what is being done.
        chat: The model itself; built from its name by default.
    """
    replies = asyncio.run(_replies(model, [row.prompt for row in rows], journal, max_tokens, progress, chat))
    verdicts = outcomes([row.prompt for row in rows], replies, judge=judge)
    return [replace(row, refused=refused_by(v), outcome=v.outcome) for row, v in zip(rows, verdicts, strict=True)]


def agreement(reply: Sequence[Labelled], token: Sequence[Labelled]) -> dict[str, int]:
    """Prompts by what the reply does and what the token says, e.g. {'refused, token declines': 12}."""
    counts = Counter(
        f"{r.outcome}, token {'declines' if t.refused else 'answers'}" for r, t in zip(reply, token, strict=True)
    )
    return dict(sorted(counts.items()))


async def _replies(
    model: str, prompts: Sequence[str], journal: Path, max_tokens: int, progress: Progress, chat: ChatModel | None
) -> list[str]:
    spec = parse_model(model)
    known: KeyedJournal[str] = KeyedJournal(journal, field="reply", read=str, write=str)
    keys = [_key(prompt, max_tokens) for prompt in prompts]
    missing = [i for i in dict(zip(keys, range(len(keys)), strict=True)).values() if keys[i] not in known.found]
    missing.sort(key=lambda i: len(prompts[i]))
    asked = chat or (build_model(spec, identity=str(identity_of(spec))) if missing else None)
    try:
        for start in range(0, len(missing), _AT_ONCE):
            batch = missing[start : start + _AT_ONCE]
            assert asked is not None
            requests = [_request(prompts[i], max_tokens) for i in batch]
            found = await asyncio.gather(*(asked.complete(request) for request in requests))
            known.add_all({keys[i]: reply.text for i, reply in zip(batch, found, strict=True)})
            progress("asking the model", len(prompts) - len(missing) + start + len(batch), len(prompts))
    finally:
        close = getattr(asked, "close", None) if chat is None else None
        if close is not None:
            close()
        known.close()
    return [known.found[key] for key in keys]


def _request(prompt: str, max_tokens: int) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", text=prompt),), max_tokens=max_tokens, temperature=0.0)


def _key(prompt: str, max_tokens: int) -> str:
    return sha256(f"{max_tokens}\x00{prompt}".encode("utf-8", "surrogatepass")).hexdigest()
