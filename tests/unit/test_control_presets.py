"""Presets, and what a reply says where a policy declines."""

import pytest

from demur.control.decision import decide, decide_one
from demur.control.presets import PRESETS, packaged_wording, preset, wording_of
from demur.core.errors import BadInputError, UnknownNameError
from demur.core.policy import Rule, SignalSource
from demur.core.signal import scores_from_probabilities
from demur.core.taxonomy import load_taxonomy

CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")
SOURCE = SignalSource(name="fake", identity="fake@1")
ACTIONS = ("refuse", "clarify", "guide")
RAMP = scores_from_probabilities(("any",), [[i / 100] for i in range(101)])


@pytest.mark.parametrize("kind", ["per_category", "sum", "category_set", "bias"])
def test_strict_declines_more_than_default_and_default_more_than_lenient(kind):
    counts = [decide(preset(name, SOURCE, ("any",), kind=kind), RAMP).refused.sum() for name in PRESETS]
    assert list(PRESETS) == ["strict", "default", "lenient"]
    assert counts[0] > counts[1] > counts[2] > 0


def test_presets_promise_nothing():
    assert preset("default", SOURCE, CATEGORIES).certificates == ()


def test_unknown_presets_and_kinds_without_a_threshold_are_errors():
    with pytest.raises(UnknownNameError, match="did you mean 'strict'"):
        preset("stric", SOURCE, CATEGORIES)
    with pytest.raises(BadInputError, match="two_way"):
        preset("strict", SOURCE, CATEGORIES, kind="two_way")


@pytest.mark.parametrize("category", [*CATEGORIES, "any"])
def test_every_category_has_its_own_words_for_every_action(category):
    texts = [packaged_wording(category, action) for action in ACTIONS]
    assert len(set(texts)) == 3
    assert all(20 < len(text) < 300 and text.isprintable() for text in texts)
    assert texts[1].count("?") or category == "safety"  # asking back asks


def test_categories_are_those_of_the_taxonomy():
    assert set(CATEGORIES) == {c.id for c in load_taxonomy().category}


def test_unknown_categories_get_the_words_for_any_request():
    assert packaged_wording("weather", "refuse") == packaged_wording("any", "refuse")
    with pytest.raises(UnknownNameError):
        packaged_wording("safety", "answer")


def test_the_rule_s_own_words_come_first_and_an_answer_has_none():
    policy = preset("default", SOURCE, ("any",))
    own = policy.model_copy(update={"rules": {"any": Rule(wording="Ask at the desk.")}})
    declined, answered = (decide_one(policy, RAMP, row=row) for row in (90, 10))
    assert wording_of(policy, declined) == packaged_wording("any", "refuse")
    assert wording_of(own, declined) == "Ask at the desk."
    assert wording_of(own, answered) == ""
