"""Estimators recover what was planted, and the traps of the literature are guarded."""

import numpy as np
import pytest

from demur.core.errors import BadInputError
from demur.inside.estimators import ESTIMATORS, difference_in_means, logistic, pairwise_pca

WIDTH = 576


def planted(n=128, shift=4.0, seed=0, offset=0.0):
    """Two sides of noise, apart by `shift` along one direction."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal(WIDTH)
    direction /= np.linalg.norm(direction)
    noise = 0.05 * rng.standard_normal((2 * n, WIDTH)) + offset
    return noise[:n] + shift * direction, noise[n:], direction


@pytest.mark.parametrize("method", sorted(ESTIMATORS))
def test_a_planted_direction_is_recovered_with_its_sign_and_length(method):
    up, down, direction = planted()
    vector, raw_norm = ESTIMATORS[method](up, down)
    assert vector @ direction > 0.99
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert raw_norm == pytest.approx(4.0, rel=0.05)
    turned, _ = ESTIMATORS[method](down, up)
    assert turned @ direction < -0.99


def test_centred_pca_of_differences_would_find_nothing_and_is_not_what_runs():
    rng = np.random.default_rng(3)
    direction = np.eye(WIDTH)[7]
    up, down = rng.standard_normal((200, WIDTH)) + 6 * direction, rng.standard_normal((200, WIDTH))
    differences = up - down
    centred = np.linalg.svd(differences - differences.mean(axis=0), full_matrices=False)[2][0]
    assert abs(centred @ direction) < 0.3
    assert pairwise_pca(up, down)[0] @ direction > 0.9


def test_pairs_make_pca_blind_to_what_partners_share():
    rng = np.random.default_rng(4)
    topic, wanted = np.eye(WIDTH)[0], np.eye(WIDTH)[1]
    shared = 50 * rng.standard_normal((100, 1)) * topic
    up = shared + wanted + 0.01 * rng.standard_normal((100, WIDTH))
    down = shared + 0.01 * rng.standard_normal((100, WIDTH))
    assert pairwise_pca(up, down)[0] @ wanted > 0.99
    shuffled = down[rng.permutation(100)]
    assert abs(pairwise_pca(up, shuffled)[0] @ wanted) < 0.1


def test_the_probe_ignores_a_noisy_coordinate_that_misleads_means():
    rng = np.random.default_rng(5)
    up, down = rng.standard_normal((200, 20)), rng.standard_normal((200, 20))
    up[:, 0] += 4.0
    up[:, 1] = 300 * rng.standard_normal(200)
    down[:, 1] = 300 * rng.standard_normal(200)
    assert logistic(up, down)[0][0] > 0.9
    assert abs(difference_in_means(up, down)[0][1]) > 0.9


def test_the_probe_gives_no_weight_to_what_does_not_vary():
    up, down, _ = planted()
    up[:, 5] = down[:, 5] = 1000.0
    assert logistic(up, down)[0][5] == 0


def test_the_probe_is_where_plain_gradient_descent_ends():
    rng = np.random.default_rng(6)
    up, down = rng.standard_normal((60, 8)) + 0.7, rng.standard_normal((50, 8))
    spread = np.concatenate([up - up.mean(axis=0), down - down.mean(axis=0)]).std(axis=0)
    rows, wanted = np.hstack([np.concatenate([up, down]) / spread, np.ones((110, 1))]), np.arange(110) < 60
    weights = np.zeros(9)
    for _ in range(20_000):
        gradient = rows.T @ (1 / (1 + np.exp(-rows @ weights)) - wanted) + 10.0 * np.append(weights[:8], 0)
        weights -= 0.004 * gradient
    theirs = weights[:8] / spread
    assert logistic(up, down)[0] @ (theirs / np.linalg.norm(theirs)) > 0.999999


def test_sums_do_not_lose_small_differences_under_large_means():
    up, down, direction = planted(n=512, shift=1.0, offset=3000.0)
    vector, _ = difference_in_means(up.astype(np.float32), down.astype(np.float32))
    assert vector @ direction > 0.99


def test_states_that_overflowed_are_named():
    up, down, _ = planted(n=4)
    up[0, 0] = np.inf
    with pytest.raises(BadInputError, match=r"float16 overflows at 65,504.*float32"):
        difference_in_means(up, down)


@pytest.mark.parametrize(
    ("up", "down", "complaint"),
    [
        (np.zeros((0, 3)), np.ones((2, 3)), "at least one row"),
        (np.ones((2, 3)), np.ones((2, 4)), "expected \\(n, width\\)"),
        (np.ones((2, 3)), np.ones((5, 3)), "coincide"),
    ],
)
def test_what_is_no_contrast_is_refused(up, down, complaint):
    with pytest.raises(BadInputError, match=complaint):
        difference_in_means(up, down)


def test_pairs_need_partners():
    with pytest.raises(BadInputError, match="as many states on each side, got 2 and 3"):
        pairwise_pca(np.ones((2, 3)), np.zeros((3, 3)))
