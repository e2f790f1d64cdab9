"""Refusal tokens taught to a model: rows on a frozen trunk first, then LoRA under them; an ordinary adapter."""

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.core.errors import BackendError, BadInputError
from demur.data.folder import write_json
from demur.models.adapter import TOKENS_FILE
from demur.suites.training import TrainingRow
from demur.train.control_rows import fit_rows
from demur.train.recipe import TokenRecipe
from demur.train.replies import even_draw
from demur.train.split_model import continuation, decoder_of, splits_exactly, states_of
from demur.train.token_rows import TokenRow, encode_rows, shared_prefix
from demur.train.tokens import TokenSet, add_control_tokens, control_tokens, initial_rows

# Rows whose final states are computed to teach the tokens' rows before LoRA: enough to place six vectors.
N_ROWS_FIRST = 768
# Longest row of a control token that text shall follow, in mean lengths of the vocabulary's rows. With tied tables the
# row is also what the model reads next: left free it grows to 1.3 and the reply's loss after it from 4.4 to 15 on
# SmolLM2; at 0.8 the tokens still hold 98 % of the mass and the loss is 5.5 before the adapter has learnt anything.
LONGEST_ROW = 0.8
Say = Callable[[str, int, int], None]


@dataclass(slots=True, eq=False)
class TokenRun:
    """A run on its way: what each step needs from the one before.

    Attributes:
        recipe: What was asked for.
        model: The base, then the peft model.
        tokenizer: With the control tokens.
        tokens: Their texts.
        token_ids: Their ids by category.
        rows: Encoded training rows.
        prefix: Ids that every prompt begins with.
        losses: Loss by step of each stage.
        mass: Mean probability of the control tokens after the rows were learnt, on the rows they were learnt on.
        first_block: First block with LoRA.
    """

    recipe: TokenRecipe
    model: Any
    tokenizer: Any
    tokens: TokenSet
    token_ids: dict[str, int]
    rows: list[TokenRow]
    prefix: tuple[int, ...]
    losses: dict[str, list[float]] = field(default_factory=dict)
    mass: float = 0.0
    first_block: int = 0

    @property
    def control_ids(self) -> tuple[int, ...]:
        """Ids by column."""
        return tuple(self.token_ids.values())


def prepared(
    recipe: TokenRecipe,
    model: Any,
    tokenizer: Any,
    rows: Sequence[TrainingRow],
    replies: Sequence[str] | None = None,
) -> TokenRun:
    """Add the tokens, make room for them, encode the rows with the replies they learn.

    Raises:
        BadInputError: A token is not one id, no chat template, or a category has no token.
    """
    tokens = control_tokens(recipe.style, single=recipe.single)
    own_voice = [*map(str, tokenizer.all_special_tokens), *tokens.texts.values()]
    token_ids = add_control_tokens(tokenizer, tokens)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    voice = {*own_voice, *(str(t) for t in tokenizer.added_tokens_decoder.values() if t.special)}
    encoded = encode_rows(
        rows, tokenizer, tokens, control_texts=sorted(voice), replies=replies, reply_tokens=recipe.reply_tokens
    )
    return TokenRun(recipe, model, tokenizer, tokens, token_ids, encoded, shared_prefix(encoded))


def start_rows(run: TokenRun) -> Any:
    """Give the control tokens the mean rows of their related words; (n_tokens, d_model)."""
    import torch

    start = initial_rows(run.tokenizer, run.model.get_input_embeddings().weight.detach(), run.tokens)
    with torch.no_grad():
        run.model.get_input_embeddings().weight[list(run.control_ids)] = start
        run.model.get_output_embeddings().weight[list(run.control_ids)] = start
    return start


def learn_rows(run: TokenRun, *, say: Say) -> Any:
    """Learn the control tokens' rows on the frozen model; (n_tokens, d_model)."""
    import torch

    numbers = even_draw([row.column for row in run.rows], N_ROWS_FIRST, run.recipe.seed)
    if run.recipe.mode == "rows":
        numbers = list(range(len(run.rows)))
    n_prefix = len(run.prefix)
    _, states = states_of(
        run.model,
        [run.rows[i].prompt[n_prefix:] for i in numbers],
        run.prefix,
        last_block=None,
        progress=lambda done, total: say("reading prompts", done, total),
    )
    table = run.model.get_output_embeddings().weight.detach().float().cpu()
    ordinary = torch.ones(len(table), dtype=torch.bool)
    ordinary[list(run.control_ids)] = False
    fitted = fit_rows(
        torch.stack(states),
        [run.rows[i].column for i in numbers],
        start_rows(run).cpu(),
        table[ordinary],
        settings=run.recipe.rows,
        longest=None if run.recipe.mode == "rows" else LONGEST_ROW * float(table[ordinary].norm(dim=1).mean()),
        seed=run.recipe.seed,
    )
    run.losses["control rows"], run.mass = list(fitted.losses), fitted.mass
    return fitted.rows


def n_processes() -> int:
    """Processes of this run, as `accelerate launch` sets them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process writes what a run leaves."""
    return int(os.environ.get("RANK", "0")) == 0


