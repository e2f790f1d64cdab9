"""The loop under `train_rows`: transformers' Trainer with one step's rows as its unit and one loss for all of them."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Trainer, TrainingArguments

from demur.train.batches import Layout, Pass, packed_pass, padded_pass, pass_rows, read_length, total_weight
from demur.train.guarded import Guarded
from demur.train.row_trainer import TrainerSettings
from demur.train.rows import LabelledRow
from demur.train.segments import attending_by_segment

TOLERANCE = 1e-3  # of the largest logit: rounding in another order, no more


class RowTrainer(Guarded, Trainer):  # type: ignore[misc]  # transformers has no types
    """Each item of the dataset is one process's rows of one optimiser step; they are accumulated here, exactly.

    Args:
        rows: All rows of all epochs.
        settings: How they are learnt.
        layout: How they are laid out.
    """

    def __init__(
        self, *args: Any, rows: Sequence[LabelledRow], settings: TrainerSettings, layout: Layout, **kwargs: Any
    ) -> None:
        self.rows, self.settings, self.layout = rows, settings, layout
        self.kinds = sorted({row.kind for row in rows})
        self.last_kinds: dict[str, float] = {}
        super().__init__(*args, **kwargs)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Forward and backward over all passes of a step.

        Raises:
            BackendError: The loss is not a number.
        """
        model.train()
        rows, world = [self.rows[i] for i in inputs["numbers"]], self.accelerator.num_processes
        passes = self._passes(rows)
        divisor = self._summed(torch.tensor([total_weight(rows, self.settings.normaliser)])).item() or 1.0
        sums = torch.zeros((1 + 2 * len(self.kinds)), device=self.accelerator.device)
        for number, part in enumerate(passes):
            last = number == len(passes) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    losses = position_losses(model, part)
                    loss = (losses * part.weights).sum() / divisor
                self.accelerator.backward(loss * world)  # wrappers average over processes
            self._add(sums, loss.detach(), losses.detach(), part)
        sums = self._summed(sums)
        self.check_loss(sums[0].item())
        totals, counts = sums[1:].split(len(self.kinds))
        means = (totals / counts).tolist()
        self.last_kinds = {kind: mean for kind, mean in zip(self.kinds, means, strict=True) if mean == mean}
        return sums[0]

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Keep the loss of each kind beside the step's."""
        super().log({**logs, "kinds": dict(self.last_kinds)} if "loss" in logs else logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: rows are not the tensors it looks for."""
        return 0

    def _passes(self, rows: Sequence[LabelledRow]) -> list[Pass]:
        settings, device = self.settings, self.accelerator.device
        groups = pass_rows(rows, self.layout, tokens=settings.micro_tokens, share=settings.share_prefix)
        wanted = len(groups)
        if self.accelerator.num_processes > 1:  # each pass is a meeting of all processes
            wanted = int(self.accelerator.gather(torch.tensor([wanted], device=device)).max())
        passes = [self._laid_out(group) for group in groups]
        return passes + [self._idle() for _ in range(max(wanted, 1) - len(passes))]

    def _laid_out(self, rows: Sequence[LabelledRow]) -> Pass:
        device = self.accelerator.device
        if self.layout == "packed":
            return packed_pass(rows, self.kinds, device, share=self.settings.share_prefix)
        pad = self.processing_class.pad_token_id
        return padded_pass(rows, self.kinds, device, pad=0 if pad is None else pad)

    def _idle(self) -> Pass:
        """A pass that teaches nothing, for a process with nothing to do."""
        row = min((row for row in self.rows if row.learnt), key=read_length)
        part = self._laid_out([row])
        return Pass(part.inputs, part.places, part.targets, torch.zeros_like(part.weights), part.kinds)

    def _add(self, sums: Any, loss: Any, losses: Any, part: Pass) -> None:
        n = len(self.kinds)
        counted = (part.weights > 0).float()
        sums[0] += loss
        sums[1 : 1 + n].index_add_(0, part.kinds, losses.float() * counted)
        sums[1 + n :].index_add_(0, part.kinds, counted)

    def _summed(self, values: Any) -> Any:
        if self.accelerator.num_processes == 1:
            return values
        return self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum")


def position_losses(model: Any, part: Pass) -> Any:
    """Cross-entropy at each labelled position; only these have logits."""
    logits = model(**part.inputs).logits[part.places].float()
    return F.cross_entropy(logits, part.targets, reduction="none")


def packs(model: Any, rows: Sequence[LabelledRow]) -> bool:
    """Whether a model computes rows end to end as it computes each alone, tried on the two shortest."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window is not None and max(len(row.ids) for row in rows) > window:
        return False
    tried = sorted((row for row in rows if row.learnt), key=read_length)[:2]
    kinds, device = sorted({row.kind for row in rows}), model.device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = [position_losses(model, padded_pass([row], kinds, device, pad=0)) for row in tried]
            with attending_by_segment(plain(model)):
                together = position_losses(model, packed_pass(tried, kinds, device, share=True))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        return False
    finally:
        model.train(was_training)
    expected = torch.cat(alone)
    return bool((together - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1.0))


def plain(model: Any) -> Any:
    """The transformers model inside a peft model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def training_device(model: Any) -> Any:
    """Where transformers' trainer puts a model: the machine's accelerator, if there is one and it may be used."""
    only_processor = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if model.device.type != "cpu" or only_processor:
        return model.device
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")


def training_arguments(settings: TrainerSettings, checkpoints: Path, *, steps: int, device: Any) -> Any:
    """Settings of transformers' trainer."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    precision = settings.precision if settings.precision != "auto" else "bf16" if has_bf16 else "fp32"
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=1,  # of the steps, which hold all epochs of the rows
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=round(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=settings.save_steps,
        report_to=[],
        seed=settings.seed,
        data_seed=settings.seed,
        remove_unused_columns=False,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
        use_cpu=device.type == "cpu",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several devices mean several processes here
    return arguments
