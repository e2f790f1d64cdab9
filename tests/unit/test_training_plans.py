"""Plans: counted before anything is loaded, and honest about what is only estimated."""

import json

import pytest

from demur.core.errors import BadInputError
from demur.train.adapters import AdapterSettings
from demur.train.plan import (
    check_memory,
    estimated_memory,
    n_trained,
    planned,
    shape_of,
    store_speed,
    stored_speed,
)
from demur.train.row_trainer import TrainerSettings
from demur.train.rows import IGNORED, LabelledRow
from demur.train.training_recipe import TrainingRecipe

SMOLLM2 = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


def shape(**changes):
    return shape_of(SMOLLM2 | changes, origin="model")


def recipe(kind="lora", optimiser=None, **adapter):
    return TrainingRecipe(
        method="sft",
        adapter=AdapterSettings(kind=kind, **adapter),
        optimiser=TrainerSettings(**(optimiser or {})),
    )


def row(n, learnt):
    labels = (*([IGNORED] * (n - learnt)), *([1] * learnt))
    return LabelledRow(ids=(1,) * n, labels=labels, weights=(1.0,) * n, kind="reply")


def test_the_embedded_models_parameters_are_counted_exactly():
    assert shape().n_parameters == 134_515_008


def test_lora_counts_both_factors_of_each_projection_above_its_first_block():
    one = sum(8 * (a + b) for a, b in shape().projections.values())
    assert n_trained(shape(), recipe(rank=8)) == 30 * one
    assert n_trained(shape(), recipe(rank=8, first_block=18)) == 12 * one
    assert n_trained(shape(), recipe("full")) == shape().n_parameters


def test_steps_and_tokens_follow_from_rows_epochs_and_batch():
    plan = planned([row(10, 4)] * 100, recipe(optimiser={"epochs": 2.0, "batch_rows": 8}), shape())
    assert (plan.rows, plan.steps, plan.longest) == (100, 25, 10)
    assert (plan.tokens, plan.learnt) == (2000, 800)
    assert plan.minutes is None


def test_full_training_needs_more_memory_than_an_adapter_and_checkpointing_less():
    def memory(wanted):
        return estimated_memory(shape(), wanted, longest=256, learnt_share=0.3)

    full, lora = memory(recipe("full")), memory(recipe())
    saving = memory(recipe(optimiser={"gradient_checkpointing": True}))
    assert full - lora > 11 * shape().n_parameters
    assert saving < lora


def test_too_little_memory_is_said_before_anything_is_loaded():
    huge = shape(hidden_size=2**15, num_hidden_layers=200, intermediate_size=2**17, num_attention_heads=64)
    plan = planned([row(10, 4)], recipe("full"), huge)
    with pytest.raises(BadInputError, match=r"GiB are free; lower optimiser\.micro_tokens"):
        check_memory(plan)


def test_a_configuration_without_a_size_is_named():
    with pytest.raises(BadInputError, match=r"config\.json: expected hidden_size"):
        shape_of({"vocab_size": 3}, origin="model")


def test_a_speed_is_remembered_for_what_it_was_measured_for(tmp_path):
    file = tmp_path / "speeds.json"
    assert stored_speed(file, "a") is None
    store_speed(file, "a", 123.4)
    store_speed(file, "b", 5.0)
    assert (stored_speed(file, "a"), stored_speed(file, "b")) == (123.4, 5.0)
    file.write_text(json.dumps({"a": "quick"}), encoding="utf-8")
    assert stored_speed(file, "a") is None