def train_lora(run: TokenRun, rows: Any, folder: Path, *, say: Say) -> None:
    """Train LoRA under the learnt rows; resumes from the newest checkpoint in `folder`.

    With several processes every block is trained, through the model's own forward, and the adapter is written from
    all of them at the end: parts of it may lie on each device.

    Raises:
        BackendError: The loss is not a number; the last checkpoint is kept.
    """
    from demur.train.token_adapter import attach_adapter

    recipe, n_blocks = run.recipe, run.model.config.num_hidden_layers
    wanted = recipe.lora.first_block
    usual = 3 * n_blocks // 5 if run.model.device.type == "cpu" else 0
    if n_processes() > 1:
        wanted = 0
    run.first_block = _first_block(run, usual if wanted is None else wanted)
    prefix_states, states = None, None
    run.model = attach_adapter(
        run.model,
        recipe.model_copy(update={"lora": recipe.lora.model_copy(update={"first_block": run.first_block})}),
        run.token_ids,
        rows,
    )
    if run.first_block:
        prefix_states, states = _lower_states(run, say)
        for name, parameter in run.model.named_parameters():
            # Cached states were computed with these rows; moving them now would leave the states behind.
            parameter.requires_grad_(parameter.requires_grad and "trainable_tokens" not in name)
    run.losses["adapter"] = _fit_adapter(run, prefix_states, states, folder, say)


def save_run(run: TokenRun, folder: Path, *, base_revision: str) -> None:
    """Write the adapter, its tokenizer and its token record; the record comes last, so half an adapter is none."""
    (folder / TOKENS_FILE).unlink(missing_ok=True)
    if n_processes() == 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft looks for the base on the hub to save its configuration
            run.model.save_pretrained(folder, save_embedding_layers=False)
    run.tokenizer.save_pretrained(folder)
    write_json(
        folder / TOKENS_FILE,
        {
            "format": 1,
            "mode": run.recipe.mode,
            "style": run.recipe.style,
            "base": run.recipe.model,
            "base_revision": base_revision,
            "tokens": {name: {"text": text, "id": run.token_ids[name]} for name, text in run.tokens.texts.items()},
        },
    )


def p_any(run: TokenRun, rows: Sequence[TrainingRow], *, say: Say) -> tuple[NDArray[np.float64], float]:
    """Posterior that some refusal token applies, by prompt, and the control tokens' mean mass, as the model is now."""
    import torch

    voice = sorted(str(t) for t in run.tokenizer.added_tokens_decoder.values() if t.special)
    encoded = encode_rows(rows, run.tokenizer, run.tokens, control_texts=voice)
    model = run.model.get_base_model() if hasattr(run.model, "get_base_model") else run.model
    model.eval()
    n = len(run.prefix)
    _, states = states_of(
        model,
        [row.prompt[n:] for row in encoded],
        run.prefix,
        last_block=None,
        progress=lambda done, total: say("measuring", done, total),
    )
    with torch.inference_mode():
        table = model.get_output_embeddings()
        logits = torch.cat([table(part.to(table.weight)).float().cpu() for part in torch.stack(states).split(64)])
        own = logits[:, list(run.control_ids)]
        mass = torch.exp(torch.logsumexp(own, 1) - torch.logsumexp(logits, 1)).mean()
        posterior = 1.0 - torch.softmax(own, dim=1)[:, -1]
    return posterior.double().numpy(), float(mass)


def _fit_adapter(run: TokenRun, prefix: Any, states: Any, folder: Path, say: Say) -> list[float]:
    from transformers.trainer_utils import get_last_checkpoint

    from demur.train.split_model import only_blocks
    from demur.train.token_adapter import ProgressReport, TokenTrainer, collate, numbered, training_arguments

    inner, checkpoints = decoder_of(run.model.get_base_model()), folder / "checkpoints"
    with only_blocks(inner, run.first_block, len(inner.layers)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trl warns of settings that are on purpose
        trainer = TokenTrainer(
            model=run.model,
            args=training_arguments(run.recipe, checkpoints, n_rows=len(run.rows)),
            train_dataset=numbered(run.rows),
            processing_class=run.tokenizer,
            data_collator=collate,
            callbacks=[ProgressReport(lambda done, total: say("training", done, total))],
            rows=run.rows,
            prefix=prefix,
            states=states,
            prefix_ids=run.prefix,
            control_ids=run.control_ids,
            decision_weight=run.recipe.decision_weight,
        )
        resume = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
        trainer.train(resume_from_checkpoint=resume)
        if n_processes() > 1:
            trainer.save_model(str(folder))
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def _lower_states(run: TokenRun, say: Say) -> tuple[Any, Any]:
    run.model.eval()
    return states_of(
        run.model.get_base_model(),
        [continuation(row, len(run.prefix), run.control_ids) for row in run.rows],
        run.prefix,
        last_block=run.first_block,
        progress=lambda done, total: say("lower blocks", done, total),
    )


def _first_block(run: TokenRun, wanted: int) -> int:
    """The first block with LoRA: the one wanted, or 0 where the model cannot be run in two parts."""
    if not 0 <= wanted < run.model.config.num_hidden_layers:
        raise BadInputError(f"lora.first_block: expected 0 to {run.model.config.num_hidden_layers - 1}, got {wanted}")
    if wanted == 0:
        return 0
    try:
        exact = splits_exactly(run.model.eval(), run.rows[0], len(run.prefix), wanted)
    except (BadInputError, AttributeError, TypeError, ValueError):
        return 0
    return wanted if exact else 0


def check_finite(losses: Mapping[str, Sequence[float]]) -> None:
    """Raise if a stage's loss is not a number.

    Raises:
        BackendError: It is not; names the stage.
    """
    for stage, values in losses.items():
        if not np.isfinite(values).all():
            raise BackendError(
                f"{stage}: the loss became {json.dumps(str(values[-1]))}; lower the learning rate and run again",
                retriable=False,
            )
