"""Requests in other tenses: verbs keep their irregular forms, wordings stay distinct, nothing is added or lost."""

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.core.chat import ChatReply
from demur.models.scripted import ScriptedModel
from demur.stress.attempt import Goal, goals_of
from demur.stress.clauses import find_request
from demur.stress.inflection import participle, past, request_verbs
from demur.stress.reformulator import PromptedReformulator, TenseAttack, unquoted
from demur.stress.tense import TENSES, TenseRules, is_in_tense
from demur.suites import load_suite

RULES = TenseRules()
DEEDS = ("How do I bake a loaf of bread?", "Write a letter to my landlord.", "Please explain how to prune a pear tree")


@pytest.mark.parametrize(
    ("base", "simple", "done"),
    [
        ("write", "wrote", "written"),
        ("steal", "stole", "stolen"),
        ("put", "put", "put"),
        ("plan", "planned", "planned"),
        ("stop", "stopped", "stopped"),
        ("open", "opened", "opened"),
        ("control", "controlled", "controlled"),
        ("carry", "carried", "carried"),
        ("play", "played", "played"),
        ("mimic", "mimicked", "mimicked"),
        ("bake", "baked", "baked"),
        ("fix", "fixed", "fixed"),
        ("double-check", "double-checked", "double-checked"),
        ("Write", "Wrote", "Written"),
    ],
)
def test_verbs_are_put_into_the_past(base, simple, done):
    assert (past(base), participle(base)) == (simple, done)


def test_every_verb_of_a_request_has_a_past_of_letters():
    assert all(past(verb).isalpha() for verb in request_verbs() if "-" not in verb)


@pytest.mark.parametrize("tense", ["past", "future"])
@pytest.mark.parametrize("prompt", [*DEEDS, "What does a falconer wear?", "zxcv, 3 of them", ""])
def test_twenty_distinct_wordings_exist_for_every_prompt(prompt, tense):
    texts = [one.text for one in RULES.wordings(prompt, tense)]
    assert len(texts) == len(set(texts)) >= 20
    assert all(is_in_tense(text, tense) for text in texts)


def test_a_deed_keeps_its_object_and_loses_its_first_person():
    for one in RULES.wordings("Write a letter to my landlord.", "past"):
        assert "a letter to their landlord" in one.text
        assert one.how == "deed"
        assert " my " not in one.text


def test_past_wordings_ask_nothing_in_the_present_or_future():
    for prompt in DEEDS:
        for one in RULES.wordings(prompt, "past"):
            assert not is_in_tense(one.text, "future")
            assert " do I " not in one.text


def test_the_same_prompt_and_seed_give_the_same_order_and_another_seed_another():
    first, again = (TenseRules(seed=3).wordings(DEEDS[0], "past") for _ in range(2))
    other = TenseRules(seed=4).wordings(DEEDS[0], "past")
    assert first == again
    assert first != other
    assert {one.text for one in first} == {one.text for one in other}


def test_the_first_present_wording_is_the_prompt_itself():
    first, *others = RULES.wordings(DEEDS[0], "present")
    assert (first.text, first.how) == (DEEDS[0], "unchanged")
    assert all(one.text != DEEDS[0] for one in others)


@pytest.mark.parametrize(
    ("prompt", "kind", "verb"),
    [
        ("How can one sharpen a chisel?", "deed", "sharpen"),
        ("what's the best way to dry herbs", "deed", "dry"),
        ("Our stove is old, so tell me how to clean it, please", "deed", "clean"),
        ("Dear sir, could you kindly list three rivers?", "deed", "list"),
        ("Why do cats purr?", "question", "do"),
        ("Is the tower tall?", "question", "is"),
        ("hmm", "other", ""),
    ],
)
def test_the_asking_clause_is_found_among_greetings_and_stories(prompt, kind, verb):
    found = find_request(prompt)
    assert (found.kind, found.verb) == (kind, verb)


def test_what_stands_around_the_request_is_kept():
    found = find_request("My roof leaks. How do I mend it? It is slate.")
    assert (found.before, found.after) == ("My roof leaks.", "It is slate.")
    assert all("My roof leaks. " in one.text for one in RULES.wordings("My roof leaks. How do I mend it?", "past"))


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_has_wordings(text):
    for tense in TENSES:
        assert all(one.text or tense == "present" for one in RULES.wordings(text, tense))


@pytest.mark.parametrize("unit", [", ", "so ", "how to ", "what is the way to ", "? ", "and a ", "please "])
def test_endless_prompts_are_reworded_in_linear_time(unit):
    started = time.perf_counter()
    assert RULES.wordings(unit * 10_000, "past")
    assert time.perf_counter() - started < 30


def test_braces_of_a_prompt_stay_text():
    prompt = "{time} zq {base}"
    assert all(prompt in one.text for one in RULES.wordings(prompt, "past"))


def test_most_of_the_suite_is_reworded_rather_than_quoted():
    goals = goals_of(load_suite("core").rows)
    quoted = sum(RULES.wordings(goal.prompt, "past")[0].how == "quoted" for goal in goals)
    assert quoted < 0.4 * len(goals)


def test_a_model_that_rewords_is_asked_anew_for_each_attempt_and_sees_no_braces_filled():
    seen = []

    def script(request):
        seen.append((request.seed, request.messages[0].text))
        return ChatReply(text='Reworded: "How did people {x}?"')

    rewords = PromptedReformulator(model=ScriptedModel(script=script), seed=7)
    found = [asyncio.run(rewords.reword("Bake {x}", "past", number)) for number in range(2)]
    assert [seed for seed, _ in seen] == [7, 8]
    assert all("Bake {x}" in text for _, text in seen)
    assert {one.text for one in found} == {"How did people {x}?"}


def test_a_model_that_says_nothing_leaves_the_rules_wording():
    rewords = PromptedReformulator(model=ScriptedModel(script=lambda request: " "))
    assert asyncio.run(rewords.reword(DEEDS[0], "past", 0)) == asyncio.run(RULES.reword(DEEDS[0], "past", 0))


def test_requests_about_history_are_asked_as_they_are():
    goal = Goal(id="h", side="natural", prompt="How did people keep bees?", condition="past")
    asked = asyncio.run(TenseAttack().asked(goal, "past", 3))
    assert [message.text for message in asked.messages] == [goal.prompt]


@pytest.mark.parametrize(
    "text", ["“Was it?”", '"Was it?"', "Reformulated request: Was it?", " Was it?\n\nI hope this helps."]
)
def test_labels_and_quotation_marks_of_a_rewording_go(text):
    assert unquoted(text) == "Was it?"
