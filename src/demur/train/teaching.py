"""Lessons taught to a model: encoded for the loss that a recipe names, and handed to the trainer of that loss."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from demur.core.errors import BadInputError
from demur.train.circuit_breaking import ACCEPT, REJECT, CircuitSettings
from demur.train.circuit_run import train_circuit_breaking
from demur.train.derta import prefix_row, refusal_token_id, rto_row
from demur.train.lesson import Lesson
from demur.train.preferences import PreferenceExample, PreferenceSettings, train_preferences
from demur.train.row_trainer import Say, Step, Trained, train_rows
from demur.train.rows import Encoder, Example, LabelledRow, encoder_of
from demur.train.supervised import supervised_row
from demur.train.training_recipe import TrainingRecipe

# What becomes of a triple: each part uses it twice, so that all parts read as many rows.
_PARTS = {
    "vanilla": ("refusal", "refusal"),
    "prefix": ("prefix", "prefix"),
    "rto": ("refusal", "rto"),
    "both": ("prefix", "rto"),
}
Watch = Callable[[Step], None]
_NO_LIMIT = 2**31
_SHORTEST_REPLY = 8  # tokens that a prompt must leave; less teaches nothing


def teach(
    model: Any,
    tokenizer: Any,
    lessons: Sequence[Lesson],
    recipe: TrainingRecipe,
    out: Path,
    *,
    say: Say = lambda *_: None,
    watch: Watch = lambda _: None,
) -> Trained:
    """Train a model in place on lessons, by the loss of the recipe; resumes from checkpoints in `out`.

    Args:
        model: The model with its adapter attached.
        tokenizer: Its tokenizer.
        lessons: Complete: no own answer is missing.
        recipe: Loss, optimiser and seed.
        out: Folder of the checkpoints.
        say: Told stage, done, total.
        watch: Told each step.

    Raises:
        BadInputError: Rows that cannot be encoded.
        BackendError: The loss became not a number; the last checkpoint is kept.
    """
    if recipe.loss == "rows":
        drawn_anew = partial(encoded_rows, lessons, recipe, tokenizer)
        rows = drawn_anew if recipe.method == "derta" else drawn_anew()
        return train_rows(model, tokenizer, rows, recipe.settings, out, say, watch=watch)
    if recipe.loss == "cb":
        prompts = [_example(x, REJECT if x.side == "refuse" else ACCEPT) for x in lessons]
        return train_circuit_breaking(model, tokenizer, prompts, circuit_settings(recipe), out, say, watch=watch)
    pairs = preference_examples(lessons)
    return train_preferences(model, tokenizer, pairs, preference_settings(recipe), out, say, watch=watch)


def encoded_rows(
    lessons: Sequence[Lesson], recipe: TrainingRecipe, tokenizer: Any, epoch: int = 0
) -> list[LabelledRow]:
    """Lessons as labelled rows; prefixes and transitions are drawn anew in every epoch.

    Raises:
        BadInputError: A row that leaves no room for its reply, or a refusal word of several tokens.
    """
    encoder = encoder_of(tokenizer, max_tokens=recipe.max_tokens)
    rows = [cut_reply(supervised_row(encoder, _example(x)), recipe.reply_tokens) for x in lessons if x.kind != "triple"]
    triples = [x for x in lessons if x.kind == "triple"]
    if triples and recipe.method != "derta":
        return rows + [cut_reply(supervised_row(encoder, _example(x)), recipe.reply_tokens) for x in triples]
    return rows + _derta_rows(triples, recipe, encoder, epoch) if triples else rows


def fitting(lessons: Sequence[Lesson], recipe: TrainingRecipe, tokenizer: Any) -> list[Lesson]:
    """Lessons whose prompt leaves room for a reply within the recipe's longest row."""
    encoder = encoder_of(tokenizer, max_tokens=_NO_LIMIT)
    room = recipe.max_tokens - min(_SHORTEST_REPLY, recipe.max_tokens // 2)
    return [x for x in lessons if len(encoder.prompt(x.prompt, system=x.system)) < room]


def cut_reply(row: LabelledRow, tokens: int | None) -> LabelledRow:
    """A row with at most so many learnt tokens from the first one on; a cut reply is not shown to end."""
    end = len(row.ids) if tokens is None else row.learnt[0] + tokens
    return LabelledRow(row.ids[:end], row.labels[:end], row.weights[:end], row.kind)


def preference_examples(lessons: Sequence[Lesson]) -> list[PreferenceExample]:
    """Pairs and triples as a better and a worse reply."""
    return [
        PreferenceExample(prompt=x.prompt, chosen=x.good, rejected=x.bad, system=x.system, id=x.id) for x in lessons
    ]


def preference_settings(recipe: TrainingRecipe) -> PreferenceSettings:
    """The optimiser of a recipe as the preference trainer takes it.

    Raises:
        BadInputError: The recipe's loss is none over pairs.
    """
    if recipe.loss not in ("dpo", "orpo", "kto"):
        raise BadInputError(f"method {recipe.method}: expected a loss over pairs, got {recipe.loss!r}")
    own = recipe.settings
    return PreferenceSettings(
        method=recipe.loss,
        beta=recipe.preference.beta,
        learning_rate=own.learning_rate,
        schedule=own.schedule,
        warmup=own.warmup,
        weight_decay=own.weight_decay,
        epochs=own.epochs,
        max_steps=own.max_steps,
        batch_rows=own.batch_rows,
        micro_rows=min(own.batch_rows, 4),
        max_tokens=recipe.max_tokens,
        gradient_checkpointing=own.gradient_checkpointing,
        seed=own.seed,
        save_steps=own.save_steps,
    )


def _derta_rows(triples: Sequence[Lesson], recipe: TrainingRecipe, encoder: Encoder, epoch: int) -> list[LabelledRow]:
    """Two rows for each triple, by the recipe's parts."""
    rng, settings = np.random.default_rng([recipe.seed, epoch]), recipe.derta
    parts = _PARTS[settings.parts]
    refusal_id = refusal_token_id(encoder.tokenizer, settings.word) if "rto" in parts else -1
    rows: list[LabelledRow] = []
    for index, lesson in enumerate(triples):
        for part in parts:
            example = _example(lesson, part, unwanted=_shortened(encoder, lesson.bad, recipe.reply_tokens))
            if part == "rto":
                rows.append(rto_row(encoder, example, settings, refusal_id=refusal_id, rng=rng))
                continue
            row: LabelledRow | None = supervised_row(encoder, example)
            if part == "prefix":
                row = prefix_row(encoder, example, settings, index=index, rng=rng)
            if row is not None:
                rows.append(cut_reply(row, recipe.reply_tokens))
    return rows


def _shortened(encoder: Encoder, text: str, tokens: int | None) -> str:
    ids = encoder.reply(text)
    return text if tokens is None or len(ids) <= tokens else str(encoder.tokenizer.decode(list(ids[:tokens])))


def _example(lesson: Lesson, kind: str = "", *, unwanted: str = "") -> Example:
    return Example(
        prompt=lesson.prompt,
        response=lesson.good,
        kind=kind or ("refusal" if lesson.side == "refuse" else "answer"),
        system=lesson.system,
        weight=lesson.weight,
        unwanted=unwanted,
        id=lesson.id,
    )


def circuit_settings(recipe: TrainingRecipe) -> CircuitSettings:
    """The optimiser and scope of a recipe as circuit breaking takes them."""
    own = {**recipe.settings.model_dump(), "max_tokens": recipe.max_tokens}
    return CircuitSettings(**own, strength=recipe.scope.strength, depths=recipe.scope.depths)
