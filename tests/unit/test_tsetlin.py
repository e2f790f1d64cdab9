import numpy as np
import pytest
from scipy import sparse

pytest.importorskip("numba", reason="the Tsetlin machine is in the classify extra")
pytest.importorskip("sklearn")

from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from demur.tsetlin import TsetlinMachineClassifier, tune
from demur.tsetlin.sizing import clauses_for

QUICK = {"n_clauses": 40, "n_epochs": 8}


def texts(n_rows, seed, n_classes=2, n_features=300):
    """Sparse rows whose class shows in a few features, as words do, with some labels wrong."""
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n_rows)
    X = rng.random((n_rows, n_features)) < 0.03
    for k in range(n_classes):
        X[:, 10 * k : 10 * k + 10] |= (y == k)[:, None] & (rng.random((n_rows, 10)) < 0.25)
    wrong = rng.random(n_rows) < 0.03
    return sparse.csr_matrix(X.astype(np.int64)), np.where(wrong, (y + 1) % n_classes, y)


def noisy_xor(n_rows, seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(2, size=(n_rows, 12))
    return X, X[:, 0] ^ X[:, 1]


@parametrize_with_checks([TsetlinMachineClassifier(n_clauses=20, n_epochs=5)])
def test_scikit_learn_finds_no_fault(estimator, check):
    check(estimator)


def test_it_learns_what_no_linear_model_can():
    X, y = noisy_xor(2000, 0)
    unseen, truth = noisy_xor(1000, 1)
    machine = TsetlinMachineClassifier(40, specificity=4.0, n_epochs=20).fit(X, y)
    assert machine.score(unseen, truth) > 0.97
    assert LogisticRegression().fit(X, y).score(unseen, truth) < 0.6


@pytest.mark.parametrize("n_classes", [2, 4])
def test_it_keeps_up_with_logistic_regression_on_sparse_rows(n_classes):
    (X, y), (unseen, truth) = texts(1500, 0, n_classes), texts(1000, 1, n_classes)
    machine = TsetlinMachineClassifier().fit(X, y)
    linear = LogisticRegression(C=0.3).fit(X, y)
    assert machine.score(unseen, truth) > linear.score(unseen, truth) - 0.04


def test_dense_counts_and_sparse_presence_are_the_same_rows():
    X, y = texts(200, 0)
    by_sparse = TsetlinMachineClassifier(**QUICK).fit(X, y)
    by_counts = TsetlinMachineClassifier(**QUICK).fit(X.toarray() * 3, y)
    assert np.array_equal(by_sparse.votes(X), by_counts.votes(X.toarray().astype(float)))


def test_values_below_zero_and_stored_zeros_are_absent():
    X, y = texts(100, 0)
    machine = TsetlinMachineClassifier(**QUICK).fit(X, y)
    odd = X.astype(float).tolil()
    odd[:, 0] = -1.0
    plain = X.tolil()
    plain[:, 0] = 0
    explicit = X.copy()
    explicit.data[:] = 0
    assert np.array_equal(machine.votes(odd.tocsr()), machine.votes(plain.tocsr()))
    assert np.array_equal(machine.votes(explicit), machine.votes(sparse.csr_matrix(X.shape)))


@pytest.mark.parametrize("device", [None, "cpu"])
def test_one_seed_gives_one_machine_and_another_seed_another(device):
    if device:
        pytest.importorskip("torch")
    X, y = texts(200, 0)
    first, same, other = (
        TsetlinMachineClassifier(**QUICK, device=device, random_state=seed).fit(X, y).votes(X) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_probabilities_are_about_as_sure_as_they_are_right():
    (X, y), (unseen, truth) = texts(1500, 0), texts(3000, 1)
    p = TsetlinMachineClassifier(100).fit(X, y).predict_proba(unseen)
    assert p.sum(axis=1) == pytest.approx(1.0)
    bins = np.minimum((p[:, 1] * 10).astype(int), 9)
    gaps = [abs(p[bins == b, 1].mean() - truth[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    assert sum(gaps) < 0.06


def test_decisions_probabilities_and_predictions_agree():
    for n_classes in (2, 3):
        X, y = texts(300, 0, n_classes)
        machine = TsetlinMachineClassifier(**QUICK).fit(X, y)
        decisions, p = machine.decision_function(X), machine.predict_proba(X)
        expected = (decisions > 0).astype(int) if n_classes == 2 else decisions.argmax(axis=1)
        assert np.array_equal(machine.predict(X), expected)
        assert np.array_equal(p.argmax(axis=1), expected)


def test_partial_fit_learns_on_where_it_stopped():
    (X, y), (unseen, truth) = texts(1200, 0), texts(800, 1)
    machine = TsetlinMachineClassifier(60)
    scores = []
    for start in range(0, 1200, 100):
        machine.partial_fit(X[start : start + 100], y[start : start + 100], classes=[0, 1])
        scores.append(machine.score(unseen, truth))
    assert machine.n_iter_ == 12
    assert scores[-1] > scores[0]


def test_partial_fit_needs_the_classes_first_and_refuses_a_new_one():
    X, y = texts(50, 0)
    with pytest.raises(ValueError, match="needs `classes`"):
        TsetlinMachineClassifier(**QUICK).partial_fit(X, y)
    machine = TsetlinMachineClassifier(**QUICK).partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="label 7 is not among"):
        machine.partial_fit(X, np.full(50, 7))


def test_a_literal_budget_keeps_rules_short():
    X, y = texts(600, 0)
    long, short = (TsetlinMachineClassifier(40, literal_budget=budget).fit(X, y) for budget in (None, 5))
    lengths = [np.mean([len(r.present) + len(r.absent) for r in machine.rules_]) for machine in (long, short)]
    assert lengths[1] < 8 < lengths[0]


def test_every_clause_sits_out_some_passes_when_clauses_are_dropped():
    X, y = texts(300, 0)
    plain, dropped = (
        TsetlinMachineClassifier(**QUICK, clause_drop=share, calibration=0).fit(X, y).votes(X) for share in (0.0, 0.5)
    )
    assert not np.array_equal(plain, dropped)


def test_unweighted_clauses_have_one_vote_each():
    X, y = texts(300, 0)
    machine = TsetlinMachineClassifier(**QUICK, weighted=False).fit(X, y)
    assert set(machine.machine_.clauses.weight) == {1}
    assert (TsetlinMachineClassifier(**QUICK).fit(X, y).machine_.clauses.weight > 1).any()


def test_without_negated_literals_no_rule_asks_for_absence():
    X, y = texts(600, 0)
    machine = TsetlinMachineClassifier(60, negated_literals=False).fit(X, y)
    assert not any(rule.absent for rule in machine.rules_)
    assert machine.score(X, y) > 0.75


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_clauses": 1}, "n_clauses must be a whole number of at least 2"),
        ({"specificity": 1.0}, "specificity must be above 1"),
        ({"threshold": -3}, "threshold must be above 0"),
        ({"clause_drop": 1.0}, "clause_drop must be at least 0 and below 1"),
        ({"batch_size": 65}, "batch_size must be from 1 to 64"),
    ],
)
def test_an_impossible_setting_is_named(setting, message):
    X, y = texts(20, 0)
    with pytest.raises(ValueError, match=message):
        TsetlinMachineClassifier(**setting).fit(X, y)


def test_one_class_is_not_enough():
    X, _ = texts(20, 0)
    with pytest.raises(ValueError, match="one class only"):
        TsetlinMachineClassifier(**QUICK).fit(X, np.zeros(20))


def test_the_tuner_suggests_settings_it_tried_and_the_classifier_takes():
    X, y = texts(240, 0)
    base = TsetlinMachineClassifier(30, n_epochs=4)
    found = tune(X, y, classifier=base, specificities=(2.0, 8.0), margins=(0.5, 2.0))
    assert len(found.trials) >= 4
    assert found.best["specificity"] in (2.0, 8.0)
    assert TsetlinMachineClassifier(**found.best).fit(X, y).n_iter_ == 4


def test_more_rows_get_more_clauses_but_never_more_memory_than_agreed():
    assert clauses_for(100, 500, 2) <= clauses_for(900, 500, 2) <= clauses_for(10**6, 500, 2) == 1000
    assert clauses_for(10**6, 10**6, 2) * 2 * 10**6 <= 256 * 2**20
