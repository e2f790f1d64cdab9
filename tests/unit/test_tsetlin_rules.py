import json

import numpy as np
import pytest
from scipy import sparse

pytest.importorskip("numba", reason="the Tsetlin machine is in the classify extra")
pytest.importorskip("sklearn")

from demur.core.errors import BadInputError
from demur.tsetlin import TsetlinMachineClassifier, paper_2018, readable, text_rules
from demur.tsetlin.storage import FORMAT

NAMES = [f"w{k}" for k in range(70)]


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.random((400, 70)) < 0.15
    y = (X[:, 3] & ~X[:, 5]) | (X[:, 8] & X[:, 9])
    return sparse.csr_matrix(X.astype(np.int8)), np.where(y, "refused", "complied")


@pytest.fixture(scope="module")
def machine(rows):
    return TsetlinMachineClassifier(40, n_epochs=15, literal_budget=8).fit(*rows, feature_names=NAMES)


def fires(rule, X):
    present, absent = ([NAMES.index(name) for name in side] for side in (rule.present, rule.absent))
    dense = X.toarray() > 0
    return dense[:, present].all(axis=1) & ~dense[:, absent].any(axis=1)


@pytest.mark.parametrize("pruned", [False, True])
def test_rules_add_up_to_the_votes_and_their_evidence_is_true(machine, rows, pruned):
    X, y = rows
    shown = machine.prune(X, y) if pruned else machine
    votes = np.zeros(X.shape[0], int)
    for rule in shown.rules_:
        hits = fires(rule, X)
        votes += np.where(rule.label == "refused", 1, -1) * rule.weight * hits
        assert rule.support == hits.sum()
        assert list(rule.examples) == np.flatnonzero(hits)[:5].tolist()
        if rule.support:
            assert rule.precision == pytest.approx((y[hits] == rule.label).mean())
    assert np.array_equal(votes, shown.votes(X)[:, 0])


def test_pruning_changes_no_vote_and_leaves_less_to_read(machine, rows):
    X, y = rows
    shorter = machine.prune(X, y)

    def effort(m):
        return sum(len(rule.present) + len(rule.absent) for rule in m.rules_)

    assert np.array_equal(shorter.votes(X), machine.votes(X))
    assert np.array_equal(shorter.predict_proba(X), machine.predict_proba(X))
    assert effort(shorter) < effort(machine)
    assert effort(machine.prune(X, y, spared_rows=4)) < effort(shorter)


def test_a_shortlist_is_short_and_its_rules_decide(rows):
    X, y = rows
    machine = TsetlinMachineClassifier(200, n_epochs=15, literal_budget=4).fit(X, y, feature_names=NAMES)
    short = machine.shortlist(X, y, n_literals=8)
    assert 1 <= sum(len(rule.present) + len(rule.absent) for rule in short.rules_) <= 8
    assert short.score(X, y) > machine.score(X, y) - 0.1
    votes = sum(np.where(rule.label == "refused", 1, -1) * rule.weight * fires(rule, X) for rule in short.rules_)
    assert np.array_equal(votes, short.votes(X)[:, 0])
    assert np.array_equal(short.predict(X) == "refused", short.predict_proba(X)[:, 1] > 0.5)


def test_a_shortlist_can_be_saved_and_says_that_it_needs_two_classes(machine, rows, tmp_path):
    X, y = rows
    short = machine.shortlist(X, y, n_literals=12)
    short.save(tmp_path / "short.npz")
    loaded = TsetlinMachineClassifier.load(tmp_path / "short.npz")
    assert np.array_equal(loaded.predict_proba(X), short.predict_proba(X))
    three = TsetlinMachineClassifier(30, n_epochs=2).fit(X, np.arange(X.shape[0]) % 3)
    with pytest.raises(ValueError, match="needs two classes, not 3"):
        three.shortlist(X, np.arange(X.shape[0]) % 3)


def test_a_pruned_machine_says_that_it_cannot_learn_on(machine, rows):
    with pytest.raises(BadInputError, match="cannot learn on"):
        machine.prune(*rows).partial_fit(*rows)


def test_a_rule_reads_as_a_sentence(machine):
    rule = machine.rules_[0]
    assert str(rule).startswith("if ")
    assert f"then {rule.label} (weight {rule.weight}, fires on {rule.support} rows" in str(rule)


def test_with_three_classes_a_rule_may_vote_against_one(rows):
    X, _ = rows
    y = np.asarray(X[:, 3].toarray() + 2 * X[:, 8].toarray()).ravel().clip(0, 2)
    machine = TsetlinMachineClassifier(60, n_epochs=10).fit(X, y)
    assert {rule.in_favour for rule in machine.rules_} == {True, False}
    assert any(str(rule).find("then not ") > 0 for rule in machine.rules_)


