"""The first set-up: trees of tokens give what single passes give, and only the statement moves the calibrated choice."""

from math import exp, log

import numpy as np
import pytest

from demur.core.culture import LANGUAGES, Statement
from demur.cultures.forced_choice import choice_of, content_free_margins, forced_choices, margin, probability, questions
from demur.cultures.resume import NumberJournal
from demur.cultures.templates import ORDERS, wordings
from demur.models.answer_logprobs import Weighed, first_mass
from demur.models.token_tree import TokenQuestion, shared_beginning, token_tree


def statement(number=1, language="de", text="Alle brauchen ein Dach.", english="Everyone needs a roof.", **changes):
    fields = {"topic": "social_welfare", "country": f"{language}-{language}", "source": "s1", "values": ("dignity",)}
    return Statement(id=f"cultures-{number}", language=language, statement=text, english=english, **(fields | changes))


class Counting:
    """Weighs answers by what `liking` says about prompt, answer and place of the answer among the options."""

    def __init__(self, liking, tokens=len):
        self.liking, self.tokens, self.calls = liking, tokens, 0

    def score(self, groups):
        for number, group in enumerate(groups):
            self.calls += 1
            yield number, [[self.weighed(q.prompt, a) for a in q.answers] for q in group]

    def weighed(self, prompt, answer):
        n = max(1, self.tokens(answer.split()))
        return Weighed(tuple(hash((answer, i)) for i in range(n)), (self.liking(prompt, answer),) * n)


def asked(scorer, tmp_path, rows, identity="m"):
    return forced_choices(rows, lambda: scorer, identity=identity, out=tmp_path)


def test_a_tree_shows_every_node_its_own_past_alone():
    tree = token_tree([TokenQuestion((1, 2, 3), ((7,), (8, 9))), TokenQuestion((1, 2, 4), ((7, 5),))])
    for node in range(len(tree)):
        past = np.flatnonzero(tree.sees[node])
        assert sorted(tree.depths[past]) == list(range(tree.depths[node] + 1))


def test_a_tree_reads_every_beginning_once_and_puts_what_predicts_last():
    tree = token_tree([TokenQuestion((1, 2, 3), ((7,), (8, 9))), TokenQuestion((1, 2, 4), ((7, 5),))])
    assert sorted(tree.tokens) == [1, 2, 3, 4, 7, 8]  # 9, the second 7's answer 5 and the first 7 predict nothing
    assert tree.n_needed == 4
    assert [len(nodes) for answers in tree.targets for nodes in answers] == [1, 2, 2]


def test_what_was_read_before_is_left_out_of_the_tree():
    plain, after = (token_tree([TokenQuestion((1, 2, 3), ((7, 8),))], head=head) for head in (0, 2))
    assert (len(plain), len(after)) == (4, 2)
    with pytest.raises(ValueError, match="shared beginning"):
        token_tree([TokenQuestion((1, 2), ((7,),))], head=2)


def test_the_shared_beginning_leaves_every_prompt_something():
    assert shared_beginning([TokenQuestion((1, 2, 3), ()), TokenQuestion((1, 2), ())]) == (1,)
    assert shared_beginning([TokenQuestion((1, 2, 3), ()), TokenQuestion((1, 4), ())]) == (1,)
    assert shared_beginning([]) == ()


def test_answers_of_different_lengths_are_comparable():
    short, long = Weighed((1,), (-2.0,)), Weighed((2, 3, 4), (-2.0, -2.0, -2.0))
    assert margin(short, long) == 0.0


def test_a_beginning_that_both_answers_share_says_nothing():
    agree, disagree = Weighed((1, 2, 3), (-9.0, -9.0, -1.0)), Weighed((1, 2, 4, 5), (-9.0, -9.0, -2.0, -2.0))
    assert margin(agree, disagree) == pytest.approx(1.0)
    assert margin(agree, agree) == 0.0


def test_the_mass_counts_a_first_token_that_both_answers_share_once():
    half = log(0.5)
    assert first_mass([Weighed((1, 2), (half, 0.0)), Weighed((1, 3), (half, 0.0))]) == pytest.approx(0.5)
    assert first_mass([Weighed((1,), (half,)), Weighed((2,), (half,))]) == pytest.approx(1.0)


def test_margins_and_probabilities_are_mirror_images():
    for x in (-800.0, -3.0, 0.0, 0.4, 800.0):
        assert probability(x) + probability(-x) == pytest.approx(1.0)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_content_free_text_is_agreed_with_by_exactly_one_half(language):
    templates = wordings()[language].templates
    rng = np.random.default_rng(0)
    numbers = [[float(m), 0.3] for m in rng.normal(size=2 * len(templates))]
    found = choice_of("x", "original", numbers, content_free_margins([numbers]), templates)
    assert found.agreement == pytest.approx(0.5)
    assert found.order_effect == pytest.approx(0.0)
    assert found.template_sd == pytest.approx(0.0)


