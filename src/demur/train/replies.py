"""What training rows learn to say after their control token: a plain opening where they decline, else an answer.

Our responses are written for their prompts, no two alike; a small model shown a few thousand of them learns the topic
and not the declining. A plain sentence in front is learnt in minutes, and the response still follows it. Answers are
better left as the base gives them: what is learnt from other answers is lost elsewhere.
"""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files

import numpy as np

from demur.suites.training import TrainingRow


@cache
def load_openings() -> dict[str, tuple[str, ...]]:
    """Opening sentences by category."""
    text = files("demur.train").joinpath("openings.toml").read_text(encoding="utf-8")
    return {category: tuple(texts) for category, texts in tomllib.loads(text)["openings"].items()}


def reply_text(row: TrainingRow, *, openings: bool) -> str:
    """What a row's reply is learnt to be; empty where nothing is.

    Args:
        row: A training row; one that should be refused may come without a response and still get an opening.
        openings: Put a plain opening of the row's category, the same one in every run, before what should decline.
    """
    known = load_openings().get(row.category, ())
    if row.expected != "refuse" or not openings or not known:
        return row.appropriate
    number = int.from_bytes(sha256(row.id.encode()).digest()[:4], "big") % len(known)
    return f"{known[number]} {row.appropriate}".strip()


def drawn_for_replies(rows: Sequence[TrainingRow], share: float, seed: int) -> list[int]:
    """Numbers of the rows whose reply is learnt: the same share of every category and side, in order."""
    names = sorted({(row.category, row.expected) for row in rows})
    return even_draw([names.index((row.category, row.expected)) for row in rows], round(share * len(rows)), seed)


def learnt_replies(
    rows: Sequence[TrainingRow], drawn: Sequence[int], *, openings: bool, answers: Mapping[str, str] | None = None
) -> list[str]:
    """The reply that each row learns; empty for those that learn their control token only.

    Args:
        rows: Training rows.
        drawn: Numbers of those that learn a reply.
        openings: Begin replies that decline with a plain sentence.
        answers: The base's own answers by row id: what rows to answer learn; None = the rows' responses.
    """
    replies = [""] * len(rows)
    for i in drawn:
        own = answers is not None and rows[i].expected == "comply"
        replies[i] = (answers or {}).get(rows[i].id, "") if own else reply_text(rows[i], openings=openings)
    return replies


def even_draw(groups: Sequence[int], wanted: int, seed: int) -> list[int]:
    """Numbers of `wanted` members, each group giving its share; in order."""
    rng = np.random.default_rng(seed)
    ranked = []
    for group in sorted(set(groups)):
        members = rng.permutation([i for i, g in enumerate(groups) if g == group])
        ranked += [((place + 0.5) / len(members), int(i)) for place, i in enumerate(members)]
    return sorted(i for _, i in sorted(ranked)[:wanted])
