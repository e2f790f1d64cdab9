"""The phrases that `stance` looks for: data in `stance_cues.toml`, compiled here once."""

import re
import tomllib
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Literal

from demur.core.culture import LANGUAGES, Language

Kind = Literal["no_view", "halves", "disagree", "agree", "weighs", "aside"]
# In order of strength within one sentence: "I do not agree" holds "agree", "I partly agree" too.
KINDS: tuple[Kind, ...] = ("no_view", "halves", "disagree", "agree", "weighs", "aside")
# What, right before an agreement, turns it round.
NEGATED = re.compile(
    r"\b(?:not|never|n't|cannot|kaum|nie|niemals|jamais|guère|mai|hardly)\s+(?:\w+\s+)?$", re.IGNORECASE
)


@cache
def stance_cues() -> dict[Language, dict[Kind, re.Pattern[str]]]:
    """One pattern for each language and kind."""
    data = tomllib.loads(_text())
    return {
        language: {kind: re.compile("|".join(data[language][kind]), re.IGNORECASE) for kind in KINDS}
        for language in LANGUAGES
    }


@cache
def cues_hash() -> str:
    """Hash of the phrases: part of the reader's version."""
    return sha256(_text().encode("utf-8")).hexdigest()[:8]


def _text() -> str:
    return files("demur.cultures").joinpath("stance_cues.toml").read_text(encoding="utf-8")
