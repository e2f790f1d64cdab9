"""Train the shipped refusal model, and say how it does on sources it was not trained on.

    python benchmarks/train_refusal_classifier.py [../shared/data] [--ship]

For every source: trained without it, tested on it; beside the phrase judge. With --ship the model of all
sources is written to src/demur/classify/refusals.npz with its judge card. Sources: labelled rows of ../shared/data
(read, never copied), our own labelled replies (suites/replies) and our own training set (suites/training).
"""

import argparse
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from record import record
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from demur.classify.features import N_BUCKETS, buckets, cue_features
from demur.classify.model import MANNERS, OUTCOMES, RefusalModel, save_model, softmax
from demur.stats.agreement import binary_agreement
from demur.suites.training import load_training

ROOT = Path(__file__).parents[1]
LABELS = {"refusal": 2, "partial": 1, "compliance": 0}
OUTCOME = {name: i for i, name in enumerate(OUTCOMES)}
VERSION = "1"


def rows_of_shared(folder):
    for name in ("xstest_v2", "chatgpt_refusals"):
        path = folder / f"{name}.jsonl"
        if not path.exists():
            sys.exit(f"{path}: expected the labelled rows of ../shared/data")
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["label"] in LABELS:
                yield row["source"], row["prompt"], row["response"], LABELS[row["label"]], -1, 1.0


