"""English verbs in the past: a short table of exceptions, spelling rules for the rest."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_VOWELS = "aeiou"
_ONE_SYLLABLE = re.compile(r"[^aeiou]*(?:qu)?[aeiouy][^aeiouywx]\Z")  # plan, stop, quit: short vowel, one consonant


@dataclass(frozen=True, slots=True)
class Forms:
    """Past and participle of a verb."""

    past: str
    participle: str


def past(verb: str) -> str:
    """Simple past of a base form: 'write' -> 'wrote', 'plan' -> 'planned'; a leading capital is kept."""
    return _like(verb, _forms(verb.lower()).past)


def participle(verb: str) -> str:
    """Past participle of a base form: 'write' -> 'written'."""
    return _like(verb, _forms(verb.lower()).participle)


def is_irregular(verb: str) -> bool:
    """Whether the table names the forms of this base form."""
    return verb.lower() in _table()[0]


@cache
def request_verbs() -> frozenset[str]:
    """Base forms that can begin a request: those of `requests.txt` and every irregular verb but 'be' and 'have'."""
    text = _text("requests.txt")
    return frozenset(" ".join(text).split()) | (frozenset(_table()[0]) - {"be", "have", "mean", "light", "wet", "rid"})


def _forms(verb: str) -> Forms:
    if "-" in verb:  # 'double-check': the last part carries the ending
        head, _, last = verb.rpartition("-")
        forms = _forms(last)
        return Forms(f"{head}-{forms.past}", f"{head}-{forms.participle}")
    irregular, doubling = _table()
    if verb in irregular:
        return irregular[verb]
    regular = _regular(verb, doubles=verb in doubling)
    return Forms(regular, regular)


def _regular(verb: str, *, doubles: bool) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and len(verb) > 1 and verb[-2] not in _VOWELS:
        return verb[:-1] + "ied"
    if verb.endswith("c"):
        return verb + "ked"
    return verb + verb[-1] + "ed" if doubles or _ONE_SYLLABLE.fullmatch(verb) else verb + "ed"


def _like(verb: str, form: str) -> str:
    return form[:1].upper() + form[1:] if verb[:1].isupper() else form


@cache
def _table() -> tuple[dict[str, Forms], frozenset[str]]:
    irregular: dict[str, Forms] = {}
    doubling = set()
    for line in _text("verbs.txt"):
        parts = line.split()
        if len(parts) == 1:
            doubling.add(parts[0])
        else:
            irregular[parts[0]] = Forms(parts[1], parts[-1])
    return irregular, frozenset(doubling)


def _text(name: str) -> list[str]:
    lines = files("demur.stress").joinpath(name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]
