"""What people decided: one line for each decision, on disk before the page says so; the last one counts."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.synthesis.draft import Draft

Choice = Literal["keep", "drop", "undecided"]
Reason = Literal["", "not allowed", "not alarming", "unnatural", "duplicate", "other"]
MAX_BYTES = 20_000_000


class Decision(Frozen):
    """One decision about one prompt.

    Attributes:
        id: The draft.
        choice: What to do; 'undecided' takes an earlier decision back.
        prompt: The text as a person rewrote it; '' for unchanged.
        reason: Why it is dropped.
        reviewer: Who decided.
        time: When, in UTC.
    """

    id: Annotated[str, Field(max_length=300)]
    choice: Choice
    prompt: Annotated[str, Field(max_length=4_000)] = ""
    reason: Reason = ""
    reviewer: Annotated[str, Field(max_length=100)] = ""
    time: Annotated[str, Field(max_length=40)] = ""


class DecisionBook:
    """The decisions of one folder."""

    def __init__(self, path: Path, drafts: Sequence[Draft]) -> None:
        self.path = path
        self._known = {draft.id for draft in drafts}
        self.latest: dict[str, Decision] = {}
        self._torn = False
        if path.is_file():
            self._read(path.read_text(encoding="utf-8", errors="replace"))

    def add(self, decision: Decision) -> Decision:
        """Keep a decision; it is on disk when this returns.

        Raises:
            BadInputError: No such prompt.
            OSError: It cannot be written.
        """
        if decision.id not in self._known:
            raise BadInputError(f"id: expected a prompt of this review, got {decision.id[:60]!r}; reload the page")
        kept = decision.model_copy(
            update={
                "time": decision.time or datetime.now(UTC).isoformat(timespec="seconds"),
                "prompt": decision.prompt.strip().encode("utf-8", "replace").decode("utf-8"),
            }
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if self._torn else "") + json.dumps(kept.model_dump()) + "\n")
            file.flush()
        self._torn = False
        self.latest[kept.id] = kept
        return kept

    def add_all(self, decisions: Iterable[Decision]) -> int:
        """Keep those that say something new; how many did."""
        new = [d for d in decisions if not _same(self.latest.get(d.id), d)]
        for decision in new:
            self.add(decision)
        return len(new)

    @property
    def decided(self) -> dict[str, Decision]:
        """Prompts that are decided about now."""
        return {name: d for name, d in self.latest.items() if d.choice != "undecided"}

    def _read(self, text: str) -> None:
        self._torn = bool(text) and not text.endswith("\n")
        for line in text.split("\n"):
            try:
                decision = Decision.model_validate_json(line)
            except ValidationError:
                continue  # the line that was being written when the server was killed
            if decision.id in self._known:
                self.latest[decision.id] = decision


def read_decisions(path: Path) -> list[Decision]:
    """Decisions that the page without a server saved.

    Raises:
        BadInputError: The file is not of that form.
    """
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise BadInputError(f"{path}: expected the decisions.json that the review page saved, found none of that size")
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["decisions"]
        return [Decision.model_validate(entry) for entry in listed]
    except (ValueError, KeyError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise BadInputError(f"{path}: expected the decisions.json that the review page saved; {why}") from None


def _same(old: Decision | None, new: Decision) -> bool:
    if old is None:
        return new.choice == "undecided"
    return (old.choice, old.prompt, old.reason) == (new.choice, new.prompt.strip(), new.reason)
