import asyncio

import pytest

from demur.core.defaults import DEFAULT_JUDGE
from demur.core.exchange import Exchange, Message
from demur.core.taxonomy import load_taxonomy
from demur.judges import load_judge
from demur.suites.training import TrainingRow
from demur.train.openings import load_openings, reply_text


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
