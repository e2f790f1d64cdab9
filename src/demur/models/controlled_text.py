"""Reply text in which no control token can be read, however the pieces of a stream are cut."""

from collections.abc import Iterable

from demur.models.untrusted import SPLIT


class ReplyFilter:
    """Splits control tokens that a model spells out letter by letter; the ids themselves are never decoded.

    A piece that could be the beginning of a token is held back until the next one tells. Splitting rather than
    removing: what remains beside a removed token could join into another one.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = tuple(sorted(tokens, key=len, reverse=True))
        self.held = ""

    def add(self, piece: str) -> str:
        """The text that is safe to pass on now."""
        text = self.held + piece
        for token in self.tokens:
            text = text.replace(token, token[0] + SPLIT + token[1:])
        keep = max((_overlap(text, token) for token in self.tokens), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back, once nothing follows."""
        held, self.held = self.held, ""
        return held


def _overlap(text: str, token: str) -> int:
    """Length of the longest end of `text` that begins `token`."""
    return next((n for n in range(min(len(text), len(token) - 1), 0, -1) if text.endswith(token[:n])), 0)
