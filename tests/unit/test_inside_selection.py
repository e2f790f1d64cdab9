"""Selection, loud coordinates and refusal tokens: filters keep their reasons, and nothing surviving is a result."""

import numpy as np
import pytest

from demur.activations.direction import Direction
from demur.core.errors import BadInputError
from demur.inside.loudness import Peaks, concentration, loud_coordinates, masked
from demur.inside.phrases import refusal_metric, refusal_tokens
from demur.inside.selection import (
    Limits,
    candidate_attrition,
    candidates,
    filtered,
    random_trials,
    relative_limit,
    search,
)

WIDTH = 32


def direction(layer=1, index=0, **fields):
    return Direction(
        vector=np.eye(WIDTH, dtype=np.float32)[index],
        raw_norm=3.0,
        residual_index=layer,
        span="t_post[-1]",
        model="m",
        name="refusal",
        method="difference_in_means",
        **fields,
    )


class Planted:
    """A model whose refusal is coordinate 0, and which breaks when coordinate 9 is touched."""

    def __init__(self):
        self.asked = 0

    def bypass(self, d, n):
        self.asked += 1
        return np.full(n, 3.0 - 8.0 * d.vector[0] ** 2)

    def induce(self, d, n):
        return np.full(n, -3.0 + 8.0 * d.vector[0])

    def divergence(self, d, n):
        return np.full(n, 0.02 + 5.0 * d.vector[9] ** 2)


def test_the_planted_direction_is_chosen():
    limits = Limits(n_layers=10)
    tried = candidates([direction(layer, index) for layer, index in ((1, 3), (4, 0), (6, 9))], None, limits=limits)
    found, best, _ = filtered(search(tried, Planted(), n=8), limits, relative=None)
    assert found[best].candidate.layer == 4
    assert [bool(t.candidate.rejected) for t in found] == [True, False, True]


def test_that_no_candidate_survives_is_a_result_with_reasons():
    limits = Limits(n_layers=10)
    tried = candidates([direction(4, 9), direction(2, 5)], None, limits=limits)
    found, best, loose = filtered(search(tried, Planted(), n=8), limits, relative=None)
    assert best is None
    assert loose is None
    assert found[0].candidate.rejected == ("kl 5.020 above 0.100", "induce -3.00 below 0")
    attrition = candidate_attrition([t.candidate for t in found])
    assert (attrition.n, attrition.kept, attrition.reason) == (2, 0, "induce: 2, kl: 1")


def test_the_limit_from_random_directions_only_widens_the_published_one():
    limits = Limits(n_layers=10)
    vector = np.zeros(WIDTH, dtype=np.float32)
    vector[0], vector[9] = np.sqrt(0.97), np.sqrt(0.03)
    mixed = Direction(
        vector=vector, raw_norm=3.0, residual_index=3, span="t_post[-1]", model="m", name="refusal", method="d"
    )
    measured = search(candidates([mixed], None, limits=limits), Planted(), n=4)
    assert filtered(measured, limits, relative=0.5)[1:] == (None, 0)
    assert filtered(measured, limits, relative=0.01)[1:] == (None, None)


def test_late_layers_are_not_tried():
    assert [
        t.direction.residual_index for t in candidates([direction(7), direction(8)], None, limits=Limits(n_layers=10))
    ] == [7]


def test_nan_is_a_reason_and_no_number():
    class Broken(Planted):
        def divergence(self, d, n):
            return np.full(n, np.nan)

    limits = Limits(n_layers=10)
    found, best, _ = filtered(
        search(candidates([direction()], None, limits=limits), Broken(), n=4), limits, relative=None
    )
    assert best is None
    assert "not a number" in found[0].candidate.rejected
    assert found[0].candidate.kl is None


def test_screening_measures_the_best_quarter_again_and_chooses_only_among_those():
    trial, limits = Planted(), Limits(n_layers=40)
    tried = candidates([direction(i, 0 if i == 5 else 3) for i in range(8)], None, limits=limits)
    measured = search(tried, trial, n=16, n_screen=4)
    assert trial.asked == 8 + 2
    found, best, _ = filtered(measured, limits, relative=None)
    assert best == 5
    assert {t.candidate.n for t in found} == {4, 16}
    assert "screened out on 4 prompts" in found[7].candidate.rejected


