"""What a prompt asks for: a deed ('how do I bake bread', 'write a letter'), a question, or nothing recognised.

Real prompts wrap the request in greetings and stories. The clause that asks is looked for in the whole prompt, then
in its sentences and clauses; what stands around it is kept as it is.
"""

import re
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from demur.stress.inflection import request_verbs

Kind = Literal["deed", "question", "other"]
# Hostile prompts may be one endless sentence of commas: the request is looked for within bounds.
MAX_SENTENCES, MAX_CLAUSES, TAIL = 40, 40, 40
_LEAD = re.compile(
    r"(?:(?:hi|hiya|hello|hey|please|kindly|ok|okay|fine|simply|so|now|then|and|but|well|just|anyway|also|quick|yo|bruh|"
    r"mate|could|can|would|will|i need|i want|i'd like|i would like|tell me|show me|teach me|help me|be so kind as|"
    r"i should be obliged if|you|to|us|me)\b[\s,:!]*)+",
    re.IGNORECASE,
)
_HOW = re.compile(
    r"(?:explain|describe|tell|show|teach|ask|wonder(?:ing)?|know|say|give|advise)?\s*(?:me|us|please|you|kindly)?\s*"
    r"how\s+(?:to|(?:do|can|could|would|should|might|may|must|shall|does)\s+(?:i|we|you|one|people|someone|anyone|they)|"
    r"(?:i|we|you|one|people)(?:\s+(?:can|could|may|might|should|would))?)\s+(?:(?:best|actually|really|\w+ly)\s+)*"
    r"(?P<verb>[a-z][a-z-]*)\b(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_WAY = re.compile(
    r"(?:what(?:'s| is| are)|which is)\s+(?:the |a |some )?(?:\w+ )?(?:ways?|methods?|steps?)\s+(?:to|for me to)\s+"
    r"(?P<verb>[a-z][a-z-]*)\b(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_QUESTION = re.compile(
    r"(?P<wh>(?:what|which|who|whom|whose|why|where|when|how)\b(?:(?!\b(?:do|does|is|are|can|has|have)\b)[^,.?!;])*)?"
    r"\b(?P<aux>do|does|is|are|can|has|have)\s+(?P<rest>.+)",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+|\n|\Z)\s*")
_BREAK = re.compile(
    r"(?:,|;|:| -| –| —)\s+(?:(?:and|so|but|then|now|anyway)\b,?\s+)?|\b(?:so|then|and)\s+", re.IGNORECASE
)
_MANNER = frozenset({"much", "many", "long", "far", "old", "often", "come", "about", "likely"})
# Of the irregular verbs, those that nobody is told to do.
_UNASKED = frozenset(
    {"do", "can", "know", "feel", "understand", "hear", "think", "lie", "see", "say", "fall", "cost", "hurt"}
)
_TRAILING = re.compile(r"[\s,;:\u2013\u2014-]*(?:\b(?:so|and|but|then|now)\b[\s,]*)*\Z", re.IGNORECASE)
_TAG = re.compile(
    r",\s*(?:will you|would you|could you|can you|got it|yeah|ok|okay|right|please|pls|plz|thx|thanks)\Z", re.I
)
_PERSONS = {
    "i": "they",
    "me": "them",
    "my": "their",
    "mine": "theirs",
    "myself": "themselves",
    "we": "they",
    "us": "them",
    "our": "their",
    "ours": "theirs",
    "ourselves": "themselves",
    "i'm": "they're",
    "i've": "they've",
    "i'll": "they'll",
    "i'd": "they'd",
    "we're": "they're",
    "we've": "they've",
    "am": "are",
}
_PERSON = re.compile(
    r"\b(?:i'm|i've|i'll|i'd|we're|we've|" + "|".join(k for k in _PERSONS if "'" not in k) + r")\b", re.I
)
_TO_ME = re.compile(r"\s*\b(?:me|us|for me|for us)\b", re.IGNORECASE)
_GIVING = frozenset(
    {
        "give",
        "show",
        "tell",
        "find",
        "write",
        "make",
        "send",
        "teach",
        "hand",
        "read",
        "get",
        "post",
        "explain",
        "describe",
        "list",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The asking clause of a prompt, and what stands around it.

    Attributes:
        kind: 'deed' (verb and rest are a verb phrase), 'question' (wh, auxiliary, rest) or 'other' (rest is all).
        verb: Base form of the deed, or the question's auxiliary.
        rest: What follows it, without the closing mark.
        wh: Question word and its company; empty for a yes-or-no question.
        before: Text before the clause.
        after: Text after it.
    """

    kind: Kind
    verb: str = ""
    rest: str = ""
    wh: str = ""
    before: str = ""
    after: str = ""


def find_request(prompt: str) -> Request:
    """The clause of a prompt that asks for something; kind 'other' where none is recognised."""
    text = " ".join(prompt.replace("\u2019", "'").split())
    sentences = _SENTENCE.findall(text)
    for number, sentence in list(enumerate(sentences))[: -MAX_SENTENCES - 1 : -1]:
        found = _in_sentence(sentence.strip())
        if found is not None:
            before, request = found
            lead = " ".join(part for part in ("".join(sentences[:number]).strip(), before) if part)
            after = "".join(sentences[number + 1 :]).strip()
            return _placed(request, lead, after)
    return Request(kind="other", rest=text)


def _in_sentence(sentence: str) -> tuple[str, Request] | None:
    starts = [0, *(m.end() for m in islice(_BREAK.finditer(sentence), MAX_CLAUSES))]
    for start in starts:
        request = _clause(sentence[start:])
        # Within a sentence 'which was ...' is a relative clause unless the sentence asks.
        relative = request is not None and request.kind == "question" and start and not sentence.endswith("?")
        if request is not None and not relative:
            lead = sentence[:start]
            return lead[:-TAIL] + _TRAILING.sub("", lead[-TAIL:], count=1), request
    return None


def _clause(text: str) -> Request | None:
    text = _TAG.sub("", text.strip().rstrip("?!. "))
    bare = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    for candidate in (text, bare):
        for pattern in (_HOW, _WAY):
            found = pattern.match(candidate)
            if found and found["verb"].lower() not in _MANNER:
                return _deed(found["verb"], found["rest"])
    word = re.match(r"(?P<verb>[a-z][a-z-]*)\b(?P<rest>.*)", bare, re.IGNORECASE | re.DOTALL)
    if word and word["verb"].lower() in request_verbs() and word["verb"].lower() not in _UNASKED:
        return _deed(word["verb"], word["rest"])
    question = _QUESTION.match(text)
    if question and question["rest"].strip() and not _addresses_you(question["rest"]):
        return Request(
            kind="question",
            verb=question["aux"].lower(),
            rest=_third_person(question["rest"].strip()),
            wh=(question["wh"] or "").strip(),
        )
    return None


def _addresses_you(rest: str) -> bool:
    """'Can you ...' asks for a deed of the model's, not about the world."""
    return re.match(r"(?:you|i)\b", rest.strip(), re.IGNORECASE) is not None


def _deed(verb: str, rest: str) -> Request:
    verb = verb.lower()
    if verb in _GIVING:
        rest = _TO_ME.sub("", rest, count=1) if _TO_ME.match(rest) else rest
    return Request(kind="deed", verb=verb, rest=_third_person(rest.strip()))


def _third_person(text: str) -> str:
    return _PERSON.sub(lambda m: _PERSONS[m.group().lower()], text)


def _placed(request: Request, before: str, after: str) -> Request:
    return Request(kind=request.kind, verb=request.verb, rest=request.rest, wh=request.wh, before=before, after=after)
