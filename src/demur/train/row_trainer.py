"""One trainer for every row: weighted cross-entropy on the labelled positions, resumable to the bit.

Rows, order and batches are decided before the first step and only from the seed, so that a run interrupted anywhere
goes on exactly as it would have. `accelerate launch` runs it on many devices unchanged.
"""

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from demur.core.errors import BadInputError, MissingExtraError
from demur.core.exchange import Frozen
from demur.train.batches import Layout, dealt, step_rows
from demur.train.checkpoints import FOLDER, clear_checkpoints, newest, step_of
from demur.train.peak_memory import peak_memory, watch_memory
from demur.train.rows import LabelledRow

__all__ = ["Positive", "Say", "Share", "Step", "Trained", "TrainerSettings", "clear_checkpoints", "train_rows"]

Say = Callable[[str, int, int], None]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class TrainerSettings(Frozen):
    """How rows are learnt.

    Attributes:
        learning_rate: Peak.
        schedule: What it does after the peak.
        warmup: Share of steps before the peak.
        weight_decay: Of AdamW.
        epochs: Passes over the rows; may be a fraction.
        max_steps: Stop after this many optimiser steps; None = after the epochs.
        batch_rows: Rows in an optimiser step, over all devices.
        micro_tokens: Most tokens in one forward pass of one device; more rows are accumulated exactly.
        normaliser: What a step's weighted sum of losses is divided by: the 'weights' of its labelled positions, the
            number of 'tokens' that are labelled, or its 'rows' (the sum over tokens of the papers' formulas).
        max_grad_norm: Longer gradients are shortened to this.
        layout: 'packed' = rows end to end without padding, each attending to itself; 'padded' = rows of like length
            side by side; 'auto' = packed on a processor where the model computes the same that way.
        share_prefix: Compute the beginning that all rows share once for each pass; packed layout only.
        gradient_checkpointing: Compute activations twice instead of keeping them.
        precision: Of the arithmetic; 'auto' = bf16 on an accelerator that has it, else fp32.
        seed: Of order and dropout.
        save_steps: Steps between checkpoints; the last step is always one.
    """

    learning_rate: Positive = 1e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    epochs: Positive = 1.0
    max_steps: Annotated[int, Field(ge=1)] | None = None
    batch_rows: Annotated[int, Field(ge=1)] = 16
    micro_tokens: Annotated[int, Field(ge=16)] = 1024
    normaliser: Literal["weights", "tokens", "rows"] = "weights"
    max_grad_norm: Positive = 1.0
    layout: Literal["auto", "packed", "padded"] = "auto"
    share_prefix: bool = True
    gradient_checkpointing: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = 0
    save_steps: Annotated[int, Field(ge=1)] = 50


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step, as it is watched.

    Attributes:
        number: From 1.
        steps: Of the whole run.
        loss: What was minimised.
        by_kind: Mean cross-entropy of each kind's labelled positions, unweighted; of preferences 'margins' and
            'accuracies' of the implied rewards.
    """

    number: int
    steps: int
    loss: float
    by_kind: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run left.

    Attributes:
        curve: Every step from the first on, also those before a resumption.
        tokens: Ids of the rows learnt in these steps, over all devices: their own lengths, without padding.
        learnt: Labelled positions among them.
        seconds: Of this process's steps, checkpoints included, loading not.
        peak_memory: Most bytes in use while training: of the device, or of the process on a processor.
        resumed_at: Step of the checkpoint that this process began from; 0 = from the start.
        layout: The layout used.
    """

    curve: tuple[Step, ...]
    tokens: int
    learnt: int
    seconds: float
    peak_memory: int
    resumed_at: int
    layout: str

    @property
    def losses(self) -> tuple[float, ...]:
        """Loss by step."""
        return tuple(step.loss for step in self.curve)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of rows a second; 0 where no step was left to do."""
        return self.tokens / self.seconds if self.seconds and self.tokens else 0.0


def train_rows(
    model: Any,
    tokenizer: Any,
    rows: Sequence[LabelledRow] | Callable[[int], Sequence[LabelledRow]],
    settings: TrainerSettings,
    out: Path,
    say: Say = lambda *_: None,
    *,
    watch: Callable[[Step], None] = lambda _: None,
) -> Trained:
    """Train a model in place; goes on from the newest complete checkpoint under `out`/checkpoints.

    The last step's checkpoint stays until `clear_checkpoints(out)`, so that what follows training may fail and be
    repeated without training again.

    Args:
        model: A transformers model, or the peft model over it (`adapters.attach`).
        tokenizer: Names the padding token.
        rows: What is learnt; a function of the epoch where rows are drawn anew in each (random masks).
        settings: How.
        out: Folder of the run.
        say: Told ('training', steps done, steps).
        watch: Told each finished step, for a live loss curve.

    Raises:
        BackendError: The loss is not a number; names the step, and the last checkpoint is kept.
        BadInputError: The disk is full (the last complete checkpoint is kept), nothing is labelled, or an id is
            outside the vocabulary.
        MissingExtraError: transformers is not installed.
    """
    epochs = [rows(e) if callable(rows) else rows for e in range(math.ceil(settings.epochs))]
    every = [row for epoch in epochs for row in epoch]
    _check(every, model)
    steps = step_rows(
        [len(epoch) for epoch in epochs],
        epochs=settings.epochs,
        batch_rows=settings.batch_rows,
        max_steps=settings.max_steps,
        seed=settings.seed,
    )
    device = _device(model)
    layout = _layout(model, every, settings, device)
    resumed = newest(out / FOLDER)
    watch_memory(device)
    begun = time.perf_counter()
    curve = _run(model, tokenizer, _Work(every, steps, settings, layout, device, out / FOLDER), resumed, (say, watch))
    first = step_of(resumed) if resumed else 0
    done = [every[i] for step in steps[first:] for i in step]
    return Trained(
        curve=curve,
        tokens=sum(len(row.ids) for row in done),
        learnt=sum(len(row.learnt) for row in done),
        seconds=time.perf_counter() - begun,
        peak_memory=peak_memory(device),
        resumed_at=first,
        layout=layout,
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """Everything that is decided before the first step."""

    rows: Sequence[LabelledRow]
    steps: Sequence[Sequence[int]]
    settings: TrainerSettings
    layout: Layout
    device: Any
    checkpoints: Path


def _run(
    model: Any, tokenizer: Any, work: _Work, resumed: Path | None, told: tuple[Say, Callable[[Step], None]]
) -> tuple[Step, ...]:
    from demur.train.guarded import Told, curve_of, silenced
    from demur.train.row_loop import RowTrainer, plain, training_arguments
    from demur.train.segments import attending_by_segment

    say, watch = told
    lengths, n_steps = [len(row.ids) for row in work.rows], len(work.steps)
    world = int(os.environ.get("WORLD_SIZE", "1"))

    def tell(step: Step) -> None:
        watch(step)
        say("training", step.number, n_steps)

    attending = attending_by_segment(plain(model)) if work.layout == "packed" else nullcontext()
    with attending, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft looks for the base on the hub when it saves
        trainer = silenced(
            RowTrainer(
                model=model,
                args=training_arguments(work.settings, work.checkpoints, steps=n_steps, device=work.device),
                train_dataset=[{"numbers": hand} for step in work.steps for hand in dealt(step, lengths, world)],
                processing_class=tokenizer,
                data_collator=_only,
                callbacks=[Told(tell)],
                rows=work.rows,
                settings=work.settings,
                layout=work.layout,
            )
        )
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    return curve_of(trainer.state.log_history, n_steps)


def _device(model: Any) -> Any:
    try:
        from demur.train.row_loop import training_device
    except ImportError:
        raise MissingExtraError("training", extra="train") from None
    return training_device(model)


def _layout(model: Any, rows: Sequence[LabelledRow], settings: TrainerSettings, device: Any) -> Layout:
    """The layout asked for, if the model computes the same in it."""
    from demur.train.row_loop import packs

    if settings.layout == "padded" or (settings.layout == "auto" and device.type != "cpu"):
        return "padded"
    if packs(model, rows):
        return "packed"
    if settings.layout == "auto":
        return "padded"
    raise BadInputError(
        f"layout: expected a model that computes rows end to end as it computes each alone, {type(model).__name__} "
        "does not; take layout = 'padded'"
    )


def _check(rows: Sequence[LabelledRow], model: Any) -> None:
    if not any(row.learnt for row in rows):
        raise BadInputError(f"training: expected rows with something to learn, got {len(rows)} without any")
    size = model.get_input_embeddings().weight.shape[0]
    worst = max(max(row.ids) for row in rows)
    if worst >= size:
        raise BadInputError(
            f"training: a row has token id {worst}, the model has {size}; use the tokenizer that belongs to it"
        )


def _only(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return items[0]
