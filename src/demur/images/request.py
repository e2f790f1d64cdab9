"""A request for images, whether it asks for an empty picture itself, and how much of it a vendor's rewriting kept."""

import re
import unicodedata
from typing import Literal

from pydantic import JsonValue

from demur.core.exchange import Frozen

Blank = Literal["black", "white"]
# Vendors that always elaborate a prompt keep its words; below this share something was taken out or replaced.
REWRITTEN_BELOW = 0.8

_THING = r"(?:image|picture|photo(?:graph)?|frame|screen|square|rectangle|canvas|page|card|slide|sheet|wallpaper|fill)"
_ONLY = (
    r"(?:all|completely|entirely|fully|solid|plain|pure(?:ly)?|totally|uniform(?:ly)?|nothing but|just|simply|blank)"
)
_COLOURS: dict[Blank, str] = {
    "black": r"(?:black|schwarz(?:e[nrs]?)?|noire?s?|ner[oaie]|negr[oa]s?|siyah)",
    "white": r"(?:white|wei(?:ß|ss)(?:e[nrs]?)?|blanc(?:he)?s?|bianc[oa]|blanc[oa]s?|beyaz)",
}
_EMPTY = re.compile(
    rf"\b(?:blank|empty|leere[sr]?|vierge|vide|vuot[oa]|boş)\s+(?:\w+\s+)?(?:{_THING}|bild|blatt|seite|leinwand|page|"
    r"image|toile|pagina|immagine|tela|sayfa|tuval)\b"
)
_DARKNESS = re.compile(r"\b(?:total|complete|absolute|utter|pitch[- ]black)\s+darkness\b|\bpitch[- ]black\s+nothing\b")
_STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "by",
        "to",
        "for",
        "with",
        "and",
        "or",
        "as",
        "is",
        "are",
        "be",
        "being",
        "been",
        "it",
        "its",
        "his",
        "her",
        "their",
        "this",
        "that",
        "these",
        "those",
        "from",
        "into",
        "onto",
        "over",
        "under",
        "image",
        "picture",
        "photo",
        "photograph",
        "painting",
        "drawing",
        "illustration",
        "render",
        "show",
        "showing",
        "depict",
        "depicting",
        "create",
        "generate",
        "draw",
        "make",
        "please",
        "me",
        "of",
    ]
)


class ImageRequest(Frozen):
    """What is asked of an images interface.

    Attributes:
        prompt: The request.
        n: Images wanted.
        size: Width x height as the vendor writes it; '' for its default.
        seed: Seed, where the vendor takes one; the i-th image gets seed + i.
        settings: Further fields of the vendor's own, e.g. `moderation` or `safety_tolerance`: they change the result.
    """

    prompt: str
    n: int = 1
    size: str = ""
    seed: int | None = None
    settings: dict[str, JsonValue] = {}


def asked_blank(prompt: str) -> frozenset[Blank]:
    """Colours of empty picture that the prompt itself asks for; such a frame is then what was wanted.

    A black background, a black cat or a night scene asks for no empty picture.
    """
    text = unicodedata.normalize("NFKC", prompt).casefold()
    found: set[Blank] = set()
    for colour, names in _COLOURS.items():
        filled = rf"\b{_ONLY}[ -]{names}\b(?!\s+(?:background|cat|dress|suit|hair|coat|shirt|horse|dog|ink|marble))"
        named = rf"\b{names}\s+{_THING}\b(?!\s+(?:of|showing|with|frame|and\s+white))"
        foreign = rf"\b(?:bild|quadrat|carr[eé]|quadrato|kare|cuadrado)\s+{names}\b|\b{names}\s+(?:bild|quadrat|kare)\b"
        if re.search(f"{filled}|{named}|{foreign}", text):
            found.add(colour)
    if _EMPTY.search(text):
        found |= {"white", "black"} if "black" in found else {"white"}
    if _DARKNESS.search(text):
        found.add("black")
    return frozenset(found)


def words_kept(prompt: str, revised: str) -> float:
    """Share of a prompt's content words that recur in another wording, by stem; 1 when the prompt has none."""
    wanted = _content(prompt)
    there = _content(revised)
    return sum(word in there for word in wanted) / len(wanted) if wanted else 1.0


def is_rewritten(prompt: str, revised: str) -> bool:
    """Whether a vendor's own prompt left out or replaced what was asked for; mere elaboration does not count."""
    if not revised.strip() or _words(prompt) == _words(revised):
        return False
    return words_kept(prompt, revised) < REWRITTEN_BELOW


def _content(text: str) -> set[str]:
    return {_stem(word) for word in _words(text) if word not in _STOP_WORDS}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word
