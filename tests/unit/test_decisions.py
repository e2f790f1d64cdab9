import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from demur.control.decision import decide, decide_one, stricter
from demur.core.policy import Decision, Policy, Rule, SignalSource
from demur.core.signal import TEMPERATURES, SignalScores, scores_from_probabilities, stacked

CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")
SOURCE = SignalSource(
    name="refusal-tokens", identity="m@1+2", token_ids={**{c: i for i, c in enumerate(CATEGORIES)}, "respond": 9}
)


def scores(*rows, other=(0.0, -1.0), categories=CATEGORIES):
    """Scores from the logits of the control tokens, with two ordinary tokens beside them."""
    logits = np.array(rows, dtype=float)
    every = np.hstack([logits, np.tile(other, (len(logits), 1))])
    totals = np.stack([np.log(np.exp(every / t).sum(axis=1)) for t in TEMPERATURES], axis=1)
    top = every.argmax(axis=1)
    return SignalScores(
        categories=categories, logits=logits, log_total=totals, top=np.where(top < logits.shape[1], top, -1)
    )


def policy(kind, **more):
    return Policy(name="p", source=SOURCE, kind=kind, **more)


def single(refuse, respond, *, other=(0.0, -1.0)):
    return scores([refuse, respond], other=other, categories=("any",))


def test_the_posterior_ignores_the_rest_of_the_vocabulary_and_the_full_view_does_not():
    quiet, loud = single(1.0, 0.0), single(1.0, 0.0, other=(9.0, 9.0))
    assert np.allclose(quiet.p("posterior"), loud.p("posterior"))
    assert loud.p("full").sum() < 0.01 < quiet.p("full").sum()
    assert np.allclose(quiet.mass, quiet.p("full").sum(axis=1))


def test_two_way_is_the_codes_threshold_of_minus_one():
    assert decide(policy("two_way"), single(2.0, 1.9)).refused[0]
    assert not decide(policy("two_way"), single(1.9, 2.0)).refused[0]


def test_one_token_and_a_full_vocabulary_threshold_is_the_codes_global_threshold():
    found = single(2.0, 1.0)
    p = float(found.p("full")[0, 0])
    for threshold, refused in ((p - 1e-6, True), (p + 1e-6, False)):
        assert decide(policy("sum", view="full", threshold=threshold), found).refused[0] == refused


@given(st.floats(-4, 4), st.floats(-4, 4), st.floats(-6, 6))
def test_a_bias_is_a_threshold_on_the_two_way_posterior(refuse, respond, bias):
    found = single(refuse, respond)
    threshold = 1 / (1 + np.exp(bias))
    if abs(float(found.p()[0, 0]) - threshold) > 1e-9:
        assert (
            decide(policy("bias", bias=bias), found).refused[0]
            == decide(policy("sum", threshold=threshold), found).refused[0]
        )


def test_a_category_set_controls_only_its_own_categories():
    safety_on_top, humanizing_on_top = scores([0, 0, 0, 0, 5, 1]), scores([0, 0, 0, 5, 0, 1])
    controls = policy("category_set", view="full", rules={"safety": Rule(threshold=0.99999)})
    declined = decide(controls, safety_on_top)
    assert (bool(declined.refused[0]), int(declined.token[0])) == (False, 5), (
        "below its threshold the respond token is forced"
    )
    untouched = decide(controls, humanizing_on_top)
    assert (bool(untouched.refused[0]), int(untouched.token[0])) == (True, 3), (
        "others do what the model's likeliest token says"
    )


def test_an_untouched_row_may_begin_with_an_ordinary_token():
    row = scores([0, 0, 0, 5, 0, 1], other=(9.0, 0.0))
    found = decide(policy("category_set", rules={"safety": Rule(threshold=0.5)}), row)
    assert (bool(found.refused[0]), int(found.token[0])) == (False, -1)


