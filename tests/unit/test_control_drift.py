"""Drift: silent while the scores stay, loud when they move, and small."""

import json

import numpy as np
import pytest

from demur.control.drift import BINS, DriftMonitor, bound, reference_of
from demur.core.policy import Policy, SignalSource
from demur.core.signal import scores_from_probabilities

NAMES = ("safety", "humanizing")


def drawn(rng, n, shift=0.0):
    logits = np.column_stack([rng.normal(-1 + shift, 2, (n, 2)), np.zeros(n)])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return scores_from_probabilities(NAMES, p[:, :2])


def policy_from(scores):
    source = SignalSource(name="fake", identity="fake@1")
    return Policy(name="x", source=source, reference=reference_of(scores))


def monitor_of(scores, **options):
    return DriftMonitor(policy_from(scores), n_reference=len(scores), **options)


def test_the_reference_is_quantiles_of_each_category_and_of_their_sum():
    reference = reference_of(drawn(np.random.default_rng(0), 500))
    assert set(reference) == {*NAMES, "any"}
    assert all(len(q) == BINS + 1 and list(q) == sorted(q) for q in reference.values())


def test_false_alarms_are_rarer_than_promised():
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(100):
        monitor = monitor_of(drawn(rng, 300), window=128, every=64, alpha=0.1, looks=16)
        for _ in range(16):
            monitor.observe(drawn(rng, 64))
        alarms += monitor.n_alarms > 0
    assert alarms <= 10


def test_ties_make_no_false_alarm():
    # Half of all scores are one number, most of the rest another.
    rng = np.random.default_rng(2)

    def tied(n):
        return scores_from_probabilities(("any",), rng.choice([0.0, 0.01, 0.5, 0.9], (n, 1), p=[0.5, 0.3, 0.15, 0.05]))

    monitor = monitor_of(tied(500), window=1024, every=256, alpha=0.01, looks=100)
    for _ in range(100):
        monitor.observe(tied(256))
    assert monitor.n_alarms == 0


def test_a_shift_is_found_soon_and_named():
    rng = np.random.default_rng(3)
    monitor = monitor_of(drawn(rng, 500))
    for _ in range(8):
        monitor.observe(drawn(rng, 256))
    assert not monitor.alarm
    for _ in range(4):
        monitor.observe(drawn(rng, 256, shift=1.5))
    assert monitor.alarm
    assert set(monitor.last.drifted) <= {*NAMES, "any"}
    for _ in range(4):
        monitor.observe(drawn(rng, 256))
    assert not monitor.alarm
    assert monitor.n_alarms >= 1


def test_nothing_is_said_before_the_window_is_full():
    rng = np.random.default_rng(4)
    monitor = monitor_of(drawn(rng, 500), window=512, every=128)
    monitor.observe(drawn(rng, 511, shift=9))
    assert (monitor.last, monitor.alarm) == (None, False)
    monitor.observe(drawn(rng, 1, shift=9))
    assert monitor.alarm


def test_one_row_at_a_time_is_the_same_as_many():
    rng = np.random.default_rng(5)
    reference, served = drawn(rng, 300), drawn(rng, 200, shift=1.0)
    one, many = (monitor_of(reference, window=64, every=32) for _ in range(2))
    many.observe(served)
    for i in range(len(served)):
        one.observe(served[i : i + 1])
    assert one.summary() == many.summary()


def test_the_summary_is_json_and_the_memory_bounded():
    monitor = monitor_of(drawn(np.random.default_rng(6), 300), window=64, every=32)
    assert json.loads(json.dumps(monitor.summary()))["looks"] == 0
    for i in range(20):
        monitor.observe(drawn(np.random.default_rng(i), 100))
    found = json.loads(json.dumps(monitor.summary()))
    assert (found["n_seen"], found["window"]) == (2000, 64)
    assert set(found["distance"]) == {*NAMES, "any"}


def test_a_policy_without_a_reference_is_not_watched():
    monitor = DriftMonitor(Policy(name="x", source=SignalSource(name="fake", identity="fake@1")))
    monitor.observe(drawn(np.random.default_rng(0), 3000))
    assert monitor.summary()["looks"] == 0


def test_less_is_known_with_fewer_prompts_more_looks_and_more_categories():
    usual = bound(500, 1000, n_categories=6, alpha=0.01, looks=1000)
    assert bound(100, 1000, n_categories=6, alpha=0.01, looks=1000) > usual
    assert bound(500, 1000, n_categories=6, alpha=0.01, looks=10**6) > usual
    assert bound(500, 1000, n_categories=1, alpha=0.01, looks=1000) < usual
    with pytest.raises(ValueError, match="window"):
        monitor_of(drawn(np.random.default_rng(0), 10), window=10, every=20)
