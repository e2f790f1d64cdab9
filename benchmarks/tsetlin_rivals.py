"""One model, one corpus, one setting, in a process of its own: trains, tests, prints one JSON line.

    python benchmarks/tsetlin_rivals.py MODEL CORPUS.npz '{"n_clauses": 500, "s": 2.0, "votes": 1.0, ...}'

`bench_tsetlin.py` starts it, one thread, with the rival's own folder on PYTHONPATH; so two libraries that install the
same names, or need another NumPy, do not disturb each other. Times are process CPU seconds. `votes` is T divided by
the clauses that vote for one class, so that libraries with one bank of clauses per class and with shared clauses get
the same pressure; `n_clauses` counts all clauses.
"""

import json
import sys
import time
import warnings

import numpy as np
from scipy import sparse

warnings.filterwarnings("ignore")


class Clock:
    """Process CPU seconds of a block."""

    def __enter__(self):
        self.start = time.process_time()
        return self

    def __exit__(self, *_):
        self.seconds = time.process_time() - self.start


def load(path):
    with np.load(path) as file:

        def matrix(name):
            return sparse.csr_matrix(
                (np.ones(len(file[f"{name}_indices"]), np.uint8), file[f"{name}_indices"], file[f"{name}_indptr"]),
                shape=tuple(file[f"{name}_shape"]),
            )

        return matrix("train"), file["train_y"].astype(np.int64), matrix("test"), file["test_y"].astype(np.int64)


def dense(X, kind=np.uint8):
    return np.ascontiguousarray(X.toarray().astype(kind))


def per_class(setting, n_classes):
    clauses = setting["n_clauses"] // n_classes // 2 * 2
    return clauses, max(1, round(setting["votes"] * clauses))


def run_demur(X, y, setting, n_classes, *, device=None):
    from demur.tsetlin import TsetlinMachineClassifier

    clauses, T = per_class(setting, n_classes)
    if n_classes == 2:  # one bank votes for both
        clauses, T = 2 * clauses, 2 * T
    else:
        clauses *= n_classes
    machine = TsetlinMachineClassifier(
        clauses, threshold=T, specificity=setting["s"], n_epochs=setting["epochs"], calibration=0.0, device=device,
        clause_drop=setting["clause_drop"], literal_budget=setting.get("budget"), random_state=setting["seed"],
        batch_size=setting.get("batch_size", 32),
    )  # fmt: skip
    few = TsetlinMachineClassifier(4, n_epochs=1, calibration=0.0).fit(X[:64], np.arange(64) % n_classes)
    few.predict(X[:64])  # compiles, or reads the compiled kernels from the cache
    with Clock() as clock:
        machine.fit(X, y)
    return clock.seconds, machine.predict, X.dtype, sparse.csr_matrix


def run_demur_torch(X, y, setting, n_classes):
    import torch

    torch.set_num_threads(1)
    return run_demur(X, y, setting, n_classes, device="cpu")


def run_green(X, y, setting, n_classes):
    import green_tsetlin as gt

    n_clauses = setting["n_clauses"]
    tm = gt.TsetlinMachine(
        n_literals=X.shape[1], n_clauses=n_clauses, n_classes=n_classes, s=float(setting["s"]),
        threshold=max(1, round(setting["votes"] * n_clauses)), boost_true_positives=True,
        literal_budget=setting.get("budget"),
    )  # fmt: skip
    trainer = gt.Trainer(
        tm, seed=setting["seed"] + 1, n_jobs=1, n_epochs=setting["epochs"], progress_bar=False, load_best_state=False,
        early_exit_acc=2.0,
    )  # fmt: skip
    bits, labels = dense(X), y.astype(np.uint32)
    trainer.set_train_data(bits, labels)
    trainer.set_eval_data(bits[:2], labels[:2])  # it insists on evaluating each epoch
    with Clock() as clock:
        trainer.train()
    predictor = tm.get_predictor()
    return clock.seconds, lambda rows: np.array([predictor.predict(row) for row in rows]), np.uint8, None


def run_py_tm(X, y, setting, n_classes, module="pyTsetlinMachine.tm", **options):
    from importlib import import_module

    clauses, T = per_class(setting, n_classes)
    np.random.seed(setting["seed"])
    tm = import_module(module).MultiClassTsetlinMachine(
        clauses, T, setting["s"], weighted_clauses=True, boost_true_positive_feedback=1, **options
    )
    bits = dense(X, np.uint32)
    with Clock() as clock:
        tm.fit(bits, y.astype(np.uint32), epochs=setting["epochs"])
    return clock.seconds, tm.predict, np.uint32, None


def run_py_tm_indexed(X, y, setting, n_classes):
    return run_py_tm(X, y, setting, n_classes, clause_drop_p=setting["clause_drop"])


def run_py_tm_parallel(X, y, setting, n_classes):
    return run_py_tm(X, y, setting, n_classes, module="pyTsetlinMachineParallel.tm")


