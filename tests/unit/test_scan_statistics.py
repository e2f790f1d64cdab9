import numpy as np
import pytest

from demur.stats.drift import change_points, population_stability, rate_differences
from demur.stats.stratified import Stratum, allocate, difference_rate, stratified_rate


def test_the_budget_is_spent_to_the_row_and_never_on_rows_that_do_not_exist():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(0, 50, size=rng.integers(1, 8))
        budget = int(rng.integers(0, 150))
        given = allocate(sizes.tolist(), rng.random(len(sizes)).tolist(), budget)
        assert given.sum() == min(budget, sizes.sum())
        assert (given <= sizes).all()
        assert (given >= 0).all()


def test_strata_that_vary_more_get_more_rows():
    given = allocate([1000, 1000], [0.5, 0.1], 120, floor=0)
    assert given.tolist() == [100, 20]
    assert allocate([1000, 1000], [0.5, 0.1], 12, floor=5).tolist() == [7, 5]


def test_a_stratum_judged_completely_adds_no_error():
    found = stratified_rate([Stratum(n_rows=40, n_judged=40, n_refused=10)], known_hits=10, known_rows=60)
    assert found.estimate == found.low == found.high == 0.2


def test_a_stratum_without_a_sample_joins_its_neighbour():
    parts = [Stratum(n_rows=100, n_judged=0, n_refused=0), Stratum(n_rows=100, n_judged=50, n_refused=25)]
    assert stratified_rate(parts).estimate == 0.5
    assert stratified_rate(parts[::-1]).estimate == 0.5


def test_a_sample_of_one_kind_still_has_an_interval():
    found = stratified_rate([Stratum(n_rows=10_000, n_judged=50, n_refused=0)])
    assert found.estimate == 0
    assert 0.005 < found.high < 0.12


@pytest.mark.parametrize("estimator", [stratified_rate, difference_rate])
def test_stratified_intervals_cover_about_as_often_as_they_promise(estimator):
    rng = np.random.default_rng(1)
    p = rng.beta(0.15, 0.6, size=20_000)  # most rows are clear answers, some clear refusals, few between
    truth = rng.random(len(p)) < np.clip(1.4 * p - 0.1, 0.01, 0.97)  # and the cheap score is miscalibrated
    bins = np.searchsorted([0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98], p)
    cheap = p > 0.4  # straddles a bin
    sizes = np.bincount(bins, minlength=8)
    wanted = allocate(sizes.tolist(), [0.1, 0.2, 0.4, 0.5, 0.5, 0.4, 0.2, 0.1], 400)
    covered, wide = 0, []
    for _ in range(300):
        parts = []
        for h in range(8):
            members = np.flatnonzero(bins == h)
            drawn = rng.choice(members, wanted[h], replace=False)
            parts.append(
                Stratum(
                    n_rows=len(members),
                    n_judged=len(drawn),
                    n_refused=int(truth[drawn].sum()),
                    n_cheap=int(cheap[members].sum()),
                    n_cheap_judged=int(cheap[drawn].sum()),
                    n_both=int((truth & cheap)[drawn].sum()),
                )
            )
        found = estimator(parts)
        covered += found.low <= truth.mean() <= found.high
        wide.append(found.high - found.low)
    assert 0.92 <= covered / 300 <= 0.995
    simple = 2 * 1.96 * np.sqrt(truth.mean() * (1 - truth.mean()) / 400)
    assert np.mean(wide) < 0.9 * simple


def test_a_change_is_found_where_it_is():
    rng = np.random.default_rng(0)
    n = rng.poisson(200, size=60)
    hits = rng.binomial(n, np.where(np.arange(60) < 41, 0.10, 0.16))
    (found,) = change_points(hits.tolist(), n.tolist())
    assert abs(found.index - 41) <= 1
    assert found.rate_before < 0.12 < 0.14 < found.rate_after


def test_two_changes_come_in_order_of_time_and_empty_buckets_are_no_obstacle():
    hits, n = [5] * 20 + [0] * 3 + [40] * 20 + [5] * 20, [100] * 20 + [0] * 3 + [100] * 40
    found = change_points(hits, n)
    assert [f.index for f in found] == [23, 43]
    assert [round(f.rate_after, 2) for f in found] == [0.4, 0.05]


def test_a_steady_or_merely_restless_rate_has_no_change_points():
    rng = np.random.default_rng(3)
    false_alarms = 0
    for _ in range(60):
        n = rng.poisson(300, size=40)
        p = rng.beta(20, 180, size=40)  # wobbles more than counts would
        false_alarms += bool(change_points(rng.binomial(n, p).tolist(), n.tolist(), n_shuffles=199))
    assert false_alarms <= 3


def test_too_short_or_empty_series_have_no_change_points():
    assert change_points([], []) == []
    assert change_points([1, 1], [2, 2]) == []
    assert change_points([0] * 50, [0] * 50) == []
    with pytest.raises(ValueError, match="equally long"):
        change_points([1], [1, 2])


def test_differences_are_bounded_for_all_looks_together():
    one = rate_differences({"a": (10, 100, 20, 100)})[0]
    many = rate_differences({str(i): (10, 100, 20, 100) for i in range(20)})[0]
    assert one.difference == pytest.approx(0.1)
    assert many.low < one.low < one.high < many.high
    assert not many.is_clear
    assert many.p_value > one.p_value


def test_a_period_without_rows_gives_no_difference():
    (found,) = rate_differences({"gone": (3, 10, 0, 0)})
    assert found.difference is None
    assert found.rate_b is None
    assert not found.is_clear


def test_family_intervals_of_equal_rates_rarely_exclude_zero():
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(200):
        counts = {str(i): (int(rng.binomial(80, 0.2)), 80, int(rng.binomial(120, 0.2)), 120) for i in range(10)}
        wrong += any(d.is_clear for d in rate_differences(counts))
    assert wrong / 200 < 0.09


def test_stability_is_zero_for_equal_shapes_and_grows_with_the_shift():
    assert population_stability([100, 200, 700], [1000, 2000, 7000]) == pytest.approx(0, abs=1e-4)
    assert population_stability([100, 200, 700], [700, 200, 100]) > 0.25
    with pytest.raises(ValueError, match="non-empty"):
        population_stability([1, 2], [0, 0])
