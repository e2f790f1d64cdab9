"""Level of risk and intent guessed from words alone, for rows that name neither; the suite's card says how crudely."""

import re
import tomllib
from functools import cache
from importlib.resources import files

from demur.suites.constructive import Intent, RiskLevel


def guessed_level(text: str) -> RiskLevel:
    """Level of risk: pressure on the model counts as adversarial, everything else as sensitive.

    'none' is never guessed: alarming words say nothing about danger (on the suite, lists of them did worse than always
    saying 'sensitive'), and care that was not needed costs less than care that was missing.
    """
    return "adversarial" if _holds("pushes", text) else "sensitive"


def guessed_intent(text: str) -> Intent:
    """Intent: an order, a question of opinion, a question, or a statement."""
    if _holds("pushes", text):
        return "directive_aggressive"
    if _holds("order", text):
        return "directive"
    if _holds("opinion", text):
        return "inquiry_opinion"
    return "inquiry_information" if "?" in text else "declarative"


def _holds(name: str, text: str) -> bool:
    return any(pattern.search(text) for pattern in _cues()[name])


@cache
def _cues() -> dict[str, list[re.Pattern[str]]]:
    text = files("demur.constructive").joinpath("utterance.toml").read_text(encoding="utf-8")
    return {
        name: [re.compile(p, re.IGNORECASE | re.MULTILINE) for p in patterns]
        for name, patterns in tomllib.loads(text).items()
    }
