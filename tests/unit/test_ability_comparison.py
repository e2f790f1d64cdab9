"""Two ability checks: changes are paired, and nothing is called worse that chance would do."""

from math import exp, log

import pytest

from demur.ability.choices import choice_result, favoured
from demur.ability.comparison import ability_changes, ability_rows
from demur.ability.prose import prose_result
from demur.ability.result import AbilityResult, ChosenItem, ReadText
from demur.suites.ability import ChoiceItem


def chosen(*right):
    items = [
        ChosenItem(id=str(i), subject="s", answer=0, chosen=dict.fromkeys(("byte", "token", "sum"), 0 if hit else 1))
        for i, hit in enumerate(right)
    ]
    return choice_result(items)


def read(*nats, tokens=10):
    return prose_result([ReadText(id=str(i), nats=n, tokens=tokens, bytes=40) for i, n in enumerate(nats)])


def test_readings_differ_as_their_divisors_do():
    item = ChoiceItem(id="q", subject="s", question="?", choices=("a", "bb bb", "c" * 20, "dd"), answer=0)
    weights = [[-2.0, 1.0], [-2.5, 2.0], [-8.0, 8.0], [-9.0, 1.0]]
    assert favoured(item, weights) == {"sum": 0, "token": 2, "byte": 2}
    assert favoured(item, [[-1.0, 1.0]] * 4)["sum"] == 0  # the first of equals


def test_perplexity_is_by_token_and_bits_are_by_byte():
    prose = read(20.0, 10.0)
    assert prose.perplexity == pytest.approx(exp(30 / 20))
    assert prose.bits_per_byte == pytest.approx(30 / log(2) / 80)
    assert read(20.0, tokens=0).tokens == 0


def test_the_same_model_has_changed_nothing():
    one = AbilityResult(choices=chosen(*[True, False] * 20), prose=read(20.0, 12.0, 31.0))
    changes = {change.name: change for change in ability_changes(one, one)}
    assert changes["multiple_choice"].change == 0.0
    assert changes["perplexity"].change == changes["bits_per_byte"].change == 1.0
    assert not any(change.is_worse for change in changes.values())
    assert {row.verdict for row in ability_rows(one, one)} <= {"", "may be chance"}


def test_a_clear_loss_is_called_worse_and_a_gain_better():
    good = AbilityResult(choices=chosen(*[True] * 60), prose=read(*[20.0, 22.0] * 5))
    bad = AbilityResult(choices=chosen(*[True] * 40, *[False] * 20), prose=read(*[26.0, 28.0] * 5))
    verdicts = {row.name: row.verdict for row in ability_rows(good, bad)}
    assert verdicts["multiple choice, by byte"] == verdicts["perplexity by token"] == "worse"
    assert {row.verdict for row in ability_rows(bad, good)} <= {"better", ""}


def test_one_item_of_difference_may_be_chance():
    before, after = (AbilityResult(choices=chosen(*[True] * 30, last)) for last in (True, False))
    (change,) = ability_changes(before, after)
    assert (change.change, change.is_worse) == (pytest.approx(-1 / 31), False)


def test_perplexity_is_not_compared_across_tokenizers():
    one, other = AbilityResult(prose=read(20.0, 21.0)), AbilityResult(prose=read(20.0, 21.0, tokens=8))
    assert [change.name for change in ability_changes(one, other)] == ["bits_per_byte"]


def test_parts_that_one_side_lacks_are_shown_and_not_compared():
    one, other = AbilityResult(choices=chosen(True, False)), AbilityResult(prose=read(20.0))
    assert ability_changes(one, other) == []
    assert {row.after for row in ability_rows(one, other)} == {"not measured"}


def test_metrics_have_the_names_that_gates_use():
    found = AbilityResult(choices=chosen(True, False), prose=read(20.0)).metrics
    assert {"multiple_choice", "perplexity"} <= set(found)
    assert found["multiple_choice"] == 0.5