def run_tmu(X, y, setting, n_classes):
    from tmu.models.classification.vanilla_classifier import TMClassifier

    clauses, T = per_class(setting, n_classes)
    tm = TMClassifier(
        clauses, T, setting["s"], weighted_clauses=True, boost_true_positive_feedback=1, platform="CPU",
        clause_drop_p=setting["clause_drop"], seed=setting["seed"] + 1,
    )  # fmt: skip
    bits, labels = dense(X, np.uint32), y.astype(np.uint32)
    with Clock() as clock:
        for _ in range(setting["epochs"]):
            tm.fit(bits, labels)
    return clock.seconds, tm.predict, np.uint32, None


def run_torchtsetlin(X, y, setting, n_classes):
    import torch
    import torchtsetlin as tt

    torch.set_num_threads(1)
    torch.manual_seed(setting["seed"])
    clauses, T = per_class(setting, n_classes)
    tm = tt.TsetlinMachine(
        X.shape[1], n_classes, clauses, T=T, s=setting["s"], weighted=True, drop_clause_p=setting["clause_drop"]
    )
    bits, labels = torch.from_numpy(dense(X)).bool(), torch.from_numpy(y)
    with Clock() as clock:
        for _ in range(setting["epochs"]):
            tm.train()
            order = torch.randperm(len(y))
            for start in range(0, len(y), 32):
                chosen = order[start : start + 32]
                tm.update(bits[chosen], labels[chosen])
        tm.eval()
    return clock.seconds, lambda rows: tm.predict(torch.from_numpy(rows)).numpy(), np.bool_, None


def run_pytsetlin(X, y, setting, _n_classes):
    from pytsetlin import TsetlinMachine
    from pytsetlin.core import executor

    n_clauses = setting["n_clauses"]

    def machine(bits, labels, epochs):
        tm = TsetlinMachine(
            n_clauses=n_clauses, s=float(setting["s"]), threshold=max(1, round(setting["votes"] * n_clauses)),
            boost_true_positives=True, n_threads=1, seed=setting["seed"],
        )  # fmt: skip
        tm.set_train_data(bits, labels)
        tm.set_eval_data(bits[:2], labels[:2])
        tm.train(training_epochs=epochs, hide_progress_bar=True, early_stop_at=101.0)
        return tm

    bits, labels = dense(X), y.astype(np.uint32)
    machine(bits[:20], labels[:20], 1)  # compiles
    with Clock() as clock:
        tm = machine(bits, labels, setting["epochs"])
    return clock.seconds, lambda rows: executor.eval_predict(rows, tm.C, tm.W, tm.n_literals), np.uint8, None


def run_linear(name):
    def run(X, y, setting, n_classes):
        from sklearn.linear_model import LogisticRegression
        from sklearn.naive_bayes import MultinomialNB
        from sklearn.svm import LinearSVC

        model = {
            "logistic regression": lambda: LogisticRegression(C=setting.get("C", 1.0), max_iter=2000),
            "linear SVM": lambda: LinearSVC(C=setting.get("C", 1.0) / 10),
            "multinomial NB": MultinomialNB,
        }[name]()
        bits = X.astype(np.float64)
        model.fit(bits[:50], np.arange(50) % n_classes)
        with Clock() as clock:
            model.fit(bits, y)
        return clock.seconds, model.predict, np.float64, sparse.csr_matrix

    return run


MODELS = {
    "demur": run_demur,
    "demur, torch": run_demur_torch,
    "green-tsetlin": run_green,
    "pyTsetlinMachine": run_py_tm_indexed,
    "pyTsetlinMachineParallel": run_py_tm_parallel,
    "tmu": run_tmu,
    "torchtsetlin": run_torchtsetlin,
    "pytsetlin": run_pytsetlin,
    **{name: run_linear(name) for name in ("logistic regression", "linear SVM", "multinomial NB")},
}


def rows_per_second(predict, rows, least_seconds=0.4):
    """Of the call a user makes, on rows in the form the library wants them; the first call does not count."""
    predict(rows[: min(64, rows.shape[0])])
    n, spent = 0, 0.0
    while spent < least_seconds:
        with Clock() as clock:
            predict(rows)
        n, spent = n + rows.shape[0], spent + clock.seconds
    return n / spent


def main():
    name, path, setting = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    X, y, unseen, truth = load(path)
    order = np.random.default_rng(setting.get("seed", 0)).permutation(len(y))  # some libraries have a fixed seed
    X, y = X[order], y[order]
    try:
        train, predict, kind, form = MODELS[name](X, y, setting, int(y.max()) + 1)
    except ImportError as missing:
        print(json.dumps({"missing": str(missing)}))
        return
    rows = form(unseen.astype(kind)) if form else dense(unseen, kind)
    correct = float((np.asarray(predict(rows)).ravel() == truth).mean())
    if rows.shape[0] < 2000 and form:
        rows = sparse.vstack([rows] * (2000 // rows.shape[0] + 1)).tocsr()
    elif rows.shape[0] < 2000:
        rows = np.ascontiguousarray(np.tile(rows, (2000 // len(rows) + 1, 1)))
    result = {"train_cpu_s": train, "accuracy": correct, "predict_rows_per_cpu_s": rows_per_second(predict, rows)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
