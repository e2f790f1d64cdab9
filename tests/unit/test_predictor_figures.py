"""Figures of predicted refusal rates, and the ceiling that the target's own chance sets."""

import numpy as np
import pytest

from demur.classify import ceiling
from demur.classify.ceiling import dispersion_of, estimate_ceiling
from demur.classify.reliability import auroc, paired_interval, roc_curve


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(ceiling, "N_RESAMPLES", 40)


def test_auroc_agrees_with_scikit_learn_and_counts_replies():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    p, k = rng.random(200).round(1), rng.integers(1, 5, 200).astype(float)
    y = rng.binomial(k.astype(int), p).astype(float)
    truth = np.concatenate([np.ones(200), np.zeros(200)])
    weight = np.concatenate([y, k - y])
    assert auroc(p, y, k) == pytest.approx(roc_auc_score(truth, np.tile(p, 2), sample_weight=weight))
    assert auroc(p, k, k) is None
    curve = roc_curve(p, y, k)
    assert curve[0] == (0.0, 0.0)
    assert curve[-1] == (1.0, 1.0)


def test_the_paired_interval_covers_the_difference():
    first, second = np.zeros(400), np.repeat([1.0, 0.0], [40, 360])
    difference, low, high = paired_interval(first, second)
    assert difference == pytest.approx(0.1)
    assert 0 < low < 0.1 < high < 0.16


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.6), (2.0, 5.0), (0.1, 0.1)])
def test_the_ceiling_is_found_from_replies_to_the_same_prompts(a, b):
    rng = np.random.default_rng(4)
    p = rng.beta(a, b, 3_000)
    k = np.full(3_000, 5.0)
    found = estimate_ceiling(rng.binomial(5, p).astype(float), k)
    reply = rng.random(3_000) < p
    assert found.accuracy.estimate == pytest.approx(np.maximum(p, 1 - p).mean(), abs=0.02)
    assert found.brier.estimate == pytest.approx((p * (1 - p)).mean(), abs=0.012)
    assert found.auroc.estimate == pytest.approx(auroc(p, reply.astype(float), np.ones(3_000)), abs=0.03)
    assert found.dispersion.estimate == pytest.approx(1 / (a + b + 1), abs=0.04)
    assert found.accuracy.low <= found.accuracy.estimate <= found.accuracy.high
    assert dispersion_of(rng.binomial(5, p).astype(float), k) == pytest.approx(1 / (a + b + 1), abs=0.05)


def test_a_deterministic_model_has_no_ceiling_below_one():
    y = np.tile([0.0, 4.0], 50)
    found = estimate_ceiling(y, np.full(100, 4.0))
    assert found.accuracy.estimate > 0.99
    assert dispersion_of(y, np.full(100, 4.0)) == pytest.approx(1.0)


def test_one_reply_for_each_prompt_gives_no_ceiling_but_says_so():
    found = estimate_ceiling(np.tile([0.0, 1.0], 50), np.ones(100), sensitivity=0.9, specificity=0.8)
    assert found.method == "none"
    assert found.accuracy is None
    assert "several times" in found.note
    assert found.label_accuracy == pytest.approx(0.3 / 0.7 * 0.9 + 0.4 / 0.7 * 0.8)
