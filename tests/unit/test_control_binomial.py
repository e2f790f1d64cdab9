"""Exact binomial tails and what follows from them, against hand-known values and scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from demur.stats.binomial import (
    beta_quantile,
    clopper_pearson,
    fewest_hits,
    fewest_trials,
    lower_bound,
    lower_tail,
    most_hits,
    nearest_count,
    upper_bound,
    upper_tail,
)

TRIALS = st.integers(1, 400)
SHARE = st.floats(0.001, 0.999)


def test_tails_are_those_of_a_coin():
    assert lower_tail(1, 4, 0.5) == pytest.approx(5 / 16)
    assert upper_tail(3, 4, 0.5) == pytest.approx(5 / 16)
    assert (lower_tail(-1, 4, 0.5), lower_tail(4, 4, 0.5)) == (0.0, 1.0)
    assert (upper_tail(0, 4, 0.0), upper_tail(1, 4, 0.0), lower_tail(3, 4, 1.0)) == (1.0, 0.0, 0.0)


def test_the_rule_of_three_and_the_rule_of_59():
    assert clopper_pearson(0, 100, level=0.9)[1] == pytest.approx(1 - 0.05 ** (1 / 100))
    assert fewest_trials(0.95, 0.05) == 59
    assert fewest_hits(59, 0.95, 0.05) == 59
    assert fewest_hits(58, 0.95, 0.05) == 59  # more than there are: no outcome shows it
    assert most_hits(58, 0.05, 0.05) == -1


@given(n=TRIALS, p=SHARE, data=st.data())
@settings(max_examples=150, deadline=None)
def test_tails_agree_with_scipy(n, p, data):
    k = data.draw(st.integers(0, n))
    assert lower_tail(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-6, abs=1e-280)
    assert upper_tail(k, n, p) == pytest.approx(stats.binom.sf(k - 1, n, p), rel=1e-6, abs=1e-280)


@given(n=TRIALS, level=st.floats(0.5, 0.999), data=st.data())
@settings(max_examples=100, deadline=None)
def test_intervals_agree_with_scipy(n, level, data):
    k = data.draw(st.integers(0, n))
    theirs = stats.binomtest(k, n).proportion_ci(confidence_level=level, method="exact")
    assert clopper_pearson(k, n, level=level) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(a=st.integers(1, 60), b=st.integers(1, 60), q=SHARE)
@settings(max_examples=100, deadline=None)
def test_beta_quantiles_agree_with_scipy(a, b, q):
    assert beta_quantile(q, a, b) == pytest.approx(stats.beta.ppf(q, a, b), abs=1e-9)


@given(n=TRIALS, rate=SHARE, delta=st.floats(0.001, 0.5))
@settings(max_examples=150, deadline=None)
def test_counts_lie_on_the_edge_of_their_tail(n, rate, delta):
    m = most_hits(n, rate, delta)
    assert m == -1 or lower_tail(m, n, rate) <= delta * (1 + 1e-9)
    assert lower_tail(m + 1, n, rate) > delta * (1 - 1e-9)
    k = fewest_hits(n, rate, delta)
    assert k == n + 1 or upper_tail(k, n, rate) <= delta * (1 + 1e-9)
    assert upper_tail(k - 1, n, rate) > delta * (1 - 1e-9)


@given(n=TRIALS, rate=SHARE)
@settings(max_examples=60, deadline=None)
def test_the_nearest_count_is_nearest_of_all(n, rate):
    k, tolerance = nearest_count(n, rate, 0.1)
    low, high = clopper_pearson(k, n, level=0.9)
    assert rate - tolerance <= low + 1e-12
    assert high - 1e-12 <= rate + tolerance
    every = [clopper_pearson(j, n, level=0.9) for j in range(n + 1)] if n <= 60 else []
    assert all(max(high - rate, rate - low) >= tolerance - 1e-12 for low, high in every)


def test_one_sided_bounds_miss_as_often_as_promised():
    rng = np.random.default_rng(0)
    hits = rng.binomial(40, 0.3, 4000)
    table = {k: (lower_bound(k, 40, 0.1), upper_bound(k, 40, 0.1)) for k in set(hits.tolist())}
    assert np.mean([table[k][0] > 0.3 for k in hits]) <= 0.11
    assert np.mean([table[k][1] < 0.3 for k in hits]) <= 0.11


def test_impossible_arguments_are_errors():
    for bad in ((1, 4, 1.5), (1, -4, 0.5), (1, 4, float("nan"))):
        with pytest.raises(ValueError, match="expected"):
            lower_tail(*bad)
    with pytest.raises(ValueError, match="below 1"):
        fewest_trials(1.0, 0.1)


def test_a_million_trials_are_no_trouble():
    assert most_hits(1_000_000, 0.05, 0.1) == stats.binom.ppf(0.1, 1_000_000, 0.05) - 1
