"""Success at k: the estimator equals an average over every subset, and its interval knows that attempts repeat."""

from itertools import combinations

import pytest

from demur.stress.asr import asr_at, mean_interval, naive_at, success_at


@pytest.mark.parametrize("n", [1, 4, 7])
def test_the_estimator_is_the_share_of_subsets_with_a_success(n):
    for c in range(n + 1):
        flags = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(combinations(flags, k))
            assert success_at(n, c, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


def test_success_at_one_is_the_mean_and_at_all_is_any():
    goals = {"a": [True, False, False, False], "b": [False] * 4, "c": [True] * 4}
    assert asr_at(goals, 1).estimate == pytest.approx((0.25 + 0 + 1) / 3)
    assert asr_at(goals, 4).estimate == naive_at(goals, 4).estimate == pytest.approx(2 / 3)


def test_success_never_falls_with_more_attempts():
    goals = {str(c): [True] * c + [False] * (20 - c) for c in range(0, 21, 4)}
    rates = [asr_at(goals, k).estimate for k in range(1, 21)]
    assert rates == sorted(rates)


def test_order_matters_to_the_naive_count_only():
    early, late = {"a": [True, False, False]}, {"a": [False, False, True]}
    assert naive_at(early, 1).estimate == 1
    assert naive_at(late, 1).estimate == 0
    assert asr_at(early, 1) == asr_at(late, 1)


def test_unjudged_attempts_leave_the_denominator():
    found = asr_at({"a": [True, None], "b": [None, None], "c": [False, False]}, 1)
    assert (found.estimate, found.n, found.unjudged) == (0.5, 2, 1)


def test_repeating_attempts_on_the_same_goals_narrows_nothing_when_goals_decide():
    once = mean_interval([1.0] * 10 + [0.0] * 10)
    repeated = asr_at({str(i): [i < 10] * 8 for i in range(20)}, 1)
    assert (repeated.low, repeated.high) == (once.low, once.high)


def test_attempts_that_differ_within_goals_narrow_the_interval():
    varied = mean_interval([0.5] * 9 + [0.25, 0.75])
    alike = mean_interval([1.0, 0.0] * 5 + [0.5])
    assert varied.high - varied.low < alike.high - alike.low


def test_no_goals_have_no_rate():
    assert mean_interval([]).estimate is None


@pytest.mark.parametrize(("n", "c", "k"), [(2, 3, 1), (2, 1, 3), (2, 1, 0)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(ValueError, match="expected"):
        success_at(n, c, k)
