import asyncio

import pytest

from demur.core.defaults import DEFAULT_JUDGE
from demur.core.exchange import Exchange, Message
from demur.core.taxonomy import load_taxonomy
from demur.judges import load_judge
from demur.suites.training import TrainingRow
from demur.train.replies import drawn_for_replies, learnt_replies, load_openings, reply_text


def row(**changes):
    values = {"id": "r1", "category": "safety", "subcategory": "x", "expected": "refuse", "conduct": "refused"}
    return TrainingRow(**{**values, "prompt": "p", "appropriate": "No lock of theirs.", **changes})


def test_every_category_has_its_openings():
    assert set(load_openings()) == {category.id for category in load_taxonomy().category}


@pytest.mark.parametrize("category", load_openings())
def test_an_opening_alone_is_heard_as_declining(category):
    texts = load_openings()[category]
    asked = (Message(role="user", text="Tell me about it please"),)
    exchanges = [Exchange(id=str(i), messages=asked, response=text) for i, text in enumerate(texts)]
    verdicts = asyncio.run(load_judge(DEFAULT_JUDGE).judge(exchanges))
    plain = [t for t, v in zip(texts, verdicts, strict=True) if v.outcome == "complied" and v.manner in (None, "plain")]
    assert plain == []


def test_a_reply_that_declines_begins_with_an_opening_and_keeps_its_own_words():
    text = reply_text(row(), openings=True)
    assert text.endswith(" No lock of theirs.")
    assert text.startswith(load_openings()["safety"])
    assert text == reply_text(row(), openings=True)


def test_a_row_without_a_response_still_learns_to_decline():
    assert reply_text(row(appropriate=""), openings=True) in load_openings()["safety"]


def test_answers_and_runs_without_openings_are_left_alone():
    assert reply_text(row(expected="comply"), openings=True) == "No lock of theirs."
    assert reply_text(row(), openings=False) == "No lock of theirs."


def test_every_category_and_side_learns_its_share_of_replies():
    rows = [row(id=f"{side}{i}", expected=side) for side in ("refuse", "comply") for i in range(20)]
    drawn = drawn_for_replies(rows, 0.3, 0)
    assert [sum(rows[i].expected == side for i in drawn) for side in ("refuse", "comply")] == [6, 6]
    assert drawn != drawn_for_replies(rows, 0.3, 1)


def test_rows_to_answer_learn_the_bases_own_answer_or_nothing():
    rows = [row(id="a", expected="comply"), row(id="b", expected="comply"), row(id="c"), row(id="d")]
    own = learnt_replies(rows, [0, 1, 2], openings=False, answers={"a": "Mine."})
    assert own == ["Mine.", "", "No lock of theirs.", ""]
    assert learnt_replies(rows, [0], openings=False)[0] == "No lock of theirs."