def rows_of_replies():
    for name in ("hard", "multilingual"):
        for line in (ROOT / "src/demur/suites/replies" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["outcome"] in OUTCOME:
                manner = MANNERS.index(row["manner"]) if row["manner"] else -1
                yield f"own_{name}", row["prompt"], row["response"], OUTCOME[row["outcome"]], manner, 2.0


def rows_of_training():
    """Responses of the training set whose outcome is beyond doubt."""
    for row in load_training():
        manner = MANNERS.index(row.conduct) if row.conduct in MANNERS else -1
        if row.expected == "comply":
            yield "own_training", row.prompt, row.appropriate, 0, MANNERS.index("plain"), 0.5
        elif row.conduct in ("refused", "clarifies", "redirects", "guides", "explains"):
            yield "own_training", row.prompt, row.appropriate, 2, manner, 0.5
        else:
            yield "own_training", row.prompt, row.appropriate, -1, manner, 0.5
        if row.expected == "refuse" and row.inappropriate:
            yield "own_training", row.prompt, row.inappropriate, 0, MANNERS.index("plain"), 0.5


class Table:
    """All rows as arrays: texts, labels, hashed words, cues and the group of their prompt."""

    def __init__(self, rows):
        self.source, self.prompt, self.response = (np.array([r[i] for r in rows], dtype=object) for i in range(3))
        self.outcome, self.manner = (np.array([r[i] for r in rows]) for i in (3, 4))
        self.weight = np.array([r[5] for r in rows])
        found = [buckets(text) for text in self.response]
        data = np.concatenate([np.full(len(f), 1 / np.sqrt(max(1, len(f)))) for f in found])
        indptr = np.concatenate([[0], np.cumsum([len(f) for f in found])])
        self.words = sp.csr_matrix((data, np.concatenate(found), indptr), shape=(len(rows), N_BUCKETS))
        self.cues = np.array([cue_features(p, r) for p, r in zip(self.prompt, self.response, strict=True)])
        _, self.group = np.unique([re.sub(r"\W+", " ", p.casefold())[:80] for p in self.prompt], return_inverse=True)


def linear(x, y, weight, c, n_classes):
    """Multinomial weights (features, classes) and biases, every class present or not."""
    model = LogisticRegression(C=c, max_iter=300).fit(x, y, sample_weight=weight)
    coefficients, bias = np.zeros((x.shape[1], n_classes)), np.full(n_classes, -20.0)
    if len(model.classes_) == 2:
        coefficients[:, model.classes_[1]], bias[model.classes_[0]], bias[model.classes_[1]] = (
            model.coef_[0],
            0,
            model.intercept_[0],
        )
    else:
        coefficients[:, model.classes_], bias[model.classes_] = model.coef_.T, model.intercept_
    return coefficients, bias


def fit(table, rows, c=6.0):
    """Both stages on some rows; the second sees only out-of-fold scores of the first."""
    known = rows[table.outcome[rows] >= 0]
    x, y, w = table.words[known], table.outcome[known], table.weight[known]
    scores = np.zeros((len(known), 3))
    for train, test in GroupKFold(5).split(known, groups=table.group[known]):
        coefficients, bias = linear(x[train], y[train], w[train], c, 3)
        scores[test] = x[test] @ coefficients + bias
    inputs = np.hstack([scores - scores.mean(axis=1, keepdims=True), table.cues[known]])
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
    second, second_bias = linear((inputs - centre) / scale, y, w, 0.3, 3)
    coefficients, bias = linear(x, y, w, c, 3)
    styled = rows[table.manner[rows] >= 0]
    manners, manners_bias = linear(table.words[styled], table.manner[styled], table.weight[styled], c, 7)
    return RefusalModel(
        words=pruned(coefficients), words_bias=bias, manners=pruned(manners), manners_bias=manners_bias,
        cues=second, cues_bias=second_bias, centre=centre, scale=scale, version=VERSION,
    )  # fmt: skip


def pruned(weights, least=0.02):
    kept = weights.astype(np.float16)
    kept[np.abs(weights).max(axis=1) < least] = 0
    return kept


def probabilities(model, table, rows):
    first = table.words[rows] @ model.words.astype(np.float64) + model.words_bias
    inputs = (np.hstack([first - first.mean(axis=1, keepdims=True), table.cues[rows]]) - model.centre) / model.scale
    return softmax((inputs @ model.cues + model.cues_bias) / model.temperature)


def calibration(table, rows, n_folds=5):
    """Out-of-fold probabilities of the whole pipeline, for temperature, ECE and the abstain band."""
    known = rows[table.outcome[rows] >= 0]
    found = np.zeros((len(known), 3))
    for train, test in GroupKFold(n_folds).split(known, groups=table.group[known]):
        found[test] = np.log(probabilities(fit(table, known[train]), table, known[test]) + 1e-12)
    grid = np.arange(0.6, 2.5, 0.05)
    truth = table.outcome[known]
    losses = [
        -np.average(np.log(softmax(found / t)[np.arange(len(known)), truth] + 1e-12), weights=table.weight[known])
        for t in grid
    ]
    best = float(grid[int(np.argmin(losses))])
    p = softmax(found / best)[:, 1:].sum(axis=1)
    return best, p, truth > 0, known


def expected_calibration_error(p, truth, n_bins=10):
    edges = np.minimum((p * n_bins).astype(int), n_bins - 1)
    return float(
        sum(
            abs(p[edges == b].mean() - truth[edges == b].mean()) * (edges == b).mean()
            for b in range(n_bins)
            if (edges == b).any()
        )
    )


def figures(truth, p):
    from sklearn.metrics import roc_auc_score

    measured = binary_agreement([bool(t) for t in truth], [bool(v >= 0.5) for v in p])
    both = 0 < sum(truth) < len(truth)
    return {
        "n": measured.n, "accuracy": measured.accuracy, "f1": measured.f1, "macro_f1": measured.macro_f1, "kappa": measured.kappa,
        "auroc": float(roc_auc_score(truth, p)) if both else None, "ece": expected_calibration_error(p, np.asarray(truth, float)),
    }  # fmt: skip


def phrases_p(table, rows):
    from demur.classify.features import CUE_NAMES

    return table.cues[rows][:, CUE_NAMES.index("phrases_p_refused")]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--ship", action="store_true")
    options = parser.parse_args()
    started = time.perf_counter()
    table = Table([*rows_of_shared(options.data), *rows_of_replies(), *rows_of_training()])
    everything = np.arange(len(table.source))
    print(f"{len(everything)} rows, features in {time.perf_counter() - started:.0f} s", flush=True)
    held_out = {}
    for source in ("xstest_v2", "chatgpt_refusals", "own_hard", "own_multilingual"):
        test = everything[(table.source == source) & (table.outcome >= 0)]
        model = fit(table, everything[(table.source != source) & ~np.isin(table.group, table.group[test])])
        truth = table.outcome[test] > 0
        held_out[source] = {
            "learned": figures(truth, probabilities(model, table, test)[:, 1:].sum(axis=1)),
            "phrases": figures(truth, phrases_p(table, test)),
        }
        for name, row in held_out[source].items():
            print(
                f"{source:18} {name:8}",
                {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()},
                flush=True,
            )
    temperature, p, truth, known = calibration(table, everything)
    by_source = {
        s: figures(truth[table.source[known] == s], p[table.source[known] == s])
        for s in dict.fromkeys(table.source[known])
    }
    band = float(np.quantile(np.abs(p - 0.5), 0.03))
    result = {
        "trained_without_tested_on": held_out, "cross_validated": by_source, "cross_validated_all": figures(truth, p),
        "temperature": temperature, "band": band, "abstains": float((np.abs(p - 0.5) < band).mean()),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    record("refusal_classifier", result, ("scikit-learn", "numpy"))
    if options.ship:
        about = f"{len(known)} replies: " + ", ".join(f"{s} {int((table.source[known] == s).sum())}" for s in by_source)
        model = replace(fit(table, everything), temperature=temperature, band=min(band, 0.15), about=about)
        path = ROOT / "src" / "demur" / "classify" / "refusals.npz"
        save_model(model, path)
        print(path, f"{path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
