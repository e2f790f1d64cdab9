"""The kernels against a plain reading of the published algorithm, and PyTorch against the kernels."""

import numpy as np
import pytest

pytest.importorskip("numba", reason="the Tsetlin machine is in the classify extra")
pytest.importorskip("sklearn")

from demur.tsetlin import TsetlinMachineClassifier
from demur.tsetlin.machine import LearningRates, new_machine
from demur.tsetlin.presence import frequencies, presence
from demur.tsetlin.pruning import prune

N_FEATURES = 300  # more than one block of 256


def rows(n, seed, density=0.1):
    return (np.random.default_rng(seed).random((n, N_FEATURES)) < density).astype(np.int64)


def taught(X, y, passes=6, **rates):
    machine = new_machine(24, int(y.max()) + 1, frequencies(presence(X)))
    settings = {"threshold": 20.0, "specificity": 3.0, **rates}
    generator = np.random.default_rng(0)
    for _ in range(passes):
        machine.learn(presence(X), y, LearningRates(**settings), generator)
    return machine


def plain_votes(machine, X):
    present, absent = machine.literals()
    clauses = machine.clauses
    table = np.zeros((len(X), machine.n_banks), int)
    for c in np.flatnonzero(present.any(axis=1) | absent.any(axis=1)):
        fired = (X[:, present[c]] == 1).all(axis=1) & (X[:, absent[c]] == 0).all(axis=1)
        table[:, clauses.bank[c]] += fired * clauses.sign[c] * clauses.weight[c]
    return table


@pytest.mark.parametrize("n_classes", [2, 3])
def test_votes_are_what_the_clauses_say(n_classes):
    X = rows(150, 0)
    y = np.minimum(X[:, 3] + 2 * X[:, 270], n_classes - 1)
    machine, unseen = taught(X, y), rows(200, 1)
    assert np.array_equal(machine.votes(presence(unseen)), plain_votes(machine, unseen))
    assert np.array_equal(prune(machine, presence(X)).votes(presence(X)), plain_votes(machine, X))


def test_literals_are_the_counters_from_128_up():
    X = rows(150, 0)
    machine = taught(X, X[:, 3])
    present, absent = machine.literals()
    assert np.array_equal(machine.levels() >= 128, np.hstack([present, absent]))
    copy = new_machine(24, 2, machine.frequency)
    copy.set_levels(machine.levels(), machine.clauses.weight)
    assert np.array_equal(copy.levels(), machine.levels())
    assert np.array_equal(copy.votes(presence(X)), machine.votes(presence(X)))


def one_row(label, sign, start, *, boost, s=4.0):
    """Levels of the clauses of one sign before and after one row with all urgency; (n_clauses, n_literals)."""
    X = rows(1, 5, density=0.3)
    machine = new_machine(4000, 2, np.ones(N_FEATURES, np.int64))
    levels = np.full((4000, 2 * N_FEATURES), start, np.uint8)
    machine.set_levels(levels, np.ones(4000, np.int64))
    rates = LearningRates(threshold=1e-9, specificity=s, boost_true_positive=boost, weighted=False, batch_size=1)
    # Empty clauses of both signs cancel: no margin, so every clause takes the row with chance one half.
    machine.learn(presence(X), np.array([label]), rates, np.random.default_rng(1))
    after = machine.levels().astype(int)[machine.clauses.sign == sign]
    moved = after[(after != start).any(axis=1)] - start
    true = np.concatenate([X[0], 1 - X[0]]) == 1
    return moved, len(moved) / len(after), true


@pytest.mark.parametrize("boost", [True, False])
def test_a_clause_that_fires_rightly_moves_as_published(boost):
    moved, taken, true = one_row(1, 1, 100, boost=boost)
    assert taken == pytest.approx(0.5, abs=0.05)
    assert moved[:, true].mean() == pytest.approx(1.0 if boost else 0.75, abs=0.02)
    assert moved[:, ~true].mean() == pytest.approx(-0.25, abs=0.02)
    assert moved[:, true].min() >= 0
    assert moved[:, ~true].max() <= 0


def test_a_clause_that_fires_wrongly_takes_up_every_literal_that_would_have_stopped_it():
    moved, taken, true = one_row(1, -1, 100, boost=True)
    assert taken == pytest.approx(0.5, abs=0.05)
    assert (moved[:, ~true] == 1).all()
    assert (moved[:, true] == 0).all()


def test_a_clause_that_should_have_fired_forgets_each_literal_with_chance_one_in_s():
    moved, _, _ = one_row(1, 1, 200, boost=True)  # every literal included: it cannot fire
    assert moved.mean() == pytest.approx(-0.25, abs=0.02)
    assert set(np.unique(moved)) == {-1, 0}


def test_a_clause_that_neither_fires_nor_should_stays_as_it_is():
    moved, _, _ = one_row(1, -1, 200, boost=True)
    assert len(moved) == 0


def test_counters_stop_at_both_ends():
    X = np.repeat(rows(1, 0), 400, axis=0)
    machine = taught(X, np.ones(400, np.int64), threshold=1e6)
    favours = machine.levels()[machine.clauses.sign > 0]
    true = np.concatenate([X[0], 1 - X[0]]) == 1
    assert (favours[:, true] == 255).all()
    assert (favours[:, ~true] == 0).all()


def noisy(n, seed):
    rng = np.random.default_rng(seed)
    X = (rng.random((n, 120)) < 0.1).astype(np.int64)
    y = ((X[:, :12].sum(axis=1) - X[:, 12:24].sum(axis=1)) + rng.normal(0, 0.4, n) > 0).astype(int)
    return X, y


def test_torch_agrees_with_the_kernel_in_distribution_over_seeds():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (X, y), (unseen, truth) = noisy(500, 0), noisy(1000, 1)
    scores = {}
    for device in (None, "cpu"):
        machines = [
            TsetlinMachineClassifier(
                40, n_epochs=8, batch_size=16, calibration=0, device=device, random_state=seed
            ).fit(X, y)
            for seed in range(6)
        ]
        scores[device] = np.array([machine.score(unseen, truth) for machine in machines])
    torch.set_num_threads(threads)
    spread = np.sqrt(sum(s.var(ddof=1) / len(s) for s in scores.values()))
    assert abs(scores[None].mean() - scores["cpu"].mean()) < max(3 * spread, 0.015)


def test_a_machine_learned_with_torch_votes_alike_with_the_kernel():
    pytest.importorskip("torch")
    X, y = noisy(200, 0)
    machine = TsetlinMachineClassifier(20, n_epochs=3, device="cpu").fit(X, y)
    by_torch = machine.votes(X)
    assert np.array_equal(machine.set_params(device=None).votes(X), by_torch)
