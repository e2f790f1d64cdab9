"""What a model once answered: numbers and replies by item and model, so that no item is read twice by one revision."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from demur.data.journal import KeyedJournal

FORMAT = 1


class AbilityMemory:
    """Values by item of one model.

    Args:
        path: File to continue; None = nothing is kept.
        identity: Names the model, revision and all.
    """

    def __init__(self, path: Path | None = None, *, identity: str = "") -> None:
        self._identity = identity
        self._found: dict[str, Any] = {}
        self._journal = KeyedJournal[Any](path, field="value", read=lambda v: v, write=lambda v: v) if path else None
        if self._journal is not None:
            self._found = self._journal.found

    def key(self, part: str, *content: Any) -> str:
        """Key of an item: everything that can change its value."""
        whole = json.dumps([FORMAT, self._identity, part, *content], ensure_ascii=True)
        return sha256(whole.encode("ascii")).hexdigest()[:24]

    def get(self, key: str) -> Any:
        """The value; None where there is none."""
        return self._found.get(key)

    def add(self, key: str, value: Any) -> None:
        """Keep a value; on disk at once where there is a file."""
        if self._journal is None:
            self._found[key] = value
        else:
            self._journal.add(key, value)

    def close(self) -> None:
        """Close the file."""
        if self._journal is not None:
            self._journal.close()
