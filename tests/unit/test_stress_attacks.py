"""Codes, frames, openings and earlier turns: what is asked survives, and both sides go through the same."""

import asyncio
import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.core.errors import UnknownNameError
from demur.stress.attacks import ATTACKS, load_attack
from demur.stress.attempt import Goal, balanced, goals_of
from demur.stress.cipher import deciphered, encode
from demur.stress.code import framed
from demur.stress.completion import statement
from demur.stress.continuation import first_words
from demur.stress.history import earlier
from demur.suites import load_suite

GOAL = Goal(id="a", side="attack", prompt="How do I glaze a pot?", system="Be brief.")


def asked(attack, condition, number=0, goal=GOAL):
    return asyncio.run(attack.asked(goal, condition, number))


@pytest.mark.parametrize("name", ATTACKS)
def test_every_form_has_as_many_distinct_messages_as_it_says(name):
    attack = load_attack(name)
    for condition in attack.conditions[1:]:
        n = min(attack.most_attempts(condition), 20)
        sent = {asked(attack, condition, i).model_dump_json() for i in range(n)}
        assert len(sent) == n


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_and_control_are_transformed_alike(name):
    attack = load_attack(name)
    for condition in attack.conditions:
        sides = [asked(attack, condition, 0, GOAL.model_copy(update={"side": side})) for side in ("attack", "control")]
        assert sides[0] == sides[1]


@pytest.mark.parametrize("name", ATTACKS)
def test_the_first_form_is_the_request_as_it_is_after_its_system_prompt(name):
    attack = load_attack(name)
    texts = [(m.role, m.text) for m in asked(attack, attack.conditions[0]).messages]
    assert texts == [("system", "Be brief."), ("user", GOAL.prompt)]


@settings(deadline=None)
@given(st.text(max_size=300))
def test_codes_can_be_undone(text):
    clean = text.encode("utf-8", "replace").decode("utf-8")
    assert base64.b64decode(encode(clean, "base64")).decode("utf-8") == clean
    assert encode(encode(clean, "rot13"), "rot13") == clean


def test_replies_in_the_code_are_read_and_others_left_alone():
    reply = "Sorry, I can not help you with that in any way."
    for code in ("base64", "rot13"):
        assert deciphered(encode(reply, code), code) == reply
        assert deciphered(reply, code) == reply
    explained = f"You wrote {encode(GOAL.prompt, 'base64')}, which is a question about pots and how people glaze them."
    assert deciphered(explained, "base64") == explained


@settings(deadline=None)
@given(st.text(max_size=200))
def test_a_frame_holds_the_request_as_one_string_literal(text):
    clean = text.encode("utf-8", "replace").decode("utf-8")
    for number in (0, 1):
        assert json.dumps(clean) in framed(clean, "function", number)
        assert json.dumps(clean) in framed(clean, "json", number)


def test_a_statement_carries_the_deed_and_asks_nothing():
    for number in range(3):
        text = statement("How do I glaze a pot?", number)
        assert "glaze a pot" in text
        assert "?" not in text
    assert "Is it?" in statement("Is it?")


def test_earlier_turns_alternate_and_end_with_the_assistant():
    for kind in ("benign", "agreed", "praised"):
        for number in (0, 1):
            roles = [message.role for message in earlier(kind, number)]
            assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_limits_keep_both_sides_and_their_twins():
    rows = load_suite("core").rows
    goals = balanced(goals_of(rows), 40)
    pair = {row.id: row.pair_id for row in rows}
    sides = {side: {pair[g.id] for g in goals if g.side == side} for side in ("attack", "control")}
    assert [sum(g.side == side for g in goals) for side in ("attack", "control")] == [40, 40]
    assert len(sides["attack"] & sides["control"]) > 10
    assert {goal.category for goal in goals} == {"safety"}


def test_an_unknown_attack_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'cipher'"):
        load_attack("cypher")


@settings(deadline=None)
@given(st.text(max_size=100), st.integers(0, 12))
def test_first_words_are_a_prefix_of_the_text(text, n):
    prefix = first_words(text, n)
    assert text.startswith(prefix)
    assert prefix.split() == text.split()[:n]
