"""Every reply of every model on disk the moment it exists: after a kill, nothing that was answered is asked again.

One JSON line for each reply, handed to the operating system at once; a line torn by a kill is ignored and mended.
"""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from demur.core.chat import ChatReply
from demur.core.errors import BadInputError


class ReplyJournal:
    """Replies by model, step, item and the text that was asked; one process at a time may write it.

    Raises:
        BadInputError: Another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replies: dict[str, ChatReply] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = path.open("a+", encoding="utf-8")
        _lock(self._file, path)
        torn = self._read()
        if torn:
            self._file.write("\n")

    @staticmethod
    def key(model: str, step: str, item: str, text: str) -> str:
        """Key of a reply; another wording or another model is another question."""
        return sha256("\x1f".join((model, step, item, text)).encode("utf-8", "replace")).hexdigest()[:32]

    def add(self, key: str, reply: ChatReply) -> None:
        """Append one reply; it outlives the process when this returns."""
        self.replies[key] = reply
        self._file.write(json.dumps({"key": key, "reply": reply.model_dump(mode="json")}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file and let others write it."""
        self._file.close()

    def _read(self) -> bool:
        """Read what is there; whether the last line has no end."""
        self._file.seek(0)
        text = self._file.read()
        for line in text.split("\n"):
            try:
                entry = json.loads(line)
                self.replies[entry["key"]] = ChatReply.model_validate(entry["reply"])
            except (ValueError, KeyError, TypeError, ValidationError):
                continue  # the line that was being written when the run was killed
        return bool(text) and not text.endswith("\n")


def _lock(file: IO[str], path: Path) -> None:
    if os.name != "posix":  # no such lock there; two runs in one folder would ask some prompts twice
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise BadInputError(
            f"{path.parent}: another run is writing here; wait for it, or choose another --out"
        ) from None
