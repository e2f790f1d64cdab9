"""trl's preference trainers over rows that are already ids; with `token_adapter`, the only files that import trl.

Left to themselves they encode text in their own way, hash whole models to name caches, and load the reference anew.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from demur.train.guarded import Guarded, silenced
from demur.train.preferences import Pair, PreferenceSettings
from demur.train.row_loop import training_device
from demur.train.rows import IGNORED


class _Checked(Guarded):
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]  # the trainer's
        self.check_loss(float(loss))
        return loss

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: the run's report says what was done."""


class _Dpo(_Checked, DPOTrainer):  # type: ignore[misc]  # trl has no types
    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class _Kto(_Checked, KTOTrainer):  # type: ignore[misc]
    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class _Orpo(_Checked, ORPOTrainer):  # type: ignore[misc]
    pass


class _Encoded(list[dict[str, Any]]):
    """Rows that need no mapping any more."""

    def map(self, *_: Any, **__: Any) -> "_Encoded":
        """Themselves."""
        return self


def preference_trainer(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], settings: PreferenceSettings, checkpoints: Path
) -> Any:
    """The method's trainer, ready to train."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    given = {"model": model, "processing_class": tokenizer}
    if settings.method == "orpo":
        rows: Any = _Encoded(_orpo_row(pair) for pair in pairs)
        return silenced(_Orpo(args=_arguments(ORPOConfig, settings, checkpoints, model), train_dataset=rows, **given))
    if not hasattr(model, "peft_config"):
        given["ref_model"] = copy.deepcopy(model).eval().requires_grad_(False)
    if settings.method == "dpo":
        rows = Dataset.from_list(
            [{"prompt_ids": p.prompt, "chosen_ids": p.chosen, "rejected_ids": p.rejected} for p in pairs]
        )
        return silenced(_Dpo(args=_arguments(DPOConfig, settings, checkpoints, model), train_dataset=rows, **given))
    rows = Dataset.from_list(_kto_rows(pairs, settings))
    return silenced(_Kto(args=_arguments(KTOConfig, settings, checkpoints, model), train_dataset=rows, **given))


def _arguments(kind: Any, settings: PreferenceSettings, checkpoints: Path, model: Any) -> Any:
    device = training_device(model)
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    replies = 2 if kind is KTOConfig else 1  # its rows are single replies
    micro = _micro_rows(settings)
    return kind(
        output_dir=str(checkpoints),
        beta=settings.beta,
        max_length=settings.max_tokens,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=micro * replies,
        gradient_accumulation_steps=settings.batch_rows // micro,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=settings.warmup if settings.warmup < 1 else 0,
        weight_decay=settings.weight_decay,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=settings.save_steps,
        report_to=[],
        seed=settings.seed,
        data_seed=settings.seed,
        remove_unused_columns=False,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=bf16,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=device.type == "cpu",
    )


def _micro_rows(settings: PreferenceSettings) -> int:
    """Pairs in a forward pass: the most allowed that make up a step evenly."""
    return max(n for n in range(1, settings.micro_rows + 1) if settings.batch_rows % n == 0)


def _orpo_row(pair: Pair) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt_input_ids": list(pair.prompt), "prompt_attention_mask": [1] * len(pair.prompt)}
    for name, reply in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        ids = [*pair.prompt, *reply]
        row[f"{name}_input_ids"], row[f"{name}_attention_mask"] = ids, [1] * len(ids)
        row[f"{name}_labels"] = [*([IGNORED] * len(pair.prompt)), *reply]
    return row


def _kto_rows(pairs: Sequence[Pair], settings: PreferenceSettings) -> list[dict[str, Any]]:
    """Each reply on its own, in an order where a batch has both sides; the KL term from replies of the same batch."""
    order = np.random.default_rng(settings.seed).permutation(len(pairs))
    apart = np.roll(order, len(pairs) // 2)  # the two replies of one prompt do not meet
    rows = []
    for first, second in zip(order, apart, strict=True):
        rows.append({"prompt_ids": pairs[first].prompt, "completion_ids": pairs[first].chosen, "label": True})
        rows.append({"prompt_ids": pairs[second].prompt, "completion_ids": pairs[second].rejected, "label": False})
    size = 2 * _micro_rows(settings)
    for at in range(0, len(rows), size):
        batch = rows[at : at + size]
        for number, row in enumerate(batch):
            row["KL_completion_ids"] = batch[number - 1]["completion_ids"]
    return rows
