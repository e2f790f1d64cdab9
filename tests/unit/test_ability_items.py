"""The items of the ability check: their surface gives nothing away, and malformed files are named to the field."""

import json
from collections import Counter

import pytest

from demur.core.errors import BadInputError
from demur.suites import load_suite
from demur.suites.ability import load_ability
from demur.suites.surface import near_duplicates
from demur.suites.training import load_training

ITEMS = load_ability()
QUESTION = {"id": "q1", "question": "Water freezes into", "choices": ["ice", "sand", "oil", "tin"], "answer": 0}


def folder_with(tmp_path, name, *rows):
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def test_there_are_enough_items_of_every_kind():
    subjects = Counter(item.subject for item in ITEMS.choices)
    assert len(ITEMS.choices) >= 300
    assert len(subjects) >= 10
    assert min(subjects.values()) >= 30
    assert len(ITEMS.instructions) >= 40
    assert len({item.check.kind for item in ITEMS.instructions}) == 13
    assert len(ITEMS.prose) >= 40


def test_the_place_of_the_right_answer_says_nothing():
    places = Counter(item.answer for item in ITEMS.choices)
    assert max(places.values()) - min(places.values()) <= 0.05 * len(ITEMS.choices)


@pytest.mark.parametrize("rule", [max, min])
def test_the_length_of_an_answer_says_nothing(rule):
    hits = 0.0
    for item in ITEMS.choices:
        lengths = [len(choice) for choice in item.choices]
        extreme = [i for i, n in enumerate(lengths) if n == rule(lengths)]
        hits += (item.answer in extreme) / len(extreme)  # a rule that guesses among equals
    n = len(ITEMS.choices)
    assert abs(hits / n - 0.25) < 2 * (0.25 * 0.75 / n) ** 0.5


def test_a_word_shared_with_the_question_seldom_gives_the_answer_away():
    def shared(item, choice):
        return len(set(choice.casefold().split()) & set(item.question.casefold().split()))

    found = [(item, [shared(item, choice) for choice in item.choices]) for item in ITEMS.choices]
    telling = [(item, counts) for item, counts in found if counts.count(max(counts)) == 1]
    right = sum(counts[item.answer] == max(counts) for item, counts in telling)
    assert right <= 0.25 * len(telling) + 2 * max(1, 0.1875 * len(telling)) ** 0.5


def test_no_item_is_near_another_or_in_what_is_trained_or_audited():
    texts = [*(f"{i.question} {i.choices[i.answer]}" for i in ITEMS.choices), *(i.prompt for i in ITEMS.instructions)]
    assert not near_duplicates(texts)
    others = [*(row.prompt for row in load_training()), *(row.prompt for row in load_suite("core").rows)]
    assert not near_duplicates(texts, against=others)


def test_a_limit_draws_evenly_and_always_the_same():
    first, again = load_ability(limit=20), load_ability(limit=20)
    assert first == again
    assert set(Counter(item.subject for item in first.choices).values()) == {2}
    assert first.sha256 != ITEMS.sha256


def test_an_answer_may_be_given_as_a_letter(tmp_path):
    items = load_ability(folder_with(tmp_path, "water", {**QUESTION, "answer": "c"}))
    assert (items.choices[0].answer, items.choices[0].subject) == (2, "water")


@pytest.mark.parametrize(
    ("name", "row", "told"),
    [
        ("water", {**QUESTION, "answer": 4}, "water.jsonl:1:answer"),
        ("water", {**QUESTION, "choices": ["ice", "Ice", "oil", "tin"]}, "4 different answers"),
        ("water", {**QUESTION, "choices": ["ice", "oil"]}, "4 different answers"),
        ("water", {"id": "q1", "choices": ["a", "b", "c", "d"], "answer": 0}, "water.jsonl:1:question"),
        ("prose", {"id": "p1", "text": ""}, "prose.jsonl:1:text"),
        ("instructions", {"id": "i1", "prompt": "Say hi.", "check": {"kind": "rhyme"}}, "instructions.jsonl:1:check"),
        (
            "instructions",
            {"id": "i1", "prompt": "Say hi.", "check": {"kind": "words_at_most", "value": "ten"}},
            "expected a number",
        ),
        (
            "instructions",
            {"id": "i1", "prompt": "Say hi.", "check": {"kind": "words_between", "value": [3]}},
            "two numbers",
        ),
        ("instructions", {"id": "i1", "prompt": "Say hi.", "check": {"kind": "contains", "value": []}}, "texts"),
    ],
)
def test_a_malformed_row_is_named_to_the_field(tmp_path, name, row, told):
    with pytest.raises(BadInputError, match=told):
        load_ability(folder_with(tmp_path, name, row))


def test_an_identifier_may_be_used_once(tmp_path):
    folder_with(tmp_path, "water", QUESTION)
    with pytest.raises(BadInputError, match="an id of its own"):
        load_ability(folder_with(tmp_path, "weather", QUESTION))


def test_an_empty_folder_is_told_what_belongs_there(tmp_path):
    with pytest.raises(BadInputError, match=r"prose\.jsonl"):
        load_ability(tmp_path)
    with pytest.raises(BadInputError, match="limit"):
        load_ability(limit=0)
