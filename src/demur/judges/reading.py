"""How a rule reads a reply: quotes and code masked, sentences with their positions.

Masking keeps the length, so that a span found in the masked text is a span of the reply.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property, lru_cache

_FOLD = (
    ("\u2019", "'"), ("\u2018", "'"), ("\u02bc", "'"), ("\u00b4", "'"),
    ("\u201c", '"'), ("\u201d", '"'), ("\u00a0", " "),
)  # fmt: skip
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{1,200}`", re.DOTALL)
# A quotation: paired marks around at least one space, so that feet, inches and apostrophes stay.
_QUOTE = re.compile(
    r"\"(?=[^\"\n]{0,600} )[^\"\n]{2,600}\"|\u00ab[^\u00bb]{2,600}\u00bb"
    r"|\u201e[^\u201c\u201d\"]{2,600}[\u201c\u201d\"]|\u300c[^\u300d]{2,300}\u300d"
    r"|(?<![\w'])'(?=[^'\n]{0,300} )(?:[^'\n]|'(?=\w)){2,300}'(?!\w)"
)
_BLOCKQUOTE = re.compile(r"^[ \t]*>.*$", re.MULTILINE)
_SENTENCE = re.compile(r"[^.!?\n\u3002\uff01\uff1f\u0964]+(?:[.!?\u3002\uff01\uff1f\u0964]+|\n|\Z)")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_RUN = re.compile(r"\w+")
_LIST_ITEM = re.compile(r"^[ \t]*(?:[-*\u2022+]|\d{1,2}[.)])[ \t]+\S", re.MULTILINE)
MAX_CHARS = 20_000


@dataclass(frozen=True)
class Reading:
    """A reply as rules see it; positions are characters of the reply's first `MAX_CHARS`."""

    text: str

    @cached_property
    def language(self) -> str | None:
        """As `foreign.language_of` names it."""
        from demur.judges.foreign import language_of

        return language_of(self.words, self.folded)

    @cached_property
    def folded(self) -> str:
        """The reply with typographic quotes folded to plain ones; same length."""
        text = self.text[:MAX_CHARS]
        if not text.isascii():
            for typographic, plain in _FOLD:
                text = text.replace(typographic, plain)
        return text

    @cached_property
    def masked(self) -> str:
        """The folded reply with code, quotations and emphasis marks blanked; same length."""
        blank = self.folded
        for pattern in (_CODE, _BLOCKQUOTE):
            blank = pattern.sub(_blank, blank)
        # A reply that is one quotation throughout is its author's own words, not a quotation.
        unquoted = _QUOTE.sub(_blank, blank)
        if len(_WORD.findall(unquoted)) >= 4 or not _QUOTE.search(blank):
            blank = unquoted
        return blank.replace("*", " ").replace("_", " ").replace("#", " ")

    @cached_property
    def sentences(self) -> list[tuple[int, int]]:
        """Start and end of each sentence or line of the masked text that holds a word."""
        return [m.span() for m in _SENTENCE.finditer(self.masked) if _WORD.search(m.group())]

    @cached_property
    def sentence_words(self) -> list[int]:
        """Number of words in each sentence."""
        return [len(_RUN.findall(self.masked, start, end)) for start, end in self.sentences]

    @cached_property
    def words(self) -> list[str]:
        """Lower-case words of the masked text; CJK characters count one by one."""
        found = _WORD.findall(self.masked.casefold())
        if self.masked.isascii():
            return found
        words: list[str] = []
        for token in found:
            words.extend(token if is_cjk(token[0]) else (token,))
        return words

    @property
    def n_list_items(self) -> int:
        """Bulleted or numbered lines."""
        return len(_LIST_ITEM.findall(self.folded))

    @property
    def has_code(self) -> bool:
        """Whether there is a code block."""
        return "```" in self.text


def is_cjk(character: str) -> bool:
    """Whether a character is written without spaces between words (Han, kana, Thai)."""
    return "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff" or "\u0e00" <= character <= "\u0e7f"


class _Invisible(dict[int, str | None]):
    """Deletes control, format, surrogate and unassigned characters; learns each character once."""

    def __missing__(self, point: int) -> str | None:
        character = chr(point)
        hidden = character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn")
        self[point] = None if hidden else character
        return self[point]


_INVISIBLE = _Invisible()


def visible(text: str) -> str:
    """The text without control, format and surrogate characters: what a person would see."""
    return text if text.isprintable() else text.translate(_INVISIBLE)


@lru_cache(maxsize=2048)
def read(text: str) -> "Reading":
    """A reading, kept for a while: judges read the same reply several times."""
    return Reading(text)


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match.group())
