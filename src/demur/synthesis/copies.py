"""Whether a prompt repeats a seed or an example instead of being written anew."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

RUN_WORDS = 8  # shared words in a row that are no accident
WHOLE_WORDS = 5  # a source of so many words must not stand in a prompt as a whole
# Scripts without spaces count by character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|[^\W_]+")


def folded_words(text: str) -> list[str]:
    """Words without case, accents' encodings, punctuation and spacing; single characters in scripts without spaces."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def folded(text: str) -> str:
    """The same as one string."""
    return " ".join(folded_words(text))


class Sources:
    """Seeds and examples that prompts must not repeat.

    A prompt copies a source if it is the same but for case, punctuation and spacing, if it contains a source of five
    words or more, or if eight words in a row stand in both.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        listed = [words for text in texts if (words := folded_words(text))]
        self._whole = {tuple(words) for words in listed}
        self._runs: dict[int, set[tuple[str, ...]]] = {}
        for words in listed:
            if len(words) >= WHOLE_WORDS:
                size = min(RUN_WORDS, len(words))
                self._runs.setdefault(size, set()).update(_runs(words, size))

    def copied(self, prompt: str) -> bool:
        """Whether the prompt repeats one of them."""
        words = folded_words(prompt)
        return tuple(words) in self._whole or any(
            not runs.isdisjoint(_runs(words, size)) for size, runs in self._runs.items()
        )


def _runs(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
