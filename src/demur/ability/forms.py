"""Whether a reply has the form that was asked for: pure functions of the text, its content is nobody's business here.

Checks are exact where the instruction is (case, letters, JSON) and forgiving where people would be: quotation marks
around a reply, a full stop after the last word, or `*` for `-` do not fail it.
"""

import json
import re
from collections.abc import Callable

from demur.suites.ability import CheckKind, FormCheck

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_NUMBERED = re.compile(r"^[ \t]*(\d{1,3})[.):][ \t]+\S", re.MULTILINE)
_BULLET = re.compile(r"^[ \t]*[-*•–][ \t]+\S", re.MULTILINE)
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL | re.IGNORECASE)
# An end mark before a space and a new sentence; not after an initial or a common abbreviation.
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bSt)(?<!e\.g)(?<!i\.e)[.!?]+[\"”’')]*\s+(?=\S)"
)
_AROUND = "\"'“”‘’«»*_` \t\n"
_AFTER = ".!?…"


def has_form(check: FormCheck, reply: str) -> bool:
    """Whether a reply passes a check; an empty one never does."""
    text = reply.strip()
    return bool(text) and _CHECKS[check.kind](check, text)


def _words(text: str) -> int:
    return len(_WORD.findall(text))


def _bare(text: str) -> str:
    return text.strip(_AROUND)


def _words_at_most(check: FormCheck, text: str) -> bool:
    return _words(text) <= (check.number or 0)


def _words_between(check: FormCheck, text: str) -> bool:
    low, high = (int(number) for number in check.texts)
    return low <= _words(text) <= high


def _starts_with(check: FormCheck, text: str) -> bool:
    return any(form.casefold().startswith(check.texts[0].strip().casefold()) for form in (text, _bare(text)))


def _ends_with(check: FormCheck, text: str) -> bool:
    wanted = check.texts[0].strip().casefold()
    bare = _bare(text)
    forms = (text, bare, bare.rstrip(_AFTER), _bare(bare.rstrip(_AFTER)))
    return any(form.casefold().endswith(w) for form in forms for w in (wanted, wanted.rstrip(_AFTER) or wanted))


def _contains(check: FormCheck, text: str) -> bool:
    return all(wanted.casefold() in text.casefold() for wanted in check.texts)


def _lower_case(_: FormCheck, text: str) -> bool:
    return text == text.lower() and any(map(str.isalpha, text))


def _upper_case(_: FormCheck, text: str) -> bool:
    return text == text.upper() and any(map(str.isalpha, text))


def _numbered_list(check: FormCheck, text: str) -> bool:
    """Numbers that count up from 1, as many as asked for."""
    numbers = [int(found) for found in _NUMBERED.findall(text)]
    return numbers == list(range(1, len(numbers) + 1)) and _as_many(check, len(numbers))


def _bullets(check: FormCheck, text: str) -> bool:
    return _as_many(check, len(_BULLET.findall(text)))


def _as_many(check: FormCheck, found: int) -> bool:
    return found == check.number if check.number is not None else found >= 2


def _json_object(check: FormCheck, text: str) -> bool:
    """A JSON object and nothing else, a code fence allowed; with exactly the keys asked for, if any were."""
    fenced = _FENCE.match(text)
    try:
        found = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and (not check.texts or set(check.texts) == set(found))


def _one_sentence(_: FormCheck, text: str) -> bool:
    return "\n" not in text and _SENTENCE_END.search(text) is None


def _no_letter(check: FormCheck, text: str) -> bool:
    return not set(check.texts[0].casefold()) & set(text.casefold())


def _n_paragraphs(check: FormCheck, text: str) -> bool:
    return len([part for part in re.split(r"\n[ \t]*\n", text) if part.strip()]) == check.number


_CHECKS: dict[CheckKind, Callable[[FormCheck, str], bool]] = {
    "words_at_most": _words_at_most,
    "words_between": _words_between,
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "contains": _contains,
    "lower_case": _lower_case,
    "upper_case": _upper_case,
    "numbered_list": _numbered_list,
    "bullets": _bullets,
    "json_object": _json_object,
    "one_sentence": _one_sentence,
    "no_letter": _no_letter,
    "n_paragraphs": _n_paragraphs,
}