def test_categories_are_not_summed_unless_asked():
    spread = scores([1, 1, 1, 1, 1, 1.5])
    assert not decide(policy("per_category", threshold=0.5), spread).refused[0]
    assert decide(policy("sum", threshold=0.5), spread).refused[0]


def test_a_threshold_of_its_own_counts_for_its_category_alone():
    row = scores([0, 0, 0, 0, 2, 1])
    assert decide(policy("per_category", threshold=0.9, rules={"safety": Rule(threshold=0.4)}), row).refused[0]
    assert not decide(policy("per_category", threshold=0.9, rules={"humanizing": Rule(threshold=0.4)}), row).refused[0]


def test_a_category_that_is_switched_off_never_declines_and_never_names_itself():
    row = scores([0, 0, 0, 0, 9, 1])
    off = policy("per_category", threshold=0.5, rules={"safety": Rule(action="answer")})
    assert decide_one(off, row).action == "answer"
    everything = {c: Rule(action="answer") for c in CATEGORIES}
    for kind in ("two_way", "sum", "bias", "per_category"):
        assert not decide(policy(kind, threshold=0.0, rules=everything), row).refused[0]


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6), st.floats(0, 1), st.floats(0, 1))
def test_a_lower_threshold_declines_whatever_a_higher_one_declines(row, low, high):
    low, high = sorted((low, high))
    found = scores(row)
    for kind in ("sum", "per_category"):
        declined = [bool(decide(policy(kind, threshold=t), found).refused[0]) for t in (low, high)]
        assert declined[0] >= declined[1]


def test_the_action_is_that_of_the_category_that_decided():
    rules = {"incomplete": Rule(action="clarify"), "safety": Rule(action="guide", threshold=0.2)}
    assert decide_one(policy("per_category", rules=rules), scores([5, 0, 0, 0, 0, 0])).action == "clarify"
    assert decide_one(policy("per_category", rules=rules), scores([0, 0, 0, 0, 5, 0])).action == "guide"


def test_a_floor_overrules_an_answer_and_never_a_refusal():
    def decision(action, name):
        return Decision(action=action, category="safety", p=0.5, threshold=0.4, policy=name)

    assert stricter(decision("answer", "own"), decision("refuse", "floor")).origin == "floor"
    assert stricter(decision("clarify", "own"), decision("refuse", "floor")).policy == "own"
    assert stricter(decision("answer", "own"), decision("answer", "floor")).policy == "own"


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_threshold_outside_its_range_is_no_policy(bad):
    with pytest.raises(ValidationError):
        policy("sum", threshold=bad)
    with pytest.raises(ValidationError):
        Rule(threshold=bad)


def test_a_rule_for_a_category_the_signal_lacks_is_refused():
    with pytest.raises(ValidationError, match="unknown category 'saftey'"):
        policy("per_category", rules={"saftey": Rule(threshold=0.2)})


def test_probabilities_become_scores_and_come_back():
    found = scores_from_probabilities(("any",), np.array([[0.2], [0.9]]))
    assert np.allclose(found.p()[:, 0], [0.2, 0.9])
    assert np.allclose(found.p("full")[:, 0], [0.2, 0.9])
    assert np.allclose(found.mass, 1.0)
    assert np.allclose(found.p_any, [0.2, 0.9])
    with pytest.raises(ValueError, match="summing to at most 1"):
        scores_from_probabilities(("a", "b"), np.array([[0.7, 0.7]]))


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        scores([np.nan, 0, 0, 0, 0, 0])


def test_rows_can_be_taken_apart_and_put_together():
    whole = scores([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1])
    assert np.array_equal(stacked([whole[:1], whole[1:]]).logits, whole.logits)


def test_an_unrecorded_temperature_has_a_posterior_and_no_full_view():
    found = scores([1, 2, 3, 4, 5, 6])
    assert np.allclose(found.p("posterior", temperature=3.0).sum(), 1.0)
    with pytest.raises(ValueError, match="recorded"):
        found.p("full", temperature=3.0)
