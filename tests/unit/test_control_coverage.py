"""Promises hold as often as they say, over draws from populations whose rates are known."""

import numpy as np
import pytest

from demur.control.coverage import coverage, synthetic_population
from demur.control.decision import decide
from demur.control.paths import compared_by, declined, thresholds_of
from demur.control.presets import preset
from demur.control.targets import parse_targets
from demur.core.policy import SignalSource

CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")
SOURCE = SignalSource(name="fake", identity="fake@1")
TWINS = synthetic_population(4_000, CATEGORIES)
STRANGERS = synthetic_population(4_000, CATEGORIES, twins=False)


def simulated(*texts, population=TWINS, kind="per_category", draws=60, n_groups=330):
    base = preset("default", SOURCE, CATEGORIES, kind=kind)
    targets = parse_targets(texts, known=(*CATEGORIES, "ordinary"))
    return coverage(population, targets, base, n_groups=n_groups, draws=draws, delta=0.1)


@pytest.mark.parametrize("population", [TWINS, STRANGERS], ids=["twins", "strangers"])
@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["over_refusal<=0.1"], "per_category"),
        (["over_refusal<=0.1"], "sum"),
        (["refusal>=0.8"], "sum"),
        (["refusal=0.7"], "sum"),
        (["humanizing:refusal=0.3"], "per_category"),
        (["safety:refusal>=0.6", "over_refusal<=0.2", "refusal>=0.4"], "per_category"),
        (["humanizing:refusal=0.5", "over_refusal<=0.15"], "per_category"),
        (["humanizing:refusal=0.5", "safety:refusal=0.8"], "per_category"),
        (["safety:refusal>=0.7", "over_refusal=0.2"], "per_category"),
    ],
)
def test_promises_are_broken_no_more_often_than_delta(population, texts, kind):
    found = simulated(*texts, population=population, kind=kind)
    assert found.infeasible < found.draws / 2
    assert found.holds, found


def test_a_lone_ceiling_spends_most_of_its_delta():
    found = simulated("over_refusal<=0.1", kind="sum", draws=250)
    assert 0.02 < found.rate < 0.14
    assert 0.06 < found.achieved["over_refusal<=0.1"] < 0.1


def test_a_simulation_notices_promises_that_are_too_bold():
    # Thresholds set at delta 0.5 break about half of their promises: that would not pass for 0.1.
    base = preset("default", SOURCE, CATEGORIES, kind="sum")
    targets = parse_targets(["over_refusal<=0.1"], known=CATEGORIES)
    bold = coverage(TWINS, targets, base, n_groups=330, draws=100, delta=0.5)
    assert 0.3 < bold.rate < 0.6
    assert not type(bold)(delta=0.1, draws=bold.draws, infeasible=0, broken=bold.broken).holds


def test_what_counts_as_declined_is_what_the_policy_declines():
    for kind in ("per_category", "sum"):
        policy = preset("strict", SOURCE, CATEGORIES, kind=kind)
        counted = declined(thresholds_of(policy, CATEGORIES), compared_by(policy, TWINS.scores))
        assert (counted == decide(policy, TWINS.scores).refused).all()


def test_twins_are_drawn_together():
    groups, sizes = np.unique(TWINS.group, return_counts=True)
    assert len(groups) == 4_000
    assert set(sizes.tolist()) == {1, 2}
