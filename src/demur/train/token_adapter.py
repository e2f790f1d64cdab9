"""LoRA under control tokens, through peft and trl: the reply learns to follow the token.

The token's own row is learnt first, on the frozen model, and then stays: states below the adapter never change, so they
are computed once (`split_model`).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig, TrainableTokensConfig, get_peft_model
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from demur.train.recipe import TokenRecipe
from demur.train.split_model import after_prefix, continuation, decoder_of, embedded
from demur.train.token_rows import TokenRow

Progress = Callable[[int, int], None]


def attach_adapter(model: Any, recipe: TokenRecipe, token_ids: Mapping[str, int], rows: Any) -> Any:
    """A peft model over `model` whose control tokens have the given rows.

    Args:
        model: The base, its vocabulary already resized.
        recipe: Mode and LoRA settings.
        token_ids: Id of each control token by category.
        rows: Learnt rows in the same order; (n_tokens, d_model).
    """
    ids = list(token_ids.values())
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.no_grad():  # peft starts trainable tokens from the table
        model.get_input_embeddings().weight[ids] = rows.to(model.dtype)
        model.get_output_embeddings().weight[ids] = rows.to(model.dtype)
    tables = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # peft calls what transformers has renamed
        torch.manual_seed(recipe.seed)  # LoRA starts from random numbers
        return get_peft_model(model, _peft_config(model, recipe, ids, tables))


def _peft_config(model: Any, recipe: TokenRecipe, ids: list[int], tables: list[str]) -> Any:
    if recipe.mode == "rows":
        return TrainableTokensConfig(token_indices=ids, target_modules=tables)
    lora, n_blocks = recipe.lora, model.config.num_hidden_layers
    first = lora.first_block or 0
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.modules),
        layers_to_transform=list(range(first, n_blocks)) if first else None,
        trainable_token_indices={table: ids for table in tables},
        task_type="CAUSAL_LM",
    )


class TokenTrainer(SFTTrainer):  # type: ignore[misc]  # trl has no types
    """trl's trainer with one loss: control token after the prompt, then the reply; only labelled positions have logits.

    Args:
        rows: Encoded rows; the dataset holds their numbers.
        prefix: Input of the upper blocks for the shared beginning; None = the model's own embeddings of it.
        states: The same for each row's continuation.
        prefix_ids: Ids of the shared beginning.
        control_ids: Id of each control token, by column.
        decision_weight: Weight of the control token's loss.
    """

    def __init__(
        self,
        *args: Any,
        rows: Sequence[TokenRow],
        prefix: Any,
        states: Sequence[Any] | None,
        prefix_ids: Sequence[int],
        control_ids: Sequence[int],
        decision_weight: float,
        **kwargs: Any,
    ) -> None:
        self.rows, self.decision_weight = rows, decision_weight
        self.beginning, self.states = prefix, states
        self.prefix_ids, self.control_ids = tuple(prefix_ids), tuple(control_ids)
        super().__init__(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        numbers = inputs["number"].tolist()
        places, targets, is_decision = self._labelled(numbers)
        if self.accelerator.num_processes > 1:
            logits = self._whole(model, numbers, places)
        else:
            prefix, states = self._inputs(model, numbers)
            hidden, _ = after_prefix(decoder_of(model), prefix, states)
            logits = model.get_output_embeddings()(hidden[_split(places)]).float()
        losses = F.cross_entropy(logits, torch.tensor(targets, device=logits.device), reduction="none")
        first = torch.tensor(is_decision, device=logits.device)
        loss = self.decision_weight * losses[first].mean()
        if not bool(first.all()):
            loss = loss + losses[~first].mean()
        return (loss, None) if return_outputs else loss

    def _whole(self, model: Any, numbers: Sequence[int], places: Sequence[tuple[int, int]]) -> Any:
        """Logits at the labelled positions through the model's own forward, which wrappers for many devices need."""
        n_prefix, pad = len(self.prefix_ids), self.processing_class.pad_token_id or 0
        ids = [(*self.prefix_ids, *self._continuation(i)) for i in numbers]
        width, device = max(map(len, ids)), self.accelerator.device
        output = model(
            input_ids=torch.tensor([[*row, *[pad] * (width - len(row))] for row in ids], device=device),
            attention_mask=torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=device),
            use_cache=False,
        )
        return output.logits[_split([(row, n_prefix + column) for row, column in places])].float()

    def _inputs(self, model: Any, numbers: Sequence[int]) -> tuple[Any, list[Any]]:
        if self.states is not None:
            device = self.accelerator.device
            return self.beginning.to(device), [self.states[i].to(device).float() for i in numbers]
        return embedded(model, self.prefix_ids), [embedded(model, self._continuation(i)) for i in numbers]

    def _continuation(self, number: int) -> tuple[int, ...]:
        return continuation(self.rows[number], len(self.prefix_ids), self.control_ids)

    def _labelled(self, numbers: Sequence[int]) -> tuple[list[tuple[int, int]], list[int], list[bool]]:
        """Positions that have a target: (row, column), target id, and whether it is the control token."""
        places, targets, is_decision = [], [], []
        for place, number in enumerate(numbers):
            row = self.rows[number]
            last = len(row.prompt) - len(self.prefix_ids) - 1
            for offset, target in enumerate((self.control_ids[row.column], *row.reply)):
                places.append((place, last + offset))
                targets.append(target)
                is_decision.append(offset == 0)
        return places, targets, is_decision


def _split(places: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [row for row, _ in places], [column for _, column in places]


class ProgressReport(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Reports steps and remembers the loss curve."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress(state.global_step, state.max_steps)


def training_arguments(recipe: TokenRecipe, checkpoints: Path, *, n_rows: int) -> Any:
    """Settings of trl for a recipe; gradient checkpointing off, since memory is not what is short here."""
    steps = max(1, round(recipe.decision_epochs * n_rows / recipe.batch_rows))
    return SFTConfig(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_rows,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe.warmup * steps),
        weight_decay=0.01,
        max_grad_norm=1.0,
        logging_steps=5,
        save_steps=recipe.save_steps,
        save_total_limit=1,
        report_to=[],
        seed=recipe.seed,
        data_seed=recipe.seed,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        gradient_checkpointing=False,
        max_length=None,
        completion_only_loss=False,
        bf16=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        loss_type="nll",
    )


def numbered(rows: Sequence[TokenRow]) -> Any:
    """Dataset of row numbers and lengths: what the trainer shuffles and groups by length."""
    lengths = [len(row.prompt) + len(row.reply) for row in rows]
    return Dataset.from_dict({"number": list(range(len(rows))), "length": lengths})


def collate(features: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """Row numbers of a batch."""
    return {"number": torch.tensor([feature["number"] for feature in features])}
