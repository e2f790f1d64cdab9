"""The loss curve of a run while it runs: every step on disk at once, the report rewritten every few seconds."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from demur.data.journal import KeyedJournal

if TYPE_CHECKING:
    from demur.train.row_trainer import Step

STEPS = "steps.jsonl"
SECONDS_BETWEEN_REPORTS = 20.0


class LiveCurve:
    """Collects steps; a resumed run continues the same curve.

    Args:
        out: Folder of the run.
        summary: What the report can already say.
        seconds: Between two reports.
    """

    def __init__(self, out: Path, summary: Mapping[str, Any], *, seconds: float = SECONDS_BETWEEN_REPORTS) -> None:
        self.out, self.summary, self.seconds = out, dict(summary), seconds
        self._journal: KeyedJournal[dict[str, float]] = KeyedJournal(
            out / STEPS, field="losses", read=_losses, write=dict
        )
        self._written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._journal.close()

    def watch(self, step: "Step") -> None:
        """Keep a step's losses, and rewrite the report if it is time."""
        self._journal.add(str(step.number), {"all": step.loss, **step.by_kind})
        now = time.monotonic()
        if now - self._written >= self.seconds:
            self._written = now
            self._report(step)

    def losses(self) -> dict[str, list[float]]:
        """Losses by kind, in the order of the steps; a kind that is the only one is not repeated."""
        steps = [self._journal.found[key] for key in sorted(self._journal.found, key=int)]
        kinds = list(dict.fromkeys(kind for step in steps for kind in step))
        if len(kinds) == 2:
            kinds = ["all"]
        return {kind: [step[kind] for step in steps if kind in step] for kind in kinds}

    def _report(self, step: "Step") -> None:
        from demur.report.document import write_document
        from demur.report.training_run import render_training_run

        progress = {"done": step.number, "steps": step.steps}
        summary = {**self.summary, "losses": self.losses(), "progress": progress}
        write_document(self.out / "report.html", render_training_run(summary))


def _losses(held: Any) -> dict[str, float]:
    return {str(kind): float(loss) for kind, loss in held.items()}
