"""What was computed for a text, on disk at once, so that an interrupted run computes nothing twice."""

from hashlib import sha256
from pathlib import Path

from demur.data.journal import KeyedJournal

Numbers = list[list[float]]


class NumberJournal(KeyedJournal[Numbers]):
    """Rows of numbers by key.

    Args:
        path: File to continue; made when first written to.
        identity: Names the model and the way of asking; part of every key.
    """

    def __init__(self, path: Path, *, identity: str) -> None:
        super().__init__(
            path, field="numbers", read=lambda rows: [[float(value) for value in row] for row in rows], write=list
        )
        self.identity = identity

    def key(self, *parts: str) -> str:
        """Key of a text and whatever else its numbers depend on."""
        text = "\x1f".join((self.identity, *parts))
        return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
