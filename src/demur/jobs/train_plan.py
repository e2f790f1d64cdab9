"""Plan a training run: rows, tokens and memory before a weight is loaded, minutes from a measured speed."""

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur.core.errors import BadInputError
from demur.models import parse_model

if TYPE_CHECKING:
    from demur.train.plan import ModelShape, TrainingPlan
    from demur.train.rows import LabelledRow
    from demur.train.training_data import TrainingData
    from demur.train.training_recipe import TrainingRecipe

Say = Callable[[str, int, int], None]
SPEEDS = "training_speed.json"
ANSWER_TOKENS = 96  # of an own answer where the recipe sets no limit
_MEASURED_STEPS = 3


def train_plan(recipe: "TrainingRecipe", *, measure: bool = True, say: Say | None = None) -> dict[str, Any]:
    """What a run will take; nothing is trained, except a few steps to measure the speed.

    Args:
        recipe: The run.
        measure: Measure the speed by a few steps where no earlier run has; needs the model and its memory.
        say: Told stage, done, total.

    Returns:
        Fields of `TrainingPlan`, its minutes, lessons by source, notes, and whether the memory suffices.

    Raises:
        BadInputError: A recipe, row or base that a run would refuse.
    """
    from demur.train.plan import speed_key, store_speed, stored_speed
    from demur.train.training_data import training_data

    data = training_data(recipe, reworded_goals(recipe))
    rows, plan = plan_of(recipe, data)
    key, file = speed_key(recipe, base_name(recipe), _device()), _speeds()
    speed, origin = stored_speed(file, key), "an earlier run on this machine"
    fits = plan.free is None or plan.memory <= plan.free
    if speed is None and measure and fits:
        speed, origin = _measured(recipe, rows, data, say or (lambda *_: None)), f"{_MEASURED_STEPS} measured steps"
        store_speed(file, key, speed)
    plan = replace(plan, tokens_per_second=speed, speed_from=origin if speed else "")
    notes = [*data.notes, *([f"start: {recipe.start} is trained first; plan it by itself."] if recipe.start else [])]
    return {**plan.as_json(), "fits": fits, "sources": data.counts, "notes": notes}


def plan_of(recipe: "TrainingRecipe", data: "TrainingData") -> tuple[list["LabelledRow"], "TrainingPlan"]:
    """Encoded rows of an epoch and their plan; own answers still to be written count with their full length."""
    from demur.models.merging import base_folder, load_tokenizer
    from demur.train.plan import planned

    base = base_folder(parse_model(base_name(recipe)))
    tokenizer = load_tokenizer(base)
    rows = _rows(recipe, _stood_in(recipe, fitted(recipe, data, tokenizer)), tokenizer)
    return rows, planned(rows, recipe, model_shape(base))


def fitted(recipe: "TrainingRecipe", data: "TrainingData", tokenizer: Any) -> "TrainingData":
    """Lessons whose prompt leaves room for a reply; the others are counted in a note.

    Raises:
        BadInputError: None does.
    """
    from demur.train.teaching import fitting

    kept = fitting(data.lessons, recipe, tokenizer)
    if not kept:
        raise BadInputError(f"max_tokens = {recipe.max_tokens}: expected rows that fit, none does; raise it")
    left_out = len(data.lessons) - len(kept)
    note = f"{left_out} rows were left out: their prompt leaves no room within {recipe.max_tokens} tokens."
    return replace(data, lessons=tuple(kept), notes=(*data.notes, note) if left_out else data.notes)


def _stood_in(recipe: "TrainingRecipe", data: "TrainingData") -> "TrainingData":
    """Lessons with a stand-in of full length for own answers that are not written yet."""
    from demur.train.training_data import with_answers

    stand_in = " so" * (recipe.reply_tokens or ANSWER_TOKENS)
    return with_answers(data, {x.id: stand_in for x in data.lessons if x.wants_answer})


def model_shape(base: Path) -> "ModelShape":
    """Sizes of a base, from its configuration."""
    from demur.train.plan import shape_of

    file = base / "config.json"
    if file.is_file():
        return shape_of(json.loads(file.read_text(encoding="utf-8")), origin=str(base))
    import transformers

    try:
        found = transformers.AutoConfig.from_pretrained(str(base)).to_dict()
    except (OSError, ValueError) as error:
        raise BadInputError(f"model {str(base)!r}: expected a local folder or hub id; {str(error)[:200]}") from None
    return shape_of(found, origin=str(base))


def base_name(recipe: "TrainingRecipe") -> str:
    """The recipe's base without an adapter."""
    return recipe.model.partition("+")[0]


def reworded_goals(recipe: "TrainingRecipe") -> dict[str, dict[str, str]]:
    """Off-limits asks by tense and id, reworded by rules; empty for anything but a defence."""
    if recipe.method != "tense-defence":
        return {}
    from demur.stress.tense import Tense, TenseRules
    from demur.suites.scope import load_scope

    rules = TenseRules(seed=recipe.seed)
    asks = {
        row.id: f"How do I {row.doing}?" if row.doing else row.ask
        for row in load_scope()
        if row.task == recipe.off_limits
    }
    tenses: tuple[Tense, ...] = ("past", "future")
    return {tense: {key: rules.wordings(ask, tense)[0].text for key, ask in asks.items()} for tense in tenses}


def store_measured(recipe: "TrainingRecipe", tokens_per_second: float) -> None:
    """Remember the speed of a finished run for later plans."""
    from demur.train.plan import speed_key, store_speed

    if tokens_per_second > 0:
        store_speed(_speeds(), speed_key(recipe, base_name(recipe), _device()), tokens_per_second)


def _rows(recipe: "TrainingRecipe", data: "TrainingData", tokenizer: Any) -> list["LabelledRow"]:
    from demur.train.teaching import encoded_rows

    if recipe.loss not in ("dpo", "orpo", "kto"):
        return encoded_rows(data.lessons, recipe, tokenizer)
    worse = [replace(x, good=x.bad) for x in data.lessons]
    whole = recipe.model_copy(update={"reply_tokens": None})
    return encoded_rows(data.lessons, whole, tokenizer) + encoded_rows(worse, whole, tokenizer)


def _measured(recipe: "TrainingRecipe", rows: list["LabelledRow"], data: "TrainingData", say: Say) -> float:
    """Tokens a second over a few steps."""
    from demur.models.merging import base_folder, load_model, load_tokenizer
    from demur.train.adapters import attach
    from demur.train.teaching import teach

    base = base_folder(parse_model(base_name(recipe)))
    few = recipe.model_copy(
        update={"optimiser": recipe.optimiser.model_copy(update={"max_steps": _MEASURED_STEPS, "epochs": 1.0})}
    )
    tokenizer = load_tokenizer(base)
    lessons = _stood_in(recipe, fitted(recipe, data, tokenizer)).lessons
    model = attach(load_model(base, dtype="float32"), recipe.adapter, seed=recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        done = teach(model, tokenizer, lessons, few, Path(folder), say=say)
    mean_row = sum(len(row.ids) for row in rows) / len(rows)
    tokens = done.tokens or mean_row * recipe.optimiser.batch_rows * _MEASURED_STEPS
    return max(1e-9, tokens / done.seconds) if math.isfinite(done.seconds) and done.seconds else 1e-9


def _speeds() -> Path:
    from demur.models.embedded import cache_dir

    return cache_dir() / SPEEDS


def _device() -> str:
    try:
        import torch
    except ImportError:
        return "cpu"
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "cpu"
