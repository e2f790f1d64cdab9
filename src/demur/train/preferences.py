"""Preference training through trl: DPO, ORPO and KTO on pairs of a chosen and a rejected reply."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from demur.core.errors import BadInputError, MissingExtraError
from demur.core.exchange import Frozen
from demur.train.checkpoints import FOLDER, newest, step_of
from demur.train.peak_memory import peak_memory, watch_memory
from demur.train.row_trainer import Positive, Say, Share, Step, Trained
from demur.train.rows import Encoder, encoder_of
from demur.train.supervised import ended

Method = Literal["dpo", "orpo", "kto"]


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """A prompt with the better and the worse reply; KTO learns from each on its own."""

    prompt: str
    chosen: str
    rejected: str
    system: str = ""
    id: str = ""


class PreferenceSettings(Frozen):
    """How preferences are learnt.

    Attributes:
        method: 'dpo' and 'kto' hold on to the model as it was (a copy of adapter or model); 'orpo' needs none.
        beta: Strength of the preference term (DPO, KTO), or its weight beside the loss of the chosen text, which in
            trl's ORPO covers the prompt too.
        learning_rate: Peak.
        schedule: What it does after the peak.
        warmup: Share of steps before the peak.
        weight_decay: Of AdamW.
        epochs: Passes over the pairs.
        max_steps: Stop after this many optimiser steps; None = after the epochs.
        batch_rows: Pairs in an optimiser step, over all devices.
        micro_rows: Pairs in one forward pass.
        max_tokens: Longest prompt and reply.
        gradient_checkpointing: Compute activations twice instead of keeping them.
        seed: Of order and dropout.
        save_steps: Steps between checkpoints.
    """

    method: Method
    beta: Positive = 0.1
    learning_rate: Positive = 5e-6
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    warmup: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    epochs: Positive = 1.0
    max_steps: Annotated[int, Field(ge=1)] | None = None
    batch_rows: Annotated[int, Field(ge=1)] = 16
    micro_rows: Annotated[int, Field(ge=1)] = 4
    max_tokens: Annotated[int, Field(ge=16)] = 1024
    gradient_checkpointing: bool = False
    seed: int = 0
    save_steps: Annotated[int, Field(ge=1)] = 50


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference as ids; both replies with their end."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


def train_preferences(
    model: Any,
    tokenizer: Any,
    examples: Sequence[PreferenceExample],
    settings: PreferenceSettings,
    out: Path,
    say: Say = lambda *_: None,
    *,
    watch: Callable[[Step], None] = lambda _: None,
) -> Trained:
    """Train a model in place on preferences; goes on from the newest complete checkpoint under `out`/checkpoints.

    Dropout is switched off for good, as in the methods' own code. What DPO and KTO hold on to is the model as it is
    when it is given: a copy of the adapter, or of the whole model.

    Args:
        model: A transformers model, or the peft model over it (`adapters.attach`).
        tokenizer: The model's.
        examples: Prompts with a better and a worse reply.
        settings: How.
        out: Folder of the run.
        say: Told ('training', steps done, steps).
        watch: Told each finished step; `by_kind` holds the implied rewards' margins and accuracies.

    Raises:
        BackendError: The loss is not a number; the last checkpoint is kept.
        BadInputError: No pairs, an empty reply, two replies that are the same, or a full disk.
        MissingExtraError: trl is not installed.
    """
    encoder = encoder_of(tokenizer, max_tokens=settings.max_tokens)
    pairs = [encoded_pair(encoder, example) for example in examples]
    if not pairs:
        raise BadInputError("training: expected pairs of a chosen and a rejected reply, got none")
    try:
        from demur.train.preference_loop import preference_trainer
        from demur.train.row_loop import training_device
    except ImportError:
        raise MissingExtraError("preference training", extra="train") from None
    from demur.train.guarded import Told, curve_of

    def tell(step: Step) -> None:
        watch(step)
        say("training", step.number, step.steps)

    resumed = newest(out / FOLDER)
    device = training_device(model)
    watch_memory(device)
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trl warns of settings that are on purpose
        trainer = preference_trainer(model, tokenizer, pairs, settings, out / FOLDER)
        trainer.add_callback(Told(tell))
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    if "ref" in getattr(model, "peft_config", {}):
        model.delete_adapter("ref")  # trl's copy of how the adapter began
    first, steps = step_of(resumed) if resumed else 0, trainer.state.global_step
    passes = (steps - first) * settings.batch_rows / len(pairs)
    replies = sum(len(pair.chosen) + len(pair.rejected) for pair in pairs)
    return Trained(
        curve=curve_of(trainer.state.log_history, steps),
        tokens=round(passes * (2 * sum(len(pair.prompt) for pair in pairs) + replies)),
        learnt=round(passes * replies),
        seconds=time.perf_counter() - begun,
        peak_memory=peak_memory(device),
        resumed_at=first,
        layout="padded",
    )


def encoded_pair(encoder: Encoder, example: PreferenceExample) -> Pair:
    """A preference as ids.

    Raises:
        BadInputError: A reply is empty, or both are the same.
    """
    prompt = encoder.prompt(example.prompt, system=example.system, origin=example.id)
    room = encoder.max_tokens - len(prompt)
    chosen, rejected = (
        ended(encoder, encoder.reply(text), room=room, origin=example.id) for text in (example.chosen, example.rejected)
    )
    if chosen == rejected:
        raise BadInputError(
            f"{example.id or repr(example.prompt[:40])}: expected two different replies, got the same twice (within "
            f"max_tokens = {encoder.max_tokens}); leave the pair out"
        )
    return Pair(prompt, chosen, rejected)