def test_what_words_and_order_do_by_themselves_cancels(tmp_path):
    def biased(prompt, answer):  # likes long answers, the first option and the letter A, and not one statement
        return 0.3 * len(answer) - 0.01 * prompt.rfind(answer) / len(prompt) * 0 + (2.0 if answer == "A" else 0.0)

    found, _ = asked(Counting(biased), tmp_path, [statement()])
    for one in found:
        assert one.agreement == pytest.approx(0.5)
        assert one.uncalibrated != pytest.approx(0.5)


def test_what_the_statement_does_remains(tmp_path):
    def fond(prompt, answer):
        agrees = answer in {
            t.answers(o)[0] for w in wordings().values() for t in w.templates for o in ORDERS if t.shown == "words"
        }
        return log(0.7) if ("Dach" in prompt) == agrees else log(0.3)

    found, _ = asked(Counting(fond), tmp_path, [statement()])
    original = next(one for one in found if one.form == "original")
    assert min(v for name, v in original.by_template.items() if name != "letters") > 0.6


def test_exchanging_the_answers_exchanges_the_agreement():
    templates = wordings()["en"].templates
    rng = np.random.default_rng(1)
    numbers, neutral = rng.normal(size=8), rng.normal(size=8)
    one = choice_of("x", "original", [[m, 0.1] for m in numbers], neutral, templates)
    other = choice_of("x", "original", [[-m, 0.1] for m in numbers], -neutral, templates)
    assert one.agreement + other.agreement == pytest.approx(1.0)
    assert one.order_effect == pytest.approx(-other.order_effect)


def test_exchanging_the_orders_changes_only_the_sign_of_their_effect():
    templates = wordings()["en"].templates
    rng = np.random.default_rng(2)
    numbers, neutral = rng.normal(size=(4, 2)), rng.normal(size=(4, 2))
    one, other = (
        choice_of("x", "original", [[m, 0.1] for m in a.ravel()], b.ravel(), templates)
        for a, b in ((numbers, neutral), (numbers[:, ::-1], neutral[:, ::-1]))
    )
    assert one.agreement == pytest.approx(other.agreement)
    assert one.order_effect == pytest.approx(-other.order_effect)
    assert (one.flips, one.template_sd) == (pytest.approx(other.flips), pytest.approx(other.template_sd))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_asks_in_the_same_ways_and_shows_both_answers(language):
    ours = wordings()[language]
    assert [t.name for t in ours.templates] == [t.name for t in wordings()["en"].templates]
    for question in questions(language, "{first} {statement}"):
        assert "{first} {statement}" in question.prompt  # the braces of a statement stay what they are
        assert len(set(question.answers)) == 2
    for template in ours.templates:
        shown = [template.filled("x", order) for order in ORDERS]
        assert len(set(shown)) == 2
        assert all(template.agree in text and template.disagree in text for text in shown)


def test_nothing_is_computed_twice_and_another_model_shares_nothing(tmp_path):
    scorer = Counting(lambda prompt, answer: -float(len(answer)))
    first, _ = asked(scorer, tmp_path, [statement()])
    calls = scorer.calls
    again, _ = asked(scorer, tmp_path, [statement()])
    assert (again, scorer.calls) == (first, calls)
    asked(scorer, tmp_path, [statement()], identity="other")
    assert scorer.calls == 2 * calls


def test_a_run_killed_in_the_middle_goes_on_where_it_was(tmp_path):
    class Killed(Counting):
        def score(self, groups):
            yield from list(super().score(groups))[:3]
            raise KeyboardInterrupt

    liking = lambda prompt, answer: -float(len(answer) + len(prompt) % 7)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        asked(Killed(liking), tmp_path, [statement()])
    with (tmp_path / "choices.jsonl").open("a") as file:
        file.write('{"key": "torn')
    rest = Counting(liking)
    found, _ = asked(rest, tmp_path, [statement()])
    assert rest.calls == 8 - 3  # two languages, three content-free texts and one statement each
    assert found == asked(Counting(liking), tmp_path / "fresh", [statement()])[0]


def test_a_torn_line_is_forgotten_and_the_next_one_stands_alone(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"key": "a", "numbers": [[1, 2]]}\n{"key": "b", "num')
    journal = NumberJournal(file, identity="m")
    journal.add("c", [[3.0, 4.0]])
    journal.close()
    assert NumberJournal(file, identity="m").found == {"a": [[1.0, 2.0]], "c": [[3.0, 4.0]]}


def test_a_text_too_long_for_the_model_is_counted_and_left_out(tmp_path):
    class Short(Counting):
        def score(self, groups):
            for number, found in super().score(groups):
                yield number, None if "Dach" in groups[number][0].prompt else found

    found, n_long = asked(Short(lambda prompt, answer: -1.0), tmp_path, [statement()])
    assert n_long == 1
    assert [one.form for one in found] == ["translation"]


def test_equal_texts_are_computed_once(tmp_path):
    scorer = Counting(lambda prompt, answer: -exp(len(answer) / 50))
    asked(scorer, tmp_path, [statement(1), statement(2)])
    assert scorer.calls == 8
