"""Checkpoints that count only once they are whole: a run killed while writing one goes on from the one before."""

import shutil
from pathlib import Path

from demur.core.errors import BadInputError
from demur.data.folder import write_text

FOLDER = "checkpoints"
_WHOLE = "complete"


def step_of(checkpoint: Path) -> int:
    """Step of a checkpoint's folder."""
    return int(checkpoint.name.rpartition("-")[2])


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint in a folder; None if there is none."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{_WHOLE}")]
    return max(whole, key=step_of, default=None)


def mark_whole(checkpoint: Path) -> None:
    """Declare a checkpoint whole and remove those before it."""
    write_text(checkpoint / _WHOLE, "")
    for other in checkpoint.parent.glob("checkpoint-*"):
        if other != checkpoint:
            shutil.rmtree(other, ignore_errors=True)


def removed(checkpoint: Path, error: Exception) -> BadInputError:
    """Remove a checkpoint that could not be written; returns the error to raise."""
    shutil.rmtree(checkpoint, ignore_errors=True)
    kept = newest(checkpoint.parent)
    going_on = f"to go on from step {step_of(kept)}" if kept else "from the beginning"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return BadInputError(f"{checkpoint}: cannot be written: {reason}; free space and run the same again {going_on}")


def clear_checkpoints(out: Path) -> None:
    """Remove the checkpoints of a run that is finished and saved."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)
