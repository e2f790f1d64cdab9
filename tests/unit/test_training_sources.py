"""Where rows come from: shares and mixes as asked, splits that never leak, errors that name file, line and field."""

import json

import pytest

from demur.core.errors import BadInputError, UnknownNameError
from demur.train.lesson import Lesson, drawn
from demur.train.tense_defence import Goal, defence_lessons, refusals, split_goals
from demur.train.training_data import own_lessons, source_names, training_data, with_answers
from demur.train.training_recipe import TrainingRecipe
from demur.train.training_sources import tense_goals


def recipe(*data, method="lora", **fields):
    return TrainingRecipe(method=method, data=data, **fields)


def lessons(n, side="comply", **fields):
    return [Lesson(id=f"{side}{i}", prompt=f"p{i}", good=f"g{i}", side=side, **fields) for i in range(n)]


def goals(n):
    return [Goal(id=str(i), present=f"how {i}", past=f"how did {i}") for i in range(n)]


def file_of(tmp_path, *rows):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_ratio_draws_as_many_rows_as_the_first_source_times_it():
    data = training_data(recipe({"source": "refusals", "share": 0.1}, {"source": "ordinary", "ratio": 1.0}))
    assert data.counts["refusals"] == data.counts["ordinary"] > 100
    assert {x.side for x in data.lessons} == {"refuse", "comply"}


def test_more_rows_than_there_are_is_said_and_not_repeated():
    data = training_data(recipe({"source": "refusals"}, {"source": "ordinary", "ratio": 9.0}))
    assert len({x.id for x in data.lessons}) == len(data.lessons)
    assert "all of them are used" in data.notes[0]


def test_a_share_is_even_over_categories():
    data = training_data(recipe({"source": "refusals", "share": 0.1}))
    whole = training_data(recipe({"source": "refusals"}))
    for group in {x.group for x in whole.lessons}:
        part, all_ = (sum(x.group == group for x in one.lessons) for one in (data, whole))
        assert abs(part - 0.1 * all_) <= 1


def test_the_same_seed_draws_the_same_rows_and_another_others():
    first, again, other = (
        [x.id for x in training_data(recipe({"source": "comply", "max_rows": 50}, seed=seed)).lessons]
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_no_calibration_prompt_is_ever_trained_on():
    from demur.suites.training import load_training

    kept = {row.id for row in load_training("calibration")}
    for name in ("training-set", "compliant", "contrast-pairs", "triples"):
        method = "derta" if name == "triples" else "dpo" if name.endswith("pairs") else "lora"
        data = training_data(recipe({"source": name}, method=method))
        assert not kept & {x.id for x in data.lessons}


def test_a_source_that_is_not_there_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'refusals'"):
        training_data(recipe({"source": "refusal"}))
    assert "tense-goals" in source_names()


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "a"}, r"own\.jsonl:2:response"),
        ({"prompt": " ", "response": "b"}, r"own\.jsonl:2:prompt"),
        ({"prompt": "a", "chosen": "b"}, r"own\.jsonl:2:rejected"),
        ({"prompt": "a", "refusal": 3, "answer": "b"}, r"own\.jsonl:2:refusal"),
    ],
)
def test_a_malformed_row_names_file_line_and_field(tmp_path, row, complaint):
    with pytest.raises(BadInputError, match=complaint):
        own_lessons(file_of(tmp_path, {"prompt": "a", "response": "b"}, row))


def test_columns_decide_what_a_row_teaches(tmp_path):
    rows = own_lessons(
        file_of(
            tmp_path,
            {"prompt": "a", "response": "b", "expected": "refuse"},
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            {"prompt": "a", "refusal": "b", "answer": "c"},
        )
    )
    assert [(x.kind, x.side) for x in rows] == [("plain", "refuse"), ("pair", "comply"), ("triple", "refuse")]


def test_rows_without_a_worse_reply_cannot_train_a_preference(tmp_path):
    path = file_of(tmp_path, {"prompt": "a", "response": "b"})
    with pytest.raises(BadInputError, match="better and a worse reply for dpo"):
        training_data(recipe({"source": str(path)}, method="dpo"))
    with pytest.raises(BadInputError, match="refusal and answer"):
        training_data(recipe({"source": str(path)}, method="derta"))


def test_prompts_that_the_base_did_not_answer_are_left_out_and_counted():
    data = training_data(recipe({"source": "ordinary", "max_rows": 4}, own_answers=True))
    assert all(x.wants_answer for x in data.lessons)
    done = with_answers(data, {data.lessons[0].id: "yes", data.lessons[1].id: " "})
    assert [x.good for x in done.lessons] == ["yes"]
    assert "3 rows were left out" in done.notes[0]


def test_a_triples_missing_answer_is_the_bases_own_and_its_refusal_stays():
    data = training_data(recipe({"source": "scope-triples", "max_rows": 2}, method="derta"))
    done = with_answers(data, {x.id: "Take flour." for x in data.lessons})
    assert all((x.good, x.bad) == (recipe().refusal, "Take flour.") for x in done.lessons)


def test_the_scope_answers_its_tasks_and_declines_the_off_limits_one():
    data = training_data(recipe(method="scope", held_out=("travel",)))
    sides = {x.group: x.side for x in data.lessons}
    assert sides["cooking"] == "refuse"
    assert "travel" not in sides
    assert {side for group, side in sides.items() if group != "cooking"} == {"comply"}


def test_no_goal_is_on_both_sides_of_a_split():
    train, test = split_goals(goals(50), 0.5, seed=3)
    assert not {g.id for g in train} & {g.id for g in test}
    assert len(train) == len(test) == 25


def test_a_goal_twice_would_leak_and_is_refused():
    with pytest.raises(BadInputError, match="distinct ids"):
        split_goals([*goals(3), goals(1)[0]], 0.5, seed=0)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.3])
def test_refusals_make_up_the_share(share):
    refused = refusals(goals(60), ["past"], "Sorry.")
    found = defence_lessons(refused, lessons(300), refusal_share=share, seed=0)
    n = sum(x.side == "refuse" for x in found)
    assert abs(n / len(found) - share) <= 0.5 / len(found)
    fixed = defence_lessons(refused[:3], lessons(300), refusal_share=share, seed=0, rows=200)
    assert (len(fixed), sum(x.side == "refuse" for x in fixed)) == (200, round(200 * share))


def test_the_test_goals_of_a_defence_are_asked_nowhere_in_training():
    wanted = recipe(method="tense-defence")
    reworded = {"past": {g.id: f"long ago, {g.present}" for g in tense_goals(wanted, {})}}
    data = training_data(wanted, reworded)
    _, test = split_goals(tense_goals(wanted, reworded), 0.5, wanted.seed)
    asked = {x.prompt for x in data.lessons}
    assert test
    assert not asked & {ask for goal in test for ask in (goal.present, goal.past)}


def test_a_tense_that_was_not_reworded_is_named():
    with pytest.raises(BadInputError, match="future: expected the ask in that tense"):
        refusals(goals(1), ["future"], "Sorry.")


def test_a_draw_takes_its_share_of_each_group_and_keeps_the_order():
    mixed = lessons(30, group="a") + [x for x in lessons(10, side="refuse", group="b")]
    found = drawn(mixed, 8, seed=0)
    assert [x.group for x in found] == ["a"] * 6 + ["b"] * 2
