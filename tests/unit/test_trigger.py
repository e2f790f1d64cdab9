"""The smallest refused part of a prompt: found, 1-minimal, within its budget, and never a text that was not there."""

import asyncio
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.classify.trigger import minimal_trigger


def search(prompt, rule, **options):
    asked = []

    async def refuses(text):
        asked.append(text)
        return rule(text)

    found = asyncio.run(minimal_trigger(prompt, refuses, **options))
    return found, asked


def words(*needed):
    return lambda text: all(re.search(rf"\b{word}\b", text) for word in needed)


LONG = (
    "Good morning, I hope you are well. My uncle collects stamps from Peru and Chile! "
    "He wonders how one would open a locked door without a key, because he lost it. "
    "We live near the sea.\nThank you very much in advance."
)


def test_two_words_far_apart_are_found_and_no_word_more():
    found, _ = search(LONG, words("locked", "key"))
    assert found.refused
    assert found.is_minimal
    assert re.findall(r"\w+", found.text) == ["locked", "key"]
    assert found.n_words == 2
    assert found.n_words_prompt == len(LONG.split())


def test_a_single_word_is_found_with_few_calls():
    found, asked = search(LONG, words("locked"))
    assert found.text == "locked"
    assert found.n_calls == len(asked) <= 40


def test_spans_point_at_the_words_in_the_prompt():
    found, _ = search(LONG, words("stamps", "door"))
    assert [LONG[start:end] for start, end in found.spans] == ["stamps", "door"]


def test_a_prompt_that_is_not_refused_costs_one_call():
    found, asked = search(LONG, lambda text: False)
    assert not found.refused
    assert found.text == ""
    assert found.spans == ()
    assert len(asked) == 1


def test_a_model_that_refuses_everything_leaves_one_word():
    found, _ = search(LONG, lambda text: True)
    assert found.n_words == 1
    assert found.is_minimal


def test_nothing_is_asked_twice_and_nothing_empty():
    _, asked = search(LONG, words("uncle", "door", "sea"))
    assert len(asked) == len(set(asked))
    assert all(text.strip() for text in asked)


def test_only_parts_of_the_prompt_are_asked_in_their_order():
    _, asked = search(LONG, words("uncle", "sea"))
    whole = LONG.split()
    for text in asked:
        rest = iter(whole)
        assert all(word in rest for word in text.split())


def test_a_spent_budget_is_said_and_the_best_part_kept():
    found, asked = search(LONG, words("uncle", "door", "sea"), max_calls=6)
    assert len(asked) == 6
    assert found.out_of_calls
    assert not found.is_minimal
    assert words("uncle", "door", "sea")(found.text)


def test_what_cannot_be_judged_counts_as_no_refusal_and_is_counted():
    found, _ = search("alpha beta gamma", lambda text: None if "gamma" not in text else "alpha" in text)
    assert found.refused
    assert found.text == "alpha gamma"
    assert found.n_untold > 0


def test_text_without_spaces_is_taken_apart_by_character():
    found, _ = search("请告诉我怎么打开没有钥匙的锁", lambda text: "锁" in text)
    assert found.text == "锁"


def test_a_hundred_thousand_characters_are_searched_in_linear_time():
    prompt = "filler words here. " * 5_000 + "the needle is here. " + "more of it! " * 400
    found, _ = search(prompt, words("needle"))
    assert found.text == "needle"


@pytest.mark.parametrize(
    "prompt", ["a\x00b secret c", "\ud800 secret \udfff", "\u202esecret\u202c x", "…" * 3000 + " secret"]
)
def test_hostile_characters_do_not_stop_the_search(prompt):
    found, _ = search(prompt, lambda text: "secret" in text, max_calls=500)
    assert "secret" in found.text


def test_an_empty_prompt_and_a_budget_of_nothing_are_refused():
    with pytest.raises(ValueError, match="expected some text"):
        search("  \n", lambda text: True)
    with pytest.raises(ValueError, match="max_calls"):
        search("x", lambda text: True, max_calls=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=25), st.sets(st.sampled_from("abcdefgh"), max_size=3))
def test_leaving_out_any_single_word_ends_the_refusal(letters, needed):
    prompt = " ".join(letters)

    def rule(text):
        return needed <= set(text.split())

    found, _ = search(prompt, rule, max_calls=2_000)
    if not found.refused:
        assert not needed <= set(letters)
        return
    kept = found.text.split()
    assert found.is_minimal
    assert rule(found.text)
    assert all(not rule(" ".join(kept[:i] + kept[i + 1 :])) for i in range(len(kept))) or len(kept) == 1
