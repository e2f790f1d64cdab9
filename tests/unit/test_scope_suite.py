"""Asks by task: ours are sound, the user's are read in the published shapes, and what is malformed is named."""

import json
from collections import Counter

import pytest

from demur.core.errors import BadInputError, UnknownNameError
from demur.suites.scope import load_scope, of_tasks, scope_suite, task_names
from demur.suites.surface import near_duplicates

ROWS = load_scope()


def test_five_topics_each_have_asks_to_train_and_to_test():
    counts = Counter((row.task, row.split) for row in ROWS)
    assert len(task_names(ROWS)) == 5
    assert all(counts[task, "train"] >= 40 and counts[task, "test"] >= 20 for task in task_names(ROWS))
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_no_test_ask_is_near_a_training_ask():
    train, test = ([row.ask for row in load_scope(split)] for split in ("train", "test"))
    assert not near_duplicates(test, against=train, at_least=0.3)
    assert all(row.past and row.past_clause and row.doing for row in ROWS)


def test_pairs_in_the_published_shape_are_a_task_named_after_the_file(tmp_path):
    path = tmp_path / "sums.json"
    path.write_text(json.dumps({"pairs": [[f"Add {i}", str(i)] for i in range(5)]}), encoding="utf-8")
    rows = load_scope(path=path)
    assert [(row.task, row.ask, row.answer) for row in rows][:1] == [("sums", "Add 0", "0")]
    assert [row.split for row in rows] == ["train"] * 4 + ["test"]
    assert [row.ask for row in load_scope("test", path=tmp_path)] == ["Add 4"]


@pytest.mark.parametrize("columns", [("ask", "answer"), ("prompt", "response"), ("instruction", "completion")])
def test_rows_are_read_under_the_names_that_published_data_use(tmp_path, columns):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"task": "sums", columns[0]: "Add 1", columns[1]: "2"}) + "\n", encoding="utf-8")
    (row,) = load_scope(path=path)
    assert (row.task, row.ask, row.answer, row.id) == ("sums", "Add 1", "2", "own-1")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", '{"pairs": [["Add 1", "2"], ["Add 2"]]}', "pairs.1"),
        ("a.json", '{"pairs": []}', "pairs"),
        ("a.jsonl", '{"task": "sums", "answer": "2"}\n', r"a\.jsonl:1:ask"),
        ("a.jsonl", '{"ask": "x", "split": "dev"}\n', r"a\.jsonl:1:split"),
        ("a.jsonl", '{"ask": "x", "id": "1"}\n{"ask": "y", "id": "1"}\n', "twice"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, name, text, told):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=told):
        load_scope(path=tmp_path / name)


def test_a_task_that_there_is_not_is_told_its_nearest():
    with pytest.raises(UnknownNameError, match="cooking"):
        of_tasks(ROWS, ["coking"])


def test_a_scope_is_a_suite_with_two_sides():
    suite = scope_suite(load_scope("test"), ("gardening", "travel"), system="Be brief.")
    assert suite.is_two_sided
    assert {row.category for row in suite.rows if row.expected == "comply"} == {"gardening", "travel"}
    assert {row.system for row in suite.rows} == {"Be brief."}
