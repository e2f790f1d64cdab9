"""Reply inversion on scripted answers and on a tiny random Llama: borders, scoring, verdicts, and who is steered where."""

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.steer_models import direction, tiny_subject

from demur.inside.inversion import (
    QUESTIONS,
    AnswerWords,
    InversionTask,
    answer_words,
    inversion_prompts,
    steered_rows,
    verdict_of,
)
from demur.inside.inversion_answers import answering, reply_inversion

REQUESTS = [f"Tell me a story about {n} small boats" for n in range(6)] + [
    f"How do I bake {n} breads?" for n in range(6)
]
HARMFUL = [True] * 6 + [False] * 6
YES, NO, OTHER = 0, 1, 2


@pytest.fixture(scope="module")
def subject():
    return tiny_subject()


def scripted(side_of, *, calls=None):
    """Answers by the side of each prompt: log-odds 2 for harmful, -2 for harmless, plus the strength if harm is added."""

    def answer(prompts, added, strength, reach):
        if calls is not None:
            calls.append((None if added is None else added.name, strength, reach, len(prompts)))
        shift = strength if added is not None and added.name == "harm" else 0.0
        odds = np.array([(2.0 if side_of[p.tokens] else -2.0) + shift for p in prompts])
        return np.stack([odds / 2, -odds / 2, np.full(len(odds), -9.0)], axis=1)

    return answer


def task_of(subject, answer_for, harmful=HARMFUL):
    prompts = [inversion_prompts(subject.tokenizer, REQUESTS, q) for q in QUESTIONS]
    return InversionTask(prompts, np.array(harmful), AnswerWords((YES,), (NO,)), answer_for(prompts))


def by_side(prompts, harmful=HARMFUL):
    return _ById({id(p.tokens): h for one in prompts for p, h in zip(one, harmful, strict=True)})


class _ById(dict):
    def __getitem__(self, tokens):
        return super().__getitem__(id(tokens))


def test_the_border_before_the_question_is_the_first_token_that_holds_any_of_it(subject):
    for question in QUESTIONS:
        for prompt in inversion_prompts(subject.tokenizer, REQUESTS[:3], question):
            ids = prompt.tokens.ids
            assert question in subject.tokenizer.decode(list(ids[prompt.before :]))
            assert question not in subject.tokenizer.decode(list(ids[prompt.before + 1 :]))
            assert 0 < prompt.before < prompt.tokens.position("t_inst")


def test_answers_of_three_kinds_are_told_apart():
    words = AnswerWords((YES,), (NO,))
    logits = np.log([[0.6, 0.2, 0.2], [0.1, 0.7, 0.2], [0.2, 0.2, 0.6]])
    np.testing.assert_allclose(words.log_odds(logits), [np.log(3), -np.log(7), 0.0])
    assert words.invalid(logits).tolist() == [False, False, True]


def test_a_model_that_does_the_task_is_told_from_one_that_guesses(subject):
    able = task_of(subject, lambda prompts: scripted(by_side(prompts)))
    assert verdict_of(able.untouched())[0]
    mixed = [i % 2 == 0 for i in range(12)]
    guesses = task_of(subject, lambda prompts: scripted(by_side(prompts, mixed)))
    solvable, said = verdict_of(guesses.untouched())
    assert not solvable
    assert said.startswith("task not solvable by this model")


def test_each_direction_is_tried_at_both_reaches_and_towards_the_other_side(subject):
    calls = []
    task = task_of(subject, lambda prompts: scripted(by_side(prompts), calls=calls))
    pairs = [("harm", direction(1, name="harm")), ("refusal", direction(1, seed=1))]
    rows = steered_rows(task, pairs, strengths=(0.5,), n_random=3)
    named = {(r.axis, r.reach, r.side): r for r in rows}
    assert {(a, r) for a, r, _ in named} == {
        ("harm", "before"), ("harm", "all"), ("refusal", "before"), ("refusal", "all"), ("random", "all"),
    }  # fmt: skip
    added, taken = named["harm", "before", "harmless"], named["harm", "before", "harmful"]
    assert (added.strength, taken.strength) == (0.5, -0.5)
    assert (added.shift, taken.shift) == (pytest.approx(0.5), pytest.approx(-0.5))
    assert named["refusal", "all", "harmless"].shift == pytest.approx(0.0)
    assert added.no == 1.0 and taken.no == 0.0  # noqa: PT018
    assert {n for _, _, _, n in calls} == {6, 12}


def test_steering_before_the_question_leaves_nothing_else_different_from_not_steering(subject):
    answer = answering(subject)
    prompts = inversion_prompts(subject.tokenizer, REQUESTS[:5], QUESTIONS[0])
    plain = answer(prompts, None, 0.0, "all")
    found = direction(1, name="harm")
    np.testing.assert_allclose(answer(prompts, found, 0.0, "before"), plain, atol=1e-6)
    before, everywhere = answer(prompts, found, 2.0, "before"), answer(prompts, found, 2.0, "all")
    assert np.abs(before - plain).max() > 1e-3
    assert np.abs(before - everywhere).max() > 1e-3
    alone = np.concatenate([answer([prompt], found, 2.0, "before") for prompt in prompts])
    np.testing.assert_allclose(before, alone, atol=1e-4)


def test_a_model_that_cannot_do_the_task_is_not_steered(subject):
    result = reply_inversion(subject, REQUESTS, HARMFUL, [("harm", direction(1, name="harm"))])
    assert not result.solvable
    assert result.steered == ()
    assert len(result.questions) == len(QUESTIONS) + 1
    assert all(0.0 <= row.invalid <= 1.0 for row in result.questions)


def test_first_tokens_of_the_two_answers_differ(subject):
    words = answer_words(subject.tokenizer)
    assert not set(words.yes) & set(words.no)