def test_a_second_run_measures_nothing_again():
    trial, limits, memory = Planted(), Limits(n_layers=10), {}
    tried = candidates([direction(i) for i in range(3)], None, limits=limits)
    key = lambda t, n: (t.candidate.layer, t.candidate.variant, n)  # noqa: E731
    first = search(tried, trial, n=4, done=lambda t: memory.__setitem__(key(t, t.candidate.n), t))
    again = search(tried, trial, n=4, remembered=lambda t, n: memory.get(key(t, n)))
    assert trial.asked == 3
    assert [t.candidate for t in first] == [t.candidate for t in again]


def test_random_directions_go_through_the_same_trial():
    found = random_trials(Planted(), [direction(2), direction(3)], n=4, n_draws=10)
    assert len(found) == 10
    assert {r.layer for r in found} == {2, 3}
    assert 0.02 <= relative_limit(found) < 5
    assert relative_limit([]) is None
    with pytest.raises(BadInputError, match="at least 10 draws"):
        random_trials(Planted(), [direction()], n=4, n_draws=9)


def peaks(loud=9, height=2000.0):
    """Three layers of norm 10, one coordinate of one token enormous at the middle one."""
    peak = np.ones((3, WIDTH), dtype=np.float32)
    peak[1, loud] = height
    return Peaks(peak=peak, peak_rest=np.ones((3, WIDTH), np.float32), median_norm=np.full(3, 10.0, np.float32))


def test_a_small_share_of_a_loud_coordinate_is_loud():
    vector = np.full(WIDTH, 1.0)
    found = loud_coordinates(vector, peaks())
    assert [c.index for c in found] == [9]
    assert found[0].loudness == pytest.approx(200 / np.sqrt(WIDTH))
    assert concentration(vector) == pytest.approx(1 / np.sqrt(WIDTH))
    assert loud_coordinates(np.eye(WIDTH)[0], peaks()) == ()


def test_a_masked_direction_is_a_unit_vector_without_the_loud_coordinate():
    found = masked(np.full(WIDTH, 1.0), loud_coordinates(np.full(WIDTH, 1.0), peaks()))
    assert found[9] == 0
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    with pytest.raises(BadInputError, match="mask fewer"):
        masked(np.eye(WIDTH)[9], [9])
    with pytest.raises(BadInputError, match="expected width 32, got \\(31,\\)"):
        loud_coordinates(np.ones(31), peaks())


def test_loud_candidates_are_tried_masked_too_and_the_mask_repairs_them():
    vector = np.zeros(WIDTH, dtype=np.float32)
    vector[0], vector[9] = np.sqrt(0.9), np.sqrt(0.1)
    loud = Direction(
        vector=vector, raw_norm=3.0, residual_index=2, span="t_post[-1]", model="m", name="refusal", method="d"
    )
    limits = Limits(n_layers=10)
    tried = candidates([loud], peaks(), limits=limits)
    assert [t.candidate.variant for t in tried] == ["plain", "masked"]
    assert tried[1].direction.raw_norm == pytest.approx(3.0 * np.sqrt(0.9), rel=1e-5)
    found, best, _ = filtered(search(tried, Planted(), n=4), limits, relative=None)
    assert found[best].candidate.variant == "masked"
    assert found[best].candidate.masked == (9,)


def test_the_metric_is_a_log_odds_within_its_bounds():
    logits = np.array([[0.0, 0.0, 0.0, 0.0], [1000.0, 0, 0, 0], [-1000.0, 0, 0, 0]])
    found = refusal_metric(logits, [0])
    assert found == pytest.approx([np.log(0.25 / 0.75), np.log(1e8), -np.log(1e8)], abs=1e-6)
    assert np.abs(found).max() < 18.43
    assert refusal_metric(logits[:1], [0, 1, 2, 3])[0] == pytest.approx(np.log(1e8), abs=1e-3)


def test_refusal_tokens_are_found_from_what_the_model_does():
    rng = np.random.default_rng(0)
    logits, refused = rng.standard_normal((60, 10)), np.arange(60) < 30
    logits[:20, 7] += 8  # most refusals begin with 7, some with 3, answers with 5 or now and then with 3 too
    logits[20:30, 3] += 8
    logits[30:58, 5] += 8
    logits[58:, 3] += 8
    found = refusal_tokens(logits, refused.tolist(), decode=str)
    assert found.ids == (7, 3)
    assert found.texts == ("7", "3")
    assert found.log_odds[0] > found.log_odds[1] > 0
    assert found.auroc > 0.9
    assert (found.n_refused, found.n_accepted) == (30, 30)


def test_a_model_that_never_refuses_has_no_refusal_tokens():
    with pytest.raises(BadInputError, match="0 and 4"):
        refusal_tokens(np.zeros((4, 3)), [False] * 4, decode=str)
