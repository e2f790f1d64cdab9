"""What was computed for a text, on disk at once, so that an interrupted run computes nothing twice.

One JSON line for each text, keyed by everything that could change the numbers; a torn last line is ignored.
"""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import IO

Numbers = list[list[float]]


class NumberJournal:
    """Rows of numbers by key.

    Args:
        path: File to continue; made when first written to.
        identity: Names the model and the way of asking; part of every key.
    """

    def __init__(self, path: Path, *, identity: str) -> None:
        self.path, self.identity = path, identity
        self.found: dict[str, Numbers] = {}
        self._file: IO[str] | None = None
        if path.is_file():
            self.found = dict(_entries(path))

    def key(self, *parts: str) -> str:
        """Key of a text and whatever else its numbers depend on."""
        text = "\x1f".join((self.identity, *parts))
        return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def add(self, new: Mapping[str, Numbers]) -> None:
        """Append rows and hand them to the operating system before returning."""
        self.found.update(new)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torn = self.path.is_file() and not self.path.read_bytes().endswith(b"\n")
            self._file = self.path.open("a", encoding="utf-8")
            if torn:
                self._file.write("\n")
        for key, numbers in new.items():
            self._file.write(json.dumps({"key": key, "numbers": numbers}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; adding again opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _entries(path: Path) -> Iterable[tuple[str, Numbers]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
                yield str(entry["key"]), [[float(value) for value in row] for row in entry["numbers"]]
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written when the run was killed
