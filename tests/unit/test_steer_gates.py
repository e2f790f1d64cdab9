"""Conditions: which number about a prompt they are, and what a gate made of them says as a signal."""

import numpy as np
import pytest
from tests.steer_models import WIDTH, direction

from demur.core.errors import BadInputError
from demur.steer.gates import Condition, Gate, cast_similarity, condition_name, gate_scores, parse_gate, single_gate

STATES = np.random.default_rng(1).normal(size=(200, WIDTH)).astype(np.float32)


def gate(text="harm > 0.1", **fields):
    return parse_gate(
        text, {"harm": Condition(direction(name="harm")), "health": Condition(direction(seed=3))}, **fields
    )


def test_the_sign_of_a_state_matters_to_the_cosine_and_not_to_the_published_similarity():
    harm = direction()
    assert np.allclose(Condition(harm).score(STATES), -Condition(harm).score(-STATES))
    published = Condition(harm, measure="cast").score(STATES)
    assert np.allclose(published, Condition(harm, measure="cast").score(-STATES))
    assert np.allclose(published, cast_similarity(STATES, -harm))


def test_the_signed_condition_is_flipped_by_negating_its_direction():
    states = {"harm": STATES, "health": STATES}
    harm = Condition(direction())
    fires = parse_gate("harm > 0", {"harm": harm}).fires(states)
    flipped = parse_gate("harm > 0", {"harm": Condition(-harm.direction)}).fires(states)
    assert np.array_equal(fires, ~flipped)


def test_one_gate_as_a_signal_is_one_half_at_its_own_border():
    found = gate("harm > 0.1 and not (health > 0.2)")
    states = {"any": {"harm": STATES, "health": STATES}}
    scores = gate_scores({"any": found}, states)
    assert scores.categories == ("any",)
    assert np.array_equal(scores.p_any > 0.5, found.fires(states["any"]))
    order = np.argsort(found.margin(states["any"]))
    assert np.all(np.diff(scores.p_any[order]) >= 0)


def test_several_gates_share_probability_with_answering():
    gates = {"safety": gate("harm > 0.1"), "humanizing": gate("health > 0.1")}
    scores = gate_scores(gates, {name: {"harm": STATES, "health": STATES} for name in gates})
    p = scores.p()
    assert np.allclose(p.sum(axis=1), 1)
    assert np.array_equal(p[:, 0] > p[:, -1], gates["safety"].fires({"harm": STATES}))


def test_a_gate_of_one_direction_uses_a_cosine_or_the_calibrated_projection():
    by_hand = single_gate(direction(name="harm"), 0.1)
    assert str(by_hand.expression) == "harm >= 0.1"
    calibrated = single_gate(direction(name="harm", threshold=3.0))
    expected = direction().project(STATES) >= 3.0
    assert np.array_equal(calibrated.fires({"harm": STATES}), expected)
    with pytest.raises(BadInputError, match="expected a calibrated threshold"):
        single_gate(direction())


@pytest.mark.parametrize(("span", "place"), [("t_post[-1]", -1), ("t_post[0]", -4), ("t_inst", -5), ("mean", None)])
def test_spans_are_places_counted_from_the_prompts_end(span, place):
    assert Condition(direction(), span).place(4) == place


def test_a_span_that_cannot_be_found_says_what_to_do():
    with pytest.raises(BadInputError, match="needs the chat template"):
        Condition(direction(), "t_inst").place(None)
    with pytest.raises(BadInputError, match="a gate decides before there is a reply"):
        Condition(direction(), "t_resp[0]").place(4)


def test_a_gate_keeps_only_the_conditions_its_expression_reads():
    assert set(gate("harm > 0.1").conditions) == {"harm"}
    with pytest.raises(BadInputError, match="expected known conditions"):
        Gate(gate("harm > 0.1").expression, {})


def test_any_text_becomes_a_name_that_parses():
    for text in ("refusal", "refusal t_post[-1]", "not", "3rd", "", "+"):
        name = condition_name(text)
        assert str(parse_gate(f"{name} > 0", {name: Condition(direction())}).expression) == f"{name} > 0.0"
