"""Every reply of every model on disk the moment it exists: after a kill, nothing that was answered is asked again."""

import os
from hashlib import sha256
from pathlib import Path
from typing import IO

from demur.core.errors import BadInputError
from demur.data import journal


class ReplyJournal(journal.ReplyJournal):
    """Replies by model, step, item and the text that was asked; one process at a time may write it.

    Raises:
        BadInputError: Another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
        _lock(file, path)
        super().__init__(path)
        self._mend()
        self._file = file

    @staticmethod
    def key(model: str, step: str, item: str, text: str) -> str:
        """Key of a reply; another wording or another model is another question."""
        return sha256("\x1f".join((model, step, item, text)).encode("utf-8", "replace")).hexdigest()[:32]


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
