"""Lessons become rows: cut where told, drawn anew where random, dropped where they cannot fit."""

import json

import pytest

pytest.importorskip("transformers")

from tests.engine_models import tiny_tokenizer

from demur.jobs.train_curve import LiveCurve
from demur.train.lesson import Lesson
from demur.train.row_trainer import Step
from demur.train.teaching import circuit_settings, encoded_rows, fitting, preference_settings
from demur.train.training_recipe import TrainingRecipe

ANSWER = "Mix flour, water, salt and yeast; wait; bake."


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def recipe(method="lora", **changes):
    return TrainingRecipe.model_validate({"method": method, "max_tokens": 128, **changes})


def triple(prompt="bread"):
    return Lesson(id=prompt, prompt=prompt, good="s cannot help.", bad=ANSWER, kind="triple", side="refuse")


def derta(parts, **changes):
    return recipe("derta", derta={"parts": parts, "word": "s"}, **changes)


def test_a_cut_reply_learns_so_many_tokens_and_does_not_end(tokenizer):
    lesson = Lesson(id="a", prompt="bread", good=ANSWER)
    (whole,) = encoded_rows([lesson], recipe(), tokenizer)
    (cut,) = encoded_rows([lesson], recipe(reply_tokens=5), tokenizer)
    assert whole.labels[-1] == tokenizer.eos_token_id
    assert cut.ids == whole.ids[: len(cut.ids)]
    assert (len(cut.learnt), cut.labels[-1] == tokenizer.eos_token_id) == (5, False)


@pytest.mark.parametrize(
    ("parts", "kinds"),
    [("vanilla", {"refusal"}), ("prefix", {"prefix"}), ("rto", {"refusal", "rto"}), ("both", {"prefix", "rto"})],
)
def test_every_part_of_derta_reads_a_triple_twice(tokenizer, parts, kinds):
    rows = encoded_rows([triple(), triple("the sea")], derta(parts), tokenizer)
    assert len(rows) == 4
    assert {row.kind for row in rows} == kinds


def test_prefixes_are_drawn_anew_in_every_epoch_and_again_by_the_same_seed(tokenizer):
    lessons, wanted = [triple(f"bread {i}") for i in range(8)], derta("prefix")
    first, again, later = (encoded_rows(lessons, wanted, tokenizer, epoch) for epoch in (0, 0, 1))
    assert [row.ids for row in first] == [row.ids for row in again]
    assert [row.ids for row in first] != [row.ids for row in later]


def test_a_cut_answer_has_no_more_transitions_than_tokens_are_learnt(tokenizer):
    rows = encoded_rows([triple()], derta("rto", reply_tokens=6), tokenizer)
    assert max(len(row.learnt) for row in rows if row.kind == "rto") <= 7  # a decoded piece may be cut anew


def test_a_prompt_without_room_for_a_reply_is_left_out(tokenizer):
    short, long = Lesson(id="a", prompt="bread", good="No."), Lesson(id="b", prompt="bread " * 90, good="No.")
    assert fitting([short, long], recipe(), tokenizer) == [short]


def test_the_recipes_optimiser_reaches_every_trainer():
    optimiser = {"learning_rate": 3e-4, "batch_rows": 7, "warmup": 0.2, "schedule": "constant"}
    pairs = preference_settings(recipe("dpo", seed=5, optimiser=optimiser, preference={"beta": 0.3}))
    circuits = circuit_settings(recipe("scope", seed=5, optimiser=optimiser, scope={"loss": "cb", "strength": 2.0}))
    for found in (pairs, circuits):
        assert (found.learning_rate, found.batch_rows, found.warmup, found.schedule) == (3e-4, 7, 0.2, "constant")
        assert (found.seed, found.max_tokens) == (5, 128)
    assert (pairs.beta, circuits.strength) == (0.3, 2.0)


def test_a_live_curve_goes_on_where_a_broken_run_ended(tmp_path):
    summary = {"kind": "training", "recipe": {"method": "lora"}}
    with LiveCurve(tmp_path, summary, seconds=0.0) as live:
        live.watch(Step(1, 3, 2.0, {"answer": 2.0}))
        live.watch(Step(2, 3, 1.5, {"answer": 1.5}))
    assert "step 2 of 3" in (tmp_path / "report.html").read_text(encoding="utf-8")
    with LiveCurve(tmp_path, summary, seconds=99.0) as live:
        live.watch(Step(2, 3, 1.4, {"answer": 1.4}))  # the checkpoint was older than the last step
        live.watch(Step(3, 3, 1.0, {"answer": 1.0}))
        assert live.losses() == {"all": [2.0, 1.4, 1.0]}
    assert len([json.loads(line) for line in (tmp_path / "steps.jsonl").read_text("utf-8").splitlines()]) == 4
