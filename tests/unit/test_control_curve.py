"""Curves, spill-over and reliability: what every threshold would do, from scores read once."""

import numpy as np
import pytest

from demur.control.coverage import synthetic_population
from demur.control.curve import (
    mass_quantiles,
    operating_curves,
    ranking,
    rates_by_category,
    reliability,
    spill_over,
    switched_off,
    threshold_grid,
)
from demur.control.decision import decide
from demur.control.labelled import labelled, rate
from demur.control.presets import preset
from demur.core.policy import Rule, SignalSource
from demur.core.signal import scores_from_probabilities

CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")
ROWS = synthetic_population(400, CATEGORIES, seed=5)
POLICY = preset("default", SignalSource(name="fake", identity="fake@1"), CATEGORIES)


def test_a_curve_says_what_the_policy_with_that_threshold_does():
    curves = {curve.name: curve for curve in operating_curves(POLICY, ROWS)}
    assert set(curves) == {"all", *CATEGORIES}
    for at in (20, 100, 180):
        t = float(threshold_grid()[at])
        moved = POLICY.model_copy(update={"rules": {**POLICY.rules, "safety": Rule(threshold=t)}})
        refused = decide(moved, ROWS.scores).refused
        assert curves["safety"].refusal[at] == pytest.approx(rate(refused, ROWS.cell("refusal", "safety")))
        assert curves["safety"].over_refusal_all[at] == pytest.approx(rate(refused, ROWS.cell("over_refusal")))
        alike = decide(POLICY.model_copy(update={"threshold": t}), ROWS.scores).refused
        assert curves["all"].refusal[at] == pytest.approx(rate(alike, ROWS.cell("refusal")))


def test_rates_fall_as_thresholds_rise():
    for curve in operating_curves(POLICY, ROWS):
        for values in (curve.refusal, curve.over_refusal, curve.refusal_all, curve.over_refusal_all):
            assert len(values) == 200
            assert (np.diff(values) <= 0).all()


def test_a_summed_policy_has_one_curve():
    summed = preset("default", POLICY.source, CATEGORIES, kind="sum")
    (curve,) = operating_curves(summed, ROWS, thresholds=np.array([0.25, 0.5]))
    assert curve.refusal[1] == pytest.approx(rate(decide(summed, ROWS.scores).refused, ROWS.refuse))


def test_switching_a_category_off_lowers_it_most():
    names, kinds, shares = spill_over(POLICY, ROWS)
    assert names == ["", *CATEGORIES]
    assert kinds == list(CATEGORIES)
    fallen = shares[0] - shares[1:]
    assert (fallen >= 0).all()
    assert (fallen.argmax(axis=1) == np.arange(5)).all()
    assert switched_off(POLICY, "safety").rules["safety"].action == "answer"


def test_rates_count_both_sides_of_every_kind():
    rates = rates_by_category(POLICY, ROWS)
    assert list(rates) == ["all", *CATEGORIES, "ordinary"]
    assert rates["ordinary"]["refusal"] == (0, 0)
    assert sum(rates[c]["over_refusal"][1] for c in (*CATEGORIES, "ordinary")) == rates["all"]["over_refusal"][1]


def test_ranking_is_within_each_category_and_none_with_one_side():
    found = ranking(ROWS)
    assert 0.7 < found["all"] < 1
    assert found["ordinary"] is None


def test_true_probabilities_are_reliable():
    rng = np.random.default_rng(0)
    p = rng.random(4000)
    rows = labelled(scores_from_probabilities(("any",), p[:, None]), rng.random(4000) < p, ["any"] * 4000)
    bins = reliability(rows)
    assert len(bins) == 10
    assert sum(one.low <= one.predicted <= one.high for one in bins) >= 8
    assert sum(one.n for one in bins) == 4000


def test_a_signal_without_a_vocabulary_has_all_its_mass():
    scores = scores_from_probabilities(("any",), np.array([[0.2], [0.7]]))
    assert mass_quantiles(scores) == pytest.approx(dict.fromkeys(("0", "0.05", "0.25", "0.5", "0.75", "1"), 1.0))
