"""What every trainer here does alike: whole checkpoints or none, and no step with a loss that is no number."""

import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from demur.core.errors import BackendError, BadInputError
from demur.train.checkpoints import mark_whole, newest, removed, step_of
from demur.train.row_trainer import Step


class Guarded:
    """Put before transformers' trainer or one of trl's."""

    args: Any
    state: Any
    accelerator: Any

    def check_loss(self, loss: float) -> None:
        """Stop before a step that would spoil the weights.

        Raises:
            BackendError: The loss is infinite or not a number; names the step.
        """
        if math.isfinite(loss):
            return
        kept = newest(Path(self.args.output_dir))
        going_on = f"the checkpoint of step {step_of(kept)} is kept" if kept else "no checkpoint was made before"
        raise BackendError(
            f"training: the loss became {loss} in step {self.state.global_step + 1}; {going_on}; "
            "lower the learning rate, or look for rows that cannot be learnt, and run again",
            retriable=False,
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]  # the trainer's
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                mark_whole(checkpoint)
        except (BadInputError, OSError, RuntimeError, SafetensorError) as error:
            raise removed(checkpoint, error) from None


class Told(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Tells each finished step, once its loss is known."""

    def __init__(self, tell: Any) -> None:
        self.tell = tell

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in (logs or {}):
            self.tell(step_told({**logs, "step": state.global_step}, state.max_steps))


def silenced(trainer: Any) -> Any:
    """A trainer that prints nothing."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def step_told(entry: dict[str, Any], steps: int) -> Step:
    """A step from an entry of a trainer's log."""
    kinds = entry.get("kinds") or {
        name.rpartition("/")[2]: float(entry[name])
        for name in ("rewards/margins", "rewards/accuracies")
        if name in entry
    }
    return Step(int(entry["step"]), steps, float(entry["loss"]), kinds)


def curve_of(history: list[dict[str, Any]], steps: int) -> tuple[Step, ...]:
    """The loss curve from a trainer's log."""
    return tuple(step_told(entry, steps) for entry in history if "loss" in entry)
