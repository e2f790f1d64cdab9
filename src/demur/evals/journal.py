"""Every reply on disk the moment it exists, so that an interrupted run asks no prompt twice.

Inspect writes finished samples in batches; what was in flight when a run is killed would be
asked again.
"""

from hashlib import sha256
from pathlib import Path

from demur.data.journal import ReplyJournal


class Journal(ReplyJournal):
    """Replies of one run, by sample id, prompt and model identity."""

    def __init__(self, path: Path, *, identity: str) -> None:
        super().__init__(path)
        self.identity = identity

    def key(self, sample_id: str, prompt: str) -> str:
        """Key of a reply: it changes with the model's identity and with the prompt's text."""
        text = f"{self.identity}\x1f{sample_id}\x1f{prompt}"
        return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
