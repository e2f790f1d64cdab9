"""Values on disk by key the moment they exist, so that an interrupted run does nothing twice.

One JSON line for each, `{"key": ..., FIELD: ...}`, handed to the operating system at once; a line torn by a kill is
ignored and mended.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from demur.core.chat import ChatReply

T = TypeVar("T")


class KeyedJournal(Generic[T]):
    """Values by key.

    Args:
        path: File to continue; made when first written to.
        field: Name of the value in a line.
        read: The value of what JSON held; a line it raises ValueError, KeyError or TypeError for is left out.
        write: What JSON is to hold of a value.
    """

    def __init__(self, path: Path, *, field: str, read: Callable[[Any], T], write: Callable[[T], Any]) -> None:
        self.path = path
        self.found: dict[str, T] = {}
        self._field, self._from_json, self._to_json = field, read, write
        self._file: IO[str] | None = None
        if path.is_file():
            self._read()

    def add(self, key: str, value: T) -> None:
        """Append one value; it outlives the process when this returns."""
        self.add_all({key: value})

    def add_all(self, new: Mapping[str, T]) -> None:
        """Append values and hand them to the operating system before returning."""
        self.found.update(new)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._mend()
            self._file = self.path.open("a", encoding="utf-8")
        for key, value in new.items():
            self._file.write(json.dumps({"key": key, self._field: self._to_json(value)}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; adding again opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> None:
        with self.path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                    self.found[str(entry["key"])] = self._from_json(entry[self._field])
                except (ValueError, KeyError, TypeError):
                    continue  # the line that was being written when the run was killed

    def _mend(self) -> None:
        if self.path.is_file() and self.path.stat().st_size:
            with self.path.open("rb+") as file:
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")


class ReplyJournal(KeyedJournal[ChatReply]):
    """Replies of models by key.

    Args:
        path: File to continue; made when first written to.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            path, field="reply", read=ChatReply.model_validate, write=lambda reply: reply.model_dump(mode="json")
        )

    @property
    def replies(self) -> dict[str, ChatReply]:
        """Every reply there is."""
        return self.found