def test_names_must_be_as_many_as_features(rows):
    with pytest.raises(ValueError, match="2 names for 70 features"):
        TsetlinMachineClassifier(n_epochs=1).fit(*rows, feature_names=["a", "b"])


def test_a_saved_machine_votes_reads_and_learns_on_as_before(machine, rows, tmp_path):
    machine.save(tmp_path / "m.npz")
    loaded = TsetlinMachineClassifier.load(tmp_path / "m.npz")
    assert np.array_equal(loaded.predict_proba(rows[0]), machine.predict_proba(rows[0]))
    assert [str(rule) for rule in loaded.rules_] == [str(rule) for rule in machine.rules_]
    again = TsetlinMachineClassifier.load(tmp_path / "m.npz")
    first, second = (m.partial_fit(*rows).votes(rows[0]) for m in (loaded, again))
    assert np.array_equal(first, second)
    assert list(tmp_path.iterdir()) == [tmp_path / "m.npz"]


def test_a_file_for_voting_only_is_smaller_and_votes_alike(machine, rows, tmp_path):
    machine.save(tmp_path / "whole.npz")
    machine.save(tmp_path / "votes.npz", votes_only=True)
    assert (tmp_path / "votes.npz").stat().st_size < (tmp_path / "whole.npz").stat().st_size / 2
    loaded = TsetlinMachineClassifier.load(tmp_path / "votes.npz")
    assert np.array_equal(loaded.votes(rows[0]), machine.votes(rows[0]))
    with pytest.raises(BadInputError, match="cannot learn on"):
        loaded.partial_fit(*rows)


def rewritten(path, **changes):
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(arrays["header"].tobytes())
    header.update(changes.pop("header", {}))
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **{**arrays, **changes})
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"header": {"format": "other"}},
        {"header": {"names": ["a"]}},
        {"header": {"classes": ["a", "b", "c"]}},
        {"header": {"settings": {"no_such": 1}}},
        {"header": {"stream": {"bit_generator": "none"}}},
        {"weight": np.full(40, -1)},
        {"included": np.full((40, 8), 2**64 - 1, np.uint64)},
        {"frequency": np.zeros(3, np.int64)},
        {"bank": np.arange(40)},
        {"counters": np.zeros((1, 1), np.uint64)},
        {"sign": np.array(["x"], object)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_file_that_lies_about_its_sizes_is_refused(machine, tmp_path, change):
    path = tmp_path / "m.npz"
    machine.save(path)
    with pytest.raises(BadInputError, match=r"m\.npz: expected"):
        TsetlinMachineClassifier.load(rewritten(path, **change))


def test_a_truncated_a_foreign_and_a_missing_file_are_named(machine, tmp_path):
    path = tmp_path / "m.npz"
    machine.save(path)
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"not a machine", b""):
        path.write_bytes(broken)
        with pytest.raises(BadInputError, match=r"m\.npz: expected a Tsetlin machine"):
            TsetlinMachineClassifier.load(path)
    with pytest.raises(BadInputError, match="no such file"):
        TsetlinMachineClassifier.load(tmp_path / "none.npz")


def test_a_newer_file_asks_for_an_update(machine, tmp_path):
    machine.save(tmp_path / "m.npz")
    with pytest.raises(BadInputError, match="update demur"):
        TsetlinMachineClassifier.load(rewritten(tmp_path / "m.npz", header={"format": FORMAT, "version": 99}))


def sentences(n):
    rng = np.random.default_rng(0)
    filler = [f"word{k}" for k in range(40)]
    said = [" ".join(rng.choice(filler, 12)) for _ in range(n)]
    refused = rng.random(n) < 0.5
    opening = ["I cannot help with that" if no else "here is the answer" for no in refused]
    return [f"{start} {text}" for start, text in zip(opening, said, strict=True)], np.where(refused, "no", "yes")


def test_readable_rules_use_words_that_are_there():
    texts, labels = sentences(300)
    pipeline = readable(n_clauses=30, n_features=100).fit(texts, labels)
    rules = text_rules(pipeline, texts, labels)
    few = text_rules(pipeline, texts, labels, n_literals=4)
    assert sum(len(rule.present) for rule in few) <= 4
    assert pipeline.score(texts, labels) > 0.98
    assert rules[0].precision > 0.95
    said = set(" ".join(texts).lower().split())
    assert all(word in said for rule in rules for name in rule.present for word in name.split())
    assert not any(rule.absent for rule in rules)


def test_the_papers_setting_runs_on_text():
    texts, labels = sentences(200)
    pipeline = paper_2018(n_clauses=200, n_features=50, n_epochs=3).fit(texts, labels)
    machine = pipeline[-1]
    assert (machine.specificity, machine.threshold, machine.weighted) == (27.0, 0.8, False)
    assert pipeline.score(texts, labels) > 0.9
    assert "cannot help" in pipeline[0].get_feature_names_out()
