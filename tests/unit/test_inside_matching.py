"""Matching leaves nothing on the surface that tells the sides apart."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from demur.data.matching import ending, matched

WORDS = ("alpha", "be", "gamma", "delta", "e", "eta", "thermometer")


def texts(n, endings, longest, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) + rng.choice(endings) for _ in range(n)]


def test_matched_sides_have_the_same_endings_and_lengths():
    # As the usual sets: one side never ends in punctuation, or is short; the other mostly does, or is long.
    first, second = texts(400, ["", "", "", ".", "?"], 20, 1), texts(600, ["", ".", ".", "?", "?"], 45, 2)
    found = matched(first, second)
    assert len(found) > 150
    assert abs(found.length_auroc_before - 0.5) > 0.2
    assert abs(found.length_auroc - 0.5) < 0.02
    assert all(ending(first[i]) == ending(second[j]) for i, j in zip(found.first, found.second, strict=True))
    gaps = [len(first[i].split()) / len(second[j].split()) for i, j in zip(found.first, found.second, strict=True)]
    assert all(1 / 1.12 < gap < 1.12 for gap in gaps)


def test_a_limit_keeps_a_random_part_and_the_seed_decides_which():
    first, second = texts(200, ["?", "."], 8, 3), texts(200, ["?", "."], 8, 4)
    one, again, other = (matched(first, second, limit=20, seed=s) for s in (0, 0, 1))
    assert len(one) == 20
    assert (one.first, one.second) == (again.first, again.second)
    assert one.first != other.first


def test_partners_can_be_asked_to_share_more():
    first, second = ["Do it.", "do it."], ["Go on.", "Be so."]
    assert len(matched(first, second)) == 2
    assert len(matched(first, second, also=[lambda t: t[:1].islower()])) == 1


def test_an_empty_side_matches_nothing():
    found = matched([], ["a"])
    assert (len(found), found.n_first, found.n_second, found.length_auroc) == (0, 0, 1, None)


def test_endings_have_names():
    cases = {"So.": ".", "So… ": ".", "Why?": "?", "Stop!": "!", "list:": ":", 'say "it"': "quote", "x)": "bracket"}
    assert {text: ending(text) for text in cases} == cases
    assert [ending(t) for t in ("so", "so 7", "", "né", "\u4f60")] == ["word", "word", "other", "word", "word"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=30), st.lists(st.text(max_size=30), max_size=30))
def test_nobody_has_two_partners(first, second):
    found = matched(first, second)
    assert len(set(found.first)) == len(set(found.second)) == len(found) == sum(found.endings.values())
    assert all(0 <= i < len(first) for i in found.first)
    assert all(0 <= j < len(second) for j in found.second)
