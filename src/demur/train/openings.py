"""Plain first sentences of replies that decline: what text after a forced refusal token begins with.

Our responses are written for their prompts, no two alike; a small model shown a few thousand of them learns the topic
and not the declining. A plain sentence in front is learnt in minutes, and the response still follows it.
"""

import tomllib
from functools import cache
from hashlib import sha256
from importlib.resources import files

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
